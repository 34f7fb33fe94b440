// The drawing pad: pointers (mouse, pen, finger) and keys. Ink is what is opaque.

import { shrink } from './data.js';

const STEP = 1 / 24; // of the pad, an arrow key
const PEN = 0.09; // of the pad

export class Pad {
  /** @param onChange called after each stroke */
  constructor(canvas, cursor, onChange) {
    this.canvas = canvas;
    this.cursor = cursor;
    this.onChange = onChange;
    this.context = canvas.getContext('2d', { willReadFrequently: true });
    this.at = [0.5, 0.5]; // of the keyboard's pen
    this.down = false;
    canvas.addEventListener('pointerdown', (event) => this.#press(event));
    canvas.addEventListener('pointermove', (event) => this.#move(event));
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => (this.last = null));
    canvas.addEventListener('keydown', (event) => this.#key(event));
    this.#showCursor();
  }

  get empty() {
    return !this.#ink().some((value) => value >= 0.1);
  }

  clear() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.down = false;
    this.#showCursor();
    this.onChange();
  }

  /** The drawing as `side` x `side` values from 0 to 1. */
  image(side) {
    return shrink(this.#ink(), this.canvas.width, side);
  }

  #ink() {
    const { data } = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    return Float32Array.from({ length: data.length / 4 }, (_, at) => data[4 * at + 3] / 255);
  }

  #press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.#place(event);
    this.cursor.classList.remove('keys');
    this.#line(this.last, this.last);
  }

  #move(event) {
    if (!this.last) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) {
      const next = this.#place(each);
      this.#line(this.last, next);
      this.last = next;
    }
  }

  #key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const next = this.at.map((value, axis) => Math.min(1, Math.max(0, value + way[axis] * STEP)));
      if (this.down) this.#line(this.at, next);
      this.at = next;
    } else if (event.key === ' ') {
      this.down = !this.down;
      if (this.down) this.#line(this.at, this.at);
    } else if (event.key === 'Escape') {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
    this.cursor.classList.add('keys');
    this.#showCursor();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #line(from, to) {
    const size = this.canvas.width;
    this.context.strokeStyle = getComputedStyle(this.canvas).color;
    this.context.lineWidth = PEN * size;
    this.context.lineCap = this.context.lineJoin = 'round';
    this.context.beginPath();
    this.context.moveTo(from[0] * size, from[1] * size);
    this.context.lineTo(to[0] * size, to[1] * size);
    this.context.stroke();
    this.onChange();
  }

  #showCursor() {
    this.cursor.style.left = `${100 * this.at[0]}%`;
    this.cursor.style.top = `${100 * this.at[1]}%`;
    this.cursor.classList.toggle('down', this.down);
  }
}
