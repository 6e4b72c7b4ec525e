"""Collections: the processor time and memory of an ingestion, opening, and searches with and without filters."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benches.cases.collections import PAGES, YEARS, Corpus, Searched
from benches.harness import ALL_THREADS, Case, Peer, Verdict
from benches.peers import collections as peers
from benches.peers import ingestion

if TYPE_CHECKING:
    from benches.harness import Scale
    from benches.peers.collections import Found
    from benches.peers.ingestion import Took


class CollectionCase(Case):
    """A case on collections. All threads are used: a collection has no option for them."""

    group: ClassVar = "collections"
    threads: ClassVar = (ALL_THREADS,)


# --- ingestion ---


@dataclass(frozen=True, eq=False)
class IngestCase(CollectionCase):
    """Documents that are embedded by a server of prepared responses, and stored."""

    table: ClassVar = "ingestion, processor time"
    suffix: ClassVar = ""
    timed: ClassVar = True
    corpus: Corpus

    @property
    def label(self) -> str:
        return f"{self.corpus.documents:,} documents x {self.corpus.chunks} chunks{self.suffix}"

    @property
    def size(self) -> dict[str, int]:
        corpus = self.corpus
        return {"documents": corpus.documents, "chunks": corpus.chunks, "dimensions": corpus.dimensions}

    def judge(self, _peer: Peer, result: Took) -> Verdict:
        """Take the check of the process, and show the time of a chunk and the memory."""
        chunk = result.cpu / (self.corpus.documents * self.corpus.chunks)
        memory = result.peak - ingestion.base_peak()
        note = f"{chunk * 1e6:.1f} µs a chunk, +{memory / 2**20:.0f} MB"
        return Verdict(result.correct, note, {"wall": round(result.wall, 2), "memory": memory})


class LongIngestCase(IngestCase):
    """An ingestion that is measured once, for its memory."""

    once: ClassVar = True


class AgainCase(IngestCase):
    """The same documents once more: nothing is sent."""

    table: ClassVar = "an unchanged run, wall clock"
    suffix: ClassVar = ", unchanged"

    def judge(self, _peer: Peer, result: Took) -> Verdict:
        """Take the check of the process."""
        return Verdict(result.correct, "", {"cpu": round(result.cpu, 2)})


# --- search ---


@dataclass(frozen=True, eq=False)
class OpenCase(CollectionCase):
    """Opening, the number of documents, and closing."""

    table: ClassVar = "opening"
    suffix: ClassVar = ", opened"
    data: Searched

    @property
    def label(self) -> str:
        return f"{self.data.count:,} chunks{self.suffix}"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": self.data.count, "dimensions": self.data.corpus.dimensions}

    def judge(self, _peer: Peer, result: int) -> Verdict:
        """Compare the number of documents."""
        return Verdict(result == self.data.corpus.documents)


class ColdCase(OpenCase):
    """A process that starts, searches once and ends; the files are in the page cache."""

    table: ClassVar = "a search in a new process"
    suffix: ClassVar = ", a new process"
    timed: ClassVar = True

    def judge(self, peer: Peer, result: Took) -> Verdict:
        """Compare the hits that were printed."""
        note = f"+{(result.peak - ingestion.base_peak()) / 2**20:.0f} MB"
        if peer.kind == "reference":
            return Verdict(correct=True)
        if peer.name == "ctxembed search":
            return Verdict(len(json.loads(result.output)) > 0, note)
        hits = [line.split() for line in result.output.splitlines()]
        ids = np.array([self.data.row(document, int(chunk)) for document, chunk, _ in hits])
        return Verdict(self.data.is_best(0, ids, np.array([float(score) for *_, score in hits])), note)


@dataclass(frozen=True, eq=False)
class WarmCase(OpenCase):
    """A search of an open collection."""

    table: ClassVar = "a search, k = 10"
    suffix: ClassVar = ", 1 query"
    mask: ClassVar[np.ndarray | None] = None

    def where(self, _turn: int) -> tuple[str | None, tuple[Any, ...]]:
        """Return the filter of a call, and its parameters."""
        return None, ()

    def judge(self, peer: Peer, result: Found) -> Verdict:
        """Compare with the exact result."""
        number, ids, scores = result
        if peer.exact:
            return Verdict(self.data.is_best(number, ids, scores, self.mask))
        exact = self.data.scores[number]
        allowed = np.ones(len(exact), np.bool_) if self.mask is None else self.mask
        best = np.argsort(-np.where(allowed, exact, -2))[: len(ids)]
        recall = np.isin(ids, best).mean()
        return Verdict(bool(allowed[ids].all() and recall > 0.5), f"recall {recall:.3f}")


@dataclass(frozen=True, eq=False)
class WhereCase(WarmCase):
    """A search among the documents of some years."""

    table: ClassVar = "a search with a filter, k = 10"
    years: int

    @property
    def label(self) -> str:
        return f"{super().label}, {self.years / YEARS:.0%} of the documents"

    @cached_property
    def mask(self) -> np.ndarray:
        """The rows of these documents."""
        return self.data.metadata["year"] < 2000 + self.years

    def where(self, turn: int) -> tuple[str | None, tuple[Any, ...]]:
        """Return a filter with another bound between the same two years at each call."""
        return "year < ?", (2000 + self.years - 1 / (turn % 1000 + 2),)


class NewFieldCase(WhereCase):
    """A search with a filter by a field that has no column yet. It is measured once, since the search makes one."""

    table: ClassVar = "the first filter by a field"
    suffix: ClassVar = ", a new field"
    once: ClassVar = True

    @cached_property
    def mask(self) -> np.ndarray:
        """The rows of the documents with the lowest pages."""
        return self.data.metadata["page"] < self._pages

    @property
    def _pages(self) -> int:
        return PAGES * self.years // YEARS

    def where(self, turn: int) -> tuple[str | None, tuple[Any, ...]]:
        """Return a filter by pages."""
        return "page < ?", (self._pages - 1 / (turn + 2),)


_LANCE = (Peer("LanceDB, flat", peers.lance, exact=False),) if peers.HAS_LANCE else ()
_LANCE_OPEN = (Peer("LanceDB", peers.lance_open),) if peers.HAS_LANCE else ()
_FAISS = Peer("faiss int8 + SQLite", peers.faiss_sqlite, exact=False)
_INGESTING = (
    Peer("Client.stream", ingestion.stream, "ours"),
    Peer("Collection.ingest", ingestion.ingest, "ours"),
    Peer("ctxembed embed", ingestion.embed_command, "ours"),
)

PEERS = {
    IngestCase: _INGESTING,
    LongIngestCase: _INGESTING[:2],
    AgainCase: (
        Peer("Collection.ingest", ingestion.again, "ours"),
        Peer("ctxembed embed", ingestion.embed_command_again, "ours"),
    ),
    OpenCase: (
        Peer("Collection, to read", peers.open_to_read, "ours"),
        Peer("Collection, to write", peers.open_to_write, "ours"),
        *_LANCE_OPEN,
    ),
    ColdCase: (
        Peer("import numpy, httpx + one scan", peers.import_and_scan, "reference"),
        Peer("Collection.search", peers.search_process, "ours"),
        Peer("ctxembed search", peers.search_command, "ours"),
    ),
    WarmCase: (
        Peer("Index.search", peers.search_index, "ours"),
        Peer("Index.search, mapped file", peers.search_mapped, "ours"),
        Peer("Collection.search", peers.search_collection, "ours"),
        _FAISS,
        *_LANCE,
    ),
    WhereCase: (
        Peer("Collection.search", peers.search_collection, "ours"),
        Peer("Collection.search, the same filter", peers.search_collection_again, "ours"),
        Peer("Index.search, mask", peers.search_index, "ours"),
        _FAISS,
        *_LANCE,
    ),
    NewFieldCase: (
        Peer("Collection.search, to read: no column", peers.search_collection, "ours"),
        Peer("to write: makes the column", peers.search_with_new_column, "ours"),
    ),
}


def cases(scale: Scale) -> list[Case]:
    part = {"smoke": 1000, "quick": 20, "full": 1}[scale]
    corpus = Corpus(200_000 // part)
    data = Searched(Corpus(200_000 // part, chunks=5, metadata=True))
    found: list[Case] = [IngestCase(corpus), AgainCase(corpus)]
    if scale == "full":
        found.append(LongIngestCase(Corpus(1_000_000)))
    filtered = [WhereCase(data, 1), WhereCase(data, YEARS // 2), NewFieldCase(data, 1)]
    return [*found, OpenCase(data), ColdCase(data), WarmCase(data), *filtered]


def test_collections(run, measure):
    measure(run)
