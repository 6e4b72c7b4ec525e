// Rankings side by side: where each hit stands in the reference, and which hits a ranking has lost.

import { el, fill } from "./dom.js";
import { hitRow, placeholder } from "./hits.js";
import { compare, hitKey, MODES } from "./modes.js";
import { format } from "./state.js";
import { milliseconds } from "./text.js";

export class ColumnsView {
  #columns = new Map();
  #responses = new Map();

  constructor(modes, state) {
    this.state = state;
    this.reference = modes.includes("exact") ? "exact" : modes[0];
    for (const mode of modes) {
      const time = el("span", { class: "time" });
      const verdict = el(
        "p",
        { class: "verdict muted" },
        mode === this.reference ? "What the others are compared with" : " ",
      );
      const content = el("div", {}, placeholder(3));
      const head = el("header", {}, el("h2", { title: MODES[mode].about }, MODES[mode].label), time, verdict);
      const element = el("section", { class: "column", "aria-label": MODES[mode].label }, head, content);
      this.#columns.set(mode, { element, time, verdict, content });
    }
    this.element = el(
      "div",
      { class: `columns of-${modes.length}` },
      [...this.#columns.values()].map(({ element }) => element),
    );
    this.element.addEventListener(
      "pointerover",
      (event) => this.#point(event.target.closest("[data-key]")?.dataset.key),
    );
    this.element.addEventListener("pointerleave", () => this.#point(null));
    this.element.addEventListener("focusin", (event) => this.#point(event.target.closest("[data-key]")?.dataset.key));
  }

  show(mode, response) {
    const { time, verdict, content } = this.#columns.get(mode);
    const { hits, timings_ms: times } = response;
    const reference = this.#responses.get(this.reference)?.hits ?? hits;
    this.#responses.set(mode, response);
    fill(time, el("b", {}, milliseconds(times.total)), ` scan ${milliseconds(times.scan ?? 0)}`);
    const { places, lost, shared } = compare(reference, hits);
    const isReference = mode === this.reference;
    const moved = places.filter((place, at) => place !== null && place !== at).length;
    if (!isReference) {
      const same = shared === reference.length && !moved && hits.length === reference.length;
      const differing = `${shared} of ${reference.length} hits are the same${moved ? `, ${moved} moved` : ""}`;
      verdict.textContent = same ? "The same hits in the same order" : differing;
      verdict.classList.toggle("differs", !same);
    }
    const fused = mode === "hybrid";
    const link = (hit) => format({ ...this.state, view: "document", document: hit.document, chunk: hit.chunk });
    const row = (hit, at) => hitRow(
      hit,
      at,
      link(hit),
      isReference ? { key: hitKey(hit) } : this.#note(hit, places[at], at),
      fused,
    );
    const lostRow = ({ hit, place }) =>
      hitRow(hit, place, link(hit), { key: hitKey(hit), lost: true }, this.reference === "hybrid");
    fill(
      content,
      hits.length > 0 && el("ol", { class: "rows", "data-hits": true }, hits.map(row)),
      !hits.length && el("p", { class: "muted" }, "Nothing found"),
      lost.length > 0 && [
        el("h3", { class: "lost-title" }, `Missing here: ${lost.length}`),
        el("ol", { class: "rows" }, lost.map(lostRow)),
      ],
    );
  }

  /** What the columns say, in one sentence. */
  summary() {
    const parts = [...this.#responses].filter(([mode]) => mode !== this.reference).map(([mode]) => {
      const { shared } = compare(this.#responses.get(this.reference).hits, this.#responses.get(mode).hits);
      return `${MODES[mode].label} shares ${shared}`;
    });
    const count = this.#responses.get(this.reference).hits.length;
    return `${MODES[this.reference].label} has ${count} hits; of these ${parts.join(", ")}`;
  }

  #note(hit, place, at) {
    const key = hitKey(hit);
    const name = MODES[this.reference].label.toLowerCase();
    if (place === null) return { key, kind: "new", text: `Not among the ${name} hits` };
    if (place === at) return { key };
    return { key, kind: "moved", text: `${place > at ? "↑" : "↓"} place ${place + 1} in ${name}` };
  }

  /** Show where the hit that one points at stands in the other columns. */
  #point(key) {
    for (const row of this.element.querySelectorAll("[data-key]")) {
      row.classList.toggle("pointed", row.dataset.key === key);
    }
  }
}
