// The search of the page as a call for elsewhere.

import { codeBlock, el } from "./dom.js";

export function snippets(body, hasKey) {
  return el(
    "details",
    { class: "snippets" },
    el("summary", {}, "This search as code"),
    el("h3", {}, "Python"),
    codeBlock(pythonCall(body)),
    el("h3", {}, "curl"),
    codeBlock(curlCall(body, hasKey)),
  );
}

function pythonCall({ collection, query, ...options }) {
  const given = Object.entries(options).map(([name, value]) => `${name}=${python(value)}`);
  return [
    "import ctxembed",
    "",
    // The client takes the key from CTXEMBED_SERVER_KEY by itself.
    `with ctxembed.SearchClient(${python(location.origin)}, collection=${python(collection)}) as client:`,
    `    hits = client.search(${[python(query), ...given].join(", ")})`,
  ].join("\n");
}

function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  return JSON.stringify(value); // of texts and numbers it is Python, too
}

function curlCall(body, hasKey) {
  const quoted = `'${JSON.stringify(body).replaceAll("'", "'\\''")}'`;
  return [
    `curl ${location.origin}/v1/search`,
    ...(hasKey ? ['-H "Authorization: Bearer $CTXEMBED_SERVER_KEY"'] : []),
    "-H 'Content-Type: application/json'",
    `-d ${quoted}`,
  ].join(" \\\n  ");
}
