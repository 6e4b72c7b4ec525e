"""The tools. Each returns a text for the assistant, and the same as JSON; both are bounded."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from ctxembed._mcp.results import Chunk, DocumentResult, Found, SearchResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._collection.collection import Collection
    from ctxembed._documents import Hit
    from ctxembed._mcp.arguments import DocumentArguments, SearchArguments

__all__ = ["CollectionTools"]

_MAX_TEXT: Final = 40_000
"""Characters of all chunks that a call returns: some 10,000 tokens."""

_MAX_METADATA: Final = 2_000
"""Characters of a document's metadata as JSON; what is longer is left out."""

_REFRESH_AFTER: Final = 5.0
"""Seconds for which a state of the collection is read before the last committed one is looked up."""


class CollectionTools:
    """The tools of a collection. Thread-safe.

    Parameters
    ----------
    collection : Collection
        Open for reading.
    embedder : object
        Embeds the questions: the ``client`` of :meth:`Collection.search`.
    """

    def __init__(self, collection: Collection, embedder: Any) -> None:
        self._collection = collection
        self._embedder = embedder
        self._read_at = time.monotonic()

    def describe(self) -> str:
        """Return a sentence on what there is."""
        view = self._current()._current()  # noqa: SLF001
        fields = ", ".join(view.columns.names)
        return (
            f"The collection has {view.documents:,} documents in {view.chunks:,} chunks. The names that where may use: "
            f"{fields}."
        )

    def search(self, arguments: SearchArguments) -> tuple[str, SearchResult]:
        """Find chunks."""
        collection = self._current()
        hits = collection.search(
            arguments.question,
            arguments.k,
            client=self._embedder,
            where=arguments.where,
            params=arguments.params,
            hybrid=arguments.hybrid,
            group_by_document=arguments.by_document,
            neighbours=arguments.neighbours,
        )
        room = max(1, _MAX_TEXT // max(1, len(hits)))
        found = [_found(hit, room) for hit in hits]
        lines = [f"{len(hits)} results, best first." if hits else "Nothing was found."]
        for place, each in enumerate(found, start=1):
            where = f"chunk {each.chunk}"
            if each.first != each.last:
                where += f" within chunks {each.first} to {each.last}"
            about = _about(each.source, each.metadata)
            text = "(the collection stores no text)" if each.text is None else each.text
            note = " [cut: get_document returns more]" if each.is_cut else ""
            lines += ["", f"[{place}] {each.document}, {where}, score {each.score:.4f}{about}", text + note]
        return "\n".join(lines), SearchResult(hits=found)

    def get_document(self, arguments: DocumentArguments) -> tuple[str, DocumentResult]:
        """Return a part of a document."""
        collection = self._current()
        document = collection.get(arguments.id)
        if document is None:
            raise ValueError(f"there is no document {arguments.id!r} in the collection: search returns ids")
        count = len(document.chunks) or len(collection.vectors([arguments.id]))
        if arguments.first and arguments.first >= count:
            raise ValueError(f"first must be below {count}, the number of chunks, got {arguments.first}")
        chunks: list[Chunk] = []
        room = _MAX_TEXT
        for number, text in enumerate(document.chunks[arguments.first :][: arguments.limit], start=arguments.first):
            if chunks and len(text) > room:
                break
            chunks.append(Chunk(chunk=number, text=text[:room], is_cut=len(text) > room))
            room -= len(text)
        end = arguments.first + len(chunks)
        result = DocumentResult(
            id=document.id,
            source=document.source,
            metadata=_short(document.metadata or {}),
            chunk_count=count,
            chunks=chunks,
            next=end if chunks and end < count else None,
        )
        which = f"from number {arguments.first}" if chunks else "whose text the collection does not store"
        lines = [f"{document.id}: {len(chunks)} of its {count} chunks, {which}{_about(result.source, result.metadata)}"]
        for chunk in chunks:
            lines += ["", f"[{chunk.chunk}] {chunk.text}" + (" [cut]" if chunk.is_cut else "")]
        if result.next is not None:
            lines += ["", f"The next chunks: get_document with first={result.next}."]
        return "\n".join(lines), result

    def _current(self) -> Collection:
        """Return the collection in a state that was the last one a few seconds ago."""
        now = time.monotonic()
        if now - self._read_at > _REFRESH_AFTER:
            self._read_at = now
            self._collection.refresh()
        return self._collection


def _found(hit: Hit, room: int) -> Found:
    text = hit.passage
    is_cut = text is not None and len(text) > room
    if text is not None and is_cut:
        start = min(max(0, (hit.passage_offset or 0) - room // 4), len(text) - room)
        text = text[start : start + room]
    first, stop = hit.passage_chunks or (hit.chunk, hit.chunk + 1)
    return Found(
        document=hit.document,
        chunk=hit.chunk,
        score=hit.score,
        text=text,
        is_cut=is_cut,
        first=first,
        last=stop - 1,
        source=hit.source,
        metadata=_short(hit.metadata),
    )


def _short(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    return dict(metadata) if len(json.dumps(metadata)) <= _MAX_METADATA else None


def _about(source: str | None, metadata: Mapping[str, Any] | None) -> str:
    parts = [] if source is None else [f"source: {source}"]
    if metadata:
        parts.append(json.dumps(metadata, ensure_ascii=False))
    return f" ({'; '.join(parts)})" if parts else ""
