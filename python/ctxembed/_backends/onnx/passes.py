"""Which tokens go through the model together, and where each chunk's are. Arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ctxembed._errors import DocumentError
from ctxembed._planning.splitting import Cutter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Pass", "PassPlanner", "batches"]

_NO_LIMIT: Final = 2**31


@dataclass(frozen=True, slots=True)
class Pass:
    """A document, or a window of one, as the model gets it.

    Attributes
    ----------
    document : int
        Position of the document.
    ids : list of int
        All tokens.
    spans : list of (int, int)
        The tokens of each chunk whose vector is kept, in order.
    """

    document: int
    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class PassPlanner:
    """Turns the tokens of documents into passes.

    Parameters
    ----------
    before, after : list of int
        Special tokens before the first chunk and after the last.
    separator : int
        Token between two chunks.
    pools_special_tokens : bool
        Whether ``before`` belongs to the span of the first chunk, and ``after`` to that of the last.
    context : int
        Tokens of a pass at most.
    overlap_chunks : int
        Chunks of context that a window gets on each side.
    cuts : bool
        Whether documents that are longer are cut into windows. Otherwise they are refused.
    """

    before: list[int]
    after: list[int]
    separator: int
    pools_special_tokens: bool
    context: int
    overlap_chunks: int
    cuts: bool

    def plan(self, document: int, chunks: Sequence[list[int]]) -> list[Pass]:
        """Return the passes of a document: one, or its windows.

        Raises
        ------
        DocumentError
            A chunk has no tokens or is longer than a pass, or the document is and is not to be cut.
        """
        counts = np.fromiter(map(len, chunks), np.int64, len(chunks))
        if not counts.all():
            raise DocumentError(
                document, int(np.argmin(counts)), "has no tokens: the model's tokenizer drops all of it"
            )
        room = self.context - len(self.before) - len(self.after)
        tokens = int(counts.sum()) + len(chunks) - 1
        longest = int(np.argmax(counts))
        if counts[longest] > room:
            reason = f"has {counts[longest]} tokens, more than the {room} that fit a pass of {self.context}: cut it"
            raise DocumentError(document, longest, reason)
        if tokens <= room:
            return [self._pass(document, chunks, 0, len(chunks))]
        if not self.cuts:
            reason = f"has {tokens} tokens, more than the {room} that fit a pass of {self.context}"
            raise DocumentError(document, None, reason)
        cutter = Cutter(room, _NO_LIMIT, self.overlap_chunks)
        return [
            self._pass(document, chunks[start - before : stop + after], before, before + stop - start)
            for start, stop, before, after in cutter.cuts(document, counts)
        ]

    def _pass(self, document: int, chunks: Sequence[list[int]], start: int, stop: int) -> Pass:
        """Join chunks, and keep the spans of those from ``start`` to ``stop``."""
        ids = list(self.before)
        spans = []
        for position, chunk in enumerate(chunks):
            if position:
                ids.append(self.separator)
            spans.append((len(ids), len(ids) + len(chunk)))
            ids += chunk
        ids += self.after
        if self.pools_special_tokens:
            spans[0] = (0, spans[0][1])
            spans[-1] = (spans[-1][0], len(ids))
        return Pass(document, ids, spans[start:stop])


def batches(lengths: Sequence[int], most: int | None) -> Iterator[list[int]]:
    """Yield the positions of the passes that run together.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each pass.
    most : int or None
        Tokens of a batch at most, padding included; a longer pass is alone. None: each pass is alone, in order.
    """
    if most is None:
        yield from ([position] for position in range(len(lengths)))
        return
    batch: list[int] = []
    # Passes of about one length share a batch: the first is the longest, and the others are padded to it.
    for position in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
