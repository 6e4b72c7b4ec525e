"""A stream without requests: what it would send. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctxembed._client.batches import Outcome
from ctxembed._results import Embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctxembed._client.batches import Batch, EmbeddingsPart
    from ctxembed._client.stream import StreamState

__all__ = ["simulate"]


def simulate(
    state: StreamState,
    documents: Iterable[Iterable[str]],
    known: Callable[[list[bytes]], Iterable[bytes]] = lambda _: (),
    handle: Callable[[EmbeddingsPart], object] = lambda _: None,
) -> Iterator[Batch]:
    """Run a steady stream over documents without sending, and yield each request that it would send.

    They are the same requests where a token counter counts and no request is split.

    Parameters
    ----------
    state : StreamState
        The stream.
    documents : iterable of iterables of str
        What it reads.
    known : callable
        Returns those of some keys that the journal knows.
    handle : callable
        Called with each part. Its vectors are zero.

    Raises
    ------
    Exception
        What ``documents`` or the token counter raises, when the documents before it have been yielded.
    """
    source = iter(documents)
    row = np.zeros((1, state.template.width), state.template.dtype)
    while True:
        if state.wants_document:
            state.feed_from(source)
        lookup = state.lookup()
        if lookup is not None:
            chunks = lookup.chunks
            found = {key: np.broadcast_to(row, (chunks[key], row.shape[1])) for key in known(list(chunks))}
            state.add_known(lookup, found)
        for batch in state.next_batches():
            yield batch
            embeddings = Embeddings(
                vectors=np.broadcast_to(row, (sum(batch.shape), state.template.width)),
                offsets=np.cumsum([0, *batch.shape]),
                model=state.template.model,
                dimensions=state.template.dimensions,
                encoding_format=state.template.encoding_format,
            )
            state.add_outcome(Outcome(batch, embeddings, None, 1))
        while (part := state.next_part()) is not None:
            handle(part)
        if state.is_over:
            break
    ended_by = state.error()
    if ended_by is not None:
        raise ended_by
