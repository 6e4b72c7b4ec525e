"""Hybrid searches, and what they are compared with: the vectors alone, the words alone, and SQLite's index of words."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np
from ctxembed import Collection

from benches import texts
from benches.cases import hybrid as given
from benches.cases.collections import K, folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxembed import Hit

    Call = Callable[[], Any]


# --- speed ---


def _each(case: Any, *, hybrid: bool) -> Callable[[], tuple[int, list[Hit]]]:
    """Search with one question after the other."""
    turns, client, collection = itertools.count(), given.Questions(), case.data.opened
    queries = case.data.queries

    def call() -> tuple[int, list[Hit]]:
        turn = next(turns)
        number = turn % len(queries)
        client.vector = queries[number]
        where, params = case.where(turn)
        hits = collection.search(
            given.question(turn), K, client=client, where=where, params=params, hybrid=hybrid
        )  # fmt: skip
        return number, hits

    return call


def vectors(case: Any, _threads: int) -> Call:
    """Search with the vectors alone."""
    return _each(case, hybrid=False)


def both(case: Any, _threads: int) -> Call:
    """Search with vectors and words."""
    return _each(case, hybrid=True)


def fts5(case: Any, _threads: int) -> Call:
    """Search the words alone with FTS5, which has the texts in an index of its own."""
    table, turns = case.data.cache.get("fts5", lambda: _fts5(case.data)), itertools.count()

    def call() -> tuple[int, list[Any]]:
        words = " OR ".join(f'"{word}"' for word in given.question(next(turns)).split())
        statement = "SELECT rowid, bm25(texts) FROM texts WHERE texts MATCH ? ORDER BY rank LIMIT ?"
        return 0, table.execute(statement, (words, K)).fetchall()

    return call


def _fts5(data: Any) -> sqlite3.Connection:
    table = sqlite3.connect(folder() / f"fts5-{data.count}.sqlite", check_same_thread=False)
    table.execute("CREATE VIRTUAL TABLE texts USING fts5 (text, content = '', detail = none)")
    rows = enumerate(text for document in data.corpus for text in document.chunks)
    table.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", rows)
    table.commit()
    return table


def build(case: Any, _threads: int) -> Call:
    """Make the first hybrid search of a collection, which builds the index of words."""
    client = given.Questions()
    client.vector = case.data.queries[0]

    def call() -> list[Hit]:
        shutil.rmtree(case.data.path / "words", ignore_errors=True)
        with Collection.open(case.data.path, read_only=True) as collection:
            return collection.search(given.question(0), K, client=client, hybrid=True)

    return call


# --- quality ---


def _ranked(case: Any, search: Callable[[Collection, str, given.Questions], list[int]]) -> Call:
    """Search with all queries, and return the rows of each."""
    collection, client = case.data.opened, given.Questions()
    _, queries = texts.cranfield_texts()

    def call() -> np.ndarray:
        found = np.full((len(queries), K), -1)
        for place, query in enumerate(queries):
            client.vector = case.data.data.queries[place]
            rows = search(collection, query, client)
            found[place, : len(rows)] = rows
        return found

    return call


def judged_vectors(case: Any, _threads: int) -> Call:
    return _ranked(
        case, lambda col, query, client: [int(hit.document) for hit in col.search(query, K, client=client)]
    )  # fmt: skip


def judged_both(case: Any, _threads: int) -> Call:
    return _ranked(
        case, lambda col, query, client: [int(hit.document) for hit in col.search(query, K, client=client, hybrid=True)]
    )


def judged_words(case: Any, _threads: int) -> Call:
    def search(collection: Collection, query: str, _client: given.Questions) -> list[int]:
        view = collection._current()  # noqa: SLF001
        return collection._words.at(view).top(query, K, None, view.rows)[0]  # noqa: SLF001

    return _ranked(case, search)
