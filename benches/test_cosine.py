"""Top k by cosine over int8 vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches.cases import search
from benches.cases.search import CosineCase
from benches.peers import search as peers

if TYPE_CHECKING:
    from benches.harness import Case, Scale

PEERS = {CosineCase: peers.COSINE}


def cases(scale: Scale) -> list[Case]:
    return search.cases(CosineCase, "cosine", 250_000, 100_000, scale)


def test_cosine(run, measure):
    measure(run)
