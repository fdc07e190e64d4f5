// The network: predictions with all units, and of thinned networks.
"use strict";

const MONTE_CARLO = 1073741824; // streams from 2 to the power of 30 on belong to predictions

// Return the bytes of base64. The page's policy forbids fetch, also of data.
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function indexOfLargest(values) {
  return values.indexOf(Math.max(...values));
}

class Network {
  // Take what page.py wrote: layers as JSON, weights in base64.
  constructor({ layers, samples }, weights) {
    this.layers = layers;
    this.samples = samples;
    this.dropouts = layers.filter((layer) => layer.kind === "dropout");
    this.beforeDropout = layers.indexOf(this.dropouts[0]); // the same in all thinned networks
    this.unpack(bytesOf(weights).buffer);
    this.nameLayers();
    for (const layer of this.dropouts) {
      layer.trainedRate = layer.rate;
      this.setRate(layer, layer.rate);
    }
  }

  unpack(buffer) {
    let start = 0;
    const take = (Numbers, count) => {
      const end = start + count * Numbers.BYTES_PER_ELEMENT;
      const numbers = new Numbers(buffer.slice(start, end)); // a copy is aligned
      start = end;
      return numbers;
    };
    for (const layer of this.layers) {
      if (layer.kind !== "dense") continue;
      const { inputs, units } = layer;
      layer.bias = take(Float32Array, units);
      const scale = take(Float32Array, units), integers = take(Int16Array, inputs * units);
      layer.weight = Float32Array.from(integers, (integer, i) => integer * scale[i % units]);
    }
  }

  nameLayers() {
    let hidden = 0;
    for (const layer of this.layers) {
      if (layer.kind === "dense") hidden++;
      layer.title = hidden ? `Layer ${hidden}` : "Inputs";
      layer.variable = hidden ? `layer_${hidden}` : "inputs";
    }
  }

  // The masks do not depend on the image: they are made once for a rate.
  setRate(layer, rate) {
    layer.rate = rate;
    layer.factor = MaskContract.scale(rate);
    layer.masks = Array.from({ length: this.samples }, (_, step) =>
      MaskContract.keepMask([1, layer.units], rate, this.addressOf(layer, step)));
  }

  // Return the address of a layer's mask in a thinned network, whose number is the step.
  addressOf(layer, step) {
    return { seed: BigInt(layer.seed), stream: MONTE_CARLO + layer.stream, step };
  }

  // Return the probabilities with all units: weight scaling.
  whole(pixels) {
    return this.run(pixels, this.layers);
  }

  // Return the probabilities of all thinned networks.
  thinned(pixels) {
    const head = this.run(pixels, this.layers.slice(0, this.beforeDropout));
    const tail = this.layers.slice(this.beforeDropout);
    return Array.from({ length: this.samples }, (_, step) => this.run(head, tail, step));
  }

  // Return, for each dropout layer, the values before it in one thinned network.
  valuesBeforeDropout(pixels, step) {
    const values = [];
    this.run(pixels, this.layers, step, values);
    return values;
  }

  run(values, layers, step = null, beforeDropout = []) {
    for (const layer of layers) {
      if (layer.kind === "rescaling") {
        values = Float32Array.from(values, (value) => value * layer.scale + layer.offset);
      } else if (layer.kind === "dense") {
        values = dense(values, layer);
      } else if (step !== null) {
        const keep = layer.masks[step];
        beforeDropout.push(values);
        values = values.map((value, i) => (keep[i] ? value * layer.factor : 0));
      }
    }
    return values;
  }
}

// Sums have 64 bits and are rounded once, to 32 bits.
function dense(values, { inputs, units, weight, bias, activation }) {
  const sums = Float64Array.from(bias);
  for (let i = 0; i < inputs; i++) {
    const value = values[i], start = i * units;
    if (value === 0) continue; // silent and dropped units cost nothing
    for (let j = 0; j < units; j++) sums[j] += value * weight[start + j];
  }
  return Float32Array.from(activation === "relu" ? sums.map(relu) : softmax(sums));
}

function relu(value) {
  return Math.max(value, 0);
}

function softmax(sums) {
  const largest = Math.max(...sums), powers = sums.map((sum) => Math.exp(sum - largest));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}

// Return mean and standard deviation of each class.
function moments(outputs) {
  const count = outputs.length, mean = new Float64Array(outputs[0].length);
  const variance = new Float64Array(mean.length);
  for (const output of outputs) output.forEach((p, c) => (mean[c] += p / count));
  for (const output of outputs) {
    output.forEach((p, c) => (variance[c] += (p - mean[c]) ** 2 / count));
  }
  return { mean, std: variance.map(Math.sqrt) };
}

// Return how many outputs have their largest probability in each class.
function votesOf(outputs) {
  const votes = Array.from(outputs[0], () => 0);
  for (const output of outputs) votes[indexOfLargest(output)]++;
  return votes;
}

// Return two means of the first 1, 2, 3, ... outputs, for one class: the plain mean, and the
// geometric mean, normalised so that the classes add up to 1.
function runningMeans(outputs, chosen) {
  const sums = new Float64Array(outputs[0].length), logarithms = new Float64Array(sums.length);
  const plain = [], geometric = [];
  outputs.forEach((output, i) => {
    output.forEach((p, c) => {
      sums[c] += p;
      logarithms[c] += Math.log(Math.max(p, 1e-45)); // the smallest number of 32 bits
    });
    plain.push(sums[chosen] / (i + 1));
    geometric.push(softmax(logarithms.map((sum) => sum / (i + 1)))[chosen]);
  });
  return { plain, geometric };
}
