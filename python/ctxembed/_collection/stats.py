"""The size of a collection, and what it has cost."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ctxembed._collection.catalogue import checksum, damaged
from ctxembed._documents import CollectionStats
from ctxembed._results import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.view import View

__all__ = ["read_stats", "usage_of"]


def read_stats(folder: Folder, view: View) -> CollectionStats:
    """Return the statistics of a state.

    Raises
    ------
    CollectionError
        A row of the ledger is changed.
    """
    generation = view.generation
    usage = Usage()
    for *values, expected in view.query("SELECT * FROM responses"):
        if checksum(*values[1:]) != expected:
            raise damaged(folder.catalogue, f"the row {values[0]} of responses is changed")
        usage += usage_of(values[5:])
    [(failed,)] = view.query("SELECT count(*) FROM failures")
    return CollectionStats(
        documents=view.documents,
        chunks=view.chunks,
        deleted_chunks=view.rows - view.chunks,
        failed=failed,
        segments=view.segment_count,
        bytes=folder.size(),
        model=generation.model,
        dimensions=generation.dimensions,
        encoding_format=generation.encoding_format,
        space=generation.space,
        usage=usage,
    )


def usage_of(row: Sequence[Any]) -> Usage:
    """Return the usage of a row of the ledger."""
    requests, unreported, prompt, total, cost, wasted_requests, wasted_tokens, wasted_cost = row
    discarded = None
    if wasted_requests or wasted_tokens:
        discarded = Usage(None, wasted_tokens, _cost(wasted_cost), wasted_requests)
    return Usage(prompt, total, _cost(cost), requests, discarded, unreported)


def _cost(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
