"""Two-stage search, filters, and the building of an index."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ctxembed
import numpy as np

from benches import ranking, vectors
from benches.cases.search import TOLERANCE, DataSet, SearchCase
from benches.harness import Case, Peer, Verdict
from benches.peers import search as peers

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

RECALL = 0.99
JUDGED = 256
"""The number of queries to measure recall with, and of others to calibrate with."""

MANY = 64
ALLOWED = 0.01


# --- two stages ---


def _search(name: str, **options: str) -> Callable[[StageCase, int], Callable[[], Any]]:
    """Return a ``prepare`` that searches the index with options."""

    def prepare(case: StageCase, threads: int) -> Callable[[], Any]:
        index, queries, count = case.index, case.queries, peers.threads_of(threads)
        if name == "two-stage":
            case.data.cache.get("calibration", case.calibrate)

        def search(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = index.search(queries, case.k, threads=count, **options)
            return found.ids, found.scores

        # Recall is measured over all queries, since one query says little.
        case.data.cache.get(("all", name), lambda: search(case.data.queries)[0])
        return lambda: search(queries)

    return prepare


@dataclass(frozen=True, eq=False)
class StageCase(SearchCase):
    """The stages and metrics of one index."""

    group: ClassVar = "stages"
    table: ClassVar = "stages"

    @property
    def index(self) -> ctxembed.Index:
        def build() -> ctxembed.Index:
            index = ctxembed.Index(self.dims)
            index.add(self.data.rows)
            return index

        return self.data.cache.get("index", build)

    def calibrate(self) -> Any:
        """Choose the oversample with queries that the case does not search for."""
        return self.index.calibrate(vectors.int8_vectors(5, JUDGED, self.dims), self.k, recall=RECALL)

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Check an approximate search by the scores of the rows that it found, an exact one as any other."""
        if peer.exact:
            return super().judge(peer, result)
        ids, scores = result
        recall = ranking.recall(self.data.cache.entries["all", peer.name], self.data.best[0])
        note, values = f"recall {recall:.3f}", {"recall@10": recall}
        rows = self.data.rows[ids[0]]
        if peer.name == "two-stage":
            note = f"{note}, oversample {self.index.oversample}"
            expected = self.data.scores(self.queries[:1], rows)[0]
        else:
            query = self.queries[0].astype(int) if peer.name == "asymmetric" else np.where(self.queries[0] < 0, -1, 1)
            expected = np.where(rows < 0, -1, 1) @ query
            expected = (self.dims - expected) // 2 if peer.name == "Hamming" else expected
        correct = bool(np.abs(scores[0] - expected).max() <= TOLERANCE)
        assert correct, f"{peer.name} on {self.label}: the scores are not those of the rows"
        return Verdict(correct, note, values)


# --- filters ---


def _filtered(form: Callable[[np.ndarray], np.ndarray]) -> Callable[[FilterCase, int], Callable[[], Any]]:
    """Search the allowed rows, given by ``form`` as a boolean for each row or as an array of ids."""

    def prepare(case: FilterCase, threads: int) -> Callable[[], Any]:
        index, queries, mask, count = case.index, case.queries, form(case.mask), peers.threads_of(threads)

        def call() -> tuple[np.ndarray, np.ndarray]:
            found = index.search(queries, case.k, mask=mask, threads=count)
            return found.ids, found.scores

        return call

    return prepare


def _gather(case: FilterCase, _threads: int) -> Callable[[], np.ndarray]:
    rows, mask = case.data.rows, case.mask
    return lambda: rows[mask]


@dataclass(frozen=True, eq=False)
class FilterCase(StageCase):
    """A search in which one row in a hundred is allowed, beside a search of all rows."""

    table: ClassVar = "filters"

    @property
    def label(self) -> str:
        return f"{super().label}, filtered"

    @cached_property
    def mask(self) -> np.ndarray:
        return np.random.default_rng(8).random(self.data.count) < ALLOWED

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Compare with the exact result among the allowed rows."""
        if peer.kind == "reference":
            return Verdict(bool((result == self.data.rows[self.mask]).all()))
        if peer.name == "all rows":
            return super().judge(peer, result)
        allowed = np.flatnonzero(self.mask)
        scores = self.data.scores(self.queries, self.data.rows[allowed])
        best = -np.sort(-scores, axis=1)[:, : self.k]
        place = np.searchsorted(allowed, result[0])
        known = bool(self.mask[result[0]].all())
        got = np.take_along_axis(scores, np.minimum(place, len(allowed) - 1), axis=1)
        same = bool(np.abs(got - best).max() <= TOLERANCE)
        return Verdict(known and same and bool(np.abs(result[1] - best).max() <= TOLERANCE))


# --- building ---


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _build(case: BuildCase, _threads: int) -> Callable[[], ctxembed.Index]:
    rows = case.data.rows

    def build() -> ctxembed.Index:
        index = ctxembed.Index(case.dims)
        index.add(rows)
        return index

    before = _resident()
    index = build()
    case.memory["bytes a row"] = (_resident() - before) / len(index)
    return build


def _copy(case: BuildCase, _threads: int) -> Callable[[], np.ndarray]:
    rows = case.data.rows
    into = np.zeros_like(rows)
    np.copyto(into, rows)

    def call() -> np.ndarray:
        np.copyto(into, rows)
        return into

    return call


def _fresh_copy(case: BuildCase, _threads: int) -> Callable[[], np.ndarray]:
    return case.data.rows.copy


@dataclass(frozen=True, eq=False)
class BuildCase(Case):
    """The time to build an index of all rows, and its memory."""

    data: DataSet
    memory: dict[str, float] = field(default_factory=dict)

    group: ClassVar = "stages"
    table: ClassVar = "building"

    @property
    def dims(self) -> int:
        return self.data.dims

    @property
    def label(self) -> str:
        return f"{self.data.count:,} x {self.dims} int8, built"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": self.data.count, "dimensions": self.dims}

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Check that the index finds its first and last row, or that a copy equals the rows."""
        if peer.kind == "reference":
            return Verdict(bool((result[::997] == self.data.rows[::997]).all()))
        ends = self.data.rows[[0, -1]]
        found = result.search(ends, 1)
        correct = len(result) == self.data.count and bool((self.data.rows[found.ids[:, 0]] == ends).all())
        per_row = self.memory["bytes a row"]
        return Verdict(correct, f"{per_row:,.0f} bytes a row ({per_row / self.dims:.2f}x)", dict(self.memory))


PEERS = {
    StageCase: (
        Peer("exact", _search("exact"), "ours", threaded=True),
        Peer("two-stage", _search("two-stage", stage="two-stage"), "ours", threaded=True, exact=False),
        Peer("asymmetric", _search("asymmetric", metric="asymmetric"), "ours", threaded=True, exact=False),
        Peer("Hamming", _search("Hamming", stage="binary"), "ours", threaded=True, exact=False),
        Peer("reading every byte once", peers.read_once, "reference", threaded=True, takes=peers.one_query),
    ),
    FilterCase: (
        Peer("all rows", _search("exact"), "ours", threaded=True),
        Peer("mask, 1 % allowed", _filtered(np.asarray), "ours", threaded=True),
        Peer("list of ids, 1 %", _filtered(np.flatnonzero), "ours", threaded=True),
        Peer("numpy's copy of the allowed rows", _gather, "reference"),
    ),
    BuildCase: (
        Peer("ctxembed.Index.add", _build, "ours"),
        Peer("a copy of the rows", _copy, "reference"),
        Peer("a copy to new memory", _fresh_copy, "reference"),
    ),
}


def cases(scale: Scale) -> list[Case]:
    rows = {"smoke": 12_000, "quick": 100_000, "full": 1_000_000}[scale]
    data = DataSet("cosine", rows, query_count=JUDGED, judged_queries=JUDGED)
    found: list[Case] = [kind(data, count) for kind in (StageCase, FilterCase) for count in (1, MANY)]
    return [*found, BuildCase(data)]


def test_stages(run, measure):
    measure(run)
