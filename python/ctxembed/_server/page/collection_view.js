// The state of a collection: what it holds, what it has cost, what failed, and a job that writes to it.

import { el, fill } from "./dom.js";
import { fillingHelp } from "./empty.js";
import { bytes, count, dollars, moment, plural } from "./text.js";

const SPAN = 30_000; // milliseconds that the rate is measured over
const QUESTIONS = { embedder: "embedded by this server", api: "embedded by the API" };
const AFTER = 1_000; // between readings of what the stream does not tell

const known = (value) => value !== null && value !== undefined && value !== false;

export class CollectionView {
  #points = [];
  #first = null;
  #timer = null;
  #requests = new AbortController();
  #failed = -1;

  constructor(app) {
    this.app = app;
    this.job = el("section", { class: "job", "aria-label": "Running job", hidden: true });
    this.help = el("div", {});
    this.figures = el("dl", { class: "figures" });
    this.facts = el("dl", { class: "facts" });
    this.failures = el("section", { class: "failures", "aria-labelledby": "failures" });
    this.forget = el(
      "button",
      { type: "button", class: "quiet", onclick: () => { app.api.setKey(""); location.reload(); } },
      "Forget the key",
    );
    this.element = el(
      "section",
      { class: "collection" },
      el("header", {}, (this.title = el("h1", {}))),
      this.job,
      this.help,
      this.figures,
      this.failures,
      el("h2", {}, "About"),
      this.facts,
      this.forget,
    );
  }

  update() {
    this.#show();
    this.#read();
    this.app.restorePlace();
  }

  changed() {
    const { documents, chunks } = this.app.collection;
    this.#first ??= { documents, chunks };
    const now = performance.now();
    this.#points.push({ at: now, documents, chunks });
    while (this.#points.length > 2 && now - this.#points[0].at > SPAN) this.#points.shift();
    this.#show();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#read(), AFTER);
  }

  retry() {
    this.#failed = -1;
    this.#read();
  }

  close() {
    clearTimeout(this.#timer);
    this.#requests.abort();
  }

  async #read() {
    const { app } = this;
    const { signal } = this.#requests;
    const path = `/v1/collections/${encodeURIComponent(app.state.collection)}`;
    try {
      const details = await app.api.get(path, { signal });
      app.learn(details);
      this.#show();
      if (details.failed !== this.#failed) {
        this.#showFailures(await app.api.get(`${path}/failures?limit=100`, { signal }));
        this.#failed = details.failed;
      }
    } catch (error) {
      const text = app.problem(error);
      if (text && error.status) fill(this.help, el("p", { class: "error", role: "alert" }, text));
    }
  }

  #show() {
    const { collection, api } = this.app;
    const { usage = {} } = collection;
    const cost = known(usage.cost_usd) ? dollars(usage.cost_usd) : "–";
    this.title.textContent = collection.name;
    fill(this.help, !collection.documents && fillingHelp(collection));
    this.#showJob(collection);
    const figure = (name, value, note) => el(
      "div",
      {},
      el("dt", {}, name),
      el("dd", {}, value, note && el("span", { class: "muted" }, note)),
    );
    fill(
      this.figures,
      figure("Documents", count(collection.documents)),
      figure(
        "Chunks",
        count(collection.chunks),
        collection.deleted_chunks > 0 && `${count(collection.deleted_chunks)} deleted`,
      ),
      figure("Cost so far", cost, usage.unreported > 0 && `without ${plural(usage.unreported, "unreported request")}`),
      figure("Failed", count(collection.failed)),
    );
    const fact = (name, value) => known(value) && el("div", {}, el("dt", {}, name), el("dd", {}, value));
    const bits = collection.encoding_format === "base64_binary" ? "one bit each" : "8 bits each";
    const segments = collection.segments ? ` in ${plural(collection.segments, "segment")}` : "";
    fill(
      this.facts,
      fact("Model", collection.model),
      fact("Vectors", `${count(collection.dimensions)} dimensions, ${bits}`),
      fact("Space", collection.space),
      fact("Requests", known(usage.requests) && count(usage.requests)),
      fact("Tokens", known(usage.total_tokens) && count(usage.total_tokens)),
      fact("On the disk", known(collection.bytes) && bytes(collection.bytes) + segments),
      fact("Text", collection.stores_text ? "stored" : "not stored"),
      fact("Questions", QUESTIONS[collection.queries] ?? "cannot be embedded here"),
    );
    this.forget.hidden = !api.key;
  }

  #showJob({ writer, documents, chunks }) {
    this.job.hidden = !writer;
    if (!writer) {
      this.#first = null;
      this.#points = [];
      return;
    }
    const oldest = this.#points[0];
    const newest = this.#points.at(-1);
    const seconds = oldest ? (newest.at - oldest.at) / 1000 : 0;
    const rate = seconds >= 1 ? (newest.chunks - oldest.chunks) / seconds : null;
    const since = this.#first ? documents - this.#first.documents : 0;
    fill(
      this.job,
      el(
        "p",
        {},
        el("span", { class: "pulse" }),
        el("b", {}, " A job is writing"),
        el("span", { class: "muted" }, ` · process ${writer.pid} on ${writer.host}, since ${moment(writer.since)}`),
      ),
      el(
        "p",
        { class: "progress" },
        `${plural(documents, "document")}, ${plural(chunks, "chunk")}`,
        since > 0 && ` · ${count(since)} more since you came`,
        rate > 0 && ` · ${count(Math.round(rate))} chunks a second`,
      ),
      el("div", { class: "running", "aria-hidden": "true" }),
    );
  }

  #showFailures({ data, total }) {
    if (!total) {
      fill(this.failures);
      return;
    }
    const rows = data.map(({ id, error, attempts, when }) =>
      el(
        "tr",
        {},
        el("th", { scope: "row", dir: "auto" }, id),
        el("td", { dir: "auto" }, error),
        el("td", { class: "number" }, count(attempts)),
        el("td", { class: "when" }, moment(when)),
      ),
    );
    const heads = ["Document", "Cause", "Attempts", "When"].map((name) => el("th", { scope: "col" }, name));
    fill(
      this.failures,
      el("h2", { id: "failures" }, "Failed documents"),
      el(
        "p",
        { class: "muted" },
        "They are sent again when their content changes, or with ",
        el("code", {}, "--retry-failed"),
        ".",
      ),
      el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)),
      total > data.length && el("p", { class: "muted" }, `and ${count(total - data.length)} more`),
    );
  }
}
