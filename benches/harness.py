"""The parts of a measurement: cases, the peers that run them, and verdicts on the results."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ALL_THREADS = len(os.sched_getaffinity(0))
"""The number of CPUs that this process may use."""

Scale = Literal["smoke", "quick", "full"]


@dataclass(frozen=True)
class Verdict:
    """The judgement of a result.

    ``correct`` is True if the result equals the reference, up to the tolerance of the case. The tables print ``note``
    beside the time: the requests of a packing, the recall of an approximate search. The plots read ``values``.
    """

    correct: bool
    note: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """An implementation that is measured.

    ``prepare(case, threads)`` builds what the peer keeps between calls (an index, a decoder), sets the number of
    threads through the peer's own interface, and returns the call that is timed.
    """

    name: str
    prepare: Callable[[Any, int], Callable[[], Any]]
    #: "ours", "peer", or "reference": a bound on the others, which does only part of their work.
    kind: Literal["ours", "peer", "reference"] = "peer"
    #: Whether the number of threads can be set. Other peers are measured on one thread.
    threaded: bool = False
    #: False for an approximate result: it may differ from the reference, and the tables print by how much.
    exact: bool = True
    #: Whether the peer can run a case in reasonable time. The tables print a dash for a case that it does not take.
    takes: Callable[[Any], bool] = lambda _case: True


class Case(ABC):
    """One row of a table: an input and its reference result."""

    group: ClassVar[str]
    #: The title of the table. The cases of a table have the same peers.
    table: ClassVar[str] = ""
    #: True for a run of seconds or minutes that averages over many requests: it is measured once, without a warm-up.
    once: ClassVar[bool] = False
    #: True for results that have ``seconds``, such as the processor time of another process: this is what counts.
    timed: ClassVar[bool] = False
    #: The numbers of threads to measure threaded peers on.
    threads: ClassVar[tuple[int, ...]] = tuple(sorted({1, ALL_THREADS}))

    @property
    @abstractmethod
    def label(self) -> str:
        """The name of the row."""

    @property
    @abstractmethod
    def size(self) -> dict[str, int]:
        """The numbers behind the label."""

    @abstractmethod
    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Compare a result with the reference."""


@dataclass(frozen=True)
class Run:
    """One measurement: a peer on a case, in one pass over all peers."""

    case: Case
    peer: Peer
    threads: int
    pass_number: int

    def __str__(self) -> str:
        return f"{self.case.label}-{self.peer.name}-{self.threads}t-pass{self.pass_number}".replace(" ", "_")


def runs(cases: list[Case], peers: Mapping[type[Case], tuple[Peer, ...]], passes: int) -> list[Run]:
    """List the measurements in order. ``peers`` holds the peers of each class of case.

    Each pass measures all peers of a case within a short time. A shared machine that slows down over minutes then
    affects all peers of a pass alike, and the tables take ratios within a pass.
    """
    return [
        Run(case, peer, threads, number)
        for case in cases
        for number in range(1 if case.once else passes)
        for threads in case.threads
        for peer in peers[type(case)]
        if peer.takes(case) and (peer.threaded or threads == case.threads[0])
    ]


@dataclass
class Cache:
    """What peers build once for a data set, such as an index, and use again in later passes."""

    entries: dict[Any, Any] = field(default_factory=dict)

    def get(self, key: Any, build: Callable[[], Any]) -> Any:
        """Return the entry of ``key``. The first call builds it."""
        if key not in self.entries:
            self.entries[key] = build()
        return self.entries[key]


def warmed(call: Callable[[], Any], enough: float) -> float:
    """Call twice to warm up, or once if that takes ``enough`` seconds, and return the duration of the last call."""
    for _ in range(2):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        if seconds > enough:
            break
    return seconds


def rounds_for(seconds: float, budget: float) -> tuple[int, int]:
    """Return (rounds, calls per round) to fill ``budget`` with calls of ``seconds`` each.

    A round is long compared with the resolution of the clock.
    """
    iterations = max(1, round(20e-6 / max(seconds, 1e-9)))
    return min(200, max(1, int(budget / (seconds * iterations)))), iterations
