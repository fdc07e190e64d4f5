// The mask of a training batch: whole, and in two parts that are computed on their own.
"use strict";

const BATCH_ROWS = 12;
const GAP = 6; // between the parts, in the units of the picture

class BatchView {
  constructor(layer) {
    this.layer = layer;
    this.columns = Math.min(COLUMNS, layer.units);
    const units = BATCH_ROWS * this.columns;
    this.whole = new UnitPicture($("whole-mask"), units, this.columns);
    this.parts = new UnitPicture($("part-masks"), units, this.columns);
    for (const svg of [this.whole.svg, this.parts.svg]) {
      svg.setAttribute("viewBox", `0 0 ${10 * this.columns} ${10 * BATCH_ROWS + GAP}`);
    }
    $("split").max = BATCH_ROWS - 1;
    $("split").value = BATCH_ROWS / 2;
    $("batch-note").textContent = `Each row is an image of a training batch, each column one of `
      + `the first ${this.columns} units of ${layer.title}. Two workers can share the batch, since `
      + `each decision has an address: seed, stream, step, row and column.`;
  }

  // Show the masks of a training step; compare them bit by bit.
  show(step) {
    const split = Number($("split").value), knowsOffset = $("offset").checked;
    const { seed, stream, rate } = this.layer;
    const calls = {
      whole: [BATCH_ROWS, 0],
      first: [split, 0],
      second: [BATCH_ROWS - split, knowsOffset ? split : 0],
    };
    const masks = {}, lines = ["import numpy as np", "from minidl import rng", ""];
    for (const [name, [rows, rowOffset]] of Object.entries(calls)) {
      const address = { seed: BigInt(seed), stream, step, rowOffset }, shape = [rows, this.columns];
      masks[name] = MaskContract.keepMask(shape, rate, address);
      lines.push(`${name} = ${MaskContract.inPython(shape, rate, address)}`);
    }
    lines.push("print((np.concatenate([first, second]) == whole).all())");
    const parts = [...masks.first, ...masks.second];
    const different = this.draw(masks.whole, parts, split);
    $("batch-code").textContent = lines.join("\n");
    $("split-label").textContent = `First part: ${split} of ${BATCH_ROWS} rows`;
    const count = parts.length;
    $("agreement").textContent = different
      ? `${different} of ${count} decisions differ: the second part drew those of the first rows.`
      : `All ${count} decisions agree, wherever the batch is split.`;
  }

  // Draw both; return the number of decisions that differ.
  draw(whole, parts, split) {
    for (const ring of this.parts.svg.querySelectorAll(".different")) ring.remove();
    let different = 0;
    parts.forEach((keep, unit) => {
      const dy = unit < split * this.columns ? 0 : GAP;
      this.whole.draw(unit, whole[unit] ? "on" : "dropped");
      this.parts.draw(unit, keep ? "on" : "dropped", 1, dy);
      if (keep === whole[unit]) return;
      const [x, y] = this.parts.place(unit);
      const box = { x: x + 0.5, y: y + dy + 0.5, width: 9, height: 9 };
      make(this.parts.svg, "rect", { class: "different", ...box });
      different++;
    });
    return different;
  }
}
