"""Documents to pack into requests, with the checks of a packing."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import ctxembed
import numpy as np

from benches.harness import Case, Peer, Verdict


@dataclass(frozen=True, eq=False)
class PackCase(Case):
    """Token counts of documents, the limits of a request, and a lower bound on the number of requests."""

    group: ClassVar = "pack"
    family: str
    tokens: np.ndarray
    chunks: np.ndarray | None = None
    limits: ctxembed.Limits = field(default_factory=ctxembed.Limits)

    @property
    def label(self) -> str:
        return f"{self.family}, {len(self.tokens):,} documents"

    @property
    def size(self) -> dict[str, int]:
        return {"documents": len(self.tokens), "bound": self.bound}

    @cached_property
    def costs(self) -> np.ndarray:
        """Tokens including separators."""
        return self.tokens if self.chunks is None else self.tokens + self.chunks - 1

    @cached_property
    def bound(self) -> int:
        """The lower bound by the tightest limit, computed without ctxembed."""
        needs = [(int(self.costs.sum()), self.limits.tokens), (len(self.tokens), self.limits.documents)]
        if self.chunks is not None:
            needs.append((int(self.chunks.sum()), self.limits.chunks))
        return max(-(-need // limit) for need, limit in needs)

    def judge(self, _peer: Peer, result: Any) -> Verdict:
        """Check that every document occurs once and no request is over a limit. The note has the number of requests."""
        counts = np.array([len(request) for request in result])
        placed = np.concatenate([np.asarray(request, dtype=np.int64) for request in result])
        once = len(placed) == len(self.tokens) and bool((np.bincount(placed, minlength=len(self.tokens)) == 1).all())
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        correct = once and bool(
            (counts <= self.limits.documents).all()
            and (np.add.reduceat(self.costs[placed], starts) <= self.limits.tokens).all()
            and (self.chunks is None or (np.add.reduceat(self.chunks[placed], starts) <= self.limits.chunks).all())
        )
        over = len(result) - self.bound
        return Verdict(correct, f"{len(result):,} requests" + (f" (+{over:,})" if over else ""))


@dataclass(frozen=True, eq=False)
class ArrangedCase(PackCase):
    """Many documents, in sizes and an order that can make a packing algorithm quadratic."""

    table: ClassVar = "Arrangements of documents"


@dataclass(frozen=True, eq=False)
class FamilyCase(Case):
    """Instances of one family, up to 1,000 documents, packed one after the other."""

    group: ClassVar = "pack"
    table: ClassVar = "Families of instances, 60 to 1,000 documents"
    family: str
    instances: tuple[PackCase, ...]
    #: The fewest requests of each instance, by construction or proven by a bound; None if not known.
    optima: tuple[int | None, ...]

    @property
    def label(self) -> str:
        return f"{self.family}, {len(self.instances)} instances"

    @property
    def size(self) -> dict[str, int]:
        return {"instances": len(self.instances), "documents": sum(len(one.tokens) for one in self.instances)}

    def judge(self, peer: Peer, result: Any) -> Verdict:
        """Check every packing against its limits. The note has the number of packings that are known to be optimal."""
        correct = all(one.judge(peer, requests).correct for one, requests in zip(self.instances, result, strict=True))
        over = [
            len(requests) - (one.bound if optimum is None else optimum)
            for one, optimum, requests in zip(self.instances, self.optima, result, strict=True)
        ]
        best = sum(gap == 0 for gap in over)
        note = f"{best}/{len(over)} optimal"
        return Verdict(correct, note + (f" (+{sum(over):,} requests)" if sum(over) else ""))
