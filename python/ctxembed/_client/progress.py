"""Telling how far a call has come: to a callable, or as a bar on a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from ctxembed._client.batches import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctxembed._client._policy.retry import Clock
    from ctxembed._client.batches import Assembly, Outcome
    from ctxembed._client.planned import Plan

__all__ = ["Meter", "watcher"]


class Meter:
    """Takes outcomes into the assembly and tells of it.

    Parameters
    ----------
    plan : Plan
        The totals.
    assembly : Assembly
        Where outcomes go.
    watch : callable or None
        Told after each outcome.
    clock : Clock
        For the seconds.
    """

    def __init__(
        self, plan: Plan, assembly: Assembly, watch: Callable[[Progress], object] | None, clock: Clock
    ) -> None:
        self._plan = plan
        self._assembly = assembly
        self._watch = watch
        self._clock = clock
        self._began = clock.monotonic()
        self._documents = len(plan.refused)
        self._chunks = sum(len(plan.documents[failure.document]) for failure in plan.refused)
        self._left = {batch.root: len(batch.documents) for batch in plan.batches}
        self._requests = self._retries = 0

    def take(self, outcome: Outcome) -> None:
        """Take an outcome."""
        self._assembly.add(outcome)
        batch = outcome.batch
        self._documents += len(batch.documents)
        self._chunks += sum(batch.shape)
        self._retries += outcome.retries
        self._left[batch.root] -= len(batch.documents)
        self._requests += self._left[batch.root] == 0
        if self._watch is not None:
            self._watch(
                Progress(
                    documents_done=self._documents,
                    documents_total=len(self._plan.documents),
                    chunks_done=self._chunks,
                    chunks_total=self._plan.chunks,
                    requests_done=self._requests,
                    requests_total=len(self._plan.batches),
                    retries=self._retries,
                    failures=len(self._assembly.failures),
                    usage=self._assembly.usage,
                    seconds=self._clock.monotonic() - self._began,
                )
            )


@contextlib.contextmanager
def watcher(progress: object) -> Iterator[Callable[[Progress], object] | None]:
    """Turn the ``progress`` argument into what is to be called.

    Raises
    ------
    TypeError
        It is neither a callable, a bool nor None.
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        # A bar is for eyes: none in a log file or a pipe.
        if sys.stderr.isatty():
            with _bar() as tell:
                yield tell
        else:
            yield None
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be a callable, a bool or None, got {progress!r}")


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], object]]:
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
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, tokens=0)

        def tell(progress: Progress) -> None:
            bar.update(task, completed=progress.documents_done, total=progress.documents_total, tokens=progress.tokens)

        yield tell
