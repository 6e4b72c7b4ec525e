"""Search as a service: what concurrent callers gain by sharing scans, and what one alone or beside others sees.

The gain is the searches a second of 64 callers beside those of the same server that scans for each alone. It is
compared with what the kernels gain: 64 queries in one call of the index, beside 64 calls.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benches.cases.service import Load, Served, end_load, loaded, start_load
from benches.harness import ALL_THREADS, Case, Peer, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.harness import Scale

CALLERS = 64


@dataclass(frozen=True)
class Gained:
    """Figures of some rounds, in each of which all took turns."""

    seconds: float
    loads: list[Load]
    values: dict[str, float]


@dataclass(frozen=True, eq=False)
class SharedCase(Case):
    """64 callers, each of which sends its next search when it has its last hits."""

    group: ClassVar = "service"
    table: ClassVar = "64 callers, k = 10"
    once: ClassVar = True
    timed: ClassVar = True
    threads: ClassVar = (ALL_THREADS,)
    data: Served
    seconds: float
    rounds: int

    callers: ClassVar = f"{CALLERS} callers"

    @property
    def label(self) -> str:
        kind = "bits" if self.data.bits else "int8"
        return f"{self.data.count:,} x {self.data.dimensions} {kind}, {self.callers}"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": self.data.count, "dimensions": self.data.dimensions, "callers": CALLERS}

    def judge(self, _peer: Peer, result: Gained) -> Verdict:
        """Compare the first hits, and show the gain."""
        values = result.values
        note = (
            f"{values['rate']:,.0f} searches a second, {values['alone_rate']:,.0f} unshared: gain "
            f"{values['gain']:.1f} of the kernels' {values['kernel_gain']:.1f} ({values['share']:.0%}), median "
            f"{values['median_milliseconds']:.1f} ms = {values['passes']:.1f} passes of 64"
        )
        return Verdict(all(load.is_expected(self.data) for load in result.loads), note, values)


class LoneCase(SharedCase):
    """One caller."""

    table: ClassVar = "one caller, k = 10"
    callers: ClassVar = "1 caller"

    def judge(self, _peer: Peer, result: Gained) -> Verdict:
        """Compare the first hits, and show what HTTP and reading add to a pass."""
        values = result.values
        note = f"{values['added_milliseconds']:.1f} ms beyond a pass of {values['pass_milliseconds']:.1f} ms"
        return Verdict(all(load.is_expected(self.data) for load in result.loads), note, values)


class MixedCase(SharedCase):
    """60 callers with a small k beside 4 with a large one."""

    table: ClassVar = "60 callers, k = 10, beside 4 callers, k = 2,000"
    callers: ClassVar = "60 and 4 callers"

    def judge(self, _peer: Peer, result: Gained) -> Verdict:
        """Compare the first hits, and show both medians."""
        values = result.values
        note = (
            f"median {values['small_milliseconds']:.1f} ms, alone {values['small_alone_milliseconds']:.1f} ms; of the "
            f"large ones {values['large_milliseconds']:.1f} ms"
        )
        return Verdict(all(load.is_expected(self.data) for load in result.loads), note, values)


def _shared(case: SharedCase, _threads: int) -> Callable[[], Gained]:
    data = case.data
    shared, alone = data.server(512), data.server(1)
    _ = data.expected
    for url in (shared, alone):
        loaded(data, url, CALLERS, 0.5)

    def run() -> Gained:
        loads, rounds = [], []
        for _ in range(case.rounds):
            one, many = data.pass_seconds(1), data.pass_seconds(CALLERS)
            unshared, found = (loaded(data, url, CALLERS, case.seconds) for url in (alone, shared))
            loads += [unshared, found]
            kernel_gain, gain = CALLERS * one / many, found.rate / unshared.rate
            values = {
                "rate": found.rate,
                "alone_rate": unshared.rate,
                "gain": gain,
                "kernel_gain": kernel_gain,
                "share": gain / kernel_gain,
                "median_milliseconds": 1000 * found.median,
                "passes": found.median / many,
                "pass_milliseconds": 1000 * many,
                "batch": statistics.median(found.batches),
            }
            rounds.append(values)
        return _medians(1 / statistics.median(values["rate"] for values in rounds), loads, rounds)

    return run


def _lone(case: LoneCase, _threads: int) -> Callable[[], Gained]:
    data = case.data
    url, _ = data.server(512), data.expected
    loaded(data, url, 1, 0.2)

    def run() -> Gained:
        loads, rounds = [], []
        for _ in range(case.rounds):
            one, found = data.pass_seconds(1), loaded(data, url, 1, case.seconds)
            loads.append(found)
            added = 1000 * (found.median - one)
            rounds.append(
                {
                    "pass_milliseconds": 1000 * one,
                    "added_milliseconds": added,
                    "median_milliseconds": 1000 * found.median,
                }
            )
        return _medians(statistics.median(load.median for load in loads), loads, rounds)

    return run


def _mixed(case: MixedCase, _threads: int) -> Callable[[], Gained]:
    data = case.data
    url, _ = data.server(512), data.expected
    loaded(data, url, CALLERS, 0.5)

    def run() -> Gained:
        loads, rounds = [], []
        for _ in range(case.rounds):
            alone = loaded(data, url, 60, case.seconds)
            beside = start_load(data, url, 4, case.seconds, k=2000)
            small = loaded(data, url, 60, case.seconds)
            large = end_load(beside)
            loads += [alone, small, large]
            rounds.append(
                {
                    "small_alone_milliseconds": 1000 * alone.median,
                    "small_milliseconds": 1000 * small.median,
                    "large_milliseconds": 1000 * large.median,
                }
            )
        return _medians(statistics.median(values["small_milliseconds"] for values in rounds) / 1000, loads, rounds)

    return run


def _medians(seconds: float, loads: list[Load], rounds: list[dict[str, float]]) -> Gained:
    values = {name: float(f"{statistics.median(values[name] for values in rounds):.4g}") for name in rounds[0]}
    return Gained(seconds, loads, values)


PEERS: dict[type[Case], tuple[Peer, ...]] = {
    SharedCase: (Peer("ctxembed serve", _shared, "ours"),),
    LoneCase: (Peer("ctxembed serve", _lone, "ours"),),
    MixedCase: (Peer("ctxembed serve", _mixed, "ours"),),
}


def cases(scale: Scale) -> list[Any]:
    if scale == "smoke":
        small = Served(300, bits=False)
        return [kind(small, 0.2, 1) for kind in (SharedCase, LoneCase, MixedCase)]
    seconds, rounds = (2.0, 1) if scale == "quick" else (4.0, 3)
    bits, int8 = Served(333_333, bits=True), Served(83_333, bits=False)
    return [kind(data, seconds, rounds) for kind in (SharedCase, LoneCase, MixedCase) for data in (bits, int8)]


def test_service(run, measure):
    measure(run)
