"""Parts of a stream, put together in input order whenever the stream ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctxembed._errors import CtxembedError
from ctxembed._results import Embeddings, Failure, Usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxembed._client import EmbeddingsPart
    from ctxembed._models import EncodingFormat

__all__ = ["Collector"]


class Collector:
    """Takes what has landed and says what has not.

    Parameters
    ----------
    documents : int
        How many were to be embedded.
    """

    def __init__(self, documents: int) -> None:
        self._documents = documents
        self._parts: list[EmbeddingsPart] = []
        self._failures: dict[int, Failure] = {}
        self._usage = Usage()

    def add(self, part: EmbeddingsPart) -> None:
        """Keep a part."""
        self._parts.append(part)
        self._usage += part.usage
        self._failures.update((failure.document, failure) for failure in part.failures)

    def result(self, model: str, dimensions: int, encoding_format: EncodingFormat) -> Embeddings:
        """Everything so far; a document that is not among it is a failure."""
        counts = np.zeros(self._documents, np.int64)
        landed = np.zeros(self._documents, bool)
        for part in self._parts:
            counts[part.documents] = np.diff(part.offsets)
            landed[part.documents] = True
        offsets = np.concatenate([[0], np.cumsum(counts)])
        total = int(offsets[-1])
        vectors: NDArray[np.int8] | NDArray[np.uint8]
        if encoding_format == "base64_int8":
            vectors = np.empty((total, dimensions), np.int8)
        else:
            vectors = np.empty((total, dimensions // 8), np.uint8)
        for part in self._parts:
            for position, rows in zip(part.documents, part, strict=True):
                vectors[offsets[position] : offsets[position + 1]] = rows
        for position in np.flatnonzero(~landed).tolist():
            self._failures.setdefault(position, Failure(position, CtxembedError("not embedded: interrupted"), 0))
        failures = tuple(self._failures[position] for position in sorted(self._failures))
        return Embeddings(vectors, offsets, model, dimensions, encoding_format, self._usage, failures)
