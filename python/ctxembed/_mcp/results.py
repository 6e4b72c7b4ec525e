"""What the tools return as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

__all__ = ["Chunk", "DocumentResult", "Found", "SearchResult"]

_IsCut = Annotated[bool, Field(description="Whether the text is longer than what is returned.")]
_Metadata = Annotated[dict[str, Any] | None, Field(description="Metadata of the document; null where it is too long.")]


class Found(BaseModel):
    """A chunk that a search found."""

    document: Annotated[str, Field(description="Id of its document.")]
    chunk: Annotated[int, Field(description="Its number in the document, from 0.")]
    score: Annotated[float, Field(description="Higher is nearer. Scores of two questions cannot be compared.")]
    text: Annotated[str | None, Field(description="The chunk, with its neighbours where they were asked for.")]
    is_cut: _IsCut
    first: Annotated[int, Field(description="Number of the first chunk in the text.")]
    last: Annotated[int, Field(description="Number of the last chunk in the text.")]
    source: Annotated[str | None, Field(description="Where the document comes from, such as a path or a URL.")]
    metadata: _Metadata


class SearchResult(BaseModel):
    """What ``search`` returns."""

    hits: Annotated[list[Found], Field(description="Best first.")]


class Chunk(BaseModel):
    """A chunk of a document."""

    chunk: Annotated[int, Field(description="Its number in the document, from 0.")]
    text: str
    is_cut: _IsCut


class DocumentResult(BaseModel):
    """What ``get_document`` returns."""

    id: str
    source: str | None
    metadata: _Metadata
    chunk_count: Annotated[int, Field(description="How many chunks the whole document has.")]
    chunks: list[Chunk]
    next: Annotated[int | None, Field(description="first of the call that returns the next chunks; null at the end.")]
