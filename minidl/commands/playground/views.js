// What the page shows of a prediction: bars, units, and the means of thinned networks.
"use strict";

const $ = (id) => document.getElementById(id);
const COLUMNS = 32; // of the pictures of units
const SHOWN = 0.0005; // smaller probabilities are not written

function make(parent, name, attributes = {}, text = "") {
  const space = name === "svg" ? "http://www.w3.org/2000/svg" : parent.namespaceURI;
  const node = parent.appendChild(document.createElementNS(space, name));
  setAttributes(node, attributes);
  node.textContent = text;
  return node;
}

function setAttributes(node, attributes) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
}

function percent(p) {
  const number = p > 1 - SHOWN && p < 1 ? "> 99.9" : (100 * p).toFixed(1);
  return `${number}\u00a0%`; // no line ends before the sign
}

function percentAndSpread(mean, std) {
  if (std < SHOWN) return percent(mean);
  return `${percent(mean).slice(0, -2)} ± ${(100 * std).toFixed(1)}\u00a0%`;
}

function paintPixels(canvas, pixels) {
  const image = new ImageData(28, 28);
  pixels.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The table of the classes, with two bars each.
class Bars {
  constructor(table, classes) {
    this.rows = Array.from({ length: classes }, (_, digit) => {
      const row = make(table, "tr");
      make(row, "th", { scope: "row" }, digit);
      const track = make(make(row, "td"), "div", { class: "track" });
      const [whole, mean, spread] = ["whole", "mean", "spread"].map((name) =>
        make(track, "i", { class: name }));
      const numbers = make(row, "td");
      const [wholeText, meanText] = ["whole", "mean"].map((name) =>
        make(numbers, "span", { class: name }));
      return { row, whole, mean, spread, wholeText, meanText, votes: make(row, "td") };
    });
  }

  // Show a prediction, or nothing if there is no ink.
  show(prediction) {
    const { whole, mean, std, votes, top } = prediction ?? {};
    this.rows.forEach((bar, digit) => {
      const [p, m, s] = prediction ? [whole[digit], mean[digit], std[digit]] : [0, 0, 0];
      const isShown = m >= SHOWN;
      const low = Math.max(0, m - s), high = isShown ? Math.min(1, m + s) : low;
      bar.row.classList.toggle("top", digit === top);
      bar.whole.style.width = `${100 * p}%`;
      bar.mean.style.width = `${100 * m}%`;
      bar.spread.style.left = `${100 * low}%`;
      bar.spread.style.width = `${100 * (high - low)}%`;
      bar.wholeText.textContent = p >= SHOWN ? percent(p) : "";
      bar.meanText.textContent = isShown ? percentAndSpread(m, s) : "";
      bar.votes.textContent = votes?.[digit] || "";
    });
  }
}

function verdictOf({ whole, votes, top }) {
  const ranked = [...votes.entries()].filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  const counts = ranked.map(([digit, count]) => `${count} for ${digit}`).join(", ");
  return `All units on: ${top} (${percent(whole[top])}). Votes of the thinned networks: ${counts}.`;
}

// One square for each unit: full if it is on, small if it is dropped.
class UnitPicture {
  constructor(svg, units, columns = COLUMNS) {
    this.columns = Math.min(units, columns);
    const rows = Math.ceil(units / this.columns);
    setAttributes(svg, { class: "units", viewBox: `0 0 ${10 * this.columns} ${10 * rows}` });
    this.svg = svg;
    this.cells = Array.from({ length: units }, (_, unit) => ({ rect: make(svg, "rect"), unit }));
  }

  place(unit) {
    return [10 * (unit % this.columns), 10 * Math.floor(unit / this.columns)];
  }

  // Draw a unit "on", "silent" or "dropped"; `strength` is that of its value, in [0, 1].
  draw(unit, look, strength = 1, dy = 0) {
    const cell = this.cells[unit], key = `${look} ${dy}`;
    if (cell.key !== key) {
      const [x, y] = this.place(unit), size = look === "dropped" ? 3 : 9;
      const inset = (10 - size) / 2;
      const place = { x: x + inset, y: y + dy + inset };
      setAttributes(cell.rect, { ...place, width: size, height: size, class: look });
      cell.key = key;
    }
    if (cell.strength !== strength) cell.rect.style.opacity = cell.strength = strength;
  }

  // Return the unit at the place of a pointer, or null.
  unitAt(event) {
    const box = this.svg.getBoundingClientRect(), size = box.width / this.columns;
    const column = Math.floor((event.clientX - box.left) / size);
    const unit = column + this.columns * Math.floor((event.clientY - box.top) / size);
    return column >= 0 && column < this.columns && this.cells[unit] ? unit : null;
  }
}

// Draw the units of a layer in a thinned network. Stronger colours are larger values.
function showUnits(picture, keep, values, hasInk) {
  const largest = values.reduce((a, b) => Math.max(a, b), 0) || 1;
  values.forEach((value, unit) => {
    const isActive = keep[unit] && hasInk && value > 0;
    const look = isActive ? "on" : keep[unit] ? "silent" : "dropped";
    picture.draw(unit, look, isActive ? 0.7 + 0.3 * Math.sqrt(value / largest) : 1);
  });
}

// Say why a unit is on or dropped.
function reasonOf(layer, { seed, stream, step }, unit, value, hasInk) {
  const word = MaskContract.wordAt({ seed, stream, step }, 0, unit);
  const limit = MaskContract.threshold(layer.rate), isOn = word >= limit;
  const [drawn, bound] = [word, limit].map((number) => number.toLocaleString("en"));
  const [input, factor, output] = [value, layer.factor, value * layer.factor]
    .map((number) => number.toFixed(2));
  const product = hasInk ? ` and passes on ${input} × ${factor} = ${output}` : "";
  const effect = isOn ? `on${product}` : "dropped and passes on 0";
  const streamName = MaskContract.streamName(stream - MONTE_CARLO);
  return `${layer.title}, unit ${unit}: its random word ${drawn} is ${isOn ? "not " : ""}below `
    + `rate × 2³² = ${bound}, so it is ${effect}. The word depends only on seed ${seed}, `
    + `stream ${streamName}, step ${step}, row 0 and column ${unit}.`;
}

// The probability of one class, network by network, with two means and weight scaling.
class Chart {
  static LEFT = 58;
  static TOP = 26;
  static BOTTOM = 200;

  constructor(svg, samples) {
    this.svg = svg;
    this.samples = samples;
  }

  x(network) {
    return Chart.LEFT + ((this.right - Chart.LEFT) * (network + 0.5)) / this.samples;
  }

  networkAt(x) {
    return Math.floor(((x - Chart.LEFT) / (this.right - Chart.LEFT)) * this.samples);
  }

  clear() {
    const width = this.svg.clientWidth; // read once: each reading after a change costs a layout
    this.right = width - 8;
    this.svg.replaceChildren();
    setAttributes(this.svg, { viewBox: `0 0 ${width} 224`, "aria-label": "An empty chart" });
  }

  show({ whole, thinned, top, plain, geometric }, step) {
    this.clear();
    const values = thinned.map((output) => output[top]), smallest = Math.min(whole[top], ...values);
    this.floor = [0.9, 0.8, 0.5, 0].find((floor) => floor <= smallest);
    this.drawAxes(top);
    values.forEach((p, network) => this.circle("each", network, p, 2.6));
    this.line("mark", this.x(step), this.x(step), Chart.TOP, Chart.BOTTOM);
    this.line("scaling", Chart.LEFT, this.right, this.y(whole[top]), this.y(whole[top]));
    this.curve("geometric", geometric);
    this.curve("plain", plain);
    this.circle("ring", step, values[step], 6);
    const label = `Probability of ${top} in each thinned network, and the means so far`;
    this.svg.setAttribute("aria-label", label);
  }

  drawAxes(top) {
    const cut = this.floor ? ` (the axis begins at ${100 * this.floor} %)` : "";
    this.text(0, 13, "start", `probability of ${top}, network by network${cut}`);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const p = this.floor + (1 - this.floor) * share, y = this.y(p);
      this.line("grid", Chart.LEFT, this.right, y, y);
      this.text(Chart.LEFT - 6, y + 4, "end", `${Number((100 * p).toFixed(1))} %`);
    }
    const every = this.samples / (this.right > 500 ? 10 : 5);
    for (let network = 0; network < this.samples; network += every) {
      this.text(this.x(network), 219, "middle", network);
    }
  }

  y(p) {
    const share = (p - this.floor) / (1 - this.floor);
    return Chart.BOTTOM - (Chart.BOTTOM - Chart.TOP) * share;
  }

  line(name, x1, x2, y1, y2) {
    make(this.svg, "line", { class: name, x1, x2, y1, y2 });
  }

  text(x, y, anchor, words) {
    make(this.svg, "text", { x, y, "text-anchor": anchor }, words);
  }

  circle(name, network, p, r) {
    make(this.svg, "circle", { class: name, cx: this.x(network), cy: this.y(p), r });
  }

  curve(name, values) {
    const points = values.map((p, network) => `${this.x(network)},${this.y(p)}`).join(" ");
    make(this.svg, "polyline", { class: name, points });
  }
}

function readingOf({ whole, thinned, top, plain, geometric }, step) {
  const means = (i) => `plain ${percent(plain[i])}, geometric ${percent(geometric[i])}`;
  return `Network ${step}: ${percent(thinned[step][top])}. Means so far: ${means(step)}. `
    + `Means of all ${thinned.length}: ${means(thinned.length - 1)}. `
    + `All units on: ${percent(whole[top])}.`;
}

function gapText({ mean, geometric, images }) {
  const points = (gap) => `${Number((100 * Math.abs(gap)).toFixed(2))} points`;
  return `For ${images.toLocaleString("en")} test digits, the plain mean of the predicted class is `
    + `${points(mean)} ${mean < 0 ? "higher" : "lower"} on average. The geometric mean differs by `
    + `${points(geometric)} (median).`;
}
