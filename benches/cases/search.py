"""Data sets for search, with their exact results and the checks of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benches import vectors
from benches.harness import Cache, Case, Peer, Verdict

if TYPE_CHECKING:
    from benches.harness import Scale

K = 10
MOST_QUERIES = 256
BLOCK = 8192
TOLERANCE = 1e-6
"""Cosines closer than this may swap ranks: float32 sums of 1,024 terms are not more precise."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows, other vectors of the same kind as queries, and the exact results."""

    metric: str
    count: int
    dims: int = 1024
    cache: Cache = field(default_factory=Cache)
    query_count: int = MOST_QUERIES
    #: How many of the first queries are compared with the reference.
    judged_queries: int = MOST_QUERIES

    def _make(self, seed: int, rows: int) -> np.ndarray:
        make = vectors.binary_vectors if self.metric == "hamming" else vectors.int8_vectors
        return make(seed, rows, self.dims)

    @cached_property
    def rows(self) -> np.ndarray:
        return self._make(3, self.count)

    @property
    def bytes(self) -> int:
        """Bytes of all rows, known before they are generated."""
        return self.count * (self.dims // 8 if self.metric == "hamming" else self.dims)

    @cached_property
    def queries(self) -> np.ndarray:
        return self._make(4, self.query_count)

    def scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return all scores by definition, (q, n).

        A product of these rows is a sum of at most 2,560 terms whose partial sums stay below 2 ** 24, so the float32
        matrix product is exact.
        """
        if self.metric == "hamming":
            out = np.zeros((len(queries), len(rows)), dtype=np.int32)
            for a, b in zip(queries.view(np.uint64).T, rows.view(np.uint64).T, strict=True):
                out += np.bitwise_count(a[:, None] ^ b[None])
            return out
        products = queries.astype(np.float32) @ rows.astype(np.float32).T
        norms = [np.sqrt(np.square(side.astype(np.int32)).sum(axis=1, dtype=np.float64)) for side in (queries, rows)]
        return products / (norms[0][:, None] * norms[1])

    @cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and scores of the exact top k of the judged queries, (q, k) each. Ties go to the lower id."""
        sign = 1 if self.metric == "hamming" else -1
        queries = self.queries[: self.judged_queries]
        ids = np.empty((len(queries), 0), dtype=np.int64)
        keys = np.empty((len(queries), 0))
        for start in range(0, self.count, BLOCK):
            scores = sign * self.scores(queries, self.rows[start : start + BLOCK])
            ids = np.concatenate(
                [ids, np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)], axis=1
            )
            keys = np.concatenate([keys, scores], axis=1)
            # A stable sort keeps equal keys in the order of their ids, in which both parts already are.
            bound = np.partition(keys, K - 1, axis=1)[:, K - 1 : K]
            keep = [np.flatnonzero(row <= limit) for row, limit in zip(keys, bound, strict=True)]
            chosen = [hit[np.argsort(row[hit], kind="stable")[:K]] for row, hit in zip(keys, keep, strict=True)]
            ids, keys = np.take_along_axis(ids, np.array(chosen), 1), np.take_along_axis(keys, np.array(chosen), 1)
        return ids, sign * keys


@dataclass(frozen=True, eq=False)
class SearchCase(Case):
    """A search for the first ``query_count`` queries."""

    data: DataSet
    query_count: int

    k: ClassVar[int] = K

    @property
    def metric(self) -> str:
        return self.data.metric

    @property
    def dims(self) -> int:
        return self.data.dims

    @cached_property
    def queries(self) -> np.ndarray:
        return self.data.queries[: self.query_count]

    @property
    def label(self) -> str:
        kind = "bits" if self.metric == "hamming" else "int8"
        queries = "1 query" if self.query_count == 1 else f"{self.query_count} queries"
        return f"{self.data.count:,} x {self.dims} {kind}, {queries}"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": self.data.count, "dimensions": self.dims, "queries": self.query_count, "k": self.k}

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Compare the exact scores of the rows found, in order, with those of the reference.

        A peer may resolve ties either way. ctxembed promises the lower id, which is checked too.
        """
        if peer.kind == "reference":
            return Verdict(bool(result == self.data.rows.view(np.uint64).max()))
        ids, scores = result
        if ids.shape != (self.query_count, min(self.k, self.data.count)):
            return Verdict(correct=False, note=f"shape {ids.shape}")
        best_ids, best = (part[: self.query_count] for part in self.data.best)
        ids, scores = ids[: len(best)], scores[: len(best)]
        exact = np.array(
            [
                self.data.scores(query[None], self.data.rows[row])[0]
                for query, row in zip(self.queries[: len(ids)], ids, strict=True)
            ]
        )
        tolerance = 0 if self.metric == "hamming" else TOLERANCE
        distinct = all(len(set(row)) == len(row) for row in ids.tolist())
        correct = distinct and bool((np.abs(exact - best) <= tolerance).all())
        recall = np.mean([len(set(a) & set(b)) / self.k for a, b in zip(ids.tolist(), best_ids.tolist(), strict=True)])
        if not peer.exact:
            return Verdict(correct, f"recall {recall:.3f}")
        correct = correct and bool((np.abs(scores - best) <= tolerance).all())
        if peer.kind == "ours" and self.metric == "hamming":
            correct = correct and bool((ids == best_ids).all())
        return Verdict(correct, "" if correct else f"recall {recall:.3f}")


@dataclass(frozen=True, eq=False)
class HammingCase(SearchCase):
    """A search by Hamming distance."""

    group: ClassVar = "hamming"


@dataclass(frozen=True, eq=False)
class CosineCase(SearchCase):
    """A search by cosine."""

    group: ClassVar = "cosine"


def cases(kind: type[SearchCase], metric: str, rows: int, wide_rows: int, scale: Scale) -> list[Case]:
    """Return the cases of a group: a large data set for the dimensions of each model, and one that fits the caches."""
    part = {"smoke": 100, "quick": 10, "full": 1}[scale]
    large = DataSet(metric, rows // part, judged_queries=64)
    wide = DataSet(metric, wide_rows // part, dims=2560, judged_queries=64)
    small = DataSet(metric, 1000)
    counts = (1, 16, MOST_QUERIES)
    return [kind(data, count) for data in (large, wide, small) for count in counts]
