"""The playground page in a real browser: its bits, its numbers and its controls."""

import contextlib
import io
import itertools
import random
import re
import threading
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
from playground_browser import DIGITS, OPTIONS, Screen, chromium

from minidl import datasets, layers, models, rng
from minidl.commands.playground.command import handler_of
from minidl.commands.playground.page import page_of

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
if chromium() is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

pytestmark = pytest.mark.slow
TEST = datasets.mnist_5k.load_data()[1]
RATES = [(0.5, 0.3), (0.15, 0.95), (0.0, 0.65)]


@pytest.fixture(scope="module")
def model():
    """Return the notes' network, trained on the digits of minidl."""
    (x, y), _ = datasets.mnist_5k.load_data()
    stack = [layers.Rescaling(1 / 255, input_shape=(28, 28)), layers.Flatten()]
    for units, rate in ((512, 0.5), (256, 0.3)):
        stack += [layers.Dense(units, "relu"), layers.Dropout(rate)]
    model = models.Sequential([*stack, layers.Dense(10, "softmax")], seed=2**63 + 1)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=6, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("playground") / "page.html"
    path.write_text(page_of(model, *TEST))
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium(), args=OPTIONS)
        yield opened
        opened.close()


def check_silence(screen):
    """Check that a page has said nothing, and has asked for nothing but itself."""
    assert screen.said == []
    assert {url for url in screen.asked if url != "data:,"} == {screen.url}


@pytest.fixture
def open_screen(browser, file):
    """Return a function that opens the page in a window of its own."""
    screens = []

    def opening(url=None, **options):
        screens.append(Screen(browser, url or file.as_uri(), **options))
        return screens[-1]

    yield opening
    for screen in screens:
        check_silence(screen)
        screen.context.close()


@pytest.fixture(scope="module")
def opened(browser, file):
    return Screen(browser, file.as_uri())


@pytest.fixture
def screen(opened):
    """Return one page for many tests, as if nothing had been done on it."""
    yield opened.begin()
    check_silence(opened)


# ------------------------------------------------------------------------------ bits


def random_address(draw):
    """Return shape, rate, seed, stream, step and row offset, with many at an edge."""
    ndim = draw.choice([0, 1, 1, 2, 2, 2, 2, 3, 4])
    lengths = [0, 1, 2, 15, 16, 17, 63, 64, 65, 130]
    shape = [draw.choice(lengths[:6] if axis and ndim > 2 else lengths) for axis in range(ndim)]
    rates = [0.0, 1.0, 5e-324, 2**-32, 2**-33, 0.1, 0.3, 1 / 3, 1 - 2**-32, 1 - 2**-53]
    rate = draw.choice([*rates, *(draw.random() for _ in range(6))])
    edges = [0, 1, 2**16, 2**30, 2**31 - 1, 2**31, 2**32 - 1, draw.getrandbits(32)]
    seeds = [0, 1, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1, draw.getrandbits(64)]
    rows = shape[0] if ndim > 1 else 1
    offset = draw.choice([0, 0, 1, 2**31, min(2**32 - rows, 2**32 - 1), draw.getrandbits(31)])
    return shape, rate, draw.choice(seeds), draw.choice(edges), draw.choice(edges), offset


def test_masks_at_1000_random_addresses_are_those_of_minidl(screen):
    draw = random.Random(19)
    addresses = [random_address(draw) for _ in range(1000)]
    masks = screen.page.evaluate(
        "addresses => addresses.map(([shape, rate, seed, stream, step, rowOffset]) =>"
        "MaskContract.keepMask(shape, rate, { seed: BigInt(seed), stream, step, rowOffset })"
        ".join(''))",
        [(s, r, str(seed), *rest) for s, r, seed, *rest in addresses],
    )
    names = ("seed", "stream", "step", "row_offset")
    for (shape, rate, *where), mask in zip(addresses, masks, strict=True):
        keep = rng.keep_mask(tuple(shape), rate, **dict(zip(names, where, strict=True)))
        assert mask == "".join(np.where(keep.ravel(), "1", "0")), (shape, rate, *where)


def test_mask_rejects_invalid_addresses(screen):
    address = {"seed": 0, "stream": 0, "step": 0, "rowOffset": 0, "rate": 0.5}
    for name, value in {
        ("seed", 2**53),
        ("seed", -1),
        ("stream", 2**32),
        ("step", 1.5),
        ("rowOffset", 2**32 - 2),
        ("rate", 1.5),
    }:
        said = screen.page.evaluate(
            "address => { try { MaskContract.keepMask([3, 4], address.rate, address); }"
            "catch (error) { return `${error}`; } }",
            address | {name: value},
        )
        assert said.startswith(f"RangeError: {name}")


def test_words_are_those_of_minidl(screen):
    for column in (0, 15, 16, 63, 64, 511):
        where = [2**64 - 1, 2**30 + 1, 99, 3, column]
        found = screen.page.evaluate(
            "([seed, stream, step, row, column]) =>"
            "MaskContract.wordAt({ seed: BigInt(seed), stream, step }, row, column)",
            [str(where[0]), *where[1:]],
        )
        assert found == rng.word(*where)


def test_all_masks_of_both_layers_are_those_of_minidl(screen, model):
    for rates in RATES:
        screen.set_rates(rates)
        found = screen.page.evaluate(
            "playground.network.dropouts.map(layer => layer.masks.map(mask => mask.join('')))"
        )
        for number, (rate, masks) in enumerate(zip(rates, found, strict=True)):
            for step, mask in enumerate(masks):
                address = {"seed": model.seed, "stream": 2**30 + number, "step": step}
                keep = rng.keep_mask((1, len(mask)), rate, **address)
                assert mask == "".join(np.where(keep[0], "1", "0"))
            assert len(masks) == 100


# ------------------------------------------------------------------------------ numbers


def differences(model, images, found):
    """Return the largest difference of whole, mean and std from those of minidl."""
    whole, drawn = model.predict(images, verbose=0), []
    for image in images:  # one by one: the row is part of the address
        drawn.append(model.predict(image[np.newaxis], verbose=0, samples=100))
    expected = (
        whole,
        np.concatenate([d.mean for d in drawn]),
        np.concatenate([d.std for d in drawn]),
    )
    return [float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)]


def test_drawn_digits_are_centred_recognised_and_predicted_as_by_minidl(screen, model):
    images, found, correct = [], [], 0
    for digit, strokes in DIGITS.items():
        screen.draw(strokes)
        images.append(screen.pixels())
        shown = screen.prediction()
        found.append([shown[name] for name in ("whole", "mean", "std")])
        correct += int(shown["whole"].argmax()) == digit
        assert f"All units on: {shown['whole'].argmax()} (" in screen.text("#verdict")
    for pixels in images:
        check_place(pixels / pixels.sum(dtype=float))
    assert correct >= 9
    found = np.moveaxis(np.array(found), 1, 0)
    assert max(differences(model, np.array(images), found)) < 1e-4


def check_place(ink):
    """Check that an image is centred by mass and has the size of MNIST's digits."""
    places = np.arange(28)
    centre = ink.sum(axis=1) @ places, ink.sum(axis=0) @ places
    np.testing.assert_allclose(centre, 14, atol=0.05)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22


def test_least_sure_digits_are_predicted_as_by_minidl(screen, model):
    x = TEST[0]
    hard = x[np.argsort(model.predict(x, verbose=0).max(axis=1))[:40]]
    assert max(differences(model, hard, screen.moments(hard))) < 1e-4


def test_1000_test_digits_have_the_probabilities_of_minidl(screen, model):
    expected = model.predict(TEST[0], verbose=0)
    np.testing.assert_allclose(screen.whole(TEST[0]), expected, atol=1e-4)


def test_input_dropout_and_layers_without_dropout_are_shown(open_screen, tmp_path):
    stack = [layers.Flatten(input_shape=(28, 28)), layers.Dropout(0.2)]
    stack += [layers.Dense(40, "relu"), layers.Dense(33, "relu", use_bias=False)]
    model = models.Sequential([*stack, layers.Dropout(0.6), layers.Dense(10, "softmax")], seed=7)
    (tmp_path / "page.html").write_text(page_of(model, *TEST))
    screen = open_screen((tmp_path / "page.html").as_uri())
    assert [text.partition(":")[0] for text in screen.text("#layers").split("\n") if text] == [
        "Inputs",
        "Layer 2",
    ]
    found = screen.moments(TEST[0][:4])
    assert max(differences(model, TEST[0][:4] / 255, found)) < 1e-4
    masks = {}
    exec(screen.text("#thinned-code"), masks)
    shown = dict(zip(("inputs", "layer_2"), screen.shown_masks(), strict=True))
    assert all(masks[name].tolist() == [mask.tolist()] for name, mask in shown.items())


def by_hand(model, pixels, rates, step):
    """Return the output of one thinned network at rates of its own, in float64."""
    *weights, last, bias = [array.astype(float) for array in model.get_weights()]
    x = pixels.reshape(1, -1) / 255
    for number, rate in enumerate(rates):
        x = np.maximum(x @ weights[2 * number] + weights[2 * number + 1], 0)
        address = {"seed": model.seed, "stream": 2**30 + number, "step": step}
        x = np.where(rng.keep_mask(x.shape, rate, **address), x / (1 - rate), 0)
    powers = np.exp(x @ last + bias)
    return (powers / powers.sum())[0]


def test_thinned_networks_at_other_rates_use_the_masks_of_minidl(screen, model):
    screen.click("#hard")
    for rates in RATES:
        screen.set_rates(rates)
        thinned = screen.prediction()["thinned"]
        for step in range(0, 100, 9):
            expected = by_hand(model, screen.pixels(), rates, step)
            np.testing.assert_allclose(thinned[step], expected, atol=1e-4)


def test_means_and_votes_are_those_of_the_thinned_networks(screen):
    screen.click("#hard")
    shown = screen.prediction()
    thinned, top = shown["thinned"], shown["whole"].argmax()
    counts = np.arange(1, 101)
    np.testing.assert_allclose(shown["plain"], thinned[:, top].cumsum() / counts, atol=1e-9)
    powers = np.exp(np.log(thinned).cumsum(axis=0) / counts[:, np.newaxis])
    geometric = powers[:, top] / powers.sum(axis=1)
    np.testing.assert_allclose(shown["geometric"], geometric, atol=1e-6)
    assert shown["votes"].tolist() == np.bincount(thinned.argmax(axis=1), minlength=10).tolist()
    most = int(shown["votes"].max())
    assert f"{most} for {shown['votes'].argmax()}" in screen.text("#verdict")


# ------------------------------------------------------------------------------ controls


def test_page_begins_with_hard_digit_and_network_0(open_screen):
    screen = open_screen()
    assert (screen.pixels() > 0).any()
    assert (screen.prediction()["votes"] > 0).sum() > 1
    assert screen.text("#thinned-title").startswith("Thinned network 0 says ")
    assert "Its label in MNIST is " in screen.text("#label")
    assert re.search(r"so it is on and passes on (?!0\.00)", screen.text("#reason"))
    numbers = re.findall(r"([\d.]+)\s%", screen.text("#prediction"))
    assert numbers
    assert all(float(number) >= 0.1 for number in numbers)


def test_copied_python_gives_the_shown_masks(screen):
    screen.context.grant_permissions(["clipboard-read", "clipboard-write"])
    screen.click("#hard")
    screen.page.locator("#layers input").first.focus()
    for _ in range(4):
        screen.page.keyboard.press("ArrowLeft")
    for _ in range(3):
        screen.click("#next")
    assert "rate 0.3 (trained: 0.5)" in screen.text("#layers")
    screen.click("#copy-thinned")
    playwright.expect(screen.page.locator("#thinned [role=status]")).to_have_text("Copied")
    copied = {}
    exec(screen.page.evaluate("navigator.clipboard.readText()"), copied)
    for name, shown in zip(("layer_1", "layer_2"), screen.shown_masks(), strict=True):
        assert copied[name].tolist() == [shown.tolist()]
    screen.click("#trained")
    assert "trained" not in screen.text("#layers")


def test_batch_in_two_parts_meets_the_mask_of_the_whole(screen):
    screen.page.locator("#split").focus()
    for key, rows in (("Home", 1), ("ArrowRight", 2), ("End", 11)):
        screen.page.keyboard.press(key)
        screen.settle()
        assert screen.text("#split-label") == f"First part: {rows} of 12 rows"
        assert screen.text("#agreement").startswith("All 384 decisions agree")
        assert runs(screen.text("#batch-code")) == "True\n"
    screen.page.uncheck("#offset")
    screen.settle()
    marked = screen.page.locator("#part-masks .different").count()
    assert screen.text("#agreement").startswith(f"{marked} of 384 decisions differ")
    assert 0 < marked <= 32
    assert runs(screen.text("#batch-code")) == "False\n"


def runs(code):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue()


def test_reason_of_a_unit_is_true_for_mouse_and_keyboard(screen, model):
    (mask, *_), word = screen.shown_masks(), 0
    left, top, width, _ = screen.box(".units >> nth=0")
    for unit in (0, 31, 137, 511):
        place = np.array([unit % 32, unit // 32]) + 0.5
        screen.page.mouse.move(*(np.array([left, top]) + width / 32 * place))
        word = rng.word(model.seed, 2**30, 0, 0, unit)
        relation = "not below" if word >= 2**31 else "below"
        expected = f"unit {unit}: its random word {word:,} is {relation} rate × 2³² = "  # noqa: RUF001
        assert expected in screen.text("#reason")
        assert ("so it is on" in screen.text("#reason")) == mask[unit]
    picture = screen.page.locator(".units >> nth=0")
    picture.focus()
    for key, unit in (("ArrowUp", 479), ("ArrowLeft", 478), ("ArrowDown", 510), ("ArrowDown", 510)):
        screen.page.keyboard.press(key)
        assert f"Layer 1, unit {unit}:" in screen.text("#reason")
        assert picture.get_attribute("aria-valuenow") == str(unit)


def test_every_way_to_choose_a_thinned_network_shows_it(screen):
    screen.click("#hard")
    screen.page.locator("#step").focus()
    screen.page.keyboard.press("End")
    screen.settle()
    assert screen.text("#thinned-title").startswith("Thinned network 99 ")
    screen.click("#next")
    screen.click("#previous")
    assert screen.text("#thinned-title").startswith("Thinned network 98 ")
    left, top, width, _ = screen.box("#chart")
    screen.page.mouse.click(left + 58 + (width - 66) * 0.405, top + 60)
    screen.settle()
    assert screen.text("#thinned-title").startswith("Thinned network 40 ")
    assert screen.text("#reading").startswith("Network 40: ")
    assert "step=40)" in screen.text("#thinned-code")
    shown = screen.page.evaluate("playground.network.dropouts.map(l => [...l.masks[40]])")
    assert [mask.astype(int).tolist() for mask in screen.shown_masks()] == shown


def test_examples_and_clear_change_the_digit(screen):
    labels = []
    for _ in range(10):
        screen.click("#easy")
        labels.append(int(screen.prediction()["whole"].argmax()))
        assert screen.text("#label") == f"Its label in MNIST is {labels[-1]}."
    assert labels == list(range(10))
    before = screen.pixels()
    screen.click("#hard")
    assert (screen.pixels() != before).any()
    screen.click("#clear")
    assert screen.pixels().sum() == 0
    for selector in ("#verdict", "#reading", "#label", "#bars .whole", "#bars .mean"):
        assert set(screen.page.locator(selector).all_inner_texts()) == {""}
    assert screen.text("#thinned-title") == "Thinned network 0"


# ------------------------------------------------------------------------------ hands and screens


def test_stroke_ends_with_the_button_and_the_right_button_draws_nothing(screen):
    screen.page.click("#clear")
    left, top, width, _ = screen.box("#pad")
    mouse = screen.page.mouse
    mouse.move(left + 50, top + 50)
    mouse.down()
    mouse.move(left + 900, top + 100, steps=5)
    mouse.up()
    mouse.move(left + 60, top + 200)
    screen.settle()
    drawn = screen.pixels()
    assert drawn.sum() > 0
    mouse.move(left + width / 2, top + 200)
    mouse.click(left + 20, top + 20, button="right")
    screen.settle()
    assert (screen.pixels() == drawn).all()


def test_dot_stays_small(screen):
    screen.draw([[(0.5, 0.5), (0.5, 0.5)]])
    assert 0 < (screen.pixels() > 0).sum() < 30


def test_small_drawing_off_the_centre_is_nearly_the_same(screen):
    screen.draw(DIGITS[4])
    large = screen.pixels().astype(int)
    screen.draw(DIGITS[4], size=0.45, dx=0.2, dy=-0.2)
    assert np.abs(large - screen.pixels()).mean() < 6


def test_equal_strokes_are_equal_bytes_on_every_screen(screen, open_screen):
    screen.draw(DIGITS[7])
    for scale in (1.5, 3):
        other = open_screen(device_scale_factor=scale, viewport={"width": 700, "height": 400})
        other.draw(DIGITS[7])
        assert (other.pixels() == screen.pixels()).all()


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_finger_draws_on_a_phone_beside_the_bars_and_second_finger_is_ignored(open_screen):
    screen = open_screen(**PHONE)
    row = screen.page.locator("#bars tr >> nth=9").bounding_box()
    assert row["y"] + row["height"] <= PHONE["viewport"]["height"]
    screen.page.tap("#clear")
    left, top, width, height = screen.box("#pad")
    protocol = screen.context.new_cdp_session(screen.page)

    def touch(kind, *points):
        places = [
            {"x": left + width * x, "y": top + height * y, "id": finger}
            for finger, (x, y) in enumerate(points)
        ]
        protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    corners = np.array(DIGITS[7][0])
    path = [a + (b - a) * t for a, b in itertools.pairwise(corners) for t in (0, 0.5, 1)]
    touch("touchStart", path[0])
    for point in path[1:]:
        touch("touchMove", point)
    screen.settle()
    drawn = screen.pixels()
    touch("touchStart", path[-1], (0.1, 0.9))
    touch("touchMove", path[-1], (0.9, 0.1))
    touch("touchEnd")
    screen.settle()
    assert (screen.pixels() == drawn).all()
    assert screen.prediction()["whole"].argmax() == 7
    assert screen.page.evaluate("scrollY") == 0


def test_page_fits_each_width_with_controls_of_44_pixels(screen):
    for width in (320, 390, 700, 1000, 1280, 1600):
        screen.page.set_viewport_size({"width": width, "height": 800})
        screen.settle()
        assert screen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert small_controls(screen) == []


def small_controls(screen):
    """Return the controls below 44 x 44 pixels; a label belongs to its box."""
    return screen.page.evaluate(
        "[...document.querySelectorAll('button, input')].map(node => node.closest('label') ?? node)"
        ".filter(node => node.offsetHeight < 44 || node.offsetWidth < 44).map(node => node.id)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(screen, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs browser")
    screen.page.emulate_media(color_scheme=scheme)
    screen.click("#hard")
    found = axe.Axe().run(screen.page)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 15


# ------------------------------------------------------------------------------ places


@pytest.fixture
def served(file):
    """Return the address of a server of the page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(file.read_bytes())) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_served_page_works_offline(open_screen, served):
    screen = open_screen(served)
    screen.context.set_offline(True)
    screen.draw(DIGITS[7])
    assert screen.prediction()["whole"].argmax() == 7


def test_lines_are_selected_where_the_clipboard_is_refused(browser, served, file):
    frame = file.with_name("frame.html")
    frame.write_text(f'<iframe sandbox="allow-scripts" src="{served}" width=1200 height=800>')
    context = browser.new_context()
    page = context.new_page()
    page.goto(frame.as_uri())
    inner = page.frames[1]
    inner.click("#copy-thinned")
    playwright.expect(inner.locator("#thinned [role=status]")).to_contain_text("Selected")
    assert "step=0" in inner.evaluate("getSelection().toString()")
    context.close()
