"""Shows the progress of a job: live on a terminal, as lines elsewhere, or as JSON events."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from ctxembed._documents import IngestProgress


__all__ = ["Display", "EventDisplay", "LineDisplay", "LiveDisplay", "Snapshot", "Tracker"]

_LINE_SECONDS: Final = 30.0
_EVENT_SECONDS: Final = 1.0
_RATE_SECONDS: Final = 30.0
"""Seconds over which tokens a second are measured."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The progress of a job, and what follows from how much of the input was read.

    Parameters
    ----------
    progress : IngestProgress
        The counts.
    share : float or None
        Part of the input that is done, from 0 to 1, which never falls; None where its size is not known.
    tokens_per_second : float
        Over the last half minute.
    expected_cost_usd : Decimal or None
        Cost of the whole job at the cost so far; None while it is not known.
    seconds_left : float or None
        Time to the end at the speed so far; None while it is not known.
    """

    progress: IngestProgress
    share: float | None
    tokens_per_second: float
    expected_cost_usd: Decimal | None
    seconds_left: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        progress, usage = self.progress, self.progress.usage
        return {
            "documents_read": progress.documents_read,
            "documents": progress.documents_done,
            "added": progress.added,
            "updated": progress.updated,
            "unchanged": progress.unchanged,
            "failed": progress.failed,
            "chunks": progress.chunks,
            "requests": usage.requests,
            "tokens": usage.total_tokens or 0,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "in_flight": progress.in_flight,
            "retries": progress.retries,
            "cost_usd": f"{progress.cost_usd:f}",
            "expected_cost_usd": None if self.expected_cost_usd is None else f"{self.expected_cost_usd:f}",
            "share": None if self.share is None else round(self.share, 4),
            "seconds": round(progress.seconds, 1),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            "waiting": progress.waiting_since is not None,
        }

    def __str__(self) -> str:
        progress = self.progress
        parts = [
            f"{progress.documents_done:,} documents",
            f"{progress.chunks:,} chunks",
            f"{self.tokens_per_second:,.0f} tokens/s",
            f"{progress.in_flight} in flight",
        ]
        if progress.retries:
            parts.append(f"{progress.retries:,} retries")
        if progress.failed:
            parts.append(f"{progress.failed:,} failed")
        cost = f"USD {progress.cost_usd:.4f}"
        parts.append(cost if self.expected_cost_usd is None else f"{cost} of about {self.expected_cost_usd:.4f}")
        if progress.waiting_since is not None:
            parts.append("waiting for the API")
        elif self.seconds_left is not None:
            parts.append(f"{_duration(self.seconds_left)} left")
        return ", ".join(parts)


class Tracker:
    """Makes a :class:`Snapshot` of each progress.

    Parameters
    ----------
    bytes_read : callable
        Returns the bytes of the input that were read so far.
    total_bytes : int or None
        Size of the input.
    """

    def __init__(self, bytes_read: Callable[[], int], total_bytes: int | None) -> None:
        self._bytes_read = bytes_read
        self._total = total_bytes
        self._share = 0.0
        self._tokens: deque[tuple[float, int]] = deque([(0.0, 0)])

    def snapshot(self, progress: IngestProgress) -> Snapshot:
        """Return what to show."""
        tokens = progress.usage.total_tokens or 0
        self._tokens.append((progress.seconds, tokens))
        while len(self._tokens) > 2 and progress.seconds - self._tokens[0][0] > _RATE_SECONDS:
            self._tokens.popleft()
        before, earlier = self._tokens[0]
        rate = (tokens - earlier) / max(progress.seconds - before, 1e-3)
        if not self._total:
            return Snapshot(progress, None, rate, None, None)
        read = self._bytes_read() / self._total
        done = progress.documents_done / max(progress.documents_read, 1)
        self._share = share = max(self._share, min(1.0, read * done))
        if share < 1e-3:
            return Snapshot(progress, share, rate, None, None)
        expected = progress.cost_usd / type(progress.cost_usd)(str(share))
        return Snapshot(progress, share, rate, expected, progress.seconds * (1 - share) / share)


class Display(Protocol):
    """Shows snapshots. None of its methods raises."""

    def show(self, progress: IngestProgress) -> None:
        """Show how far the job is."""

    def close(self) -> None:
        """Show nothing more."""


class LineDisplay:
    """Writes a line every half minute.

    Parameters
    ----------
    tracker : Tracker
        Makes what is shown.
    write : callable
        Writes a line.
    """

    def __init__(self, tracker: Tracker, write: Callable[[str], object]) -> None:
        self._tracker = tracker
        self._write = write
        self._next = time.monotonic() + _LINE_SECONDS

    def show(self, progress: IngestProgress) -> None:
        """Show how far the job is."""
        snapshot = self._tracker.snapshot(progress)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            self._write(str(snapshot))

    def close(self) -> None:
        """Show nothing more."""


class EventDisplay:
    """Writes an event at most once a second.

    Parameters
    ----------
    tracker : Tracker
        Makes what is shown.
    write : callable
        Writes an event: its name and its fields.
    """

    def __init__(self, tracker: Tracker, write: Callable[[str, dict[str, Any]], object]) -> None:
        self._tracker = tracker
        self._write = write
        self._next = 0.0

    def show(self, progress: IngestProgress) -> None:
        """Show how far the job is."""
        snapshot = self._tracker.snapshot(progress)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVENT_SECONDS
            self._write("progress", snapshot.to_dict())

    def close(self) -> None:
        """Show nothing more."""


class LiveDisplay:
    """Draws a bar and the counts on a terminal.

    Parameters
    ----------
    tracker : Tracker
        Makes what is shown.
    terminal : file
        A terminal whose errors are silent (:class:`~ctxembed._client.progress.Terminal`).
    """

    def __init__(self, tracker: Tracker, terminal: object) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._tracker = tracker
        columns = (BarColumn(bar_width=20), TaskProgressColumn(), TextColumn("{task.fields[counts]}"))
        console = Console(file=cast("IO[str]", terminal))
        self._bar = Progress(*columns, console=console, transient=True, refresh_per_second=4)
        self._task = self._bar.add_task("", total=None, counts="reading")
        with contextlib.suppress(Exception):  # no thread can be started, or the terminal went away
            self._bar.start()

    def show(self, progress: IngestProgress) -> None:
        """Show how far the job is."""
        snapshot = self._tracker.snapshot(progress)
        total, done = (None, 0.0) if snapshot.share is None else (1.0, snapshot.share)
        with contextlib.suppress(Exception):
            self._bar.update(self._task, total=total, completed=done, counts=str(snapshot))

    def close(self) -> None:
        """Remove the bar."""
        with contextlib.suppress(Exception):
            self._bar.stop()


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
