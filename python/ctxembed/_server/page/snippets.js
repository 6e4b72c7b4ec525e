// The search of the page as a call for elsewhere.

import { codeBlock, el } from "./dom.js";

export function snippets(body, hasKey) {
  return el(
    "details",
    { class: "snippets" },
    el("summary", {}, "This search as code"),
    el("h3", {}, "Python"),
    codeBlock(pythonCall(body, hasKey)),
    el("h3", {}, "curl"),
    codeBlock(curlCall(body, hasKey)),
  );
}

function pythonCall({ collection, query, ...options }, hasKey) {
  const given = Object.entries(options).map(([name, value]) => `${name}=${python(value)}`);
  const server = [
    python(location.origin),
    ...(hasKey ? ['api_key=os.environ["CTXEMBED_SERVER_KEY"]'] : []),
    `collection=${python(collection)}`,
  ];
  return [
    ...(hasKey ? ["import os", ""] : []),
    "import ctxembed",
    "",
    `with ctxembed.SearchClient(${server.join(", ")}) as client:`,
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
