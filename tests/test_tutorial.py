"""The tutorial notebook: what it stores, what it prints when it is run, and its claims.

Outputs of cells with the tag "measured" depend on the machine. Those of the others do not: they
must be the stored ones.
"""

import contextlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_architecture import imported_modules, private_uses

import minidl

DOCS = Path(__file__).parent.parent / "docs"
TUTORIAL = DOCS / "tutorial.ipynb"
MAX_BYTES = 600_000

CELLS = json.loads(TUTORIAL.read_text())["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
OUTPUTS = {cell["id"]: cell["outputs"] for cell in CELLS if cell["cell_type"] == "code"}
MEASURED = {cell["id"] for cell in CELLS if "measured" in cell["metadata"].get("tags", ())}


def printed(outputs):
    """Return what a cell printed, without the message that kernels are compiled."""
    text = "".join("".join(output["text"]) for output in outputs if "text" in output)
    return re.sub(r"^compiling kernels.*\n\n?", "", text, flags=re.MULTILINE).strip()


# ------------------------------------------------------------------------------ the file


def test_tutorial_stores_outputs_of_one_run_in_a_small_file():
    assert TUTORIAL.stat().st_size < MAX_BYTES
    counts = [cell["execution_count"] for cell in CELLS if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(CODE) + 1))
    kinds = {output["output_type"] for outputs in OUTPUTS.values() for output in outputs}
    assert kinds == {"stream", "display_data"}
    assert all("execution" not in cell["metadata"] for cell in CELLS)  # no times of day
    assert "compiling kernels" not in json.dumps(OUTPUTS)


def test_tutorial_shows_a_picture_for_most_cells():
    drawn = [name for name, outputs in OUTPUTS.items() if "image/png" in json.dumps(outputs)]
    assert len(drawn) >= 20


def test_tutorial_uses_public_names_only():
    source = "\n".join(CODE.values())
    assert private_uses(TUTORIAL.name, source) == []
    packages = {name.split(".")[0] for name in imported_modules(source)}
    assert packages == {"itertools", "matplotlib", "minidl", "numpy"}


# ------------------------------------------------------------------------------ a GPU


def test_devices_cell_shows_mask_of_gpu_that_equals_the_others(cuda_double):
    matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plot")
    known, text = {}, io.StringIO()
    with matplotlib.rc_context({"backend": "Agg"}), contextlib.redirect_stdout(text):
        for name in ("setup", "digits", "devices"):
            exec(CODE[name], known)
        known["plt"].close("all")
    masks = known["by_place"]
    assert list(masks) == ["specification", "kernel, cpu", "kernel, cuda"]
    assert all(np.array_equal(mask, masks["specification"]) for mask in masks.values())
    assert text.getvalue().endswith("kernel, cuda: 0 of 576 decisions differ\n")


# ------------------------------------------------------------------------------ a run

# Expressions of the notebook's variables, which are evaluated after its last cell.
VALUES = """
import json
print(json.dumps({
    "distance": [float(distance[-1]), float(expected[-1])],
    "shares": [float(np.abs(shares - many_rates[:, None]).max())],
    "accuracy": [float(test_accuracy), history["accuracy"][0], history["val_accuracy"][0]],
    "training_accuracy": [
        list(map(float, (history["accuracy"][epoch], thinned_after[epoch], whole_after[epoch])))
        for epoch in (0, -1)
    ],
    "noisy": [[accuracy[-1], float(memorised)] for accuracy, memorised in results.values()],
    "test_errors": list(map(float, test_errors)),
    "memorised_labels": list(map(float, memorised_labels)),
    "errors_without": list(map(float, errors_without)),
    "errors_with": list(map(float, errors_with)),
    "gaps": {name: [float(gap[k]) for k in (0, 29, 199)] for name, gap in gaps.items()},
    "errors_of_means": [
        float((mean.argmax(axis=1) != y_test[hard]).mean())
        for mean in (plain[-1], geometric[-1], one_pass[hard])
    ],
    "error_of_one": float((drawn.argmax(axis=2) != y_test[hard]).mean()),
    "information": {name: float(np.median(group)) for name, group in groups.items()},
    "drawn": list(zip(told.mean.argmax(axis=1).tolist(), told.mutual_information.tolist())),
    "ends": [int(answer.mean[0].argmax()), int(answer.mean[-1].argmax())],
    "most_at": int(ends[information.argmax()]),
    "patches": float(patch_model.evaluate(x_test, y_test, verbose=0)[1]),
    "difference": float(np.abs(first - second).max()),
    "loss": [curve[0], curve[-1]],
    "file": minidl.__file__,
}))
"""


def run_in_kernel():
    """Run the notebook in a kernel of its own; return what each cell printed, and the values."""
    nbclient = pytest.importorskip("nbclient", reason="needs the extra test")
    pytest.importorskip("ipykernel", reason="needs the extra test")
    import nbformat

    notebook = nbformat.read(TUTORIAL, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(VALUES, id="values"))
    root = Path(minidl.__file__).parent.parent
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(DOCS)}}
    )
    path = os.pathsep.join([str(root), str(root / "kernels")])
    one_thread = {"MINIDL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # other tests run beside it
    client.execute(env=os.environ | one_thread | {"PYTHONPATH": path})
    lines = {cell.id: printed(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"}
    return lines, json.loads(lines.pop("values"))


def check_stored_text(lines):
    """Check what cells printed; of measured ones the words only."""
    on_devices = lines.pop("devices")  # another text where there is a GPU
    assert on_devices.count(": 0 of 576 decisions differ") >= 2
    assert on_devices.count("differ") == on_devices.count(": 0 of 576 decisions differ")
    for name, text in lines.items():
        stored = printed(OUTPUTS[name])
        if name in MEASURED:
            text, stored = (re.sub(r"[\d.,e\s-]+", " ", each) for each in (text, stored))
        assert text == stored, name


def check_claims(values):
    """Check the numbers behind the pictures."""
    measured, expected = values["distance"]
    assert measured == pytest.approx(expected, rel=0.1)
    assert values["shares"][0] < 0.1
    accuracy, in_training, at_inference = values["accuracy"]
    assert accuracy > 0.9
    assert in_training < at_inference - 0.05
    for_mean, for_dropout = np.diff(values["training_accuracy"]).T  # in epochs 1 and 5
    assert for_mean[0] > for_dropout[0] > 0
    assert for_dropout[1] > for_mean[1] > 0

    (test_without, memorised_without), (test_with, memorised_with) = values["noisy"]
    assert test_with > test_without
    assert memorised_with < memorised_without - 0.1
    errors = values["test_errors"]  # rates 0, 0.25, 0.5, 0.7, 0.9
    assert min(errors) == errors[3] < errors[0] - 3
    assert errors[4] > errors[3] + 5
    assert values["memorised_labels"][:4] == sorted(values["memorised_labels"][:4], reverse=True)

    for without, with_dropout in list(
        zip(values["errors_without"], values["errors_with"], strict=True)
    )[3:]:
        assert with_dropout < without
    (plain, geometric), errors = values["gaps"].values(), values["errors_of_means"]
    assert plain[2] > 0.8 * plain[1] > 3 * geometric[2]
    assert geometric[0] > 1.5 * geometric[1] > 2 * geometric[2]
    assert max(errors) - min(errors) < 0.06
    assert values["error_of_one"] > max(errors) + 0.04

    assert values["information"]["wrong"] > 3 * values["information"]["right"]
    three, between, letter, minus = values["drawn"]
    assert three[0] == 3
    assert min(between[1], letter[1]) > 2 * max(three[1], minus[1])
    assert minus[1] < 0.05  # sure, and wrong
    assert (values["ends"], minus[0]) == ([4, 9], 4)
    assert 230 <= values["most_at"] <= 290
    assert values["patches"] > 0.8
    assert values["difference"] < 1e-4
    assert values["loss"][0] > 3 * values["loss"][1]


@pytest.mark.slow
def test_run_prints_what_is_stored_and_shows_its_claims():
    lines, values = run_in_kernel()
    assert values["file"] == minidl.__file__
    check_stored_text(lines)
    check_claims(values)
