// From strokes to 28 x 28 bytes, made as MNIST's images were: the ink fits 20 x 20 pixels, and its
// centre of mass is the centre of pixel 14. No canvas is read, so that equal strokes are equal
// bytes in every browser and on every screen. Squares are products: "**" may round differently.
"use strict";

const SIDE = 28, INK_SIDE = 20, MIDDLE = 14.5;
const PEN = 1.25; // half the width of a stroke in pixels; MNIST's median width is 2.5
const SMALLEST = 40; // of 280: a smaller drawing is not enlarged, so that a dot stays a dot

// Strokes are lists of points [x, y] in a square of side 280.
function rasterize(strokes) {
  const points = strokes.flat();
  const [left, right] = extent(points.map(([x]) => x));
  const [top, bottom] = extent(points.map(([, y]) => y));
  const zoom = (INK_SIDE - 2 * PEN) / Math.max(right - left, bottom - top, SMALLEST);
  const centred = (dx, dy) => strokes.map((stroke) => stroke.map(([x, y]) =>
    [(x - (left + right) / 2) * zoom + dx, (y - (top + bottom) / 2) * zoom + dy]));
  const first = painted(centred(SIDE / 2, SIDE / 2)), [x, y] = centreOfMass(first);
  return painted(centred(SIDE / 2 + MIDDLE - x, SIDE / 2 + MIDDLE - y));
}

function extent(values) {
  return values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)],
    [Infinity, -Infinity]);
}

function centreOfMass(pixels) {
  let ink = 0, x = 0, y = 0;
  pixels.forEach((value, i) => {
    ink += value;
    x += value * ((i % SIDE) + 0.5);
    y += value * (Math.floor(i / SIDE) + 0.5);
  });
  return [x / ink, y / ink];
}

// A pixel is as light as its distance from the nearest line says; the edge is one pixel wide.
function painted(strokes) {
  const squares = new Float64Array(SIDE * SIDE).fill(Infinity); // of the distances
  for (const stroke of strokes) {
    stroke.forEach((end, i) => approach(squares, stroke[Math.max(i - 1, 0)], end));
  }
  return Uint8Array.from(squares, (square) =>
    Math.round(255 * Math.min(1, Math.max(0, PEN + 0.5 - Math.sqrt(square)))));
}

// Lower the squared distances of the pixels near the line from a to b.
function approach(squares, [ax, ay], [bx, by]) {
  const reach = PEN + 1, dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy || 1;
  const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach));
  const last = (a, b) => Math.min(SIDE - 1, Math.floor(Math.max(a, b) + reach));
  for (let y = first(ay, by); y <= last(ay, by); y++) {
    for (let x = first(ax, bx); x <= last(ax, bx); x++) {
      const px = x + 0.5 - ax, py = y + 0.5 - ay;
      const along = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
      const ex = px - along * dx, ey = py - along * dy;
      squares[y * SIDE + x] = Math.min(squares[y * SIDE + x], ex * ex + ey * ey);
    }
  }
}
