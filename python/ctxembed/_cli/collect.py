"""Parts of a stream, put together in input order whenever the stream ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctxembed._embeddings import Embeddings, Failure, Usage
from ctxembed._errors import CtxembedError

if TYPE_CHECKING:
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
        signed = encoding_format == "base64_int8"
        width = dimensions if signed else dimensions // 8
        vectors = np.empty((int(offsets[-1]), width), np.int8 if signed else np.uint8)
        for part in self._parts:
            for position, rows in zip(part.documents, part, strict=True):
                vectors[offsets[position] : offsets[position + 1]] = rows
        for position in np.flatnonzero(~landed).tolist():
            self._failures.setdefault(position, Failure(position, CtxembedError("not embedded: interrupted"), 0))
        failures = tuple(self._failures[position] for position in sorted(self._failures))
        return Embeddings(vectors, offsets, model, dimensions, encoding_format, self._usage, failures)
