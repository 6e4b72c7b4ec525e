"""The progress of an ingestion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

    from ctxembed._results import Usage

__all__ = ["IngestProgress"]


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an ingestion is.

    Parameters
    ----------
    documents_read, documents_done : int
        Documents of the input so far, and those that need nothing more: stored, unchanged or failed.
    added, updated, unchanged, failed : int
        As in :class:`IngestReport`.
    chunks : int
        Chunks stored.
    usage : Usage
        Tokens and cost of the requests so far.
    cost_usd : Decimal
        Cost so far; where it is not reported, at list price.
    in_flight : int
        Requests without a response yet.
    retries : int
        Attempts that repeated one.
    seconds : float
        Since the ingestion began.
    waiting_since : float or None
        ``time.monotonic()`` since which the API is down; None where it is not.
    """

    documents_read: int
    documents_done: int
    added: int
    updated: int
    unchanged: int
    failed: int
    chunks: int
    usage: Usage
    cost_usd: Decimal
    in_flight: int
    retries: int
    seconds: float
    waiting_since: float | None = None
