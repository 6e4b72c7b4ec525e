"""What a job would send and cost, without sending or storing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxembed._jobs.control import JobControl
from ctxembed._jobs.ingest import Ingestion
from ctxembed._jobs.run import run_dry
from ctxembed._models import get_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from ctxembed._client.base import BaseClient
    from ctxembed._jobs.ingest import IngestOptions
    from ctxembed._jobs.store import DocumentStore

__all__ = ["DryRun", "dry_run"]


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a job would do.

    Parameters
    ----------
    added, updated, unchanged, deleted, failed : int
        As in :class:`IngestReport`. ``failed`` are the documents that would not be sent.
    sent : int
        Documents to send. Of equal ones only the first is sent.
    requests, chunks, tokens : int
        What is sent. ``tokens`` is an estimate with a margin, unless a token counter counts.
    cost_usd : Decimal or None
        List price of the tokens; None where it is not known.
    stopped : str or None
        As in :class:`IngestReport`.
    """

    added: int
    updated: int
    unchanged: int
    deleted: int
    failed: int
    sent: int
    requests: int
    chunks: int
    tokens: int
    cost_usd: Decimal | None
    stopped: str | None


class _Journal:
    """Stands for the journal of an ingestion, so that the stream makes keys."""

    def get(self, keys: list[bytes]) -> dict[bytes, Any]:
        return dict.fromkeys(keys)

    def put(self, *_: object) -> None:
        raise AssertionError("a dry run stores nothing")


def dry_run(
    store: DocumentStore,
    documents: Iterable[object],
    client: BaseClient,
    options: IngestOptions,
    on_failure: Callable[[str | None, str | None, str], object] | None = None,
) -> DryRun:
    """Read all documents, check them as an ingestion does, and count what would be sent.

    Parameters
    ----------
    store : DocumentStore
        What is stored already. It keeps nothing new.
    documents : iterable
        The input.
    client : BaseClient
        Its limits, token counter and concurrency count.
    options : IngestOptions
        As for the ingestion.
    on_failure : callable, optional
        As for the ingestion.
    """
    ingestion = Ingestion(store, options, JobControl(), None, on_failure)
    ingestion.token_counter = client._options["token_counter"]  # noqa: SLF001
    state, _ = client.with_options(journal=_Journal())._stream_state(  # type: ignore[attr-defined]  # noqa: SLF001
        store.model,
        store.dimensions,
        store.encoding_format,
        on_error="return",
        ordered=False,
        progress=None,
        flush_after=None,
        steady=True,
    )
    requests = sent = chunks = tokens = 0
    for batch in run_dry(ingestion, state, documents):
        requests += 1
        sent += len(batch.documents)
        chunks += sum(batch.shape)
        tokens += batch.tokens
    report = ingestion.report()
    return DryRun(
        report.added,
        report.updated,
        report.unchanged,
        report.deleted,
        report.failed,
        sent,
        requests,
        chunks,
        tokens,
        get_model(store.model).cost(tokens),
        report.stopped,
    )
