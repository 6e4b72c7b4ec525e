"""Exact top k by Hamming distance and by cosine.

Every call takes the queries as the API returns them and returns (ids, scores). The time includes what a peer does to
the queries, and excludes what it does once to the database.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import ctxembed
import numkong
import numpy as np
from threadpoolctl import ThreadpoolController
from usearch.index import MetricKind
from usearch.index import search as usearch_search

from benches.harness import ALL_THREADS, Peer
from benches.peers import selection

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # from SWIG types on newer Pythons
    import faiss

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.cases.search import SearchCase

    Call = Callable[[], tuple[np.ndarray, np.ndarray]]


def _set_threads(threads: int) -> None:
    """Set the threads of the process-wide pools: faiss (OpenMP) and numpy's BLAS."""
    _blas().limit(limits=threads, user_api="blas")
    faiss.omp_set_num_threads(threads)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


# --- ctxembed ---


def threads_of(threads: int) -> int | None:
    """Return None, the automatic number, for all threads: a small search then runs on fewer."""
    return None if threads == ALL_THREADS and threads > 1 else threads


def ours(case: SearchCase, threads: int) -> Call:
    """Search a plain array, without state between calls."""
    queries, rows, k, metric = case.queries, case.data.rows, case.k, case.metric
    count = threads_of(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = ctxembed.top_k(queries, rows, k, metric=metric, threads=count)
        return found.ids, found.scores

    return call


def _index(case: SearchCase) -> Any:
    def build() -> Any:
        index = ctxembed.Index(case.dims) if case.metric == "cosine" else ctxembed.BinaryIndex(case.dims)
        index.add(case.data.rows)
        return index

    return case.data.cache.get("ctxembed", build)


def ours_index(case: SearchCase, threads: int) -> Call:
    queries, k, index = case.queries, case.k, _index(case)
    count = threads_of(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = index.search(queries, k, threads=count)
        return found.ids, found.scores

    return call


def ours_bits(case: SearchCase, threads: int) -> Call:
    """Search the bits of int8 rows by Hamming distance."""
    queries, k, index = case.queries, case.k, _index(case)
    count = threads_of(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = index.search(queries, k, stage="binary", threads=count)
        return found.ids, found.scores

    return call


# --- faiss ---


def faiss_binary(case: SearchCase, threads: int) -> Call:
    def build() -> Any:
        index = faiss.IndexBinaryFlat(case.dims)
        index.add(case.data.rows)
        return index

    index, queries, k = case.data.cache.get("faiss", build), case.queries, case.k
    _set_threads(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        distances, ids = index.search(queries, k)
        return ids, distances

    return call


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return float32 rows of length one."""
    unit = rows.astype(np.float32)
    unit /= np.sqrt(np.einsum("ij,ij->i", unit, unit))[:, None]
    return unit


def _unit_rows(case: SearchCase) -> np.ndarray:
    return case.data.cache.get("unit", lambda: _unit(case.data.rows))


def faiss_int8(case: SearchCase, threads: int) -> Call:
    """Search int8 codes by inner product, the closest that faiss has to a cosine over int8.

    The index stores no norms, so the rows are scaled to one length first, the greatest at which all values fit int8,
    and rounded again. This rounding makes the result approximate, and the tables print its recall.
    """

    def build() -> Any:
        index = faiss.IndexScalarQuantizer(
            case.dims, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        unit = _unit_rows(case)
        length = min(127 / max(-float(unit.min()), float(unit.max())), 1e4)
        for start in range(0, len(unit), 1 << 14):
            index.add(np.rint(unit[start : start + (1 << 14)] * np.float32(length)))
        return index

    index, queries, k = case.data.cache.get("faiss int8", build), case.queries, case.k
    _set_threads(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        products, ids = index.search(queries.astype(np.float32), k)
        return ids, products

    return call


def faiss_float32(case: SearchCase, threads: int) -> Call:
    def build() -> Any:
        index = faiss.IndexFlatIP(case.dims)
        index.add(_unit_rows(case))
        return index

    index, queries, k = case.data.cache.get("faiss float32", build), case.queries, case.k
    _set_threads(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        cosines, ids = index.search(_unit(queries), k)
        return ids, cosines

    return call


# --- usearch ---


def usearch_exact(case: SearchCase, threads: int) -> Call:
    """Search with ``exact=True``: uint8 rows as bits by Hamming distance, int8 rows by int8 cosine."""
    queries, rows, k = case.queries, case.data.rows, case.k
    kind = MetricKind.Hamming if case.metric == "hamming" else MetricKind.Cos

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = usearch_search(rows, queries, k, kind, exact=True, threads=threads)
        keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        return keys.astype(np.int64), distances if case.metric == "hamming" else 1 - distances

    return call


# --- NumKong ---


def numkong_packed(case: SearchCase, threads: int) -> Call:
    """Score blocks of rows with NumKong's packed kernels, and select in numpy.

    The kernels need one side packed. For few queries that is the database, packed once. From about eight queries on
    it is faster to pack the queries at each call. Threads of ``concurrent.futures`` share the blocks, as in NumKong's
    documentation: its own ``threads`` splits the side that is not packed, which is the smaller one here.
    """
    rows, queries, k = case.data.rows, case.queries, case.k
    blocks = selection.split(len(rows), selection.block_rows(len(queries)), threads)
    bits = case.metric == "hamming"
    pack = (lambda side: numkong.hammings_pack(side, dtype="uint1")) if bits else numkong.dots_pack
    distances = numkong.hammings_packed if bits else numkong.angulars_packed
    few = len(queries) < 8
    packed = case.data.cache.get(
        ("numkong", few, tuple(blocks)), lambda: {block: pack(rows[slice(*block)]) for block in blocks} if few else {}
    )

    def call() -> tuple[np.ndarray, np.ndarray]:
        right = None if few else pack(queries)

        def block_distances(start: int, end: int) -> np.ndarray:
            if few:
                return np.asarray(distances(queries, packed[start, end]))
            return np.asarray(distances(rows[start:end], right)).T

        ids, found = selection.threaded_top_k(block_distances, blocks, k, threads)
        return ids, found if bits else 1 - found

    return call


# --- numpy ---


def numpy_popcount(case: SearchCase, threads: int) -> Call:
    """XOR, ``bitwise_count`` and add, word by word over columns: four times as fast as sums along rows."""
    words = case.data.cache.get("words", lambda: np.ascontiguousarray(case.data.rows.view(np.uint64).T))
    queries, k = case.queries.view(np.uint64), case.k
    # Outer blocks are the units of selection. Inner blocks fit a core's cache, and are long enough that threads rarely
    # wait for the interpreter.
    blocks = selection.split(words.shape[1], selection.block_rows(len(queries)), threads)
    inner = 32_768

    def block_distances(start: int, end: int) -> np.ndarray:
        out = np.zeros((len(queries), end - start), dtype=np.uint16)
        for first in range(start, end, inner):
            last = min(first + inner, end)
            for query, row in zip(queries, out[:, first - start : last - start], strict=True):
                for word, column in zip(query, words[:, first:last], strict=True):
                    np.add(row, np.bitwise_count(column ^ word), out=row)
        return out

    return lambda: selection.threaded_top_k(block_distances, blocks, k, threads)


def numpy_gemm(case: SearchCase, threads: int) -> Call:
    """Multiply float32 unit rows block by block with BLAS, on its own threads, and select in numpy."""
    unit, queries, k = _unit_rows(case), case.queries, case.k
    blocks = selection.split(len(unit), selection.block_rows(len(queries)))
    _set_threads(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        negative = -_unit(queries)
        ids, found = selection.top_k(lambda start, end: negative @ unit[start:end].T, blocks, k)
        return ids, -found

    return call


def numpy_int32(case: SearchCase, threads: int) -> Call:
    """Multiply ``int32`` rows block by block, and select by cosine.

    numpy multiplies integers without BLAS, which supports only floats.
    """
    rows, queries, k = case.data.rows, case.queries.astype(np.int32), case.k
    blocks = selection.split(len(rows), 4096, threads)
    norms = case.data.cache.get("norms", lambda: np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)))
    lengths = np.sqrt(np.square(queries).sum(axis=1, dtype=np.float64))[:, None]

    def block_distances(start: int, end: int) -> np.ndarray:
        return (queries @ rows[start:end].astype(np.int32).T) / (-lengths * norms[start:end])

    def call() -> tuple[np.ndarray, np.ndarray]:
        ids, found = selection.top_k(block_distances, blocks, k)
        return ids, -found

    return call


# --- memory bandwidth ---


@cache
def _readers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def read_once(case: SearchCase, threads: int) -> Callable[[], int]:
    """Take the maximum over the words of the database: numpy's fastest way to read every byte."""
    words = case.data.rows.view(np.uint64).reshape(-1)
    parts = np.array_split(words, threads)
    if threads == 1:
        return lambda: int(words.max())
    return lambda: max(_readers(threads).map(lambda part: int(part.max()), parts))


def one_query(case: SearchCase) -> bool:
    return case.query_count == 1


def _not_gigabytes(case: SearchCase) -> bool:
    # usearch allocates 16 bytes for each pair of a query and a row.
    return case.query_count * case.data.count * 16 <= 1 << 30


def _not_many_seconds(case: SearchCase) -> bool:
    return case.query_count * case.data.bytes <= 36 << 30


HAMMING = (
    Peer("ctxembed.top_k", ours, "ours", threaded=True),
    Peer("ctxembed.BinaryIndex", ours_index, "ours", threaded=True),
    Peer("faiss IndexBinaryFlat", faiss_binary, threaded=True),
    Peer("usearch exact", usearch_exact, threaded=True, takes=_not_gigabytes),
    Peer("NumKong + numpy", numkong_packed, threaded=True),
    Peer("numpy bitwise_count", numpy_popcount, threaded=True, takes=_not_many_seconds),
    Peer("reading every byte once", read_once, "reference", threaded=True, takes=one_query),
)

COSINE = (
    Peer("ctxembed.top_k", ours, "ours", threaded=True),
    Peer("ctxembed.Index", ours_index, "ours", threaded=True),
    Peer("ctxembed.Index, bits", ours_bits, "ours", threaded=True, exact=False),
    Peer("faiss ScalarQuantizer int8", faiss_int8, threaded=True, exact=False),
    Peer("faiss IndexFlatIP float32", faiss_float32, threaded=True),
    Peer("usearch exact int8", usearch_exact, threaded=True, takes=_not_gigabytes),
    Peer("NumKong + numpy", numkong_packed, threaded=True),
    Peer("numpy float32 GEMM", numpy_gemm, threaded=True),
    Peer("reading every byte once", read_once, "reference", threaded=True, takes=one_query),
)
