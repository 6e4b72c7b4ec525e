// What the page shows is in its address, after the #: it survives a reload, works with Back, and can be shared.

export const DEFAULTS = Object.freeze({
  view: "search",
  collection: "",
  query: "",
  filters: {},
  expression: "",
  modes: ["exact"],
  k: 10,
  context: 1,
  grouped: false,
  document: "",
  chunk: null,
});

const VIEWS = ["search", "document", "collection"];
export const MODE_NAMES = ["exact", "two-stage", "bits", "hybrid"];

/** Read an address. What it has wrong is as if it was not there. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const values = new URLSearchParams(query);
  const modes = (values.get("by") ?? "").split(",").filter((name) => MODE_NAMES.includes(name));
  return {
    view: VIEWS.includes(path) ? path : DEFAULTS.view,
    collection: values.get("c") ?? "",
    query: values.get("q") ?? "",
    filters: parseFilters(values.get("f")),
    expression: values.get("where") ?? "",
    modes: modes.length ? [...new Set(modes)] : DEFAULTS.modes,
    k: integer(values.get("k"), 1, 1000, DEFAULTS.k),
    context: integer(values.get("context"), 0, 100, DEFAULTS.context),
    grouped: values.get("one") === "1",
    document: values.get("d") ?? "",
    chunk: integer(values.get("chunk"), 0, Number.MAX_SAFE_INTEGER, null),
  };
}

/** Return the address of a state: only what differs from the defaults. */
export function format(state) {
  const values = new URLSearchParams();
  if (state.collection) values.set("c", state.collection);
  if (state.view === "document") {
    values.set("d", state.document);
    if (state.chunk !== null) values.set("chunk", state.chunk);
  }
  if (state.query) values.set("q", state.query);
  if (Object.keys(state.filters).length) values.set("f", JSON.stringify(state.filters));
  if (state.expression) values.set("where", state.expression);
  if (state.modes.join() !== DEFAULTS.modes.join()) values.set("by", state.modes.join());
  if (state.k !== DEFAULTS.k) values.set("k", state.k);
  if (state.context !== DEFAULTS.context) values.set("context", state.context);
  if (state.grouped) values.set("one", "1");
  const query = values.toString();
  return `#/${state.view}${query ? `?${query}` : ""}`;
}

function integer(text, least, most, otherwise) {
  if (text === null || !/^\d+$/.test(text)) return otherwise;
  return Math.min(most, Math.max(least, Number(text)));
}

const isScalar = (value) => value === null || ["string", "number", "boolean"].includes(typeof value);

function parseFilters(text) {
  const filters = {};
  let given;
  try {
    given = JSON.parse(text ?? "{}");
  } catch {
    return filters;
  }
  if (given === null || typeof given !== "object" || Array.isArray(given)) return filters;
  for (const [name, filter] of Object.entries(given)) {
    if (filter === null || typeof filter !== "object") continue;
    const kept = {};
    if (Array.isArray(filter.in) && filter.in.length && filter.in.every(isScalar)) kept.in = filter.in;
    if (Number.isFinite(filter.min)) kept.min = filter.min;
    if (Number.isFinite(filter.max)) kept.max = filter.max;
    if (typeof filter.has === "string" && filter.has) kept.has = filter.has;
    if (Object.keys(kept).length) filters[name] = kept;
  }
  return filters;
}
