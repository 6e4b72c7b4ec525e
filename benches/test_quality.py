"""The quality of each search method on real text: nDCG@10, and the recall of the exact top ten."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import ctxembed
import numpy as np
import pytest

from benches import ranking, texts
from benches.harness import Case, Peer, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

pytestmark = pytest.mark.skipif(not texts.DATA.is_dir(), reason="../shared/data is absent: no text to embed")

K = 10
RECALL = 0.99
COLLECTIONS = {"Cranfield": texts.cranfield, "passages": texts.passages}


def _search(**options: str) -> Callable[[QualityCase, int], Callable[[], ctxembed.Matches]]:
    """Return a ``prepare`` that searches the index with options. Two-stage is calibrated on every other query."""

    def prepare(case: QualityCase, _threads: int) -> Callable[[], ctxembed.Matches]:
        index, queries = case.index, case.queries
        if options.get("stage") == "two-stage":
            index.calibrate(np.ascontiguousarray(queries[::2]), K, recall=RECALL)
        return lambda: index.search(queries, K, **options)

    return prepare


@dataclass(frozen=True, eq=False)
class QualityCase(Case):
    """A search for all queries of a collection, at a number of dimensions."""

    collection: str
    dims: int

    group: ClassVar = "quality"
    table: ClassVar = "all queries at once"

    @property
    def label(self) -> str:
        return f"{self.collection}, {self.dims} dimensions"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": len(self.rows), "dimensions": self.dims, "queries": len(self.queries), "k": K}

    @property
    def _all(self) -> texts.Collection:
        return COLLECTIONS[self.collection]()

    @cached_property
    def rows(self) -> np.ndarray:
        return ctxembed.truncate(self._all.rows, self.dims)

    @cached_property
    def queries(self) -> np.ndarray:
        return ctxembed.truncate(self._all.queries, self.dims)

    @cached_property
    def index(self) -> ctxembed.Index:
        index = ctxembed.Index(self.dims)
        index.add(self.rows)
        return index

    @cached_property
    def full(self) -> np.ndarray:
        """The exact top k at all dimensions, the reference for recall."""
        return self.top(cosines(self._all.queries, self._all.rows))

    @staticmethod
    def top(scores: np.ndarray) -> np.ndarray:
        return np.argsort(-scores, axis=1, kind="stable")[:, :K]

    def scores(self, peer: Peer) -> np.ndarray:
        """Return all scores of a method by its definition. A higher score is better."""
        if peer.name in {"exact int8", "two-stage"}:
            return cosines(self.queries, self.rows)
        queries = self.queries if peer.name == "asymmetric" else np.where(self.queries >= 0, 1, -1)
        products = queries.astype(np.float32) @ np.where(self.rows >= 0, 1, -1).astype(np.float32).T
        return products if peer.name == "asymmetric" else (products - self.dims) / 2

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Check that the scores belong to the rows, and that no other row has a better score.

        Two-stage may miss a row, so only its scores are checked.
        """
        scores = self.scores(peer)
        best = np.take_along_axis(scores, self.top(scores), axis=1)
        got = np.take_along_axis(scores, result.ids, axis=1)
        given = -result.scores if peer.name == "Hamming" else result.scores
        correct = bool(np.abs(got - given).max() <= 1e-6)
        if peer.name != "two-stage":
            correct = correct and bool(np.abs(got - best).max() <= 1e-6)
        values = {
            "nDCG@10": ranking.mean_ndcg(result.ids, self._all.judged, K),
            "recall@10": ranking.recall(result.ids, self.full),
        }
        assert correct, f"{peer.name} on {self.label}: the scores are wrong"
        note = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        if peer.name == "two-stage":
            note = f"{note}, oversample {self.index.oversample}"
        return Verdict(correct, note, values)


def cosines(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return all cosines. The products of 1,024 int8 values stay below 2 ** 24, so float32 is exact."""
    queries, rows = queries.astype(np.float32), rows.astype(np.float32)
    lengths = [np.sqrt(np.square(side).sum(axis=1, dtype=np.float64)) for side in (queries, rows)]
    return (queries @ rows.T) / (lengths[0][:, None] * lengths[1])


PEERS = {
    QualityCase: (
        Peer("exact int8", _search(), "ours"),
        Peer("two-stage", _search(stage="two-stage"), "ours", exact=False),
        Peer("asymmetric", _search(metric="asymmetric"), "ours", exact=False),
        Peer("Hamming", _search(stage="binary"), "ours", exact=False),
    ),
}


def cases(scale: Scale) -> list[Case]:
    if not texts.DATA.is_dir():
        return []
    dims = (1024, 128) if scale == "smoke" else (1024, 512, 256, 128)
    names = ["Cranfield"] if scale == "smoke" else list(COLLECTIONS)
    return [QualityCase(name, d) for name in names for d in dims]


def test_quality(run, measure):
    measure(run)
