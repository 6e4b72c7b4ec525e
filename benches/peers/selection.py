"""Top k in numpy, for peers that return all scores of a block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BLOCK_SCORES = 1 << 22
"""Scores of a block: few enough for the caches, many enough to make the cost of a call small."""


def block_rows(queries: int) -> int:
    """Return the rows of a block for a number of queries."""
    return max(4096, BLOCK_SCORES // queries)


def top_k(
    distances: Callable[[int, int], np.ndarray], blocks: Sequence[tuple[int, int]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and distances, each (q, k), of the k nearest rows in ``blocks`` of (start, end).

    The k-th best score so far of each query is a threshold. After the first block, one comparison per score leaves
    few candidates to sort. A plain ``argpartition`` of every block takes about eight times as long.
    """
    start, end = blocks[0]
    scores = distances(start, end)
    queries = len(scores)
    picked = np.argpartition(scores, k - 1, axis=1)[:, :k] if k < end - start else np.argsort(scores, axis=1)
    best = np.take_along_axis(scores, picked, axis=1)
    ids = picked + start
    places = np.repeat(np.arange(queries), ids.shape[1])
    for start, end in blocks[1:]:
        scores = distances(start, end)
        flat = np.flatnonzero(scores < best.max(axis=1)[:, None])
        if not len(flat):
            continue
        query, row = np.divmod(flat, end - start)
        owners = np.concatenate([places, query])
        all_scores = np.concatenate([best.ravel(), scores.ravel()[flat]])
        all_ids = np.concatenate([ids.ravel(), row + start])
        order = np.lexsort((all_scores, owners))
        first = np.searchsorted(owners[order], np.arange(queries))
        chosen = order[first[:, None] + np.arange(k)]
        best, ids = all_scores[chosen], all_ids[chosen]
    order = np.argsort(best, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(best, order, axis=1)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def threaded_top_k(
    distances: Callable[[int, int], np.ndarray], blocks: Sequence[tuple[int, int]], k: int, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Like :func:`top_k`, with the blocks shared among threads. Kernels and numpy release the GIL."""
    if threads == 1 or len(blocks) < 2:
        return top_k(distances, blocks, k)
    parts = [blocks[i::threads] for i in range(threads) if blocks[i::threads]]
    found = list(_pool(threads).map(lambda part: top_k(distances, part, k), parts))
    ids = np.concatenate([ids for ids, _ in found], axis=1)
    scores = np.concatenate([scores for _, scores in found], axis=1)
    order = np.argsort(scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def split(rows: int, block: int, threads: int = 1) -> list[tuple[int, int]]:
    """Cut ``rows`` into blocks of at most ``block`` rows, at least one for each thread."""
    block = min(block, max(1, -(-rows // threads)))
    return [(start, min(start + block, rows)) for start in range(0, rows, block)]
