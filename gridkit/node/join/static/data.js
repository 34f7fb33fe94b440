// What a visitor makes or picks, as numbers. No page in here: tests/node/test_join_data.py runs it in Node.js.

const LARGEST = 64 << 20; // characters of a CSV

/** The sides of the square images that a model takes with so many features; 0: it takes none that could be drawn. */
export function sideOf(features) {
  const side = Math.round(Math.sqrt(features));
  return side * side === features && side >= 4 && side <= 64 ? side : 0;
}

/**
 * A CSV, a row an example: the features, then the label. The first line may be a header. Separators: `,` `;` or tab.
 * Throws an Error that names the line.
 * @returns {{x: Float32Array, label: number}[]}
 */
export function parseCsv(text, features, classes) {
  if (text.length > LARGEST) throw new Error('the file is too large: 64 MB at most');
  const lines = text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/);
  const first = lines.find((line) => line.trim()) ?? '';
  const separator = ['\t', ';', ','].find((each) => first.includes(each)) ?? ',';
  const examples = [];
  let header = true;
  lines.forEach((line, at) => {
    if (!line.trim()) return;
    const cells = line.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, '$1').trim());
    const isHeader = header && cells.every((cell) => !isNumber(cell));
    header = false;
    if (isHeader) return;
    const where = `line ${at + 1}`;
    if (cells.length !== features + 1) {
      const wanted = `${features + 1} (${features} features and the label)`;
      throw new Error(`${where} has ${cells.length} values, ${wanted} are wanted`);
    }
    const wrong = cells.findIndex((cell) => !isNumber(cell));
    if (wrong >= 0) throw new Error(`${where}, value ${wrong + 1} isn't a number: "${cells[wrong].slice(0, 30)}"`);
    const label = Number(cells[features]);
    if (!Number.isInteger(label) || label < 0 || label >= classes) {
      throw new Error(`${where} has the label ${cells[features].slice(0, 30)}; labels are 0 to ${classes - 1}`);
    }
    const x = Float32Array.from(cells.slice(0, features), Number);
    const large = x.findIndex((value) => !Number.isFinite(value));
    if (large >= 0) throw new Error(`${where}, value ${large + 1} is too large`);
    examples.push({ x, label });
  });
  if (!examples.length) throw new Error('the file has no examples');
  return examples;
}

function isNumber(cell) {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(cell);
}

/**
 * A drawing as a small image, in the manner of MNIST: cut out, scaled to its place, in the middle; 0 is empty, 1 is ink.
 * Tiny images (8x8 digits) are filled, larger ones keep the margin that MNIST's have (20 of 28).
 * @param {Float32Array} ink a square of `size` x `size` values from 0 to 1
 */
export function shrink(ink, size, side) {
  const small = new Float32Array(side * side);
  const box = bounds(ink, size);
  if (!box) return small;
  const length = Math.max(box.right - box.left, box.bottom - box.top) + 1;
  const inner = side < 16 ? side : (side * 20) / 28;
  const scale = length / inner; // pixels of the drawing a cell
  const left = (box.left + box.right + 1) / 2 - (side / 2) * scale;
  const top = (box.top + box.bottom + 1) / 2 - (side / 2) * scale;
  const points = Math.max(4, Math.ceil(scale)); // looked at, a cell and direction: no pixel is left out
  for (let cell = 0; cell < small.length; cell++) {
    let sum = 0;
    for (let point = 0; point < points * points; point++) {
      const x = Math.floor(left + ((cell % side) + ((point % points) + 0.5) / points) * scale);
      const y = Math.floor(top + (Math.floor(cell / side) + (Math.floor(point / points) + 0.5) / points) * scale);
      if (x >= 0 && y >= 0 && x < size && y < size) sum += ink[y * size + x];
    }
    small[cell] = sum / (points * points);
  }
  return small;
}

function bounds(ink, size) {
  const box = { left: size, right: -1, top: size, bottom: -1 };
  for (let at = 0; at < ink.length; at++) {
    if (ink[at] < 0.1) continue;
    const [x, y] = [at % size, Math.floor(at / size)];
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y);
  }
  return box.right < 0 ? null : box;
}

/** The places of the examples of each step: every epoch in a new order, the last batch as short as it is. */
export function* batches(count, size, epochs, most = Infinity, random = Math.random) {
  let steps = 0;
  for (let epoch = 0; epoch < epochs; epoch++) {
    const order = Array.from({ length: count }, (_, at) => at);
    for (let at = count - 1; at > 0; at--) {
      const other = Math.floor(random() * (at + 1));
      [order[at], order[other]] = [order[other], order[at]];
    }
    for (let start = 0; start < count; start += size) {
      if (steps++ >= most) return;
      yield order.slice(start, start + size);
    }
  }
}
