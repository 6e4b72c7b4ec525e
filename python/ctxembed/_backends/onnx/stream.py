"""Embeds documents of any number, some at a time."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from ctxembed._client.batches import EmbeddingsPart
from ctxembed._errors import ClosedClientError, DocumentError
from ctxembed._planning.prepare import documents_of
from ctxembed._results import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctxembed._results import Embeddings

__all__ = ["LocalStream"]

_CHARACTERS: Final = 1 << 14
"""Of the documents of a part: about 4,000 tokens, so that a slow model loses little when it is stopped."""

_DOCUMENTS: Final = 64


class LocalStream:
    """The parts of :meth:`LocalEmbedder.stream`: an iterator of ``EmbeddingsPart``, and a context manager.

    Parameters
    ----------
    embed : callable
        Computes the vectors of a list of documents.
    documents : iterable of iterables of str
        The input.
    options : dict
        Of ``embed``.
    """

    def __init__(
        self, embed: Callable[..., Embeddings], documents: Iterable[Iterable[str]], options: dict[str, Any]
    ) -> None:
        self._embed = embed
        self._documents = documents_of("documents", documents)
        self._options = options
        self._closed = False
        self._parts = self._iterate()

    def __iter__(self) -> Iterator[EmbeddingsPart]:
        """Return the stream."""
        return self

    def __next__(self) -> EmbeddingsPart:
        """Embed the next documents, and return their part."""
        return next(self._parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream before its next pass, from any thread."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise ClosedClientError("the stream is closed")

    def _iterate(self) -> Iterator[EmbeddingsPart]:
        first = 0
        while batch := list(self._next_documents()):
            found = self._embed(batch, check=self._check, **self._options)
            yield _part(found, first)
            first += len(batch)

    def _next_documents(self) -> Iterator[Any]:
        characters = 0
        for document in islice(self._documents, _DOCUMENTS):
            chunks = document if isinstance(document, str) else list(document)  # the embedder refuses a str
            yield chunks
            characters += sum(map(len, chunks))
            if characters >= _CHARACTERS:
                return


def _part(found: Embeddings, first: int) -> EmbeddingsPart:
    """Return embeddings as a part, with positions in the input."""
    failures = []
    for failure in found.failures:
        error = failure.error
        if isinstance(error, DocumentError):
            error = DocumentError(first + error.document, error.chunk, error.reason)
        failures.append(Failure(first + failure.document, error, failure.attempts))
    return EmbeddingsPart(
        found.vectors,
        found.offsets,
        found.model,
        found.dimensions,
        found.encoding_format,
        found.usage,
        tuple(failures),
        found.space,
        found.input_type,
        documents=np.arange(first, first + len(found), dtype=np.int64),
    )
