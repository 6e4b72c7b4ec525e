"""Exact search along one axis at a time, from a base case that all axes share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benches import vectors
from benches.cases.search import DataSet, SearchCase
from benches.harness import ALL_THREADS, Peer
from benches.peers import search as peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Case, Scale, Verdict

MOST_DIMS = 2560
JUDGED = 4
"""The number of queries, from the first, whose results are compared with the reference, which is slow."""

ROWS = {"hamming": (1_000_000, [10_000, 100_000, 10_000_000]), "cosine": (250_000, [1000, 10_000, 100_000, 1_000_000])}
MOST_ROWS = {"hamming": 10_000_000, "cosine": 2_500_000}
QUERIES = (1, 4, 16, 64, 256, 1024)
DIMS = (128, 512, 1024, 2560)
FEW_AND_MANY = (1, 256)


class Source:
    """The widest rows of a metric, of which every data set is a part, and the one data set in memory."""

    def __init__(self, metric: str, base: int) -> None:
        self.metric, self.base = metric, base
        self.held: GrownSet | None = None

    @cached_property
    def rows(self) -> np.ndarray:
        make = vectors.binary_vectors if self.metric == "hamming" else vectors.int8_vectors
        return make(3, self.base, MOST_DIMS)

    def hold(self, data: GrownSet) -> None:
        """Free the data set that was in memory before: two large ones do not fit every machine."""
        if self.held is not None and self.held is not data:
            self.held.cache.entries.clear()
            for name in ("rows", "best"):
                self.held.__dict__.pop(name, None)
        self.held = data


@dataclass(frozen=True, eq=False)
class GrownSet(DataSet):
    """The first rows and dimensions of the source. Further rows are grown from them."""

    source: Source | None = None

    @cached_property
    def rows(self) -> np.ndarray:
        wide = self.source.rows[: self.count]
        cut = np.ascontiguousarray(wide[:, : wide.shape[1] * self.dims // MOST_DIMS])
        return cut if self.count <= len(wide) else vectors.grown(cut, self.count)


def _prepared(prepare: Callable[..., Any]) -> Callable[..., Any]:
    def held(case: ScalingCase, threads: int) -> Any:
        case.data.source.hold(case.data)
        return prepare(case, threads)

    return held


@dataclass(frozen=True, eq=False)
class ScalingCase(SearchCase):
    """A point on an axis."""

    group: ClassVar = "scaling"
    threads: ClassVar = tuple(sorted({*(1 << i for i in range(ALL_THREADS.bit_length())), ALL_THREADS}))

    @property
    def table(self) -> str:
        return "bits, Hamming distance" if self.metric == "hamming" else "int8, cosine"

    @property
    def size(self) -> dict[str, int]:
        bases = {"base rows": self.data.source.base, "base dimensions": 1024}
        return {**super().size, "row bytes": self.data.bytes, **bases}

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Compare the first few queries with the reference, and check the order and range of all results."""
        verdict = super().judge(peer, result)
        if peer.kind == "reference":
            return verdict
        ids, scores = result
        step = np.diff(scores.astype(np.float64), axis=1) * (1 if self.metric == "hamming" else -1)
        sound = bool((step >= 0).all() and (ids >= 0).all() and (ids < self.data.count).all())
        return replace(verdict, correct=verdict.correct and sound)


PEERS = {
    ScalingCase: (
        Peer("ctxembed index", _prepared(peers.ours_index), "ours", threaded=True),
        Peer("reading every byte once", _prepared(peers.read_once), "reference", threaded=True, takes=peers.one_query),
    ),
}


def _design(metric: str, part: int) -> list[tuple[int, int, int]]:
    """Return the cases as (rows, dimensions, queries), grouped by data set, from the base case on."""
    base, sizes = ROWS[metric]
    sizes = [base, *sizes] + ([] if MOST_ROWS[metric] in sizes else [MOST_ROWS[metric]])
    along = [(base, 1024, queries) for queries in QUERIES]
    along += [(rows, 1024, queries) for rows in sizes[1:] for queries in FEW_AND_MANY]
    along += [(base, dims, queries) for dims in DIMS if dims != 1024 for queries in FEW_AND_MANY]
    return [(max(rows // part, 100), dims, queries) for rows, dims, queries in along]


def cases(scale: Scale) -> list[Case]:
    part = {"smoke": 250, "quick": 10, "full": 1}[scale]
    found: list[Case] = []
    for metric in ROWS:
        source = Source(metric, ROWS[metric][0] // part)
        sets: dict[tuple[int, int], GrownSet] = {}
        for rows, dims, queries in dict.fromkeys(_design(metric, part)):
            if (rows, dims) not in sets:
                sets[rows, dims] = GrownSet(
                    metric, rows, dims, query_count=max(QUERIES), judged_queries=JUDGED, source=source
                )
            found.append(ScalingCase(sets[rows, dims], queries))
    return found


def test_scaling(run, measure):
    measure(run)
