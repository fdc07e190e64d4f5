// What the user can do, and the state that it changes.
"use strict";

const DATA = JSON.parse($("network-data").textContent);
const network = new Network(DATA, $("weights").textContent);
const PAD = 280; // the side of the drawing area, in its own units

const state = {
  strokes: [],
  pixels: new Uint8Array(784),
  hasInk: false,
  step: 0, // the number of the thinned network
  chosen: { layer: network.dropouts[0], unit: 0 }, // the unit whose reason is shown
  nextExample: { easy: 0, hard: 0 },
};
let prediction = null, isPlanned = false;

// ---- views ------------------------------------------------------------------

const bars = new Bars($("bars"), network.layers.at(-1).units);
const chart = new Chart($("chart"), network.samples);
const batch = new BatchView(network.dropouts[0]);
for (const layer of network.dropouts) addLayer(layer);

function addLayer(layer) {
  const head = make($("layers"), "div", { class: "layer" });
  layer.heading = make(head, "b");
  const range = { type: "range", min: 0, max: 0.95, step: 0.05, value: layer.rate };
  layer.slider = make(head, "input", { ...range, "aria-label": `Dropout rate of ${layer.title}` });
  layer.slider.oninput = () => {
    network.setRate(layer, Number(layer.slider.value));
    plan();
  };
  const columns = layer.title === "Inputs" ? SIDE : COLUMNS;
  const svg = make($("layers"), "svg", {
    tabindex: 0, role: "slider", "aria-label": `Unit of ${layer.title}`,
    "aria-valuemin": 0, "aria-valuemax": layer.units - 1, "aria-valuenow": 0,
  });
  layer.picture = new UnitPicture(svg, layer.units, columns);
  layer.ring = make(svg, "rect", { class: "chosen", width: 9, height: 9 });
  svg.onpointermove = svg.onclick = (event) => choose(layer, layer.picture.unitAt(event));
  svg.onkeydown = (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const before = state.chosen.layer === layer ? state.chosen.unit : 0;
    choose(layer, before + moves[event.key]);
  };
}

function choose(layer, unit) {
  if (unit === null || unit < 0 || unit >= layer.units) return;
  state.chosen = { layer, unit };
  showReason();
}

function plan() {
  if (!isPlanned) isPlanned = requestAnimationFrame(update);
}

function update() {
  isPlanned = false;
  const { pixels, hasInk, step } = state;
  if (state.strokes.length) pixels.set(rasterize(state.strokes));
  prediction = predict(pixels);
  const shown = hasInk ? prediction : null;
  showDrawing();
  bars.show(shown);
  $("verdict").textContent = hasInk ? verdictOf(prediction) : "";
  showThinnedNetwork();
  showReason();
  if (hasInk) chart.show(prediction, step);
  else chart.clear();
  $("reading").textContent = hasInk ? readingOf(prediction, step) : "";
  batch.show(step);
}

function predict(pixels) {
  const whole = network.whole(pixels), thinned = network.thinned(pixels);
  const top = indexOfLargest(whole);
  return {
    whole,
    thinned,
    top,
    votes: votesOf(thinned),
    ...moments(thinned),
    ...runningMeans(thinned, top),
  };
}

function showDrawing() {
  const lines = state.strokes.map((stroke) =>
    `M${stroke.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}l0 0`);
  $("ink").setAttribute("d", lines.join(""));
  $("hint").hidden = state.hasInk;
  paintPixels($("seen"), state.pixels);
}

function showThinnedNetwork() {
  const { step, hasInk, pixels } = state, own = prediction.thinned[step];
  const winner = indexOfLargest(own), says = ` says ${winner} (${percent(own[winner])})`;
  $("thinned-title").textContent = `Thinned network ${step}${hasInk ? says : ""}`;
  $("step").value = step;
  state.values = network.valuesBeforeDropout(pixels, step);
  network.dropouts.forEach((layer, i) => {
    const keep = layer.masks[step], on = keep.reduce((sum, bit) => sum + bit, 0);
    const isTrained = layer.rate === layer.trainedRate;
    const trained = isTrained ? "" : ` (trained: ${layer.trainedRate})`;
    const counts = `${on} of ${layer.units} on`;
    layer.heading.textContent = `${layer.title}: ${counts}, rate ${layer.rate}${trained}`;
    layer.slider.setAttribute("aria-valuetext", `${layer.rate}`);
    showUnits(layer.picture, keep, state.values[i], hasInk);
  });
  const lines = network.dropouts.map((layer) => {
    const address = network.addressOf(layer, step);
    return `${layer.variable} = ${MaskContract.inPython([1, layer.units], layer.rate, address)}`;
  });
  $("thinned-code").textContent = ["from minidl import rng", "", ...lines].join("\n");
}

function showReason() {
  const { layer, unit } = state.chosen, i = network.dropouts.indexOf(layer);
  const address = network.addressOf(layer, state.step), value = state.values[i][unit];
  $("reason").textContent = reasonOf(layer, address, unit, value, state.hasInk);
  for (const other of network.dropouts) other.ring.toggleAttribute("hidden", other !== layer);
  const [x, y] = layer.picture.place(unit);
  setAttributes(layer.ring, { x: x + 0.5, y: y + 0.5 });
  const reading = { "aria-valuenow": unit, "aria-valuetext": $("reason").textContent };
  setAttributes(layer.picture.svg, reading);
}

// ---- drawing ----------------------------------------------------------------

let pointer = null; // the one that draws

function addPoints(event) {
  const box = $("pad").getBoundingClientRect(), between = event.getCoalescedEvents?.() ?? [];
  for (const { clientX, clientY } of between.length ? between : [event]) {
    const x = (clientX - box.left) / box.width, y = (clientY - box.top) / box.height;
    state.strokes.at(-1).push([PAD * x, PAD * y]);
  }
  state.hasInk = true;
  plan();
}

// Begin anew: with an image, or with an empty drawing area.
function reset(pixels = null, label = "") {
  state.strokes = [];
  state.hasInk = pixels !== null;
  state.pixels = pixels ?? new Uint8Array(784);
  $("label").textContent = label;
  paintPixels($("example"), state.pixels);
  plan();
}

$("pad").onpointerdown = (event) => {
  if (event.button !== 0 || pointer !== null) return;
  event.preventDefault();
  pointer = event.pointerId;
  $("pad").setPointerCapture(pointer);
  if (!state.strokes.length) reset();
  state.strokes.push([]);
  addPoints(event);
};
$("pad").onpointermove = (event) => {
  if (event.pointerId === pointer) addPoints(event);
};
$("pad").onlostpointercapture = (event) => { // also after the button is up, or the touch cancelled
  if (event.pointerId === pointer) pointer = null;
};

$("clear").onclick = () => reset();
for (const kind of ["easy", "hard"]) {
  const { labels, pixels } = DATA.examples[kind], images = bytesOf(pixels);
  $(kind).hidden = !labels.length;
  $(kind).onclick = () => {
    const i = state.nextExample[kind]++ % labels.length;
    reset(images.slice(784 * i, 784 * (i + 1)), `Its label in MNIST is ${labels[i]}.`);
  };
}

// ---- the other controls -----------------------------------------------------

function go(step) {
  state.step = Math.min(network.samples - 1, Math.max(0, step));
  plan();
}

$("step").max = network.samples - 1;
$("step").oninput = () => go(Number($("step").value));
$("previous").onclick = () => go(state.step - 1);
$("next").onclick = () => go(state.step + 1);
$("chart").onclick = (event) => {
  const box = $("chart").getBoundingClientRect();
  go(chart.networkAt(event.clientX - box.left));
};
$("trained").onclick = () => {
  for (const layer of network.dropouts) {
    network.setRate(layer, layer.trainedRate);
    layer.slider.value = layer.rate;
  }
  plan();
};
$("split").oninput = $("offset").onchange = plan;
for (const name of ["thinned", "batch"]) {
  const button = $(`copy-${name}`), code = $(`${name}-code`), status = button.nextElementSibling;
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      status.textContent = "Copied";
    } catch { // refused, as in a sandboxed frame
      getSelection().selectAllChildren(code);
      status.textContent = "Selected: press Ctrl+C or ⌘C";
    }
  };
}
addEventListener("resize", plan);

$("samples").textContent = network.samples;
$("gap").textContent = gapText(DATA.examples.gap);
$("hard").click(); // clean digits give 100 % everywhere and show nothing
update();
const [first] = network.dropouts, isOn = first.masks[0];
choose(first, indexOfLargest(state.values[0].map((value, unit) => value * isOn[unit])));

// For tests, and for the browser's console.
window.playground = { network, state, predict, rasterize, update, prediction: () => prediction };
