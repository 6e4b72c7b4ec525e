// Hits: the chunk that was found, inside the text around it.

import { el } from "./dom.js";
import { around, count, head, score, tail } from "./text.js";
import { shown } from "./where.js";

const BESIDE = 280; // characters of the neighbours on each side
const CHUNK = 1_400; // characters of a chunk until it is unfolded
const FIELDS = 6; // of the metadata

/** A hit of a list, with its neighbours in grey. */
export function hitItem(hit, place, best, link, fused) {
  return el(
    "li",
    { class: "hit" },
    el(
      "div",
      { class: "title" },
      el("span", { class: "rank", "aria-hidden": "true" }, place + 1),
      el("a", { href: link, "data-hit": true, dir: "auto" }, hit.document),
      el("span", { class: "muted" }, `chunk ${count(hit.chunk)}`),
      scoreBar(hit, best, fused),
    ),
    el("div", { class: "body" }, el("div", { class: "text" }, passage(hit)), metadataList(hit.metadata, hit.source)),
  );
}

/** A hit of a column: short, so that many fit side by side. */
export function hitRow(hit, place, link, note, fused) {
  return el(
    "li",
    { class: note.lost ? "row lost" : "row", "data-key": note.key },
    el(
      "div",
      { class: "title" },
      el("span", { class: "rank" }, place + 1),
      el("a", { href: link, "data-hit": true, dir: "auto" }, hit.document),
      el("span", { class: "muted" }, `chunk ${count(hit.chunk)}`),
      el("span", { class: "score", title: fused ? fusedTitle(hit) : "" }, score(shownScore(hit, fused))),
    ),
    el("p", { class: "excerpt", dir: "auto" }, hit.text === null ? noText(hit.span) : head(hit.text, 180)),
    note.text && el("p", { class: `note ${note.kind}` }, note.text),
  );
}

/** Rows that hold the place of hits on their way. */
export function placeholder(hits) {
  const line = (size) => el("span", { class: `line ${size}` });
  return el(
    "div",
    { class: "placeholder", "aria-hidden": "true" },
    Array.from(
      { length: Math.min(hits, 4) },
      () => el("div", {}, line("short"), line("long"), line("long"), line("medium")),
    ),
  );
}

// A fused score is no similarity, and nearly the same for all: the cosine says more.
const shownScore = (hit, fused) => (fused ? hit.vector_score ?? hit.score : hit.score);
const fusedTitle = ({ score: fused, text_score: words }) =>
  `Fused rank score ${fused.toFixed(4)}; words (BM25) ${(words ?? 0).toFixed(2)}`;

function scoreBar(hit, best, fused) {
  const bar = el("span", { class: "level" });
  bar.style.width = `${Math.max(2, 100 * Math.min(1, best > 0 ? hit.score / best : 0))}%`;
  return el(
    "span",
    { class: "score", title: fused ? fusedTitle(hit) : "Cosine of question and chunk" },
    fused && el("span", { class: "muted" }, `BM25 ${(hit.text_score ?? 0).toFixed(1)} · `),
    el("span", {}, score(shownScore(hit, fused))),
    el("span", { class: "meter", "aria-hidden": "true" }, bar),
  );
}

/** What stands in place of a chunk whose text is not stored. */
export function noText(span) {
  if (!span) return "No text is stored";
  return `Characters ${count(span[0])} to ${count(span[1])} of the source; no text is stored`;
}

function passage(hit) {
  if (hit.text === null) return el("p", { class: "passage muted" }, noText(hit.span));
  const [before, chunk, after] =
    hit.passage === null ? ["", hit.text, ""] : around(hit.passage, hit.passage_offset ?? 0, hit.text);
  const mark = el("mark", {}, head(chunk, CHUNK));
  const box = el(
    "p",
    { class: "passage", dir: "auto" },
    before && el("span", { class: "beside" }, tail(before, BESIDE)),
    mark,
    after && el("span", { class: "beside" }, head(after, BESIDE)),
  );
  if (chunk.length <= CHUNK) return box;
  const unfold = el("button", { type: "button", class: "quiet" }, "Show the whole chunk");
  unfold.addEventListener("click", () => {
    mark.textContent = chunk;
    unfold.remove();
  });
  return [box, unfold];
}

/** Metadata as short pairs. */
export function metadataList(metadata, source, most = FIELDS) {
  const pairs = Object.entries(metadata ?? {}).filter(([, value]) => value !== null && value !== "");
  if (source) pairs.push(["source", source]);
  if (!pairs.length) return null;
  const pair = ([name, value]) => el(
    "div",
    {},
    el("dt", { dir: "auto" }, name),
    el("dd", { dir: "auto" }, head(shown(value), 120)),
  );
  return el(
    "dl",
    { class: "metadata" },
    pairs.slice(0, most).map(pair),
    pairs.length > most && el("div", { class: "muted" }, `${pairs.length - most} more`),
  );
}
