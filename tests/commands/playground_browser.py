"""The playground page in Chromium: drawing on it, and reading what it computed."""

import base64
import shutil

import numpy as np

OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
OPTIONS += ["--disable-background-networking", "--disable-component-update"]


def chromium():
    """Return the path of Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def arc(x, y, width, height, start, end):
    """Return points of an ellipse, from an angle in degrees to another one."""
    angles = np.radians(np.linspace(start, end, 9))
    return [(x + width * np.cos(a), y + height * np.sin(a)) for a in angles]


# Digits as strokes in a square of side 1.
DIGITS = {
    0: [arc(0.5, 0.5, 0.28, 0.38, -90, 270)],
    1: [[(0.5, 0.12), (0.48, 0.88)]],
    2: [[*arc(0.5, 0.32, 0.25, 0.2, -170, 40), (0.25, 0.85), (0.8, 0.85)]],
    3: [arc(0.45, 0.3, 0.25, 0.18, -150, 90) + arc(0.45, 0.67, 0.28, 0.2, -90, 150)],
    4: [[(0.35, 0.15), (0.25, 0.55), (0.75, 0.55)], [(0.65, 0.15), (0.62, 0.9)]],
    5: [[(0.72, 0.15), (0.35, 0.15), (0.32, 0.45), *arc(0.47, 0.63, 0.25, 0.22, -120, 150)]],
    6: [[(0.6, 0.1), (0.35, 0.45), *arc(0.5, 0.67, 0.2, 0.2, 200, -160)]],
    7: [[(0.22, 0.18), (0.78, 0.18), (0.45, 0.88)]],
    8: [arc(0.5, 0.3, 0.18, 0.17, 90, -270) + arc(0.5, 0.67, 0.22, 0.2, -90, 270)],
    9: [[*arc(0.48, 0.33, 0.2, 0.2, 0, -360), (0.68, 0.33), (0.6, 0.88)]],
}


SIZE = {"width": 1280, "height": 900}


class Screen:
    """A page in its own window; `said` and `asked` collect its messages and requests."""

    def __init__(self, browser, url, **options):
        self.said, self.asked, self.url = [], [], url
        self.context = browser.new_context(**{"viewport": SIZE} | options)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.settle()

    def begin(self):
        """Return to an empty drawing area, network 0, the trained rates and the first window."""
        self.page.set_viewport_size(SIZE)
        self.page.emulate_media(color_scheme="light")
        self.page.evaluate(
            "$('offset').checked = true, $('clear').click(), $('trained').click(), go(0)"
        )
        self.settle()
        return self

    def settle(self):
        """Wait until the page has shown what was done last."""
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.page.evaluate(frames)

    def click(self, selector):
        self.page.click(selector)
        self.settle()

    def text(self, selector):
        return self.page.inner_text(selector)

    def box(self, selector):
        """Return left, top, width and height of an element, scrolled into view."""
        self.page.locator(selector).scroll_into_view_if_needed()
        return [
            self.page.locator(selector).bounding_box()[k] for k in ("x", "y", "width", "height")
        ]

    def draw(self, strokes, size=0.8, dx=0.0, dy=0.0):
        """Draw strokes on an empty drawing area with the mouse."""
        self.page.click("#clear")
        left, top, width, height = self.box("#pad")
        mouse = self.page.mouse
        for stroke in strokes:
            points = [
                (
                    left + width * (0.5 + (x - 0.5) * size + dx),
                    top + height * (0.5 + (y - 0.5) * size + dy),
                )
                for x, y in stroke
            ]
            mouse.move(*points[0])
            mouse.down()
            for point in points[1:]:
                mouse.move(*point)
            mouse.up()
        self.settle()

    def pixels(self):
        """Return what the network reads: uint8, shape (28, 28)."""
        listed = self.page.evaluate("Array.from(playground.state.pixels)")
        return np.array(listed, np.uint8).reshape(28, 28)

    def set_rates(self, rates):
        for layer, rate in enumerate(rates):
            self.page.evaluate(
                "([layer, rate]) => { const { network, update } = playground;"
                "network.setRate(network.dropouts[layer], rate); update(); }",
                [layer, rate],
            )

    def prediction(self):
        """Return the arrays that the page shows."""
        names = ["whole", "mean", "std", "plain", "geometric", "votes"]
        found = self.page.evaluate(
            "names => { const shown = playground.prediction();"
            "return [...names.map(name => Array.from(shown[name])),"
            "shown.thinned.map(output => Array.from(output))]; }",
            names,
        )
        return dict(zip([*names, "thinned"], map(np.array, found), strict=True))

    def whole(self, images):
        """Return the probabilities of many images, of shape (images, 10)."""
        return np.array(self._each(images, "Array.from(playground.network.whole(image))"))

    def moments(self, images):
        """Return whole, mean and std of many images, each of shape (images, 10)."""
        predicted = "playground.predict(image)"
        values = f"(p => [p.whole, p.mean, p.std].map(v => Array.from(v)))({predicted})"
        return np.moveaxis(np.array(self._each(images, values)), 1, 0)

    def _each(self, images, expression):
        packed = [base64.b64encode(image.tobytes()).decode() for image in images]
        return self.page.evaluate(
            f"images => images.map(bytesOf).map(image => {expression})", packed
        )

    def shown_masks(self):
        """Return which squares are full, for each layer."""
        found = self.page.evaluate(
            "playground.network.dropouts.map(layer => layer.picture.cells.map("
            "cell => cell.rect.getAttribute('class') !== 'dropped'))"
        )
        return [np.array(mask) for mask in found]
