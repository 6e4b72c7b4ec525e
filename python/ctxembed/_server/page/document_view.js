// A document: what it is, how near each of its chunks is to the question, and its text.

import { ChunkList } from "./chunk_list.js";
import { el, fill, message } from "./dom.js";
import { metadataList, noText, placeholder } from "./hits.js";
import { format } from "./state.js";
import { Strip } from "./strip.js";
import { count, plural, position, score } from "./text.js";

const NEAREST = 5;

export class DocumentView {
  #shown = ""; // document and question that are shown
  #requests = null;

  constructor(app) {
    this.app = app;
    this.scores = null;
    this.list = null;
    this.strip = null;
    this.last = new Map(); // where the previous chunk ends in the source, by chunk
    this.head = el("header", { class: "document-head" });
    this.map = el("div", { class: "map" });
    this.problem = el("div", { role: "alert" });
    this.content = el("div", {});
    this.element = el("article", { class: "document" }, this.head, this.map, this.problem, this.content);
  }

  async update() {
    const { app } = this;
    const { state } = app;
    const wanted = JSON.stringify([state.document, state.query]);
    if (wanted === this.#shown) {
      this.#mark(state.chunk);
      return;
    }
    this.#requests?.abort();
    const requests = (this.#requests = new AbortController());
    const same = this.list && JSON.parse(this.#shown)[0] === state.document;
    const window = ChunkList.window(state.chunk ?? 0);
    this.element.setAttribute("aria-busy", "true");
    if (!same) {
      this.#header({ id: state.document });
      fill(this.content, placeholder(4));
    }
    let found;
    try {
      found = await this.#load(window.first, window.limit, state.query, requests.signal);
    } catch (error) {
      if (!requests.signal.aborted) await this.#failed(error, requests);
      return;
    }
    if (requests.signal.aborted) return;
    this.element.setAttribute("aria-busy", "false");
    this.#shown = wanted;
    fill(this.problem);
    this.scores = found.scores?.map((value) => value ?? 0) ?? null; // null: a vector of zeros is near nothing
    this.#header(found);
    this.#map();
    if (same) {
      this.list.refresh();
      return;
    }
    this.list?.close();
    this.#list(found);
    if (app.place) app.restorePlace();
    else if (state.chunk !== null) await this.list.show(Math.min(state.chunk, found.chunk_count - 1));
  }

  /** Keys of a document: j and k, n and p. */
  key(event) {
    const { app } = this;
    if (!this.list) return false;
    const chunk = Number(document.activeElement?.dataset.chunk ?? NaN);
    const step = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && (Number.isInteger(chunk) || event.key === "j")) {
      this.#go(Number.isInteger(chunk) ? chunk + step : app.state.chunk ?? 0, { address: false });
      return true;
    }
    if ((event.key === "n" || event.key === "p") && this.nearest) {
      const at = this.nearest.indexOf(app.state.chunk);
      const next = at < 0 ? 0 : at + (event.key === "n" ? 1 : -1);
      this.#go(this.nearest[Math.max(0, Math.min(this.nearest.length - 1, next))]);
      return true;
    }
    return false;
  }

  retry() {
    if (this.#shown) this.list?.retry();
    else this.update();
  }

  close() {
    this.#requests?.abort();
    this.list?.close();
    this.strip?.close();
  }

  #load(first, limit, query, signal) {
    const { collection, document: id } = this.app.state;
    // The id is no part of the path: browsers resolve ".." in it.
    const values = new URLSearchParams({ id, first, limit, ...(query ? { query } : {}) });
    return this.app.api.get(`/v1/documents/${encodeURIComponent(collection)}?${values}`, { signal });
  }

  async #chunks(first, limit) {
    try {
      return (await this.#load(first, limit, "", this.#requests.signal)).chunks;
    } catch (error) {
      const text = this.app.problem(error);
      if (text && error.status) fill(this.problem, message("Some chunks are missing", text));
      throw error;
    }
  }

  async #failed(error, requests) {
    const { app } = this;
    this.element.setAttribute("aria-busy", "false");
    const text = app.problem(error);
    if (!this.list) fill(this.content);
    if (!error.status) return;
    const back = el("a", { href: format({ ...app.state, view: "search" }) }, "Back to the search");
    if (error.status === 404) {
      this.#shown = "";
      fill(this.head);
      fill(this.map);
      fill(this.content);
      fill(this.problem, message("No such document", `The collection has no document “${app.state.document}”.`, back));
      return;
    }
    // The document is there; only the question could not be embedded.
    fill(this.problem, message("The document could not be compared with the question", text));
    if (!app.state.query || this.list) return;
    try {
      const found = await this.#load(0, ChunkList.window(0).limit, "", requests.signal);
      this.#header(found);
      this.#list(found);
    } catch (second) {
      app.problem(second);
    }
  }

  #list(found) {
    this.list = new ChunkList(
      found.chunk_count,
      (first, limit) => this.#chunks(first, limit),
      (chunk) => this.#chunk(chunk),
      (first, last) => this.strip?.setVisible(first, last),
      () => this.map.getBoundingClientRect().bottom,
    );
    fill(this.content, this.list.element);
    this.list.give(found.chunks);
  }

  #header(found) {
    const { app } = this;
    fill(
      this.head,
      el(
        "a",
        {
          class: "back",
          href: format({ ...app.state, view: "search", chunk: null }),
          onclick: (event) => this.#leave(event),
        },
        el("span", { "aria-hidden": "true" }, "←"),
        " Results",
      ),
      el("h1", { dir: "auto" }, found.id),
      found.chunk_count !== undefined && el("p", { class: "muted" }, plural(found.chunk_count, "chunk")),
      metadataList(found.metadata, found.source, 40),
    );
  }

  #leave(event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    event.stopPropagation();
    this.app.leave();
  }

  #map() {
    const { scores, app } = this;
    this.nearest = null;
    if (!scores?.length) {
      this.strip?.close();
      this.strip = null;
      fill(this.map);
      return;
    }
    if (!this.strip) this.strip = new Strip((chunk, options) => this.#go(chunk, options));
    this.nearest = nearest(scores, NEAREST);
    const current = app.state.chunk ?? this.nearest[0];
    const links = this.nearest.map((chunk) =>
      el(
        "li",
        {},
        el(
          "button",
          { type: "button", class: "chip", "data-near": chunk, onclick: () => this.#go(chunk) },
          count(chunk),
          el("span", { class: "muted" }, score(scores[chunk])),
        ),
      ),
    );
    fill(
      this.map,
      this.strip.element,
      el(
        "div",
        { class: "nearest" },
        el("span", { class: "muted", id: "nearest" }, "Nearest"),
        el("ol", { "aria-labelledby": "nearest" }, links),
        el("span", { class: "muted extent" }, ""),
      ),
    );
    this.strip.setScores(scores);
    this.strip.setCurrent(current);
    const { lowest, highest } = this.strip;
    this.map.querySelector(".extent").textContent = `scores ${score(lowest)} to ${score(highest)}`;
    this.#mark(app.state.chunk);
  }

  /** Go to a chunk. The address follows, without an entry in the history for each. */
  #go(chunk, { focus = true, address = true } = {}) {
    if (!this.list) return;
    const to = Math.max(0, Math.min(this.list.total - 1, chunk));
    if (address) this.app.go({ chunk: to }, { replace: true });
    this.list.show(to, { focus });
  }

  #mark(chunk) {
    for (const element of this.element.querySelectorAll("[data-chunk]")) {
      element.classList.toggle("current", Number(element.dataset.chunk) === chunk);
    }
    for (const button of this.map.querySelectorAll("[data-near]")) {
      button.toggleAttribute("aria-current", Number(button.dataset.near) === chunk);
    }
    if (chunk !== null) this.strip?.setCurrent(Math.min(chunk, (this.scores?.length ?? 1) - 1));
  }

  #chunk(chunk) {
    const number = chunk.chunk;
    if (chunk.span) this.last.set(number + 1, chunk.span[1]);
    const value = this.scores?.[number];
    const level = el("span", { class: "level" });
    if (value !== undefined) level.style.height = `${Math.round(100 * Math.max(0.04, this.strip.level(value)))}%`;
    return el(
      "section",
      {
        class: number === this.app.state.chunk ? "chunk current" : "chunk",
        tabindex: -1,
        role: "article",
        "data-chunk": number,
        "aria-label": `Chunk ${count(number)}${value === undefined ? "" : `, score ${score(value)}`}`,
        "aria-posinset": number + 1,
        "aria-setsize": this.list?.total ?? -1,
      },
      el(
        "div",
        { class: "gutter" },
        value !== undefined && el("span", { class: "column-meter", "aria-hidden": "true" }, level),
        el("span", { class: "number" }, count(number)),
        value !== undefined && el("span", { class: "value" }, score(value)),
      ),
      this.#text(chunk),
    );
  }

  /** The text. What stands in the chunk before, too, is grey. */
  #text({ chunk, text, span }) {
    if (text === null) {
      return el("p", { class: "muted" }, noText(span));
    }
    const before = span ? (this.last.get(chunk) ?? span[0]) - span[0] : 0;
    const shared = before > 0 && span[1] - before > span[0] ? position(text, before) : 0;
    return el(
      "p",
      { dir: "auto" },
      shared > 0 && el("span", { class: "beside" }, text.slice(0, shared)),
      text.slice(shared),
    );
  }
}

/** The places of the greatest scores, the greatest first. */
function nearest(scores, most) {
  const best = [];
  for (let chunk = 0; chunk < scores.length; chunk += 1) {
    if (best.length === most && scores[chunk] <= scores[best.at(-1)]) continue;
    const place = best.findIndex((one) => scores[one] < scores[chunk]);
    best.splice(place < 0 ? best.length : place, 0, chunk);
    if (best.length > most) best.pop();
  }
  return best;
}
