"""What a measurement is made of: cases, the peers that answer them, and how their answers are judged."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

ALL_THREADS = len(os.sched_getaffinity(0))
"""What "all threads" means: the CPUs that this process may use."""

Scale = Literal["smoke", "quick", "full"]


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth.

    ``correct`` is True where it equals the reference, up to what the case allows. ``note`` goes beside the time in
    the tables: requests of a packing, recall of a search that is not exact. ``values`` are numbers for plots.
    """

    correct: bool
    note: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """Somebody who answers a case.

    ``prepare(case, threads)`` builds what the peer keeps between calls (an index, a decoder), sets the number of
    threads through the peer's own interface, and returns the call that is timed.
    """

    name: str
    prepare: Callable[[Any, int], Callable[[], Any]]
    #: "ours", "peer", or "reference": a line that bounds the others and answers less than they do.
    kind: Literal["ours", "peer", "reference"] = "peer"
    #: Whether there is a number of threads to set; else it is measured on one.
    threaded: bool = False
    #: False for an answer that is close by design: it may differ from the reference, and the tables say how much.
    exact: bool = True
    #: Whether a case is within reach; what takes minutes is left out, and the tables show a dash.
    takes: Callable[[Any], bool] = lambda _case: True


class Case(ABC):
    """One row of a table: an input, the peers that get it, and the reference their answers are held against."""

    group: ClassVar[str]
    #: Cases of a group that have the same peers share a table of this title.
    table: ClassVar[str] = ""
    peers: ClassVar[tuple[Peer, ...]]
    #: A run of seconds or minutes that is over many requests by itself: measured once, without warming up.
    once: ClassVar[bool] = False
    #: Numbers of threads that it is measured on, where peers have threads to set.
    threads: ClassVar[tuple[int, ...]] = tuple(sorted({1, ALL_THREADS}))

    @property
    @abstractmethod
    def label(self) -> str:
        """What the row is called."""

    @property
    @abstractmethod
    def size(self) -> dict[str, int]:
        """The numbers behind the label."""

    @abstractmethod
    def judge(self, peer: Peer, answer: Any) -> Verdict:
        """Compare an answer with the reference."""


@dataclass(frozen=True)
class Run:
    """One measurement: a peer on a case, in one pass over all peers."""

    case: Case
    peer: Peer
    threads: int
    number: int

    def __str__(self) -> str:
        return f"{self.case.label}-{self.peer.name}-{self.threads}t-pass{self.number}".replace(" ", "_")


def runs(cases: list[Case], passes: int) -> list[Run]:
    """Order the measurements: whole passes over a case's peers, so that each pass compares within a short time.

    What changes on a shared machine over minutes then meets all peers of a pass alike, and ratios are taken within
    a pass.
    """
    return [
        Run(case, peer, threads, number)
        for case in cases
        for number in range(1 if case.once else passes)
        for threads in case.threads
        for peer in case.peers
        if peer.takes(case) and (peer.threaded or threads == case.threads[0])
    ]


@dataclass
class Memory:
    """What peers keep of a data set from pass to pass: an index is built once."""

    kept: dict[Any, Any] = field(default_factory=dict)

    def keep(self, key: Any, build: Callable[[], Any]) -> Any:
        """Return what ``build`` gave the first time ``key`` was asked for."""
        if key not in self.kept:
            self.kept[key] = build()
        return self.kept[key]


def warmed(call: Callable[[], Any], enough: float) -> float:
    """Call twice to warm up, once where that takes ``enough`` seconds, and return how long the last call took."""
    for _ in range(2):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        if seconds > enough:
            break
    return seconds


def rounds_for(seconds: float, budget: float) -> tuple[int, int]:
    """Return rounds, and calls a round, for ``seconds`` a call to fill ``budget``; a round is long for the clock."""
    iterations = max(1, round(20e-6 / max(seconds, 1e-9)))
    return min(200, max(1, int(budget / (seconds * iterations)))), iterations
