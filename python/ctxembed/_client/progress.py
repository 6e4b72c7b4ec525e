"""The progress of a call: for a callable, or as a bar on a terminal."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctxembed._client._policy.clock import Clock
    from ctxembed._client.batches import Assembly, Outcome, PlannedCall
    from ctxembed._results import Usage

__all__ = ["Progress", "ProgressMeter", "Terminal", "progress_callback"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a call.

    Parameters
    ----------
    documents_done, chunks_done, requests_done : int
        Documents and chunks that have vectors or a failure, and requests that have ended.
    documents_total, chunks_total, requests_total : int or None
        Totals of the whole call as planned; a request that is split counts as one. None in a stream whose input was
        not read to its end yet.
    retries : int
        Attempts beyond the first of each request.
    failures : int
        Documents that failed.
    usage : Usage
        Tokens and cost so far.
    seconds : float
        Seconds since the call began.
    """

    documents_done: int
    documents_total: int | None
    chunks_done: int
    chunks_total: int | None
    requests_done: int
    requests_total: int | None
    retries: int
    failures: int
    usage: Usage
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that the API has counted so far."""
        return self.usage.total_tokens or 0


class ProgressMeter:
    """Add outcomes to an assembly and report the progress after each.

    Parameters
    ----------
    planned : PlannedCall
        The totals.
    assembly : Assembly
        Receives the outcomes.
    report : callable or None
        Called with a :class:`Progress` after each outcome.
    clock : Clock
        For the seconds.
    """

    def __init__(
        self, planned: PlannedCall, assembly: Assembly, report: Callable[[Progress], object] | None, clock: Clock
    ) -> None:
        self._planned = planned
        self._assembly = assembly
        self._report = report
        self._clock = clock
        self._started = clock.monotonic()
        done = [*(failure.document for failure in planned.invalid), *planned.known, *self._copies_of(planned.known)]
        self._documents = len(done)
        self._chunks = sum(len(planned.documents[position]) for position in done)
        self._remaining = {batch.root: len(batch.documents) for batch in planned.batches}  # documents of each request
        self._requests = self._retries = 0

    def add(self, outcome: Outcome) -> None:
        """Add an outcome."""
        self._assembly.add(outcome)
        batch = outcome.batch
        copies = self._copies_of(batch.positions.tolist()) if self._planned.copies else []
        self._documents += len(batch.documents) + len(copies)
        self._chunks += sum(batch.shape) + sum(len(self._planned.documents[position]) for position in copies)
        self._retries += outcome.retries
        self._remaining[batch.root] -= len(batch.documents)
        self._requests += self._remaining[batch.root] == 0
        if self._report is not None:
            self._report(
                Progress(
                    documents_done=self._documents,
                    documents_total=len(self._planned.documents),
                    chunks_done=self._chunks,
                    chunks_total=self._planned.chunks,
                    requests_done=self._requests,
                    requests_total=len(self._planned.batches),
                    retries=self._retries,
                    failures=len(self._assembly.failures),
                    usage=self._assembly.usage,
                    seconds=self._clock.monotonic() - self._started,
                )
            )

    def _copies_of(self, positions: Iterable[int]) -> list[int]:
        return [copy for position in positions for copy in self._planned.copies.get(position, ())]


@contextlib.contextmanager
def progress_callback(progress: object) -> Iterator[Callable[[Progress], object] | None]:
    """Turn the ``progress`` argument of a call into a callable, or into None.

    Raises
    ------
    TypeError
        It is neither a callable, a bool nor None.
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        stream = Terminal(getattr(sys, "stderr", None))
        if stream.isatty():
            with _bar(stream) as update:
                yield update
        else:  # a log file or a pipe, or none at all
            yield None
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be a callable, a bool or None, got {progress!r}")


class Terminal(io.TextIOBase):
    """A terminal that may go away at any time: from its first error on, nothing is written.

    A bar must not end a call that is paid for.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._works = stream is not None
        self._stream = self._get("rich_proxied_file") or stream  # another bar's, around the terminal
        encoding = self._get("encoding")
        self._encoding = encoding if isinstance(encoding, str) else "ascii"

    def _get(self, name: str) -> Any:
        with contextlib.suppress(Exception):  # the stream can be any object
            return getattr(self._stream, name)
        return None

    def _call(self, method: str, *args: Any) -> Any:
        if self._works:
            try:
                return getattr(self._stream, method)(*args)
            except Exception:  # noqa: BLE001  # the stream can be any object
                self._works = False
        return None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only
        return self._encoding

    def isatty(self) -> bool:
        return bool(self._call("isatty"))

    def fileno(self) -> int:
        raise OSError("not needed")

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._call("write", text)
        return len(text)

    def flush(self) -> None:
        self._call("flush")


@contextlib.contextmanager
def _bar(stream: Terminal) -> Iterator[Callable[[Progress], object]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("embedding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents, {task.fields[tokens]:,} tokens"),
        TimeRemainingColumn(),
    )
    bar = Bar(*columns, console=Console(file=cast("IO[str]", stream)))
    task = bar.add_task("", total=None, tokens=0)

    def update(progress: Progress) -> None:
        bar.update(task, completed=progress.documents_done, total=progress.documents_total, tokens=progress.tokens)

    # It draws in a thread, which cannot start while the interpreter ends.
    with contextlib.suppress(Exception):
        bar.start()
    try:
        yield update
    finally:
        with contextlib.suppress(Exception):
            bar.stop()
