"""What each way of searching costs in quality, on real text: nDCG@10, and how much of the exact top ten is found."""

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


def _way(**options: str) -> Callable[[QualityCase, int], Callable[[], ctxembed.Matches]]:
    """Search the index in a way that its options name. Two-stage is calibrated on every other query."""

    def prepare(case: QualityCase, _threads: int) -> Callable[[], ctxembed.Matches]:
        index, queries = case.index, case.queries
        if options.get("stage") == "two-stage":
            index.calibrate(np.ascontiguousarray(queries[::2]), K, recall=RECALL)
        return lambda: index.search(queries, K, **options)

    return prepare


@dataclass(frozen=True, eq=False)
class QualityCase(Case):
    """All queries of a collection at a number of dimensions."""

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
        """The exact top k at all dimensions, which is what a prefix is held against."""
        return self.top(cosines(self._all.queries, self._all.rows))

    @staticmethod
    def top(scores: np.ndarray) -> np.ndarray:
        return np.argsort(-scores, axis=1, kind="stable")[:, :K]

    def scores(self, peer: Peer) -> np.ndarray:
        """Return all scores of a method, the more the better, as its definition has them."""
        if peer.name in {"exact int8", "two-stage"}:
            return cosines(self.queries, self.rows)
        queries = self.queries if peer.name == "asymmetric" else np.where(self.queries >= 0, 1, -1)
        products = queries.astype(np.float32) @ np.where(self.rows >= 0, 1, -1).astype(np.float32).T
        return products if peer.name == "asymmetric" else (products - self.dims) / 2

    def judge(self, peer: Peer, answer: Any) -> Verdict:
        """Correct where the rows have the scores they are said to have, and none has a better one.

        Of two-stage, which may leave out a row, the first alone is asked.
        """
        scores = self.scores(peer)
        best = np.take_along_axis(scores, self.top(scores), axis=1)
        got = np.take_along_axis(scores, answer.ids, axis=1)
        said = -answer.scores if peer.name == "Hamming" else answer.scores
        correct = bool(np.abs(got - said).max() <= 1e-6)
        if peer.name != "two-stage":
            correct = correct and bool(np.abs(got - best).max() <= 1e-6)
        values = {
            "nDCG@10": ranking.mean_ndcg(answer.ids, self._all.judged, K),
            "recall@10": ranking.recall(answer.ids, self.full),
        }
        assert correct, f"{peer.name} on {self.label}: scores are not what they should be"
        note = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        if peer.name == "two-stage":
            note = f"{note}, oversample {self.index.oversample}"
        return Verdict(correct, note, values)


def cosines(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return all cosines. Products of int8 vectors of 1,024 are whole numbers below 2 ** 24: float32 is exact."""
    queries, rows = queries.astype(np.float32), rows.astype(np.float32)
    lengths = [np.sqrt(np.square(side).sum(axis=1, dtype=np.float64)) for side in (queries, rows)]
    return (queries @ rows.T) / (lengths[0][:, None] * lengths[1])


PEERS = {
    QualityCase: (
        Peer("exact int8", _way(), "ours"),
        Peer("two-stage", _way(stage="two-stage"), "ours", exact=False),
        Peer("asymmetric", _way(metric="asymmetric"), "ours", exact=False),
        Peer("Hamming", _way(stage="binary"), "ours", exact=False),
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
