"""Top k by Hamming distance over packed bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches import searching

if TYPE_CHECKING:
    from benches.harness import Case, Scale


def cases(scale: Scale) -> list[Case]:
    return searching.cases(searching.HammingCase, "hamming", 1_000_000, 500_000, scale)


def test_hamming(run, measure):
    measure(run)
