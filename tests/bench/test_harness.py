"""The order and the number of measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from benches.harness import Cache, Case, Peer, Verdict, runs


@dataclass(frozen=True)
class Sum(Case):
    """A case with its own numbers of threads."""

    threads: ClassVar = (1, 2, 4)
    label = "a sum"
    size: ClassVar = {}

    def judge(self, _peer, _result):
        return Verdict(correct=True)


PEERS = {
    Sum: (
        Peer("threaded", lambda _case, _threads: int, threaded=True),
        Peer("alone", lambda _case, _threads: int),
        Peer("never", lambda _case, _threads: int, takes=lambda _case: False),
    ),
}


def test_a_threaded_peer_runs_on_all_thread_counts_of_a_case_and_other_peers_on_the_first():
    found = [(run.peer.name, run.threads) for run in runs([Sum()], PEERS, 1)]
    assert found == [("threaded", 1), ("alone", 1), ("threaded", 2), ("threaded", 4)]


def test_each_pass_runs_all_peers():
    found = [(run.pass_number, run.peer.name) for run in runs([Sum()], PEERS, 2)]
    assert found[:4] == [(0, "threaded"), (0, "alone"), (0, "threaded"), (0, "threaded")]
    assert [number for number, _ in found] == [0] * 4 + [1] * 4


def test_a_case_without_peers_is_an_error():
    with pytest.raises(KeyError, match="Sum"):
        runs([Sum()], {}, 1)


def test_a_verdict_has_no_values_by_default():
    assert Verdict(correct=True).values == {}


def test_a_cache_builds_an_entry_once():
    cache, built = Cache(), []
    for _ in range(2):
        assert cache.get("key", lambda: built.append(1) or "entry") == "entry"
    assert built == [1]
