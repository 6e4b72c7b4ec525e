// A strip with a bar for each chunk: how near it is to the question.

import { el } from "./dom.js";
import { count, score } from "./text.js";

const HEIGHT = 64;
const WIDEST = 44; // pixels of a bar

export class Strip {
  #visible = [0, 0];
  #scores = [];

  /** @param {(chunk: number) => void} onchoose */
  constructor(onchoose) {
    this.onchoose = onchoose;
    this.current = 0;
    this.canvas = el("canvas", { class: "strip-canvas", height: HEIGHT });
    this.tip = el("span", { class: "tip", hidden: true });
    this.element = el(
      "div",
      {
        class: "strip",
        role: "slider",
        tabindex: 0,
        "aria-label": "How near each chunk is to the question",
        onkeydown: (event) => this.#key(event),
        onpointermove: (event) => this.#hover(event),
        onpointerleave: () => { this.tip.hidden = true; },
        onclick: (event) => this.onchoose(this.#chunkAt(event)),
      },
      this.canvas,
      this.tip,
    );
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw();
    this.dark.addEventListener("change", this.redraw);
  }

  close() {
    this.resized.disconnect();
    this.dark.removeEventListener("change", this.redraw);
  }

  setScores(scores) {
    this.#scores = scores;
    this.lowest = scores.reduce((least, value) => Math.min(least, value), Infinity);
    this.highest = scores.reduce((most, value) => Math.max(most, value), -Infinity);
    this.element.style.maxWidth = `${WIDEST * scores.length}px`;
    this.setCurrent(Math.min(this.current, scores.length - 1));
  }

  /** Where a score stands between the lowest and the highest, from 0 to 1. */
  level(value) {
    return this.highest > this.lowest ? (value - this.lowest) / (this.highest - this.lowest) : 1;
  }

  setCurrent(chunk) {
    this.current = chunk;
    const { element } = this;
    element.setAttribute("aria-valuemin", 0);
    element.setAttribute("aria-valuemax", this.#scores.length - 1);
    element.setAttribute("aria-valuenow", chunk);
    element.setAttribute(
      "aria-valuetext",
      `Chunk ${count(chunk)} of ${count(this.#scores.length)}, score ${score(this.#scores[chunk] ?? 0)}`,
    );
    this.draw();
  }

  setVisible(first, last) {
    if (first === this.#visible[0] && last === this.#visible[1]) return;
    this.#visible = [first, last];
    this.draw();
  }

  draw() {
    const scores = this.#scores;
    const width = this.element.clientWidth;
    if (!width || !scores.length) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(HEIGHT * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.element);
    const colour = (name) => style.getPropertyValue(name).trim();
    const each = width / scores.length;
    const [first, last] = this.#visible;
    context.fillStyle = colour("--window");
    context.fillRect(first * each, 0, Math.max(3, (last - first + 1) * each), HEIGHT);
    // Several chunks share a bar where they are more than there are places: its height is that of the nearest.
    const wide = Math.max(each, 2);
    const bars = Math.ceil(width / wide);
    const gap = wide >= 16 ? 2 : wide >= 5 ? 1 : wide >= 3 ? 0.5 : 0;
    const shown = Array.from({ length: bars }, (_, bar) => {
      const from = each >= wide ? bar : Math.floor((bar * wide) / each);
      const to = each >= wide ? bar + 1 : Math.max(from + 1, Math.floor(((bar + 1) * wide) / each));
      return { value: greatest(scores, from, to), holds: this.current >= from && this.current < to };
    }).filter(({ value }) => value > -Infinity);
    const lowest = Math.min(...shown.map(({ value }) => value));
    for (const [bar, { value, holds }] of shown.entries()) {
      const level = this.highest > lowest ? (value - lowest) / (this.highest - lowest) : 1;
      const height = 3 + level * (HEIGHT - 10);
      context.globalAlpha = holds ? 1 : 0.3 + 0.7 * level;
      context.fillStyle = colour(holds ? "--mark-strong" : "--accent");
      context.fillRect(bar * wide, HEIGHT - height, Math.max(1, wide - gap), height);
      if (holds) context.fillRect(bar * wide - 1, 0, Math.max(3, wide - gap + 2), 3);
    }
    context.globalAlpha = 1;
  }

  #chunkAt(event) {
    const { left, width } = this.element.getBoundingClientRect();
    const share = (event.clientX - left) / width;
    return Math.max(0, Math.min(this.#scores.length - 1, Math.floor(share * this.#scores.length)));
  }

  #hover(event) {
    if (!this.#scores.length) return;
    const chunk = this.#chunkAt(event);
    this.tip.textContent = `${count(chunk)} · ${score(this.#scores[chunk])}`;
    this.tip.hidden = false;
    const { left, width } = this.element.getBoundingClientRect();
    const at = Math.max(0, Math.min(width - this.tip.offsetWidth, event.clientX - left - this.tip.offsetWidth / 2));
    this.tip.style.left = `${at}px`;
  }

  #key(event) {
    const most = this.#scores.length - 1;
    const steps = {
      ArrowRight: 1,
      ArrowUp: 1,
      ArrowLeft: -1,
      ArrowDown: -1,
      PageUp: 10,
      PageDown: -10,
      Home: -most,
      End: most,
    };
    const step = steps[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.onchoose(Math.max(0, Math.min(most, this.current + step)), { focus: false });
  }
}

function greatest(scores, from, to) {
  let most = -Infinity;
  for (let chunk = from; chunk < to && chunk < scores.length; chunk += 1) most = Math.max(most, scores[chunk]);
  return most;
}
