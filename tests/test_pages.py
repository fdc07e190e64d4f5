"""The pages for users: programs run, commands exist, links lead somewhere, the site is built."""

import doctest
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import numpy as np
import pytest

import minidl
from bench import __main__ as bench_all
from minidl import datasets, models, rng

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PAGES = [
    *(ROOT / name for name in ("README.md", "DESCRIPTION.md", "CONTRIBUTING.md")),
    *(ROOT / name for name in ("CHANGELOG.md", "bench/RESULTS.md", "examples/README.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted(DOCS.glob("*.ipynb")),
]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    """Return the Markdown of a page or of a notebook."""
    text = page.read_text()
    if page.suffix != ".ipynb":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return "\n\n".join("".join(cell["source"]) for cell in cells)


FENCED = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.M | re.S)


def blocks(page, language):
    return [code for kind, code in FENCED.findall(text_of(page)) if kind == language]


def those_with(language):
    """Return a mark for all pages that have blocks of a language."""
    pages = [page for page in PAGES if blocks(page, language)]
    assert pages
    return pytest.mark.parametrize("page", pages, ids=name_of)


# ------------------------------------------------------------------------------ programs


@pytest.fixture
def few_digits(monkeypatch, tmp_path):
    """Let programs train on a few of the digits that minidl ships, in an empty folder."""
    (x, y), (x_test, y_test) = datasets.mnist_5k.load_data()
    digits = (x[:300], y[:300]), (x_test[:100], y_test[:100])
    for module in (datasets.mnist, datasets.mnist_5k):
        monkeypatch.setattr(module, "load_data", lambda: digits)
    monkeypatch.chdir(tmp_path)
    return digits


def run(page):
    """Run the blocks of a page, which are one program, and return its names."""
    known = {"__name__": name_of(page)}
    for code in blocks(page, "python"):
        if code.startswith(">>>"):
            shown = doctest.DocTestParser().get_doctest(code, known, page.name, str(page), 0)
            assert doctest.DocTestRunner().run(shown).failed == 0
        else:
            exec(compile(code, name_of(page), "exec"), known)
    return known


@those_with("python")
def test_page_shows_a_program_that_runs(page, few_digits, capsys):
    run(page)
    printed = capsys.readouterr().out
    for code in blocks(page, "python"):
        for answer in re.findall(r"^print\(.*\)  # (.*)$", code, re.M):
            assert f"{answer}\n" in printed


def test_diary_of_page_resumes_and_saved_model_has_shards(few_digits, tmp_path):
    (x, y), test = few_digits
    known = run(DOCS / "more-than-one-machine.md")
    model = known["model"]
    fit = {"batch_size": 128, "epochs": 3, "verbose": 0, "resume": True, "validation_data": test}
    model.fit(x, y, **fit, callbacks=[known["Diary"]()], distribution=known["distribution"])
    number, loss = (tmp_path / "diary.txt").read_text().split()
    assert (int(number), float(loss)) == (2, model.history.history["loss"][-1])
    saved = models.load("digits.safetensors")
    assert saved.position.shards == 8
    assert len(list((tmp_path / "checkpoints").iterdir())) > 0
    assert not np.array_equal(saved.get_weights()[0], model.get_weights()[0])


# ------------------------------------------------------------------------------ commands

PROGRAMS = {".", "jupyter", "mypy", "ruff"}  # their arguments are not checked


def help_of(module, capsys):
    """Return the text with a command's options."""
    if not module.startswith("minidl."):
        return Path(find_spec(module).origin).read_text()
    with pytest.raises(SystemExit, match="0"):
        import_module(module).main(["--help"])
    return capsys.readouterr().out


def check_command(words, capsys):
    if words[0] == "mpiexec":
        words = words[words.index("python") :]
    match words:
        case ["python", "-m", "pip", "install", *what]:
            wanted = " ".join(re.findall(r"\[(.*?)\]", " ".join(what)))
            named = set(re.findall(r"[\w-]+", wanted))
            assert named <= set(EXTRAS)
        case ["python", "-m", module, *arguments] if module.split(".")[0] in ("bench", "minidl"):
            assert find_spec(module), module
            text = help_of(module, capsys)
            options = [word for word in arguments if word.startswith("--")]
            assert [option for option in options if option.strip("-") not in text] == []
        case ["python", "-m", module, *_]:
            assert find_spec(module), module
        case ["python", path, *_]:
            assert (ROOT / path).exists(), path
        case [program, *_]:
            assert program in PROGRAMS


@those_with("sh")
def test_page_shows_commands_that_exist(page, capsys):
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            check_command(words[:end], capsys)
            words = words[end + 1 :]


# ------------------------------------------------------------------------------ links


def anchors(page):
    """Return the targets that GitHub and the site make of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text_of(page)), re.M)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def links(page):
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", text_of(page)))
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r'(?:src|href)="(.*?)"', text)
    return [target for target in targets if not target.startswith(("https://", "http://"))]


def leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_page_lead_to_files_and_headings(page):
    assert [target for target in links(page) if not leads_somewhere(page, target)] == []


def test_link_to_missing_file_or_heading_is_found():
    page = DOCS / "index.md"
    assert len(links(page)) > 10
    assert leads_somewhere(page, "own-layers.md#a-loop")
    assert not leads_somewhere(page, "own-layers.md#a-lop")
    assert not leads_somewhere(page, "own-layer.md")


@pytest.mark.parametrize("name", bench_all.PAGES)
def test_page_has_place_for_measured_figures(name):
    file, _ = bench_all.PAGES[name]
    text = (ROOT / file).read_text()
    assert text.index(f"<!-- begin bench.{name} -->") < text.index(f"<!-- end bench.{name} -->")


# ------------------------------------------------------------------------------ vectors

VECTORS = json.loads((DOCS / "mask-vectors.json").read_text())


def address_of(vector, *names):
    """Return the seed and other parts of the address."""
    return {"seed": int(vector["seed"], 16), **{name: vector[name] for name in names}}


def test_words_of_contract_are_those_of_code_and_of_its_program():
    page = DOCS / "mask-contract.md"
    row = r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| `(.*?)` \|$"
    rows = re.findall(row, page.read_text(), re.M)
    words = [(tuple(map(int, address)), word) for *address, word in rows]
    words += [
        (tuple(address_of(v, "stream", "step", "row", "column").values()), v["word"])
        for v in VECTORS["words"]
    ]
    assert len(words) == 108
    program = run(page)
    for address, word in words:
        assert f"{rng.word(*address):08x}" == word
        assert f"{program['word'](*address):08x}" == word


def rows_of(mask):
    return ["".join(map(str, row)) for row in mask.astype(int).reshape(-1, mask.shape[-1])]


def test_masks_of_contract_are_those_of_code_and_of_its_program():
    page = DOCS / "mask-contract.md"
    (shown,) = blocks(page, "text")
    assert rows_of(rng.keep_mask((2, 16), 0.5, seed=1, stream=0, step=0)) == shown.split()
    is_kept = run(page)["is_kept"]
    assert len(VECTORS["masks"]) == 9
    for vector in VECTORS["masks"]:
        address = address_of(vector, "stream", "step", "row_offset")
        mask = rng.keep_mask(vector["shape"], vector["rate"], **address)
        assert rows_of(mask.reshape(len(vector["keep"]), -1)) == vector["keep"]
        *place, first = address.values()
        for row, kept in enumerate(vector["keep"], first):
            received = [is_kept(vector["rate"], *place, row, c) for c in range(len(kept))]
            assert received == [bit == "1" for bit in kept]


def bits_of(numbers):
    return np.asarray(numbers, np.float32).view(np.uint32).tolist()


def test_numbers_and_orders_of_contract_are_those_of_code_and_of_its_program():
    page = DOCS / "mask-contract.md"
    program = run(page)
    for vector in VECTORS["numbers"]:
        address = address_of(vector, "stream", "step", "row_offset")
        numbers = getattr(rng, vector["kind"])(vector["shape"], **address)
        bits = [[int(word, 16) for word in row.split()] for row in vector["float32"]]
        assert bits_of(numbers) == bits
        if vector["kind"] == "normal":
            *place, first = address.values()
            for row, expected in enumerate(bits, first):
                received = [program["normal"](*place, row, c) for c in range(len(expected))]
                assert bits_of(received) == expected
    shown = r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| `(.*?)` \| .* \|$"
    rows = re.findall(shown, page.read_text(), re.M)
    assert len(rows) == 6
    for *address, word in rows:
        assert f"{bits_of(program['normal'](*map(int, address))):08x}" == word


def test_initial_weights_of_contract_are_those_of_code():
    page = DOCS / "mask-contract.md"
    word = run(page)["word"]
    terms = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \|$", page.read_text(), re.M)
    above, below = np.array(terms, float)[::-1].T
    centred = np.array([(word(9, 5, 0, 0, column) + 0.5) / 2**32 - 0.5 for column in range(70)])
    y = 0.9544997361036416 * centred
    r = 0.180625 - y * y
    cut = y * np.polyval(above, r) / np.polyval(below, r) * (0.1 / 0.8796256610342398)
    assert np.array_equal(rng.initial_truncated_normal((70,), 0.1, seed=9, stream=5), cut)
    uniform = centred * (2 * 0.1)
    assert np.array_equal(rng.initial_uniform((70,), 0.1, seed=9, stream=5), uniform)
    for constant in ("0.9544997361036416", "0.180625", "0.8796256610342398"):
        assert constant in page.read_text()
    for vector in VECTORS["orders"]:
        order = rng.permutation(vector["count"], **address_of(vector, "epoch"))
        assert order.tolist() == vector["order"]
    assert (len(VECTORS["numbers"]), len(VECTORS["orders"])) == (4, 2)


# ------------------------------------------------------------------------------ site

INTERNAL = {"minidl.alternatives", "minidl.backend"}


def public_modules():
    """Return the modules with public names, and those that are such names themselves."""
    names = {f"minidl.{info.name}" for info in iter_modules(minidl.__path__)} - INTERNAL
    found = {"minidl"}
    for name in sorted(names - {"minidl.__main__"}):
        public = getattr(module := import_module(name), "__all__", None)
        if public is None:
            continue
        found.add(name)
        inner = (getattr(module, name) for name in public)
        found |= {value.__name__ for value in inner if isinstance(value, ModuleType)}
    return found


def test_reference_has_every_public_module():
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    shown = re.findall(r"^(?:\.\. automodule::|```\{command-help\}) (\S+)$", pages, re.M)
    assert public_modules() - set(shown) == set()
    assert len(shown) == len(set(shown))


CONFIGURATION = (DOCS / "conf.py").read_text()

# What a page would fetch from the network by itself; a reader may follow other links.
FETCHED = re.compile(r'(?:src="|<link [^>]*href="|@import ["\']|url\(["\']?)(?:https?:)?//[^"\')]+')


def test_fetched_finds_scripts_and_styles_but_not_links():
    for fetched in ('<script src="https://a.b/c.js">', '<link rel="x" href="//a.b/c.css">'):
        assert FETCHED.search(fetched)
    assert FETCHED.search("@import 'https://a.b/c.css';")
    assert FETCHED.search("src: url(https://a.b/c.woff2)")
    assert not FETCHED.search('<a href="https://a.b/">, <img src="../c.png">')


EXTENSIONS = re.findall(r'"(.*?)"', re.search(r"^extensions = \[(.*)\]$", CONFIGURATION, re.M)[1])


@pytest.mark.slow
def test_site_is_built_without_warnings_and_fetches_nothing(tmp_path):
    needed = ("furo", "latex2mathml", "myst_nb", "numpydoc", "sphinx")
    if not all(map(find_spec, needed)):
        pytest.skip("needs the extra docs")
    # Without the pages that show the sources, whose highlighting takes long.
    extensions = [name for name in EXTENSIONS if name != "sphinx.ext.viewcode"]
    options = ["-q", "-W", "--keep-going", "-c", "docs", f"-Dextensions={','.join(extensions)}"]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (0, "")
    written = [*tmp_path.glob("site/**/*.html"), *tmp_path.glob("site/**/*.css")]
    assert tmp_path / "site" / "docs" / "index.html" in written
    assert {path.name: FETCHED.findall(path.read_text()) for path in written} == {
        path.name: [] for path in written
    }
