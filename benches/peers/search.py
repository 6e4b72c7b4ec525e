"""Exact top k by Hamming distance and by cosine.

Every call takes the queries as the API gives them and returns (ids, scores), so what a peer needs done to the
queries is part of its time; what it does to the database once is not.
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
    warnings.simplefilter("ignore", DeprecationWarning)  # of the types SWIG makes, on newer Pythons
    import faiss

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.searching import SearchCase

    Call = Callable[[], tuple[np.ndarray, np.ndarray]]


def _set_threads(threads: int) -> None:
    """Set the threads of what keeps a pool for the whole process: faiss (OpenMP) and numpy's BLAS."""
    _blas().limit(limits=threads, user_api="blas")
    faiss.omp_set_num_threads(threads)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


# --- ctxembed ---


def threads_of(threads: int) -> int | None:
    """All threads are what a call takes by itself, which is fewer where the work is small."""
    return None if threads == ALL_THREADS and threads > 1 else threads


def ours(case: SearchCase, threads: int) -> Call:
    """Over a plain array: nothing is kept between calls."""
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

    return case.data.memory.keep("ctxembed", build)


def ours_index(case: SearchCase, threads: int) -> Call:
    queries, k, index = case.queries, case.k, _index(case)
    count = threads_of(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = index.search(queries, k, threads=count)
        return found.ids, found.scores

    return call


def ours_bits(case: SearchCase, threads: int) -> Call:
    """The bits of int8 rows alone, by Hamming distance: what the signs of a vector still know."""
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

    index, queries, k = case.data.memory.keep("faiss", build), case.queries, case.k
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
    return case.data.memory.keep("unit", lambda: _unit(case.data.rows))


def faiss_int8(case: SearchCase, threads: int) -> Call:
    """int8 codes by inner product: the nearest that faiss has to a cosine over int8.

    It knows no norm of a row, so rows are brought to one length first, the greatest at which no value leaves int8,
    and rounded again. That rounding is all that differs from the cosine of the rows as they came: the answer is
    close, not exact, and the tables give its recall.
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

    index, queries, k = case.data.memory.keep("faiss int8", build), case.queries, case.k
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

    index, queries, k = case.data.memory.keep("faiss float32", build), case.queries, case.k
    _set_threads(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        cosines, ids = index.search(_unit(queries), k)
        return ids, cosines

    return call


# --- usearch ---


def usearch_exact(case: SearchCase, threads: int) -> Call:
    """``search(exact=True)``. uint8 rows are taken as bits under Hamming; int8 rows run its int8 cosine."""
    queries, rows, k = case.queries, case.data.rows, case.k
    kind = MetricKind.Hamming if case.metric == "hamming" else MetricKind.Cos

    def call() -> tuple[np.ndarray, np.ndarray]:
        found = usearch_search(rows, queries, k, kind, exact=True, threads=threads)
        keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        return keys.astype(np.int64), distances if case.metric == "hamming" else 1 - distances

    return call


# --- NumKong ---


def numkong_packed(case: SearchCase, threads: int) -> Call:
    """NumKong's packed kernels a block of rows at a time, selection in numpy.

    One side is packed. For a few queries it is the database, once; for many it is the queries, at each call, which
    was the quicker of the two from about eight on. Blocks are dealt out to threads by ``concurrent.futures``, as its
    documentation shows: its own ``threads`` splits the side that is not packed, which here is smaller.
    """
    rows, queries, k = case.data.rows, case.queries, case.k
    blocks = selection.split(len(rows), selection.block_rows(len(queries)), threads)
    bits = case.metric == "hamming"
    pack = (lambda side: numkong.hammings_pack(side, dtype="uint1")) if bits else numkong.dots_pack
    distances = numkong.hammings_packed if bits else numkong.angulars_packed
    few = len(queries) < 8
    packed = case.data.memory.keep(
        ("numkong", tuple(blocks)), lambda: {block: pack(rows[slice(*block)]) for block in blocks} if few else {}
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
    """XOR, ``bitwise_count`` and add, word by word over columns: four times as quick as summing along rows."""
    words = case.data.memory.keep("words", lambda: np.ascontiguousarray(case.data.rows.view(np.uint64).T))
    queries, k = case.queries.view(np.uint64), case.k
    # Inner blocks stay in a core's cache and keep the interpreter out of the way of a second thread; outer ones are
    # what is selected from.
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
    """float32 rows of length one, one matrix product a block, selection in numpy. BLAS brings its own threads."""
    unit, queries, k = _unit_rows(case), case.queries, case.k
    blocks = selection.split(len(unit), selection.block_rows(len(queries)))
    _set_threads(threads)

    def call() -> tuple[np.ndarray, np.ndarray]:
        negative = -_unit(queries)
        ids, found = selection.top_k(lambda start, end: negative @ unit[start:end].T, blocks, k)
        return ids, -found

    return call


def numpy_int32(case: SearchCase, threads: int) -> Call:
    """Whole numbers throughout: ``int32`` rows made a block at a time, numpy's product of them, cosines of that.

    What numpy does without a BLAS, which knows no whole numbers.
    """
    rows, queries, k = case.data.rows, case.queries.astype(np.int32), case.k
    blocks = selection.split(len(rows), 4096, threads)
    norms = case.data.memory.keep("norms", lambda: np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)))
    lengths = np.sqrt(np.square(queries).sum(axis=1, dtype=np.float64))[:, None]

    def block_distances(start: int, end: int) -> np.ndarray:
        return (queries @ rows[start:end].astype(np.int32).T) / (-lengths * norms[start:end])

    def call() -> tuple[np.ndarray, np.ndarray]:
        ids, found = selection.top_k(block_distances, blocks, k)
        return ids, -found

    return call


# --- what memory allows ---


@cache
def _readers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def read_once(case: SearchCase, threads: int) -> Callable[[], int]:
    """The maximum over the database's words: numpy's quickest way to touch every byte, and so the bandwidth."""
    words = case.data.rows.view(np.uint64).reshape(-1)
    parts = np.array_split(words, threads)
    if threads == 1:
        return lambda: int(words.max())
    return lambda: max(_readers(threads).map(lambda part: int(part.max()), parts))


def one_query(case: SearchCase) -> bool:
    return case.number == 1


def _not_gigabytes(case: SearchCase) -> bool:
    # It keeps 16 bytes for each pair of a query and a row.
    return case.number * case.data.count * 16 <= 1 << 30


def _not_many_seconds(case: SearchCase) -> bool:
    return case.number * case.data.bytes <= 36 << 30


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
