"""Searches of a collection, and the stores that it is compared with: faiss beside SQLite, and LanceDB."""

from __future__ import annotations

import itertools
import math
import sqlite3
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import faiss
import numpy as np
from ctxembed import Collection, Index
from ctxembed._server import ServerConfig

from benches import serving
from benches.cases import collections as given
from benches.peers.ingestion import Took, command, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Call = Callable[[], Any]

HAS_LANCE: Final = find_spec("lancedb") is not None and find_spec("pyarrow") is not None
"""Whether LanceDB, which the benches do not install, is there to compare with."""


# --- opening ---


def open_to_read(case: Any, _threads: int) -> Call:
    return partial(_opened, case.data.path, read_only=True)


def open_to_write(case: Any, _threads: int) -> Call:
    return partial(_opened, case.data.path, read_only=False)


def _opened(path: Path, *, read_only: bool) -> int:
    with Collection.open(path, read_only=read_only) as collection:
        return len(collection)


# --- search in a new process ---

_SEARCH: Final = """
import sys
import numpy as np
from ctxembed import Collection
with Collection.open(sys.argv[1], read_only=True) as collection:
    for hit in collection.search(np.load(sys.argv[2])[0], int(sys.argv[3])):
        print(hit.document, hit.chunk, repr(hit.score))
"""


def _saved_queries(data: given.Searched) -> Path:
    path = given.folder() / "queries.npy"
    if not path.exists():
        np.save(path, data.queries)
    return path


def search_process(case: Any, _threads: int) -> Call:
    """Start Python, open the collection and search."""
    arguments = ["-c", _SEARCH, str(case.data.path), str(_saved_queries(case.data)), str(given.K)]
    launch(arguments)  # from now on the bytecode is there
    return lambda: launch(arguments)


def search_command(case: Any, _threads: int) -> Call:
    """Run ``ctxembed search``, whose query a local server embeds."""
    path, server = str(case.data.path), serving.server(ServerConfig())
    call = partial(command, "search", path, given.QUERY, "-k", str(given.K), "--json", base_url=server)
    call()
    return call


def import_and_scan(case: Any, _threads: int) -> Call:
    """Add the time of a process that imports numpy and httpx to that of one scan."""
    index, query = case.data.index, case.data.queries[0]
    launch(["-c", "import numpy, httpx"])

    def call() -> Took:
        index.search(query, given.K)
        began = time.perf_counter()
        index.search(query, given.K)
        scan = time.perf_counter() - began
        took = launch(["-c", "import numpy, httpx"])
        return replace(took, seconds=took.wall + scan)

    return call


# --- search ---


Found = tuple[int, "np.ndarray", "np.ndarray | None"]
"""The number of a query, and the rows that were found with their cosines."""


def _each(case: Any, search: Callable[[int, np.ndarray], tuple[Any, Any]]) -> Callable[[], Found]:
    """Search with one query after the other, so that no call repeats the one before."""
    turns, queries = itertools.count(), case.data.queries

    def call() -> Found:
        turn = next(turns)
        number = turn % len(queries)
        ids, scores = search(turn, queries[number])
        return number, np.asarray(ids), scores if scores is None else np.asarray(scores)

    return call


def search_index(case: Any, _threads: int) -> Call:
    """Search an index of all rows, with the mask of the filter."""
    index, mask = case.data.index, case.mask

    def search(_turn: int, query: np.ndarray) -> tuple[Any, Any]:
        found = index.search(query, given.K, mask=mask)
        return found.ids, found.scores

    return _each(case, search)


def search_mapped(case: Any, _threads: int) -> Call:
    """Search an index file of all rows, mapped, as the segments of a collection are."""
    path = given.folder() / f"{case.data.count}.idx"
    if not path.exists():
        case.data.index.save(path)
    index = Index.open(path, mmap=True)

    def search(_turn: int, query: np.ndarray) -> tuple[Any, Any]:
        found = index.search(query, given.K, mask=case.mask)
        return found.ids, found.scores

    return _each(case, search)


def _hits(case: Any, where: Callable[[int], tuple[str | None, tuple[Any, ...]]]) -> Call:
    collection, row = case.data.opened, case.data.row

    def search(turn: int, query: np.ndarray) -> tuple[Any, Any]:
        expression, params = where(turn)
        hits = collection.search(query, given.K, where=expression, params=params)
        return [row(hit.document, hit.chunk) for hit in hits], [hit.score for hit in hits]

    return _each(case, search)


def search_collection(case: Any, _threads: int) -> Call:
    """Search the collection. Each call has parameters of its own, so that the filter is evaluated each time."""
    return _hits(case, case.where)


def search_with_new_column(case: Any, _threads: int) -> Call:
    """Open the collection for writing, and search: the first filter by a field makes a column for it."""
    case.data.close()  # readers delay the end of a writer

    def call() -> Found:
        with Collection.open(case.data.path) as collection:
            expression, params = case.where(0)
            hits = collection.search(case.data.queries[0], given.K, where=expression, params=params)
        ids = [case.data.row(hit.document, hit.chunk) for hit in hits]
        return 0, np.array(ids), np.array([hit.score for hit in hits])

    return call


def search_collection_again(case: Any, _threads: int) -> Call:
    """Search with the same filter each time: its rows are kept."""
    return _hits(case, lambda _turn: case.where(0))


class _Faiss:
    """The rows scaled to one length as int8 codes in faiss, documents and texts in SQLite: a store built by hand.

    faiss has no cosine over int8, so the result is approximate. See ``benches.peers.search.faiss_int8``.
    """

    def __init__(self, data: given.Searched) -> None:
        rows = data.rows
        self.index = faiss.IndexScalarQuantizer(
            rows.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        length = 127 * 4.0
        for first in range(0, len(rows), 1 << 14):
            part = rows[first : first + (1 << 14)].astype(np.float32)
            part *= length / np.sqrt(np.einsum("ij,ij->i", part, part))[:, None]
            self.index.add(np.rint(part).clip(-127, 127))
        self.texts = sqlite3.connect(given.folder() / f"peer-{len(rows)}.sqlite", check_same_thread=False)
        self.texts.execute("CREATE TABLE chunks (row INTEGER PRIMARY KEY, id TEXT, chunk INTEGER, text TEXT)")
        self.texts.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, year INTEGER, first INTEGER)")
        row = itertools.count()
        for document in data.corpus:
            chunks = [(next(row), document.id, chunk, text) for chunk, text in enumerate(document.chunks)]
            self.texts.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", chunks)
            values = (document.id, document.metadata["year"], chunks[0][0])
            self.texts.execute("INSERT INTO documents VALUES (?, ?, ?)", values)
        self.texts.execute("CREATE INDEX documents_by_year ON documents (year, first)")
        self.texts.commit()

    def search(self, query: np.ndarray, allowed: np.ndarray | None) -> list[int]:
        options = {}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            options["params"] = faiss.SearchParameters(sel=selector)
        _, ids = self.index.search(query[None].astype(np.float32), given.K, **options)
        marks = ", ".join("?" * given.K)
        found = self.texts.execute(f"SELECT row, id, chunk, text FROM chunks WHERE row IN ({marks})", ids[0].tolist())
        texts = {row: rest for row, *rest in found}
        return [row for row in ids[0].tolist() if texts[row]]


def faiss_sqlite(case: Any, threads: int) -> Call:
    """Search with faiss, then look the texts up in SQLite; a filter is evaluated there first."""
    store = case.data.cache.get("faiss", lambda: _Faiss(case.data))
    faiss.omp_set_num_threads(threads)
    chunks, count = case.data.corpus.chunks, case.data.count

    def search(turn: int, query: np.ndarray) -> tuple[Any, Any]:
        expression, params = case.where(turn)
        allowed = None
        if expression is not None:
            found = store.texts.execute(f"SELECT first FROM documents WHERE {expression}", params).fetchall()
            allowed = np.zeros((count // chunks, chunks), np.bool_)
            allowed[np.array(found)[:, 0] // chunks] = True
            allowed = allowed.reshape(-1)
        return store.search(query, allowed), None

    return _each(case, search)


def _lance_table(data: given.Searched) -> Any:
    import lancedb
    import pyarrow as pa

    rows, chunks = data.rows, data.corpus.chunks
    width = rows.shape[1]

    def batches() -> Iterator[Any]:
        documents = iter(data.corpus)
        for first in range(0, len(rows), 20_000 * chunks):
            part = list(itertools.islice(documents, 20_000))
            place = slice(first, first + len(part) * chunks)
            vector = pa.array(rows[place].astype(np.float16).reshape(-1))
            columns = {
                "id": [document.id for document in part for _ in range(chunks)],
                "chunk": list(range(chunks)) * len(part),
                "text": [text for document in part for text in document.chunks],
                "year": pa.array(data.metadata["year"][place], pa.int64()),
                "vector": pa.FixedSizeListArray.from_arrays(vector, width),
            }
            yield pa.record_batch(columns)

    stream = batches()
    head = next(stream)
    reader = pa.RecordBatchReader.from_batches(head.schema, itertools.chain([head], stream))
    table = lancedb.connect(given.folder() / "lance").create_table(f"chunks-{len(rows)}", reader, mode="overwrite")
    table.create_index("year", config=lancedb.index.Bitmap())
    return table


def lance(case: Any, _threads: int) -> Call:
    """Search a LanceDB table without a vector index: exact, over float16, since it has no cosine over int8."""
    table = case.data.cache.get("lance", lambda: _lance_table(case.data))
    row = case.data.row

    def search(turn: int, query: np.ndarray) -> tuple[Any, Any]:
        expression, params = case.where(turn)
        found = table.search(query.astype(np.float32)).distance_type("cosine").limit(given.K)
        if expression is not None:
            found = found.where(expression.replace("?", str(math.ceil(params[0]))), prefilter=True)
        hits = found.select(["id", "chunk", "text", "_distance"]).to_list()
        return [row(hit["id"], hit["chunk"]) for hit in hits], None

    return _each(case, search)


def lance_open(case: Any, _threads: int) -> Call:
    """Open the LanceDB table, and count its rows."""
    import lancedb

    case.data.cache.get("lance", lambda: _lance_table(case.data))
    name = f"chunks-{case.data.count}"
    return lambda: lancedb.connect(given.folder() / "lance").open_table(name).count_rows() // case.data.corpus.chunks
