"""Top k by Hamming distance over packed bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches.cases import search
from benches.cases.search import HammingCase
from benches.peers import search as peers

if TYPE_CHECKING:
    from benches.harness import Case, Scale

PEERS = {HammingCase: peers.HAMMING}


def cases(scale: Scale) -> list[Case]:
    return search.cases(HammingCase, "hamming", 1_000_000, 500_000, scale)


def test_hamming(run, measure):
    measure(run)
