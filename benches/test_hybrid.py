"""Hybrid search: its time beside that of the vectors alone, building the index of words, and its quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benches import ranking, texts
from benches.cases.collections import TOLERANCE, YEARS, K
from benches.cases.hybrid import Asked, Judged, WordyCorpus
from benches.harness import ALL_THREADS, Case, Peer, Verdict
from benches.peers import hybrid as peers

if TYPE_CHECKING:
    from ctxembed import Hit

    from benches.harness import Scale


@dataclass(frozen=True, eq=False)
class HybridCase(Case):
    """Questions with vectors and words. All threads are used: a collection has no option for them."""

    group: ClassVar = "hybrid"
    table: ClassVar = "a question of eight words, k = 10"
    threads: ClassVar = (ALL_THREADS,)
    data: Asked

    @property
    def label(self) -> str:
        return f"{self.data.count:,} chunks"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": self.data.count, "dimensions": self.data.corpus.dimensions}

    def where(self, _turn: int) -> tuple[str | None, tuple[Any, ...]]:
        """Return the filter of a call, and its parameters."""
        return None, ()

    def judge(self, peer: Peer, result: tuple[int, list[Any]]) -> Verdict:
        """Check the order of the hits and their vectors' scores. ``tests/collection`` has an oracle of all scores."""
        number, hits = result
        if peer.kind != "ours":
            return Verdict(0 < len(hits) <= K)
        return Verdict(len(hits) == K and self._are_right(number, hits))

    def _are_right(self, number: int, hits: list[Hit]) -> bool:
        scores = [hit.score for hit in hits]
        rows = [self.data.row(hit.document, hit.chunk) for hit in hits]
        exact = self.data.scores[number][rows]
        near = np.abs(exact - [hit.vector_score for hit in hits]).max() <= TOLERANCE
        return bool(near and scores == sorted(scores, reverse=True) and len(set(rows)) == K)


class FilteredCase(HybridCase):
    """Questions to a part of the documents, with another filter at each call."""

    table: ClassVar = "with a filter, k = 10"

    @property
    def label(self) -> str:
        return f"{super().label}, {1 / YEARS:.0%} of the documents"

    def where(self, turn: int) -> tuple[str | None, tuple[Any, ...]]:
        """Return a filter with another bound between the same two years at each call."""
        return "year < ?", (2001 - 1 / (turn % 1000 + 2),)


class BuildCase(HybridCase):
    """The first hybrid search of a collection."""

    table: ClassVar = "building the index of words"
    once: ClassVar = True

    @property
    def label(self) -> str:
        return f"{super().label}, the first search"

    def judge(self, _peer: Peer, result: list[Hit]) -> Verdict:
        """Check the hits."""
        return Verdict(len(result) == K and self._are_right(0, result))


@dataclass(frozen=True, eq=False)
class RankingCase(Case):
    """All queries of Cranfield, one after the other."""

    group: ClassVar = "hybrid"
    table: ClassVar = "225 queries of Cranfield, k = 10"
    threads: ClassVar = (ALL_THREADS,)
    data: Judged

    label: ClassVar = "1,400 abstracts"
    size: ClassVar = {"rows": 1400, "queries": 225, "k": K}

    def judge(self, _peer: Peer, result: np.ndarray) -> Verdict:
        """Compare with the judgements."""
        found = ranking.mean_ndcg(result, self.data.data.judged, K)
        return Verdict(0 < found < 1, f"nDCG@10 {found:.4f}", {"nDCG@10": found})


_SEARCHING = (
    Peer("vectors alone", peers.vectors, "ours"),
    Peer("hybrid=True", peers.both, "ours"),
)
PEERS = {
    HybridCase: (*_SEARCHING, Peer("SQLite FTS5, words alone", peers.fts5)),
    FilteredCase: _SEARCHING,
    BuildCase: (Peer("Collection.search", peers.build, "ours"),),
    RankingCase: (
        Peer("vectors alone", peers.judged_vectors, "ours"),
        Peer("words alone (BM25)", peers.judged_words, "ours"),
        Peer("hybrid=True", peers.judged_both, "ours"),
    ),
}


def cases(scale: Scale) -> list[Case]:
    part = {"smoke": 500, "quick": 20, "full": 1}[scale]
    data = Asked(WordyCorpus(150_000 // part, chunks=4, metadata=True))
    found: list[Case] = [BuildCase(data), HybridCase(data), FilteredCase(data)]
    return [*found, RankingCase(Judged())] if texts.DATA.is_dir() else found


def test_hybrid(run, measure):
    measure(run)
