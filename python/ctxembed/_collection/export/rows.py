"""The rows of a view in order of ingestion, in batches whose vectors are converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._collection.catalogue import damaged
from ctxembed._collection.rows import row_numbers, vectors_checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.view import View

__all__ = ["COLUMNS", "Batch", "Format", "Shape", "batches"]

COLUMNS: Final = ("id", "chunk", "text", "metadata", "vector")

ROWS_AT_ONCE: Final = 4096
_TEXT_AT_ONCE: Final = 8 << 20
"""Characters of text in a batch. A document is never divided, so a batch may exceed both by one document."""

_DTYPES: Final = {
    "int8": np.int8,
    "bytes": np.int8,
    "bits": np.uint8,
    "float16": np.float16,
    "float32": np.float32,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the vectors of an export are.

    Parameters
    ----------
    vectors : {"int8", "bytes", "bits", "float16", "float32"}
        int8 values, as a list or as one binary value; packed bits; int8 values as float16; float32 rows of unit length.
    dimensions : int
        Of each vector.
    model : str
        Name of the model.
    space : str or None
        Of the vectors.
    """

    vectors: str
    dimensions: int
    model: str
    space: str | None

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.dimensions // 8 if self.vectors == "bits" else self.dimensions

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""
        return np.dtype(_DTYPES[self.vectors])


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows.

    Parameters
    ----------
    ids : list of str
        Document of each row.
    chunks : list of int
        Position of the chunk in its document.
    texts : list of (str or None)
        None in a collection without text.
    metadata : list of (str or None)
        JSON of the document; None where it has none.
    vectors : ndarray, shape (n, width)
        Converted.
    """

    ids: list[str]
    chunks: list[int]
    texts: list[str | None]
    metadata: list[str | None]
    vectors: NDArray[Any]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Format:
    """A format to export to.

    Parameters
    ----------
    write : callable
        ``write(target, shape, batches)``.
    vectors : tuple of str
        What it can hold; the first is the default.
    endings : tuple of str
        Endings of a target that mean this format.
    companions : tuple of str
        Endings of further files, behind the whole name of the target.
    folder : str or None
        The only entry of the folder that the target is; None where it is a file.
    no_int8 : str or None
        Why it gets something else than int8.
    """

    write: Callable[[Any, Shape, Iterator[Batch]], None]
    vectors: tuple[str, ...]
    endings: tuple[str, ...]
    companions: tuple[str, ...] = ()
    folder: str | None = None
    no_int8: str | None = None


def batches(folder: Folder, view: View, shape: Shape, where: str | None, params: object) -> Iterator[Batch]:
    """Yield the rows of the documents that ``where`` selects. All that is yielded was compared with its checksums."""
    documents: list[tuple[Any, ...]] = []
    texts: list[str | None] = []
    characters = 0
    for values in view.all_documents(where, params):
        rows = values[7]
        chunks = view.document(values).chunks if view.store_text else [None] * rows
        documents.append(values)
        texts += chunks
        characters += sum(map(len, filter(None, chunks))) + len(values[5] or "") * rows
        if len(texts) >= ROWS_AT_ONCE or characters >= _TEXT_AT_ONCE:
            yield _batch(folder, view, shape, documents, texts)
            documents, texts, characters = [], [], 0
    if documents:
        yield _batch(folder, view, shape, documents, texts)


def _batch(
    folder: Folder, view: View, shape: Shape, documents: list[tuple[Any, ...]], texts: list[str | None]
) -> Batch:
    vectors = view.index.vectors(row_numbers([values[6:8] for values in documents]))
    ids: list[str] = []
    chunks: list[int] = []
    metadata: list[str | None] = []
    for _, name, _, _, _, found, _, rows, expected in documents:
        if vectors_checksum(vectors[len(ids) : len(ids) + rows]) != expected:
            raise damaged(folder.path, f"the vectors of the document {name!r} are changed")
        ids += [name] * rows
        chunks += range(rows)
        metadata += [found] * rows
    return Batch(ids, chunks, texts, metadata, _converted(vectors, shape, is_binary=view.layout.is_binary))


def _converted(vectors: NDArray[Any], shape: Shape, *, is_binary: bool) -> NDArray[Any]:
    if is_binary or shape.vectors in ("int8", "bytes"):
        return vectors
    if shape.vectors == "bits":
        return _core.pack_bits(vectors)
    if shape.vectors == "float32":
        return _core.normalize(vectors)
    return vectors.astype(shape.dtype)  # float16 holds every int8
