"""The job of ``ctxembed embed``: checks everything, ingests, and says what was done."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import typer

from ctxembed._cli.app import check_options
from ctxembed._cli.errors import IncompleteError, error_text, request_error
from ctxembed._cli.old_output import is_old_output
from ctxembed._cli.output import write, write_json, write_message
from ctxembed._collection.collection import Collection
from ctxembed._collection.folder import folder_of
from ctxembed._errors import APIError
from ctxembed._jobs.control import JobControl, handled_signals
from ctxembed._jobs.documents import InvalidDocumentError
from ctxembed._jobs.reading import Rejected, open_inputs
from ctxembed._jobs.rejects import RejectsFile, is_rejects_file
from ctxembed._models import DEFAULT_MODEL
from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctxembed._client import Client
    from ctxembed._documents import IngestProgress, IngestReport
    from ctxembed._jobs.display import Display
    from ctxembed._jobs.ingest import IngestOptions
    from ctxembed._jobs.reading import Inputs, ReadOptions
    from ctxembed._models import EncodingFormat
    from ctxembed._results import Usage
    from ctxembed.backends import LocalEmbedder

__all__ = ["Settings", "run", "run_dry"]

_OBJECTS: Final = 20_000
"""New objects after which Python's garbage collector looks for cycles."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOPPED: Final = {
    "max_cost_usd": "--max-cost is reached",
    "max_errors": "more documents were rejected than --max-errors allows",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of ``ctxembed embed``. Model, dimensions and encoding are None where they were not given."""

    inputs: list[str]
    collection: Path
    model: str | None
    dimensions: int | None
    encoding_format: EncodingFormat | None
    reading: ReadOptions
    options: IngestOptions
    client: dict[str, Any]
    embedder: LocalEmbedder | None
    as_json: bool


def run(settings: Settings) -> None:
    """Run the job.

    Raises
    ------
    IncompleteError
        Documents were rejected, or the job ended early. It carries the exit code.
    """
    from ctxembed._client import Client

    with contextlib.ExitStack() as stack:
        inputs = stack.enter_context(_open_inputs(settings))
        client = settings.embedder or stack.enter_context(Client(**settings.client))
        collection = stack.enter_context(_open_collection(settings))
        rejects = stack.enter_context(RejectsFile(settings.collection))
        job = _Job(settings, inputs, rejects)
        try:
            report = job.run(collection, client)
        except (OSError, RuntimeError, ValueError, ImportError, APIError) as error:
            raise job.ended_by(error, getattr(client, "base_url", "this machine")) from error
    job.finish(report)


def _open_inputs(settings: Settings) -> Inputs:
    stdin = getattr(sys.stdin, "buffer", None)
    own = {os.path.realpath(name) for name in settings.inputs if is_rejects_file(name, settings.collection)}
    names = [name for name in settings.inputs if os.path.realpath(name) not in own]  # matched by a pattern of the shell
    return open_inputs(names or settings.inputs, settings.reading, stdin)


def _documents(inputs: Inputs, collection: Path) -> Iterator[Any]:
    """Yield what the job takes for each item of the inputs."""
    for item in inputs.batches():
        if not isinstance(item, Rejected):
            yield item
        elif not is_rejects_file(item.place, collection):
            yield InvalidDocumentError(item.reason, item.id, item.place)


def _open_collection(settings: Settings) -> Collection:
    """Open the collection for writing, or create it."""
    folder = folder_of(settings.collection)
    if folder.exists() or is_old_output(folder.path):  # which open() refuses
        collection = Collection.open(settings.collection)
        try:
            if collection.read_only:
                raise OSError(30, "the collection is on a read-only file system", str(settings.collection))
            _check_same(settings, collection)
        except BaseException:
            collection.close()
            raise
        return collection
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    return Collection.create(
        settings.collection,
        model=settings.model or DEFAULT_MODEL,
        dimensions=settings.dimensions,
        encoding_format=settings.encoding_format or "base64_int8",
    )


def _check_same(settings: Settings, collection: Collection) -> None:
    """Refuse options that differ from those of the collection, as an error of usage."""
    for name in ("model", "dimensions", "encoding_format"):
        asked, stored = getattr(settings, name), getattr(collection, name)
        if asked is not None and asked != stored:
            option = "--" + name.replace("_", "-")
            raise typer.BadParameter(
                f"{settings.collection} was made with {option} {stored}, got {option} {asked}: leave the option "
                "out, or name another collection"
            )


class _Job:
    """One run, and what it tells."""

    def __init__(self, settings: Settings, inputs: Inputs, rejects: RejectsFile) -> None:
        self._settings = settings
        self._inputs = inputs
        self._rejects = rejects
        self._control = JobControl()
        self._signal: int | None = None
        self._progress: IngestProgress | None = None
        self._display: Display | None = None

    def run(self, collection: Collection, client: Client | LocalEmbedder) -> IngestReport:
        self._event(
            "start",
            collection=str(self._settings.collection),
            model=collection.model,
            dimensions=collection.dimensions,
            encoding_format=collection.encoding_format,
            documents=len(collection),
        )
        self._display = _display(self._inputs, self._event if self._settings.as_json else None)
        # Documents wait in the thousands and form no cycles. Looking for these as often as by default takes a tenth of
        # the time.
        gc.set_threshold(_OBJECTS)
        find_record = collection._writing().find_record  # noqa: SLF001
        self._inputs.skip_known(find_record, any_known=len(collection) > 0)
        try:
            with handled_signals(self._control, _SIGNALS, self._on_signal):
                return collection._ingest(  # noqa: SLF001
                    _documents(self._inputs, self._settings.collection),
                    client,
                    self._settings.options,
                    self._control,
                    self._show,
                    on_failure=self._on_failure,
                )
        finally:
            self._display.close()

    def _on_signal(self, number: int, frame: object) -> None:
        self._signal = self._signal or number
        self._control.on_signal(number, frame)

    def _show(self, progress: IngestProgress) -> None:
        self._progress = progress
        if self._display is not None:
            self._display.show(progress)

    def _on_failure(self, place: str | None, name: str | None, reason: str) -> None:
        self._event("reject", **self._rejects.add(place, name, reason))

    def _event(self, name: str, **fields: Any) -> None:
        if self._settings.as_json:
            with contextlib.suppress(OSError):  # nobody reads the events: the job goes on
                write_json({"event": name, **fields})
                sys.stdout.flush()

    def ended_by(self, error: Exception, base_url: str) -> IncompleteError:
        """Return the error of a job that ended early, which says what is stored."""
        if isinstance(error, APIError):
            message = request_error(error, base_url)
        elif type(error) is ValueError and self._inputs.position is not None:
            message = f"{self._inputs.position}: {error}"
        else:
            message = error_text(error)
        return IncompleteError(f"{message}. {self._stored()}", 1)

    def _stored(self) -> str:
        progress = self._progress
        stored = 0 if progress is None else progress.added + progress.updated + progress.unchanged
        have = "is" if stored == 1 else "are"
        return f"{plural(stored, 'document')} of the input {have} stored, and the same command goes on from there"

    def finish(self, report: IngestReport) -> None:
        """Say what was done. What is not complete is an error."""
        settings, skipped = self._settings, self._inputs.skipped
        fields = asdict(replace(report, usage=None))  # type: ignore[arg-type]
        fields["usage"] = _usage_json(report.usage)
        self._event("end", **fields, skipped=skipped.to_dict(), rejects=self._path)
        if not settings.as_json:
            if skipped:
                write_message(str(skipped))
            write_message(f"{settings.collection}: {_counts(report)} ({self._spent(report.usage)})")
        if report.stopped == "interrupted":
            number = self._signal or signal.SIGINT
            raise IncompleteError(f"interrupted: {self._stored()}", 128 + number)
        if settings.options.prune and self._rejects.unnamed:
            what = plural(self._rejects.unnamed, "part")
            write_message(f"nothing was pruned: {what} of the input could not be read, and may hold any document")
        if report.stopped is not None:
            raise IncompleteError(f"{_STOPPED[report.stopped]}: {self._stored()}", 1)
        if report.failed:
            have = "was" if report.failed == 1 else "were"
            raise IncompleteError(f"{plural(report.failed, 'document')} {have} rejected: see {self._path}", 1)
        if self._progress is None or not self._progress.documents_read:
            note = f"; {skipped}" if skipped and settings.as_json else ""
            raise IncompleteError(f"no documents in {', '.join(settings.inputs)}{note}", 1)

    def _spent(self, usage: Usage) -> str:
        if self._settings.embedder is not None:
            return f"{usage.total_tokens or 0} tokens, on this machine"
        return _paid(usage)

    @property
    def _path(self) -> str | None:
        return os.path.relpath(self._rejects.path) if self._rejects.count else None


def _display(inputs: Inputs, event: Any) -> Display:
    from ctxembed._client.progress import Terminal
    from ctxembed._jobs.display import EventDisplay, LineDisplay, LiveDisplay, Tracker

    tracker = Tracker(lambda: inputs.bytes_read, inputs.total_bytes)
    if event is not None:
        return EventDisplay(tracker, lambda name, fields: event(name, **fields))
    terminal = Terminal(sys.stderr)
    return LiveDisplay(tracker, terminal) if terminal.isatty() else LineDisplay(tracker, write_message)


def _counts(report: IngestReport) -> str:
    parts = {name: getattr(report, name) for name in ("added", "updated", "unchanged", "deleted", "failed")}
    return ", ".join(f"{count:,} {name}" for name, count in parts.items() if count or name in ("added", "unchanged"))


def _paid(usage: Usage) -> str:
    cost = "no cost reported" if usage.cost_usd is None else f"USD {usage.cost_usd:f}"
    if not usage.requests and not usage.unreported:
        return "nothing was sent"
    return f"{plural(usage.requests, 'request')}, {usage.total_tokens or 0} tokens, {cost}"


def _usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "requests": usage.requests,
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.total_tokens,
        # A string: most JSON parsers would read a number as a binary float.
        "cost_usd": None if usage.cost_usd is None else f"{usage.cost_usd:f}",
    }


def run_dry(settings: Settings) -> None:
    """Print what :func:`run` would send and cost.

    Raises
    ------
    IncompleteError
        Documents would be rejected.
    """
    from ctxembed._client import Client
    from ctxembed._collection.dry_store import DryStore
    from ctxembed._jobs.dry_run import dry_run

    folder = folder_of(settings.collection)
    rejected: list[dict[str, str | None]] = []

    def on_failure(place: str | None, name: str | None, reason: str) -> None:
        rejected.append({"place": place, "id": name, "reason": reason})

    with contextlib.ExitStack() as stack:
        inputs = stack.enter_context(_open_inputs(settings))
        client = stack.enter_context(Client(**settings.client, api_key="unused"))
        if folder.exists() or (folder.path.exists() and not folder.is_unused()):  # open() refuses what is none
            collection = stack.enter_context(Collection.open(settings.collection, read_only=True))
            _check_same(settings, collection)
            store = DryStore(
                collection._current(),  # noqa: SLF001
                collection.model,
                collection.dimensions,
                collection.encoding_format,
            )
        else:
            model, encoding = settings.model or DEFAULT_MODEL, settings.encoding_format or "base64_int8"
            store = DryStore(None, model, check_options(model, settings.dimensions, encoding), encoding)
        found = dry_run(store, _documents(inputs, settings.collection), client, settings.options, on_failure)
    cost = None if found.cost_usd is None else f"{found.cost_usd:f}"
    exact = settings.reading.token_counter is not None
    if settings.as_json:
        fields = {**asdict(found), "cost_usd": cost, "exact_tokens": exact, "skipped": inputs.skipped.to_dict()}
        write_json({**fields, "rejected": rejected})
    else:
        if inputs.skipped:
            write_message(str(inputs.skipped))
        for item in rejected:
            write_message(f"rejected: {item['place']}: {item['reason']}")
        counted = "counted" if exact else "estimated with a margin"
        write(
            f"{plural(found.sent, 'document')} to send ({found.added:,} new, {found.updated:,} changed)",
            f"{found.unchanged:,} unchanged, {found.deleted:,} to delete, {found.failed:,} rejected",
            f"{plural(found.requests, 'request')}, {plural(found.chunks, 'chunk')}, "
            f"{plural(found.tokens, 'token')} ({counted})",
            f"price of {store.model} not known" if cost is None else f"USD {cost}",
        )
    if found.failed:
        have = "is" if found.failed == 1 else "are"
        raise IncompleteError(f"{plural(found.failed, 'document')} {have} rejected", 1)
