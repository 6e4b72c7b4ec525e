"""Top k by cosine over int8 vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches import searching

if TYPE_CHECKING:
    from benches.harness import Case, Scale


def cases(scale: Scale) -> list[Case]:
    return searching.cases(searching.CosineCase, "cosine", 250_000, 100_000, scale)


def test_cosine(run, measure):
    measure(run)
