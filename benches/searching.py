"""Data sets, references and judgement that the two search groups share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benches import vectors
from benches.harness import Case, Memory, Peer, Verdict
from benches.peers import search as peers

if TYPE_CHECKING:
    from benches.harness import Scale

K = 10
MOST_QUERIES = 256
BLOCK = 8192
TOLERANCE = 1e-6
"""Cosines closer than this may change places: float32 sums of 1,024 terms are no finer."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows, queries of the same kind that are not among them, and all exact answers."""

    metric: str
    count: int
    dims: int = 1024
    memory: Memory = field(default_factory=Memory)
    #: Queries at most, and how many of them, the first, are held against a reference.
    most: int = MOST_QUERIES
    judged: int = MOST_QUERIES

    def _make(self, seed: int, rows: int) -> np.ndarray:
        make = vectors.binary_vectors if self.metric == "hamming" else vectors.int8_vectors
        return make(seed, rows, self.dims)

    @cached_property
    def rows(self) -> np.ndarray:
        return self._make(3, self.count)

    @property
    def bytes(self) -> int:
        """What all rows weigh, known before they are made."""
        return self.count * (self.dims // 8 if self.metric == "hamming" else self.dims)

    @cached_property
    def queries(self) -> np.ndarray:
        return self._make(4, self.most)

    def scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return all scores as the definition says, in whole numbers as far as they go: (q, n).

        Products of these rows are sums of at most 2,560 terms whose partial sums stay below 2 ** 24, so a float32
        matrix product of them is exact.
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
        """Ids and scores of the exact top k of the judged queries, ties to the lower id: (judged, k) each."""
        sign = 1 if self.metric == "hamming" else -1
        queries = self.queries[: self.judged]
        ids = np.empty((len(queries), 0), dtype=np.int64)
        keys = np.empty((len(queries), 0))
        for start in range(0, self.count, BLOCK):
            scores = sign * self.scores(queries, self.rows[start : start + BLOCK])
            ids = np.concatenate(
                [ids, np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)], axis=1
            )
            keys = np.concatenate([keys, scores], axis=1)
            # A stable sort leaves equal keys by id: both parts come in that order.
            bound = np.partition(keys, K - 1, axis=1)[:, K - 1 : K]
            keep = [np.flatnonzero(row <= limit) for row, limit in zip(keys, bound, strict=True)]
            chosen = [hit[np.argsort(row[hit], kind="stable")[:K]] for row, hit in zip(keys, keep, strict=True)]
            ids, keys = np.take_along_axis(ids, np.array(chosen), 1), np.take_along_axis(keys, np.array(chosen), 1)
        return ids, sign * keys


@dataclass(frozen=True, eq=False)
class SearchCase(Case):
    """The first ``number`` queries against a data set."""

    data: DataSet
    number: int

    k: ClassVar[int] = K

    @property
    def metric(self) -> str:
        return self.data.metric

    @property
    def dims(self) -> int:
        return self.data.dims

    @cached_property
    def queries(self) -> np.ndarray:
        return self.data.queries[: self.number]

    @property
    def label(self) -> str:
        kind = "bits" if self.metric == "hamming" else "int8"
        quer = "1 query" if self.number == 1 else f"{self.number} queries"
        return f"{self.data.count:,} x {self.dims} {kind}, {quer}"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": self.data.count, "dimensions": self.dims, "queries": self.number, "k": self.k}

    def judge(self, peer: Peer, answer: Any) -> Verdict:
        """Judge the rows found by their exact scores, in order: any row will do that scores as the reference's.

        So ties may fall either way for a peer. ctxembed promises the lower id, and is held to it.
        """
        if peer.kind == "reference":
            return Verdict(bool(answer == self.data.rows.view(np.uint64).max()))
        ids, scores = answer
        if ids.shape != (self.number, min(self.k, self.data.count)):
            return Verdict(correct=False, note=f"shape {ids.shape}")
        best_ids, best = (part[: self.number] for part in self.data.best)
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
    """By Hamming distance."""

    group: ClassVar = "hamming"
    peers: ClassVar = peers.HAMMING


@dataclass(frozen=True, eq=False)
class CosineCase(SearchCase):
    """By cosine."""

    group: ClassVar = "cosine"
    peers: ClassVar = peers.COSINE


def cases(kind: type[SearchCase], metric: str, rows: int, wide_rows: int, scale: Scale) -> list[Case]:
    """Make the cases of a group: a large data set of either model's dimensions, and one that fits the caches."""
    part = {"smoke": 100, "quick": 10, "full": 1}[scale]
    large = DataSet(metric, rows // part, judged=64)
    wide = DataSet(metric, wide_rows // part, dims=2560, judged=64)
    small = DataSet(metric, 1000)
    numbers = (1, 16, MOST_QUERIES)
    return [kind(data, number) for data in (large, wide, small) for number in numbers]
