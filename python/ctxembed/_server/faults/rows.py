"""Faults in the rows of a response: missing, repeated, damaged or reordered ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxembed._server.faults.fault import Fault

__all__ = ["apply_row_faults"]

_Chunks = list[tuple[int, str]]


def apply_row_faults(rows: list[tuple[int, _Chunks]], fault: Fault) -> None:
    """Change ``rows`` in place as ``fault`` asks.

    Parameters
    ----------
    rows : list of (document, list of (chunk, base64))
        The rows of a correct response.
    fault : Fault
        What to change.
    """

    def clamp(document: int) -> int:
        return min(document, len(rows) - 1)

    def find(position: tuple[int, int]) -> tuple[_Chunks, int]:
        chunks = rows[clamp(position[0])][1]
        return chunks, min(position[1], len(chunks) - 1)

    if fault.corrupt_chunk is not None:
        chunks, place = find(fault.corrupt_chunk)
        number, text = chunks[place]
        chunks[place] = number, text[: len(text) // 2] + "*" + text[len(text) // 2 + 1 :]
    if fault.duplicate_chunk is not None:
        chunks, place = find(fault.duplicate_chunk)
        chunks.insert(place + 1, chunks[place])
    if fault.extra_chunk is not None:
        chunks, place = find((fault.extra_chunk, 2**31))
        number, text = chunks[place]
        chunks.append((number + 1, text))
    if fault.missing_chunk is not None:
        chunks, place = find(fault.missing_chunk)
        del chunks[place]
    if fault.duplicate_document is not None:
        position = clamp(fault.duplicate_document)
        rows.insert(position + 1, rows[position])
    if fault.missing_document is not None:
        del rows[clamp(fault.missing_document)]
    if fault.shuffle is not None:
        generator = random.Random(fault.shuffle)  # noqa: S311  # repeatable, not secret
        for _, chunks in rows:
            _shuffle(chunks, generator)
        _shuffle(rows, generator)


def _shuffle(items: list[Any], generator: random.Random) -> None:
    """Shuffle in place; two or more items always end in another order."""
    before: Sequence[Any] = list(items)
    generator.shuffle(items)
    if items == before:
        items.reverse()
