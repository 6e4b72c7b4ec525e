"""The order and the number of measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from benches.harness import Case, Peer, Verdict, runs


@dataclass(frozen=True)
class Sum(Case):
    """A case that says on which numbers of threads it runs."""

    threads: ClassVar = (1, 2, 4)
    peers: ClassVar = (
        Peer("threaded", lambda _case, _threads: int, threaded=True),
        Peer("alone", lambda _case, _threads: int),
        Peer("never", lambda _case, _threads: int, takes=lambda _case: False),
    )
    label = "a sum"
    size: ClassVar = {}

    def judge(self, _peer, _answer):
        return Verdict(correct=True)


def test_a_case_runs_on_its_own_numbers_of_threads_and_a_peer_without_threads_on_the_first():
    found = [(run.peer.name, run.threads) for run in runs([Sum()], 1)]
    assert found == [("threaded", 1), ("alone", 1), ("threaded", 2), ("threaded", 4)]


def test_passes_are_whole_rounds_over_all_peers():
    found = [(run.number, run.peer.name) for run in runs([Sum()], 2)]
    assert found[:4] == [(0, "threaded"), (0, "alone"), (0, "threaded"), (0, "threaded")]
    assert [number for number, _ in found] == [0] * 4 + [1] * 4


def test_a_verdict_carries_no_numbers_unless_it_is_given_some():
    assert Verdict(correct=True).values == {}
