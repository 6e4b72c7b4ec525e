"""Vectors of real text, from the local server's stand-in for the model: lexical, so a lower bound of what one knows.

Two collections: Cranfield, 1,400 abstracts and 225 questions with judgements of experts; and passages of books and
documentation in English, Chinese and Korean, where a question is half of a passage and the passage its one answer.
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
    import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL, DIMS = "pplx-embed-context-v1-0.6b", 1024
PASSAGES = 16
"""Of a file: enough for what the tables say, few enough to embed in seconds."""


@dataclass(frozen=True)
class Collection:
    """Rows, queries, and the gain of each row that is relevant to a query."""

    rows: np.ndarray
    queries: np.ndarray
    judged: list[dict[int, float]]


def _embed(documents: list[list[str]]) -> np.ndarray:
    return embed_documents(documents, model=MODEL, full_dimensions=DIMS, dimensions=DIMS, binary=False)


@cache
def cranfield() -> Collection:
    """Abstracts with their titles, a document of one chunk each."""
    folder = DATA / "ir" / "cranfield"
    documents, queries = (
        [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    row_of = {document["_id"]: row for row, document in enumerate(documents)}
    place_of = {query["_id"]: place for place, query in enumerate(queries)}
    judged: list[dict[int, float]] = [{} for _ in queries]
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")
        judged[place_of[query]][row_of[document]] = float(gain)
    # A judgement scale of two grades, to which one line of the source does not keep.
    judged = [{row: min(gain, 1.0) for row, gain in gains.items()} for gains in judged]
    return Collection(
        _embed([[f"{document['title']} {document['text']}"] for document in documents]),
        _embed([[query["text"]] for query in queries]),
        judged,
    )


@cache
def passages() -> Collection:
    """The first passages of every file, a document a file; one of each, cut in half, is a question."""
    documents, questions, answers = [], [], []
    before = 0
    for path in sorted((DATA / "corpus").glob("*/*")):
        text = path.read_text(encoding="utf-8", errors="replace")
        chunks = [part.strip() for part in re.split(r"\n\s*\n", text) if len(part.strip()) >= 120][:PASSAGES]
        if len(chunks) < 4:
            continue
        asked = len(chunks) // 2
        documents.append(chunks)
        questions.append([chunks[asked][: len(chunks[asked]) // 2]])
        answers.append({before + asked: 1.0})
        before += len(chunks)
    return Collection(_embed(documents), _embed(questions), answers)
