// What an empty collection says.

import { codeBlock, el } from "./dom.js";

export function fillingHelp(collection) {
  return el(
    "section",
    { class: "message" },
    el("h1", {}, "Nothing is in here yet"),
    collection.writer
      ? el(
        "p",
        {},
        el("span", { class: "pulse" }),
        ` A job is writing to ${collection.name}. Its first documents show up here by themselves.`,
      )
      : el(
        "p",
        {},
        `Fill ${collection.name} with a folder of files. Documents show up here as they are embedded.`,
      ),
    codeBlock(`ctxembed embed FOLDER ${collection.name}.ctx`),
    el(
      "p",
      { class: "muted" },
      "Text, Markdown, HTML, JSON Lines, CSV and Parquet are read. The same command again goes on where it stopped.",
    ),
  );
}
