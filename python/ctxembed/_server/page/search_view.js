// The search: filters, ways to rank, and hits, in one list or side by side.

import { ColumnsView } from "./columns.js";
import { el, fill, message, select } from "./dom.js";
import { fillingHelp } from "./empty.js";
import { FilterPanel } from "./filter_panel.js";
import { hitItem, placeholder } from "./hits.js";
import { MODES, missing } from "./modes.js";
import { snippets } from "./snippets.js";
import { format, MODE_NAMES } from "./state.js";
import { milliseconds, plural } from "./text.js";
import { filterWords, whereOf } from "./where.js";

const KEPT = 24; // responses, so that Back shows at once what was there
const FIELDS_AGE = 10_000; // milliseconds between readings of the fields while a job writes

export class SearchView {
  #requests = null; // aborts what is under way
  #kept = new Map();
  #fieldsRead = 0;
  #waiting = null;
  #reading = null;

  constructor(app) {
    this.app = app;
    this.filters = new FilterPanel(app);
    this.chips = el("ul", { class: "chips", "aria-label": "Filters in use" });
    this.modes = el("fieldset", { class: "modes" });
    this.options = el("div", { class: "options" });
    this.summary = el("p", { class: "summary" });
    this.results = el("div", { class: "results" });
    this.more = el("div", { class: "after" });
    this.element = el(
      "div",
      { class: "search" },
      this.filters.element,
      el(
        "section",
        { class: "found", "aria-label": "Results" },
        el("div", { class: "toolbar" }, this.modes, this.options),
        this.chips,
        this.summary,
        this.results,
        this.more,
      ),
    );
    this.#readFields();
  }

  /** Show what the state says. */
  update() {
    const { state, collection } = this.app;
    this.#requests?.abort();
    clearTimeout(this.#waiting);
    this.element.classList.toggle("idle", !state.query || !collection.documents);
    this.element.classList.toggle("bare", !collection.documents);
    this.filters.update();
    this.#toolbar(state, collection);
    this.#chips(state);
    if (!collection.documents) {
      this.#clear();
      fill(this.results, fillingHelp(collection));
    } else if (collection.queries === null) {
      this.#clear();
      fill(this.results, message("Questions cannot be embedded here", noEmbedder(collection)));
    } else if (!state.query) {
      this.#clear();
      fill(this.results, this.#welcome(collection));
      this.app.restorePlace();
    } else this.#search();
  }

  /** The collection has changed. */
  changed(grew) {
    if (!grew) return;
    this.#kept.clear();
    // Now and then: the server looks at many documents for it. At once where there was nothing: only the first vectors
    // tell who can embed questions.
    const wait = this.filters.isEmpty ? 0 : this.#fieldsRead + FIELDS_AGE - performance.now();
    clearTimeout(this.#reading);
    this.#reading = setTimeout(() => this.#readFields(), Math.max(0, wait));
    if (!this.filters.isEmpty) this.#updateMessage();
  }

  /** Show what the state says now, unless there are hits, or some on their way. */
  #updateMessage() {
    if (!this.results.querySelector("[data-hit]") && this.results.ariaBusy !== "true") this.update();
  }

  /** The server is back. */
  retry() {
    this.#readFields();
    this.update();
  }

  close() {
    this.#requests?.abort();
    clearTimeout(this.#waiting);
    clearTimeout(this.#reading);
  }

  #clear() {
    this.results.ariaBusy = "false";
    fill(this.summary);
    fill(this.more);
  }

  async #readFields() {
    const { collection } = this.app;
    this.#fieldsRead = performance.now();
    try {
      const before = collection.queries;
      const grew = this.filters.isEmpty && collection.documents > 0;
      const found = await this.app.api.get(`/v1/collections/${encodeURIComponent(collection.name)}`);
      this.app.learn(found);
      this.filters.setFields(found.fields ?? [], found.sampled ?? false);
      if (collection.queries !== before || grew) this.#updateMessage();
    } catch (error) {
      this.app.problem(error); // filters are offered when it is back
    }
  }

  #toolbar(state, collection) {
    const { app } = this;
    fill(
      this.modes,
      el("legend", { class: "sr" }, "Ways to rank; several are shown side by side"),
      MODE_NAMES.map((name) => {
        const reason = missing(name, collection);
        const box = el("input", {
          type: "checkbox",
          checked: state.modes.includes(name),
          disabled: reason !== null,
          onchange: () => {
            const modes = MODE_NAMES.filter((one) => (one === name ? box.checked : state.modes.includes(one)));
            app.go({ modes: modes.length ? modes : ["exact"] });
            this.modes.querySelector(`[data-mode="${name}"] input`)?.focus();
          },
        });
        return el(
          "label",
          { title: reason ?? MODES[name].about, "data-mode": name },
          box,
          el("span", {}, MODES[name].label),
        );
      }),
    );
    const sizes = [...new Set([10, 20, 50, 100, state.k])].sort((a, b) => a - b);
    const contexts = [...new Set([0, 1, 2, 3, state.context])].sort((a, b) => a - b);
    const grouped = el(
      "input",
      { type: "checkbox", checked: state.grouped, onchange: () => app.go({ grouped: grouped.checked }) },
    );
    fill(
      this.options,
      el("label", { class: "check" }, grouped, "One per document"),
      state.modes.length === 1 &&
        select(
          "Context",
          contexts.map((n) => [n, n ? `± ${plural(n, "chunk")}` : "No context"]),
          state.context,
          (value) => app.go({ context: Number(value) }),
        ),
      select(
        "Number of hits",
        sizes.map((n) => [n, plural(n, "hit")]),
        state.k,
        (value) => app.go({ k: Number(value) }),
      ),
    );
  }

  #chips(state) {
    const { app } = this;
    const chip = (text, remove) =>
      el(
        "li",
        {},
        el(
          "button",
          { type: "button", class: "chip", "aria-label": `Remove the filter ${text}`, onclick: remove },
          el("span", { dir: "auto" }, text),
          el("span", { "aria-hidden": "true" }, "×"),
        ),
      );
    const items = filterWords(state.filters).map(([field, parts, text]) =>
      chip(text, () => {
        const { [field]: filter, ...others } = state.filters;
        const left = Object.fromEntries(Object.entries(filter).filter(([part]) => !parts.includes(part)));
        app.go({ filters: Object.keys(left).length ? { ...others, [field]: left } : others });
      }),
    );
    if (state.expression) items.push(chip(state.expression, () => app.go({ expression: "" })));
    fill(this.chips, items);
    this.chips.hidden = !items.length;
  }

  #welcome(collection) {
    const key = (name) => el("kbd", {}, name);
    return el(
      "section",
      { class: "welcome" },
      el("h1", {}, `Ask ${plural(collection.documents, "document")}`),
      el(
        "p",
        {},
        `Type a question above. Of ${plural(collection.chunks, "chunk")}, those nearest to it in meaning come first.`,
      ),
      collection.queries === "api" && el(
        "p",
        { class: "muted" },
        "Press Enter to search: each new question is embedded by the API, and paid for.",
      ),
      el(
        "p",
        { class: "keys muted" },
        el("span", {}, key("/"), " question"),
        el("span", {}, key("j"), " ", key("k"), " move"),
        el("span", {}, key("Enter"), " open"),
        el("span", {}, key("Esc"), " back"),
      ),
    );
  }

  /** The body of the request for one way to rank. */
  body(mode, state = this.app.state) {
    const body = {
      collection: state.collection,
      query: state.query,
      k: state.k,
      ...whereOf(state.filters, state.expression),
      ...MODES[mode].body,
    };
    if (state.grouped) body.group_by_document = true;
    // Side by side hits are chunks: passages of several would merge, differently in each column.
    if (state.context && state.modes.length === 1) body.neighbours = state.context;
    return body;
  }

  async #search() {
    const { app } = this;
    const { state, collection } = app;
    const requests = (this.#requests = new AbortController());
    const modes = state.modes.filter((mode) => missing(mode, collection) === null);
    if (!modes.length) modes.push("exact");
    const columns = modes.length > 1 ? new ColumnsView(modes, state) : null;
    const show = (mode, response) => {
      if (columns) columns.show(mode, response);
      else this.#showList(response);
    };
    const known = modes.every((mode) => this.#kept.has(JSON.stringify(this.body(mode))));
    if (columns) fill(this.results, columns.element);
    else if (!known && !this.results.querySelector(".hits")) fill(this.results, placeholder(state.k));
    this.results.classList.toggle("stale", !known && !columns);
    this.results.ariaBusy = String(!known);
    let total = 0;
    try {
      // One after the other, so that each has the machine for itself and its time is its own.
      for (const mode of modes) {
        const body = this.body(mode);
        const response = await this.#ask(body, requests.signal);
        if (requests.signal.aborted) return;
        total = response.hits.length;
        show(mode, response);
      }
    } catch (error) {
      if (!requests.signal.aborted) this.#failed(error, requests);
      return;
    }
    this.filters.setError("");
    this.results.classList.remove("stale");
    this.results.ariaBusy = "false";
    if (columns) fill(this.summary, columns.summary());
    fill(this.more, snippets(this.body(modes[0]), Boolean(app.api.key)));
    app.announce(columns ? columns.summary() : `${plural(total, "hit")} for ${state.query}`);
    app.restorePlace();
  }

  async #ask(body, signal) {
    const name = JSON.stringify(body);
    const known = this.#kept.get(name);
    if (known) return known;
    const response = await this.app.api.post("/v1/search", body, { signal });
    this.#kept.set(name, response);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return response;
  }

  #showList({ hits, timings_ms: times, batch }) {
    const { state } = this.app;
    fill(this.summary, hits.length ? plural(hits.length, "hit") : "Nothing found", timing(times, batch));
    if (!hits.length) {
      const filtered = Object.keys(state.filters).length || state.expression;
      fill(
        this.results,
        message("Nothing found", filtered ? "No document fits the filters." : "The collection has nothing to find."),
      );
      return;
    }
    const best = Math.max(...hits.map((hit) => hit.score));
    const link = (hit) => format({ ...state, view: "document", document: hit.document, chunk: hit.chunk });
    fill(
      this.results,
      el(
        "ol",
        { class: "hits", "data-hits": true },
        hits.map((hit, place) => hitItem(hit, place, best, link(hit), state.modes[0] === "hybrid")),
      ),
    );
  }

  #failed(error, requests) {
    const { app } = this;
    this.results.classList.remove("stale");
    this.results.ariaBusy = "false";
    const about = error.status === 422 ? error.about("where", "params") : null;
    this.filters.setError(about ?? "");
    this.#clear();
    if (about) {
      fill(this.results, message("The filter does not work", about));
      app.announce(`The filter does not work: ${about}`);
      return;
    }
    const text = app.problem(error);
    if (!error.status) {
      if (!this.results.querySelector("[data-hit]")) fill(this.results, message("No connection", text));
      return;
    }
    const waits = error.retryAfter !== null;
    fill(
      this.results,
      el(
        "div",
        { role: "alert" },
        message(
          waits ? "Not yet" : "The search failed",
          text,
          waits && "It is tried again by itself.",
          !waits && el("button", { type: "button", onclick: () => this.update() }, "Try again"),
        ),
      ),
    );
    if (waits) {
      this.#waiting = setTimeout(
        () => { if (!requests.signal.aborted) this.update(); },
        1000 * Math.min(error.retryAfter, 60),
      );
    }
  }
}

/** Times of a search: the total, and its parts for those who point at it. */
export function timing(times, batch) {
  const parts = ["embed", "queue", "scan", "read"].filter((part) => times[part] !== undefined);
  const text = parts.map((part) => `${part} ${milliseconds(times[part])}`).join(" · ");
  return el(
    "span",
    { class: "time", title: batch > 1 ? `${plural(batch, "question")} shared the scan` : "" },
    el("b", {}, milliseconds(times.total)),
    el("span", { class: "parts" }, ` ${text}`),
  );
}

function noEmbedder(collection) {
  return collection.queries_reason ?? `The server has no embedder for the vectors of ${collection.model}.`;
}
