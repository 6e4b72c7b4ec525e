// The chunks of a document, of which only those near the window are loaded and in the page. Ten thousand chunks are 250
// empty blocks with an estimated height, each filled when it comes near.

import { el, fill } from "./dom.js";

const SIZE = 40; // chunks of a block
const AHEAD = "900px 0px"; // how near a block comes before it is filled
const GUESS = 96; // pixels of a chunk, until some have been measured

export class ChunkList {
  #blocks = [];
  #target = null; // the chunk that is scrolled to until the person scrolls
  #height = GUESS;

  /**
   * @param {number} total
   * @param {(first: number, limit: number) => Promise<Array>} load
   * @param {(chunk: Object) => HTMLElement} render
   * @param {(first: number, last: number) => void} onvisible Called with the chunks in the window.
   * @param {() => number} covered The pixels at the top of the window under which nothing can be seen.
   */
  constructor(total, load, render, onvisible, covered) {
    this.total = total;
    this.load = load;
    this.render = render;
    this.onvisible = onvisible;
    this.covered = covered;
    this.element = el("div", { class: "chunks", role: "feed", "aria-label": "Chunks" });
    for (let first = 0; first < total; first += SIZE) {
      const length = Math.min(SIZE, total - first);
      const element = el("div", { class: "block", "data-first": first });
      this.#blocks.push({ element, first, length, state: "empty" });
      this.element.append(element);
    }
    this.#resizeEmpty();
    this.near = new IntersectionObserver((entries) => this.#moved(entries), { rootMargin: AHEAD });
    for (const { element } of this.#blocks) this.near.observe(element);
    this.stop = new AbortController();
    const { signal } = this.stop;
    for (const name of ["wheel", "touchstart", "keydown", "pointerdown"]) {
      addEventListener(name, () => { this.#target = null; }, { signal, passive: true, capture: true });
    }
    let asked = false;
    addEventListener("scroll", () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        this.#report();
      });
    }, { signal, passive: true });
  }

  close() {
    this.near.disconnect();
    this.stop.abort();
  }

  /** Fill the blocks near the window again, such as after an error. */
  retry() {
    for (const block of this.#blocks) if (block.state === "near") this.#fill(block);
  }

  /** Render again what is in the page. */
  refresh() {
    for (const block of this.#blocks) if (block.chunks) fill(block.element, block.chunks.map(this.render));
  }

  /** Scroll to a chunk, and give it the focus. */
  async show(chunk, { focus = true } = {}) {
    const block = this.#blocks[Math.floor(chunk / SIZE)];
    if (!block) return;
    await this.#fill(block);
    this.#target = chunk;
    this.#aim();
    if (focus) this.at(chunk)?.focus({ preventScroll: true });
  }

  /** The element of a chunk, if it is in the page. */
  at(chunk) {
    return this.element.querySelector(`[data-chunk="${chunk}"]`);
  }

  /** Take chunks that were loaded already. */
  give(chunks) {
    const block = this.#blocks.find(({ first, length }) => first === chunks[0]?.chunk && length === chunks.length);
    if (block) this.#put(block, chunks);
  }

  static window(chunk) {
    return { first: Math.floor(chunk / SIZE) * SIZE, limit: SIZE };
  }

  #moved(entries) {
    for (const { target, isIntersecting } of entries) {
      const block = this.#blocks[Number(target.dataset.first) / SIZE];
      if (isIntersecting) this.#fill(block);
      else if (block.chunks && this.#target === null) this.#empty(block);
      else if (block.state === "near") block.state = "empty";
    }
    this.#report();
  }

  async #fill(block) {
    if (block.chunks) return;
    block.state = "near";
    block.loading ??= this.load(block.first, block.length).finally(() => { block.loading = null; });
    let chunks;
    try {
      chunks = await block.loading;
    } catch {
      return; // the view shows what is wrong, and calls retry()
    }
    // It may have left the window while it was loading; then it is not worth a place.
    if (!block.chunks && block.state === "near") this.#put(block, chunks);
  }

  #put(block, chunks) {
    block.chunks = chunks;
    block.state = "filled";
    block.element.style.height = "";
    fill(block.element, chunks.map(this.render));
    this.#height += (block.element.offsetHeight / block.length - this.#height) / 4;
    this.#resizeEmpty();
    this.#aim();
    this.#report();
  }

  #empty(block) {
    block.measured = block.element.offsetHeight;
    block.element.style.height = `${block.measured}px`;
    block.element.replaceChildren();
    block.chunks = null;
    block.state = "empty";
  }

  /** Give the blocks that were never filled the height that they will about have. */
  #resizeEmpty() {
    for (const block of this.#blocks) {
      if (block.chunks || block.measured || Math.abs((block.guess ?? 0) - this.#height) < 8) continue;
      block.guess = this.#height;
      block.element.style.height = `${Math.round(this.#height * block.length)}px`;
    }
  }

  #aim() {
    const element = this.#target === null ? null : this.at(this.#target);
    if (!element) return;
    const { top, bottom } = element.getBoundingClientRect();
    const covered = this.covered();
    // What can be seen already stays where it is.
    if (top < covered || bottom > innerHeight) element.scrollIntoView(
      { block: bottom - top > innerHeight - covered ? "start" : "center" },
    );
  }

  /** Tell which chunks are in the window, by the share of their block that is. */
  #report() {
    let first = null;
    let last = null;
    for (const block of this.#blocks) {
      const { top, bottom, height } = block.element.getBoundingClientRect();
      if (bottom < 0 || top > innerHeight || !height) continue;
      const from = Math.max(0, -top) / height;
      const to = Math.min(height, innerHeight - top) / height;
      first ??= block.first + Math.floor(from * block.length);
      last = Math.min(this.total, block.first + Math.ceil(to * block.length)) - 1;
    }
    if (first !== null) this.onvisible(first, last);
  }
}
