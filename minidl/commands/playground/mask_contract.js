// The mask contract: the address of each dropout decision. The specification is
// kernels/minidl_kernels/mask_contract.py; here are the same bits in plain JavaScript.
"use strict";

const MaskContract = (() => {
  const WORDS = 4294967296; // 2 to the power of 32
  const SEEDS = 18446744073709551616n; // 2 to the power of 64
  const MAX_COLUMNS = 17179869184; // 2 to the power of 34
  const TILE = 64, LANES = 16;

  // The upper word of a product of two words. Numbers are exact up to 53 bits only, so it is put
  // together from halves of 16 bits. Each sum is below 2 to the power of 32.
  function highWord(a, b) {
    const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16;
    const first = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
    const second = (Math.imul(aLow, bHigh) + (first & 0xffff)) | 0;
    return (Math.imul(aHigh, bHigh) + (first >>> 16) + (second >>> 16)) | 0;
  }

  // Philox4x32-10 (Salmon et al., SC '11): write the four random words of a counter to a
  // Uint32Array. Words are signed within, as Math.imul returns them.
  function philox(counter0, counter1, counter2, counter3, key0, key1, words) {
    let c0 = counter0 | 0, c1 = counter1 | 0, c2 = counter2 | 0, c3 = counter3 | 0;
    let k0 = key0 | 0, k1 = key1 | 0;
    for (let round = 0; round < 10; round++) {
      const high0 = highWord(0xd2511f53, c0), low0 = Math.imul(0xd2511f53, c0);
      const high1 = highWord(0xcd9e8d57, c2), low1 = Math.imul(0xcd9e8d57, c2);
      c0 = high1 ^ c1 ^ k0;
      c1 = low1;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 = (k0 + 0x9e3779b9) | 0;
      k1 = (k1 + 0xbb67ae85) | 0;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
  }

  function checked(name, value, end) {
    const isInteger = typeof value === "bigint" || Number.isSafeInteger(value);
    if (!isInteger || value < 0 || value >= end) {
      throw new RangeError(`${name}: expected an integer in [0, ${end}), got ${value}.`);
    }
    return value;
  }

  // Return the address in words. A seed above 2 to the power of 53 must be a BigInt.
  function packed({ seed, stream, step, rowOffset = 0 }) {
    const bits = BigInt(checked("seed", seed, SEEDS));
    return {
      key0: Number(bits & 0xffffffffn),
      key1: Number(bits >> 32n),
      stream: checked("stream", stream, WORDS),
      step: checked("step", step, WORDS),
      rowOffset: checked("rowOffset", rowOffset, WORDS),
    };
  }

  function rowsAndColumns(shape) {
    const lengths = shape.length < 2 ? [1, ...shape] : shape;
    return [lengths[0], lengths.slice(1).reduce((product, length) => product * length, 1)];
  }

  // Return the number of words, out of 2 to the power of 32, that drop an element.
  function threshold(rate) {
    if (!(rate >= 0 && rate <= 1)) {
      throw new RangeError(`rate: expected a number in [0, 1], got ${rate}.`);
    }
    return Math.floor(rate * WORDS);
  }

  // Return the factor of kept elements: computed in 64 bits, rounded once to 32.
  function scale(rate) {
    return Math.fround(1 / (1 - rate));
  }

  // Return the mask as a Uint8Array in C order: 1 is kept, 0 is dropped.
  function keepMask(shape, rate, address) {
    const limit = threshold(rate), { key0, key1, stream, step, rowOffset } = packed(address);
    const [rows, columns] = rowsAndColumns(shape);
    checked("rowOffset + rows", rowOffset + rows, WORDS + 1);
    checked("columns", columns, MAX_COLUMNS + 1);
    const keep = new Uint8Array(rows * columns), words = new Uint32Array(4);
    for (let row = 0; row < rows; row++) {
      for (let tile = 0; tile < columns; tile += TILE) {
        const lanes = Math.min(LANES, columns - tile);
        for (let lane = 0; lane < lanes; lane++) {
          philox((tile / TILE) * LANES + lane, rowOffset + row, stream, step, key0, key1, words);
          for (let run = 0; run < 4; run++) {
            const column = tile + LANES * run + lane;
            if (column < columns) keep[row * columns + column] = words[run] < limit ? 0 : 1;
          }
        }
      }
    }
    return keep;
  }

  // Return the random word of one element.
  function wordAt(address, row, column) {
    const { key0, key1, stream, step, rowOffset } = packed(address), words = new Uint32Array(4);
    const block = LANES * Math.floor(column / TILE) + (column % LANES);
    philox(block, rowOffset + row, stream, step, key0, key1, words);
    return words[Math.floor(column / LANES) % 4];
  }

  // Return the number of a stream of Monte-Carlo prediction as it is written in Python.
  function streamName(number) {
    return number ? `2**30 + ${number}` : "2**30";
  }

  // Return the call in Python that has the same mask.
  function inPython(shape, rate, { seed, stream, step, rowOffset = 0 }) {
    const lengths = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
    const isMonteCarlo = stream >= 1073741824 && stream < 2147483648;
    const number = isMonteCarlo ? streamName(stream - 1073741824) : `${stream}`;
    const offset = rowOffset ? `, row_offset=${rowOffset}` : "";
    const where = `seed=${seed}, stream=${number}, step=${step}${offset}`;
    return `rng.keep_mask((${lengths}), ${rate}, ${where})`;
  }

  return { keepMask, wordAt, threshold, scale, streamName, inPython };
})();
