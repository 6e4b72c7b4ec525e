"""``ctxembed migrate`` and ``ctxembed rollback``: another model for a collection, and the way back."""

from __future__ import annotations

import contextlib
import signal
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ctxembed._cli.app import (
    BaseUrlOption,
    CollectionArgument,
    EmbedderOption,
    InsecureOption,
    JsonOption,
    TokenizerOption,
    app,
    check_options,
    load_counter,
    load_embedder,
    parse_path,
)
from ctxembed._cli.errors import IncompleteError, error_text, request_error
from ctxembed._cli.job_options import (
    ConcurrencyOption,
    DimensionsOption,
    MaxCostOption,
    MaxErrorsOption,
    MaxRetriesOption,
    MaxWaitOption,
    RequestsPerMinuteOption,
    RetryFailedOption,
    SplitLongOption,
    client_options,
)
from ctxembed._cli.output import check_stdout, write, write_json, write_message
from ctxembed._models import EncodingFormat  # noqa: TC001  # typer reads the annotations
from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctxembed._documents import IngestProgress, MigrationReport
    from ctxembed._jobs.control import JobControl

__all__: list[str] = []

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPED: Final = {
    "max_cost_usd": "--max-cost is reached",
    "max_errors": "more documents were rejected than --max-errors allows",
    "not accepted": "the new vectors are worse than --max-loss allows",
}


@app.command(
    help="""Embed a collection anew with another model, dimensions or encoding, and search these vectors then.

    Searches are answered from the old vectors until all new ones are there and were compared with their checksums; then
    one transaction switches. What is stored is not sent again, so the same command goes on where it stopped. Jobs may
    write to the collection meanwhile: what they change is taken along."""
)
def migrate(
    collection: CollectionArgument,
    model: Annotated[str | None, typer.Option(help="The contextualized model (default: the collection's).")] = None,
    dimensions: DimensionsOption = None,
    encoding_format: Annotated[
        EncodingFormat | None, typer.Option(help="Signed bytes, or one bit per dimension (default: the collection's).")
    ] = None,
    tokenizer: TokenizerOption = None,
    max_cost: MaxCostOption = None,
    max_errors: MaxErrorsOption = None,
    max_retries: MaxRetriesOption = None,
    concurrency: ConcurrencyOption = None,
    requests_per_minute: RequestsPerMinuteOption = None,
    max_wait: MaxWaitOption = 300.0,
    base_url: BaseUrlOption = None,
    embedder: EmbedderOption = None,
    queries: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="FILE", help="Judged queries, as of `eval`.")
    ] = None,
    judgements: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="FILE", help="Their judgements: old and new are compared.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Switch only if nDCG@10 falls by no more than this (default: in any case).")
    ] = None,
    *,
    allow_insecure: InsecureOption = False,
    split_long: SplitLongOption = False,
    retry_failed: RetryFailedOption = False,
    from_stored: Annotated[
        bool,
        typer.Option(
            "--from-stored",
            help="Cut fewer dimensions or bits from the stored vectors of the same model; send nothing.",
        ),
    ] = False,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Keep the old vectors, for `rollback`.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent and cost. Needs no key, and makes nothing.")
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give up a migration that is under way, and delete its vectors.")
    ] = False,
    delete_old: Annotated[bool, typer.Option("--delete-old", help="Delete what --keep-old has kept.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Move a collection to another model."""
    check_stdout()
    if abandon or delete_old:
        if model or dimensions or encoding_format or dry_run or keep_old or abandon == delete_old:
            raise typer.BadParameter("--abandon and --delete-old stand alone")
        _delete(collection, abandon=abandon, as_json=as_json)
        return
    if (queries is None) != (judgements is None) or (max_loss is not None and queries is None):
        raise typer.BadParameter("--queries and --judgements are needed together, and for --max-loss")
    judged: dict[str, Any] = {"queries": None, "judgements": None}
    if queries is not None and judgements is not None:
        from ctxembed._evaluation.reading import read_judgements, read_queries

        judged = {"queries": read_queries(queries), "judgements": read_judgements(judgements)}
    local = None
    if from_stored and (embedder is not None or dry_run):
        raise typer.BadParameter("--from-stored sends nothing, and has no price: leave --embedder and --dry-run out")
    if embedder is not None:
        local = load_embedder(
            embedder, model, base_url=base_url, max_retries=max_retries, concurrency=concurrency,
            requests_per_minute=requests_per_minute, split_long=split_long, dry_run=dry_run,
        )  # fmt: skip
        model = local.model.name
    if (model, dimensions, encoding_format) == (None, None, None):
        raise typer.BadParameter("name what is to change: --model, --dimensions or --encoding-format")
    if model is not None:
        check_options(model, dimensions, encoding_format or "base64_int8", base_url, allow_insecure=allow_insecure)
    from ctxembed._collection.job_options import job_options

    try:
        options = job_options(max_cost, max_errors, max_wait, retry_failed=retry_failed, split_long=split_long)
    except ValueError as error:
        raise typer.BadParameter(error_text(error)) from None
    client = client_options(
        base_url,
        load_counter(tokenizer),
        allow_insecure=allow_insecure,
        max_retries=max_retries,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
        needs_key=not dry_run,
    )
    with _job(collection, local, client, as_json=as_json, needs_key=not from_stored) as (opened, sender, job):
        report = job.run(
            opened._migrate,  # noqa: SLF001
            model, None if from_stored else sender, dimensions=dimensions, encoding_format=encoding_format,
            dry_run=dry_run, keep_old=keep_old, options=options, **judged, old_client=None,
            accept=None if max_loss is None else partial(_is_accepted, max_loss),
        )  # fmt: skip
        job.finish(report, keep_old=keep_old, exact=tokenizer is not None)


@app.command(
    help="""Search the vectors again that the last `migrate --keep-old` has kept.

    Documents stay as they are. Those that were added or changed since are embedded by the old model first; where there
    are none, nothing is sent and no key is needed."""
)
def rollback(
    collection: CollectionArgument,
    max_cost: MaxCostOption = None,
    base_url: BaseUrlOption = None,
    embedder: EmbedderOption = None,
    *,
    allow_insecure: InsecureOption = False,
    keep_new: Annotated[
        bool, typer.Option("--keep-new", help="Keep the vectors of now, for the next `rollback`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Move a collection back."""
    from ctxembed._collection.job_options import job_options

    check_stdout()
    local = None if embedder is None else load_embedder(embedder, None, base_url=base_url)
    client = client_options(base_url, allow_insecure=allow_insecure)
    with _job(collection, local, client, as_json=as_json, needs_key=False) as (opened, sender, job):
        report = job.run(
            opened._rollback,  # noqa: SLF001
            sender,
            options=job_options(max_cost, None, 300.0),
            keep_new=keep_new,
        )
        job.finish(report, keep_old=keep_new, exact=False)


def _is_accepted(max_loss: float, old: Any, new: Any) -> bool:
    return bool(new.table[0][new.headline] >= old.table[0][old.headline] - max_loss)


def _delete(collection: Path, *, abandon: bool, as_json: bool) -> None:
    from ctxembed._collection.collection import Collection

    with Collection.open(collection) as opened:
        if opened.read_only:
            raise OSError(30, "the collection is on a read-only file system", str(collection))
        count = int(opened.abandon_migration()) if abandon else opened.delete_old()
    what = "migration" if abandon else "old generation"
    if as_json:
        write_json({"collection": str(collection), "deleted": count})
    else:
        write_message(f"{collection}: {plural(count, what)} {'given up' if abandon else 'deleted'}")


@contextlib.contextmanager
def _job(
    path: Path, local: Any, options: dict[str, Any], *, as_json: bool, needs_key: bool = True
) -> Iterator[tuple[Any, Any, _Job]]:
    """Open the collection for reading, so that jobs may write to it, and what embeds."""
    from ctxembed._client import Client
    from ctxembed._collection.collection import Collection
    from ctxembed._errors import MissingKeyError

    with contextlib.ExitStack() as stack:
        sender = local
        if sender is None:
            try:
                sender = stack.enter_context(Client(**options))
            except MissingKeyError:
                if needs_key:
                    raise
        opened = stack.enter_context(Collection.open(path, read_only=True))
        yield opened, sender, _Job(path, opened, sender, as_json=as_json)


class _Job:
    """One run, and what it tells."""

    def __init__(self, path: Path, collection: Any, sender: Any, *, as_json: bool) -> None:
        from ctxembed._jobs.control import JobControl

        self._path = path
        self._documents = len(collection)
        self._sender = sender
        self._as_json = as_json
        self._control: JobControl = JobControl()
        self._signal: int | None = None
        self._read = 0

    def run(self, call: Callable[..., MigrationReport], *given: Any, **options: Any) -> MigrationReport:
        """Run the job, and show how far it is."""
        from ctxembed._client.progress import Terminal
        from ctxembed._errors import APIError
        from ctxembed._jobs.control import handled_signals
        from ctxembed._jobs.display import EventDisplay, LineDisplay, LiveDisplay, Tracker

        tracker = Tracker(lambda: self._read, self._documents)
        terminal = Terminal(sys.stderr)
        display: Any
        if self._as_json:
            display = EventDisplay(tracker, lambda name, fields: self._event(name, **fields))
        else:
            display = LiveDisplay(tracker, terminal) if terminal.isatty() else LineDisplay(tracker, write_message)

        def show(progress: IngestProgress) -> None:
            self._read = progress.documents_read
            display.show(progress)

        try:
            return call(
                *given, **options, progress=show, control=self._control,
                signals=partial(handled_signals, self._control, _SIGNALS, self._on_signal),
            )  # fmt: skip
        except APIError as error:
            message = request_error(error, getattr(self._sender, "base_url", "this machine"))
            raise IncompleteError(f"{message}. {self._rest()}", 1) from error
        finally:
            display.close()

    def _on_signal(self, number: int, frame: object) -> None:
        self._signal = self._signal or number
        self._control.on_signal(number, frame)

    def _event(self, name: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):  # nobody reads the events: the job goes on
            write_json({"event": name, **fields})
            sys.stdout.flush()

    @staticmethod
    def _rest() -> str:
        return "Searches go on as before. What is embedded is stored, and the same command goes on from there"

    def finish(self, report: MigrationReport, *, keep_old: bool, exact: bool) -> None:
        """Say what was done. What is not complete is an error."""
        what = f"{report.model}, {report.dimensions} dimensions, {report.encoding_format}"
        cost = None if report.cost_usd is None else f"{report.cost_usd:f}"
        if self._as_json:
            fields = {
                name: value for name, value in asdict(report).items() if name not in ("usage", "comparison", "cost_usd")
            }
            compared = None if report.comparison is None else [found.to_dict() for found in report.comparison]
            self._event("end", collection=str(self._path), **fields, cost_usd=cost, comparison=compared)
        elif report.comparison is not None:
            for when, found in zip(("before", "after"), report.comparison, strict=True):
                [row] = found.table
                low, high = row["intervals"][found.headline]
                shown = f"{found.headline.replace('ndcg', 'nDCG')} {row[found.headline]:.3f} ({low:.3f} to {high:.3f})"
                write(f"{when}: {shown}, {found.model} as {row['variant']}, {found.queries:,} queries")
        if report.stopped == "dry run":
            if not self._as_json:
                counted = "counted" if exact else "estimated with a margin"
                price = f"price of {report.model} not known" if cost is None else f"USD {cost}"
                write(
                    f"{what}: {plural(report.embedded, 'document')} to send, {report.unchanged:,} there already",
                    f"{plural(report.requests, 'request')}, {plural(report.tokens, 'token')} ({counted}), {price}",
                )
            return
        paid = f"{plural(report.requests, 'request')}, {report.tokens} tokens"
        if cost is not None:
            paid += f", USD {cost}"
        if report.switched and not self._as_json:
            kept = ". The vectors before are kept for `ctxembed rollback`" if keep_old else ""
            write_message(
                f"{self._path}: {what}; {plural(report.embedded, 'document')} embedded, {report.unchanged:,} there "
                f"already ({paid}){kept}"
            )
        if report.stopped == "interrupted":
            raise IncompleteError(f"interrupted. {self._rest()}", 128 + (self._signal or signal.SIGINT))
        if report.stopped is not None:
            raise IncompleteError(f"{_STOPPED[report.stopped]}. {self._rest()}", 1)
