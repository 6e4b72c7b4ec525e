"""Chunks with ids and metadata of their own, as documents of a collection, and what a change makes of these.

A collection keeps metadata by document. What belongs to a chunk stands in the field ``langchain_chunks`` of its
document's metadata; fields that all chunks share stand beside it, where ``where`` finds them.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import numpy as np

from ctxembed._documents import Document
from ctxembed._errors import ChunkOrderError, CtxembedError
from ctxembed._results import Embeddings, EmbedError, Failure
from ctxembed.integrations._grouping import check_order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from ctxembed._collection.collection import Collection
    from ctxembed._documents import IngestReport

__all__ = ["FIELD", "Changes", "Chunk", "SharedState", "check_report", "chunk_at", "default_id", "shared_state"]

FIELD: Final = "langchain_chunks"
"""The field of a document's metadata that holds ids and metadata of its chunks."""

_NOT_SHARED: Final = ("id", "source", "start_index", FIELD)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as a framework knows it.

    Parameters
    ----------
    id : str
        Unique in the collection.
    text : str
        The text.
    metadata : dict
        All of it, with the source and the place.
    start : int or None
        The place in the document, in characters.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    start: int | None

    @property
    def span(self) -> tuple[int, int]:
        """The first position, and the one behind the last. Of a chunk with a place."""
        start = self.start or 0
        return start, start + len(self.text)


def default_id(document: str, place: int | None) -> str:
    """Return the id of a chunk that was given none: the same each time."""
    return f"{document}#{place or 0}"


def chunk_at(
    document: str,
    source: str | None,
    metadata: Mapping[str, Any] | None,
    *,
    position: int,
    text: str | None,
    span: tuple[int, int] | None,
) -> Chunk:
    """Return a chunk of a stored document.

    Parameters
    ----------
    document, source, metadata
        Of the document. Its id is what a framework calls the source; one without ``source`` is a text without.
    position, text, span
        Of the chunk.
    """
    shared = dict(metadata or {})
    known = shared.pop(FIELD, None)
    start = None if span is None else span[0]
    if known is None:  # stored by an ingestion
        shared["source"] = document
        if start is not None:
            shared["start_index"] = start
        return Chunk(default_id(document, position), text or "", shared, start)
    if source is not None:
        shared["source"] = document
    return Chunk(known[position]["id"], text or "", {**shared, **known[position]["metadata"]}, start)


def _chunks_of(document: Document) -> list[Chunk]:
    spans: Sequence[Any] = document.spans or [None] * len(document.chunks)
    return [
        chunk_at(document.id, document.source, document.metadata, position=position, text=text, span=span)
        for position, (text, span) in enumerate(zip(document.chunks, spans, strict=True))
    ]


def _document_of(name: str, source: str | None, chunks: Sequence[Chunk]) -> Document:
    first = chunks[0].metadata
    shared = {
        key: value
        for key, value in first.items()
        if key not in _NOT_SHARED
        and isinstance(value, str | int | float | None)
        and all(key in chunk.metadata and _is_same(chunk.metadata[key], value) for chunk in chunks)
    }
    own = [
        {
            "id": chunk.id,
            "metadata": {key: value for key, value in chunk.metadata.items() if key not in shared and key != "source"},
        }
        for chunk in chunks
    ]
    spans = None if any(chunk.start is None for chunk in chunks) else [chunk.span for chunk in chunks]
    return Document(name, [chunk.text for chunk in chunks], {**shared, FIELD: own}, spans, source)


def _is_same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


@dataclass(slots=True)
class _Draft:
    """A document, what is stored of it, and what is to come."""

    name: str
    source: str | None
    kept: list[Chunk]
    new: list[Chunk] = field(default_factory=list)

    def merged(self, *, whole: bool, max_gap: int | None) -> list[Chunk]:
        """Return the chunks of the document after the change, in order."""
        if not self.new:
            return self.kept
        starts = {chunk.start for chunk in self.new}
        new_ids = {chunk.id for chunk in self.new}
        if self.source is not None and len(self.new) > 1:
            if None in starts:
                raise ChunkOrderError(
                    self.name,
                    None,
                    f"a chunk has no start_index, so the order of its {len(self.new)} chunks is not known: splitters "
                    f"set it with add_start_index=True",
                )
            if len(starts) < len(self.new):
                twice = _twice(chunk.start for chunk in self.new)
                raise ChunkOrderError(self.name, twice, f"two chunks have start_index {twice}")
        if len(new_ids) < len(self.new):
            raise ValueError(f"two chunks have the id {_twice(chunk.id for chunk in self.new)!r}")
        if self.source is None:
            return self.new
        stored = [] if whole else self.kept
        kept = [chunk for chunk in stored if chunk.start not in starts and chunk.id not in new_ids]
        if kept and (None in starts or any(chunk.start is None for chunk in kept)):
            raise ChunkOrderError(
                self.name,
                None,
                f"{len(self.new)} of its chunks cannot be put among the {len(kept)} that are stored, since not all "
                f"have a start_index: pass all chunks of the document with whole=True",
            )
        if None in starts:
            return self.new
        kept = self._agreeing(kept)
        chunks = sorted([*kept, *self.new], key=lambda chunk: chunk.start or 0)
        known = {(one.start or 0, other.start or 0) for one, other in pairwise(stored)}
        check_order(self.name, [chunk.span for chunk in chunks], "start_index", max_gap=max_gap, adjacent=known)
        return chunks

    def _agreeing(self, kept: list[Chunk]) -> list[Chunk]:
        """Return what is stored without chunks of an older text: those that new chunks overlap with another text.

        A new chunk at the place of a stored one takes its place and no more: only where the document was split in
        another way do chunks contradict each other.
        """
        places = {chunk.start for chunk in self.kept}
        new = sorted((chunk for chunk in self.new if chunk.start not in places), key=lambda chunk: chunk.span)
        places |= {chunk.start for chunk in new}
        if not new or places == set(range(len(places))):  # places that count chunks
            return kept
        starts = [chunk.span[0] for chunk in new]
        longest = max(len(chunk.text) for chunk in new)
        agreeing = []
        for chunk in kept:
            start, stop = chunk.span
            near = new[bisect_left(starts, start - longest) : bisect_left(starts, stop)]
            other = next((other for other in near if _contradict(chunk, other)), None)
            if other is None:
                agreeing.append(chunk)
            elif any(_contradict(one, another) for one, another in pairwise(self.kept)):
                raise ChunkOrderError(
                    self.name,
                    other.start,
                    f"start_index {other.start} lies within the stored chunk at {start}, whose text is another there, "
                    f"and the stored chunks contradict each other too: pass all chunks of the document with whole=True",
                )
        return agreeing


def _twice(values: Iterable[Any]) -> Any:
    """Return the first value that comes again."""
    return next(value for value, count in Counter(values).items() if count > 1)


def _contradict(one: Chunk, other: Chunk) -> bool:
    """Return whether two chunks have different texts where they overlap."""
    first, second = (one, other) if one.span <= other.span else (other, one)
    beyond = second.span[0] - first.span[0]
    shared = first.text[beyond : beyond + len(second.text)]
    return second.text[: len(shared)] != shared


class SharedState:
    """What all stores of one open collection share.

    Attributes
    ----------
    lock : threading.Lock
        Held from reading what is stored to storing what it becomes.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._owners: dict[str, str] | None = None
        self._reading = threading.Lock()  # what is remembered while all documents are read is not lost

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the lock. A worker thread waits for it, so that the event loop goes on."""
        guard = threading.Lock()
        is_held = has_left = False

        def take() -> None:
            nonlocal is_held
            self.lock.acquire()
            with guard:
                is_held = not has_left
                if has_left:  # the task was cancelled meanwhile
                    self.lock.release()

        try:
            # A limiter of its own: those who wait take no thread from the one who works.
            await anyio.to_thread.run_sync(take, limiter=anyio.CapacityLimiter(1))
            yield
        finally:
            with guard:
                has_left = True
                if is_held:
                    self.lock.release()

    def owners(self, collection: Collection, *, anew: bool = False) -> dict[str, str]:
        """Return the document of each chunk whose id does not tell it. The first call reads all documents.

        What it says is to be checked: documents may have been changed since.
        """
        with self._reading:
            if self._owners is None or anew:
                self._owners = {
                    chunk.id: document.id
                    for document in collection.documents()
                    if FIELD in (document.metadata or {})
                    for chunk in _chunks_of(document)
                    if document.id not in _candidates(chunk.id)
                }
            return self._owners

    def remember(self, documents: Iterable[Document]) -> None:
        """Keep the owners of the chunks of documents that were stored."""
        with self._reading:
            if self._owners is not None:
                for document in documents:
                    self._owners.update((chunk.id, document.id) for chunk in _chunks_of(document))


_STATES: Final[weakref.WeakKeyDictionary[Collection, SharedState]] = weakref.WeakKeyDictionary()
_STATES_LOCK: Final = threading.Lock()


def shared_state(collection: Collection) -> SharedState:
    """Return the state that all stores of a collection share."""
    with _STATES_LOCK:
        return _STATES.setdefault(collection, SharedState())


def _candidates(chunk: str) -> tuple[str, str]:
    """Return the documents that an id may tell: a text without source is its own, the others are named before #."""
    return chunk, chunk.rpartition("#")[0]


class Changes:
    """What chunks that come and go make of the documents of a collection. Nothing is stored here.

    Parameters
    ----------
    collection : Collection
        The collection.
    state : SharedState
        Of the collection.
    """

    def __init__(self, collection: Collection, state: SharedState) -> None:
        self._collection = collection
        self._state = state
        self._stored: dict[str, list[Chunk]] = {}
        self._drafts: dict[str, _Draft] = {}
        self.documents: list[Document] = []
        """To be stored, after :meth:`settle`."""
        self.emptied: list[str] = []
        """Documents to be deleted, after :meth:`settle`."""

    def add(self, chunk: Chunk, source: str | None, *, is_given: bool) -> None:
        """Add a chunk, or put it in the place of the one with its id, wherever that is.

        Parameters
        ----------
        chunk : Chunk
            The chunk.
        source : str or None
            Its document; None for a text that is one.
        is_given : bool
            Whether its id was given. Others tell their document, or are new.
        """
        name = chunk.id if source is None else source
        if is_given:
            for owner in self._owners(chunk.id):
                if owner != name:
                    self._drop(owner, chunk.id)
        self._draft(name, source, new=True).new.append(chunk)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove chunks. Unknown ids are ignored."""
        for chunk, owner in self.find(ids).items():
            self._drop(owner, chunk)

    def find(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the document of each chunk that is stored."""
        names = list(dict.fromkeys(ids))
        found = {name: owner for name in names for owner in self._owners(name)}
        if len(found) < len(names):
            self._state.owners(self._collection, anew=True)
            found |= {name: owner for name in names if name not in found for owner in self._owners(name)}
        return {name: found[name] for name in names if name in found}

    def chunk(self, name: str, owner: str) -> Chunk:
        """Return a chunk that :meth:`find` has found."""
        return next(chunk for chunk in self._chunks(owner) if chunk.id == name)

    def settle(self, *, whole: bool = False, max_gap: int | None = None) -> None:
        """Check all documents, and tell what is to be stored and deleted.

        Parameters
        ----------
        whole : bool
            Whether the chunks that were added are all of their documents.
        max_gap : int, optional
            See :func:`~ctxembed.integrations._grouping.check_order`.

        Raises
        ------
        ChunkOrderError, ValueError
            A document would not be whole.
        """
        for draft in self._drafts.values():
            chunks = draft.merged(whole=whole, max_gap=max_gap)
            if chunks:
                self.documents.append(_document_of(draft.name, draft.source, chunks))
            else:
                self.emptied.append(draft.name)

    def _owners(self, chunk: str) -> list[str]:
        names = dict.fromkeys([*_candidates(chunk), self._state.owners(self._collection).get(chunk)])
        return [name for name in names if name and any(stored.id == chunk for stored in self._chunks(name))]

    def _chunks(self, name: str) -> list[Chunk]:
        if name not in self._stored:
            document = self._collection.get(name)
            self._stored[name] = [] if document is None else _chunks_of(document)
        return self._stored[name]

    def _draft(self, name: str, source: str | None, *, new: bool = False) -> _Draft:
        draft = self._drafts.get(name)
        if draft is None:
            document = self._collection.get(name)
            draft = self._drafts[name] = _Draft(name, source, list(self._chunks(name)))
            if document is not None:
                has_source = FIELD not in (document.metadata or {}) or document.source is not None
                if new and has_source != (source is not None):
                    what = "a document with that source" if has_source else "a text with that id, which has no source"
                    raise ValueError(f"{name!r} cannot be stored: {what} is in {self._collection.path}")
                draft.source = (document.source or name) if has_source else None
        elif new and (draft.source is None) != (source is None):
            raise ValueError(f"{name!r} is the source of one document and the id of another, which has no source")
        return draft

    def _drop(self, name: str, chunk: str) -> None:
        draft = self._draft(name, None)
        draft.kept = [kept for kept in draft.kept if kept.id != chunk]


def check_report(collection: Collection, documents: Sequence[Document], report: IngestReport) -> None:
    """Raise where an ingestion has not stored all documents.

    Raises
    ------
    EmbedError
        Documents failed.
    KeyboardInterrupt
        Ctrl-C ended it.
    """
    if report.stopped is not None:
        raise KeyboardInterrupt
    if not report.failed:
        return
    known = {failed.id: failed for failed in collection.failures()}
    failures = tuple(
        Failure(position, CtxembedError(f"{document.id!r}: {known[document.id].error}"), known[document.id].attempts)
        for position, document in enumerate(documents)
        if document.id in known
    )
    of_all = f"{report.failed} of {len(documents)} documents were not stored"
    nothing = Embeddings(
        collection.vectors([]),
        np.zeros(len(documents) + 1, np.int64),
        collection.model,
        collection.dimensions,
        collection.encoding_format,
        report.usage,
        failures,
    )
    raise EmbedError(f"{of_all}: {failures[0].error}" if failures else of_all, nothing, failures)
