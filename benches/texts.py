"""Vectors of real text, by the local server's lexical stand-in for the model.

There are two collections. Cranfield has 1,400 abstracts and 225 queries, judged by experts. The passages are from books
and documentation in English, Chinese and Korean; half of a passage is a query, for which only that passage is relevant.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ctxembed._backends.hashed import embed_documents

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_CRANFIELD = DATA / "ir" / "cranfield"
MODEL, DIMS = "pplx-embed-context-v1-0.6b", 1024
PASSAGES = 16
"""Passages of a file: few enough to embed all files in seconds."""


@dataclass(frozen=True)
class Collection:
    """Rows, queries, and for each query the gain of each relevant row."""

    rows: np.ndarray
    queries: np.ndarray
    judged: list[dict[int, float]]


def _embed(documents: list[list[str]]) -> np.ndarray:
    return embed_documents(documents, model=MODEL, full_dimensions=DIMS, dimensions=DIMS, binary=False)


def _cranfield_lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (_CRANFIELD / name).read_text(encoding="utf-8").splitlines()]


@cache
def cranfield_texts() -> tuple[list[str], list[str]]:
    """Return the abstracts with their titles, and the queries."""
    documents = [f"{document['title']} {document['text']}" for document in _cranfield_lines("corpus.jsonl")]
    return documents, [query["text"] for query in _cranfield_lines("queries.jsonl")]


@cache
def cranfield_chunks() -> list[list[str]]:
    """Return each abstract as a document: its title, then groups of three sentences."""
    found = []
    for document in _cranfield_lines("corpus.jsonl"):
        sentences = [part for part in re.split(r"(?<= \.)\s+", document["text"]) if part.strip()]
        groups = [" ".join(sentences[start : start + 3]) for start in range(0, len(sentences), 3)]
        chunks = [chunk.strip() for chunk in (document["title"], *groups) if chunk.strip()]
        found.append(chunks or ["no text"])  # one document of the collection is empty
    return found


@cache
def cranfield_judged() -> list[dict[int, float]]:
    """Return for each query of Cranfield the gain of each relevant abstract."""
    row_of = {document["_id"]: row for row, document in enumerate(_cranfield_lines("corpus.jsonl"))}
    place_of = {query["_id"]: place for place, query in enumerate(_cranfield_lines("queries.jsonl"))}
    judged: list[dict[int, float]] = [{} for _ in place_of]
    for line in (_CRANFIELD / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")
        judged[place_of[query]][row_of[document]] = float(gain)
    # The scale has two grades, but one judgement of the source is above it.
    return [{row: min(gain, 1.0) for row, gain in gains.items()} for gains in judged]


@cache
def cranfield() -> Collection:
    """Return the abstracts with their titles, each a document of one chunk."""
    documents, queries = cranfield_texts()
    return Collection(_embed([[text] for text in documents]), _embed([[text] for text in queries]), cranfield_judged())


def passage_files() -> Iterator[tuple[Path, list[str]]]:
    """Yield each file of books and documentation that has four passages, with its first ones."""
    for path in sorted((DATA / "corpus").glob("*/*")):
        text = path.read_text(encoding="utf-8", errors="replace")
        chunks = [part.strip() for part in re.split(r"\n\s*\n", text) if len(part.strip()) >= 120][:PASSAGES]
        if len(chunks) >= 4:
            yield path, chunks


@cache
def passages() -> Collection:
    """Return the first passages of every file, one document per file. Half of one passage is the query."""
    documents, queries, judged = [], [], []
    before = 0
    for _, chunks in passage_files():
        chosen = len(chunks) // 2
        documents.append(chunks)
        queries.append([chunks[chosen][: len(chunks[chosen]) // 2]])
        judged.append({before + chosen: 1.0})
        before += len(chunks)
    return Collection(_embed(documents), _embed(queries), judged)
