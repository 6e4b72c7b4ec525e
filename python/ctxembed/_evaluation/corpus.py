"""The rows that are ranked, in the order of document ids, then chunks: so that ties go to the lower id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed._collection.reader import CollectionReader
from ctxembed._collection.rows import row_numbers
from ctxembed._core import BinaryIndex, Index
from ctxembed._errors import CollectionError
from ctxembed._models import models

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ctxembed._collection.bm25 import WordSearcher
    from ctxembed._collection.view import View
    from ctxembed._models import EncodingFormat, Model

__all__ = ["Corpus", "StoredCorpus", "open_corpus"]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents with the vectors of their chunks.

    Parameters
    ----------
    ids : list of str
        Of the documents, ascending.
    offsets : ndarray of int64, shape (documents + 1,)
        The rows of document ``i`` are ``offsets[i]:offsets[i + 1]``.
    vectors : ndarray of int8 or uint8, shape (rows, width)
        A row a chunk.
    """

    ids: list[str]
    offsets: NDArray[np.int64]
    vectors: NDArray[Any]

    @property
    def is_binary(self) -> bool:
        """Whether the rows are packed bits."""
        return self.vectors.dtype == np.uint8

    @property
    def dimensions(self) -> int:
        """Of each vector."""
        return int(self.vectors.shape[1]) * (8 if self.is_binary else 1)

    @property
    def oversample(self) -> int:
        """What a search in two stages uses that names none."""
        return self.index_of(self.vectors[:0]).oversample

    @cached_property
    def document_of(self) -> NDArray[np.int64]:
        """The position of the document of each row."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.offsets))

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each document."""
        return {name: position for position, name in enumerate(self.ids)}

    def extent(self, row: int) -> tuple[int, int]:
        """Return (first row, row behind the last) of the document of a row."""
        document = self.document_of[row]
        return int(self.offsets[document]), int(self.offsets[document + 1])

    def index_of(self, vectors: NDArray[Any]) -> Index | BinaryIndex:
        """Return an index of rows, whose ids are their places."""
        if vectors.dtype == np.uint8:
            bits = BinaryIndex(self.dimensions)
            bits.add(vectors)
            return bits
        index = Index(self.dimensions)
        index.add(vectors)
        return index


@dataclass(frozen=True, eq=False)
class StoredCorpus(Corpus):
    """The documents of a collection.

    Parameters
    ----------
    view : View
        Its state.
    collection : CollectionReader
        The collection.
    numbers : list of int
        Number of each document in the catalogue, in the order of the ids.
    rows : ndarray of int64, shape (rows,)
        Number of each row in the collection.
    """

    view: View
    collection: CollectionReader
    numbers: list[int]
    rows: NDArray[np.int64]

    @property
    def model(self) -> str:
        """Name of the model of the documents."""
        return self.view.generation.model

    @property
    def known_model(self) -> Model | None:
        """The model, where this process knows it: one on this machine is known once it was loaded."""
        return next((known for known in models() if known.name == self.model), None)

    @property
    def encoding_format(self) -> EncodingFormat:
        """Of the vectors."""
        return self.view.generation.encoding_format

    @property
    def space(self) -> str | None:
        """Name of the space of the vectors."""
        return self.view.generation.space

    @property
    def oversample(self) -> int:
        """What a search in two stages uses: as calibrated, or by default."""
        return int(self.view.index.oversample)

    def texts(self) -> Iterator[list[str]]:
        """Yield the chunks of each document.

        Raises
        ------
        CollectionError
            The collection has no texts, or one is damaged.
        """
        if not self.view.store_text:
            raise CollectionError(
                f"{self.collection.path} was created with store_text=False: it has no texts to embed alone"
            )
        for number in self.numbers:
            yield list(self.view.document(self.view.document_at(number)).chunks)

    def words(self) -> WordSearcher:
        """Return the index of words."""
        return self.collection._words.at(self.view)  # noqa: SLF001

    @cached_property
    def place_of(self) -> NDArray[np.int64]:
        """The place here of each row of the collection; -1 for rows of deleted documents."""
        places = np.full(self.view.rows, -1, np.int64)
        places[self.rows] = np.arange(len(self.rows))
        return places

    def failed(self) -> set[str]:
        """Return the ids of documents that could not be embedded."""
        return {each.id for each in self.collection.failures()}


def open_corpus(source: object) -> Corpus:
    """Return the rows of a collection, or of a mapping from document id to vectors.

    Raises
    ------
    TypeError, ValueError
        It is none of these, or has no rows.
    """
    if isinstance(source, CollectionReader):
        return _stored(source)
    if isinstance(source, Mapping):
        return _given(source)
    raise TypeError(
        "collection must be a Collection or a dict of document ids to vectors of shape (chunks, dimensions), got "
        f"{type(source).__name__}"
    )


def _stored(collection: CollectionReader) -> StoredCorpus:
    view = collection._current()  # noqa: SLF001
    documents = sorted(view.all_documents(), key=lambda values: values[1])
    if not documents:
        raise ValueError(f"{collection.path} has no documents to search")
    view.check_vectors(documents)
    counts = [values[7] for values in documents]
    rows = row_numbers([values[6:8] for values in documents])
    return StoredCorpus(
        [values[1] for values in documents],
        _offsets(counts),
        view.index.vectors(rows),
        view,
        collection,
        [values[0] for values in documents],
        rows,
    )


def _given(source: Mapping[Any, Any]) -> Corpus:
    if not source:
        raise ValueError("the dict of vectors has no documents")
    for name in source:
        if not isinstance(name, str) or not name:
            raise TypeError(f"the dict of vectors has the key {name!r:.100}: expected the id of a document, a str")
    ids = sorted(source)
    parts = [_rows_of(name, source[name]) for name in ids]
    first = parts[0]
    for name, part in zip(ids, parts, strict=True):
        if (part.dtype, part.shape[1]) != (first.dtype, first.shape[1]):
            raise ValueError(
                f"document {name!r:.100} has vectors of {part.shape[1]} {part.dtype} values, and {ids[0]!r:.100} of "
                f"{first.shape[1]} {first.dtype}: expected the same of all"
            )
    return Corpus(ids, _offsets([len(part) for part in parts]), np.concatenate(parts))


def _rows_of(name: str, value: object) -> NDArray[Any]:
    rows = np.asarray(value)
    if rows.dtype not in (np.int8, np.uint8):
        raise TypeError(
            f"document {name!r:.100} has vectors of {rows.dtype}: expected int8 values or packed bits, uint8"
        )
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"document {name!r:.100} has vectors of shape {rows.shape}: expected (chunks, width)")
    return rows


def _offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
