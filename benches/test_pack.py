"""Documents packed into requests: how long it takes, and how many requests it leaves to pay latency for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import ctxembed
import numpy as np

from benches.harness import Case, Peer, Verdict
from benches.peers import packing as peers
from tests.packing.packing_families import FAMILIES

if TYPE_CHECKING:
    from benches.harness import Scale

CAPACITY = 120_000
LONGEST = 32_000


@dataclass(frozen=True, eq=False)
class PackCase(Case):
    """Token counts, the limits they are packed under, and the fewest requests that are known to be possible."""

    group: ClassVar = "pack"
    peers: ClassVar = peers.PACK
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
        """Tokens with separators."""
        return self.tokens if self.chunks is None else self.tokens + self.chunks - 1

    @cached_property
    def bound(self) -> int:
        """Requests that no packing undercuts: the fullest of the limits. Independent of ctxembed."""
        needs = [(int(self.costs.sum()), self.limits.tokens), (len(self.tokens), self.limits.documents)]
        if self.chunks is not None:
            needs.append((int(self.chunks.sum()), self.limits.chunks))
        return max(-(-need // limit) for need, limit in needs)

    def judge(self, _peer: Peer, answer: Any) -> Verdict:
        """Every document once, no request over a limit. The number of requests is reported, not judged."""
        counts = np.array([len(request) for request in answer])
        placed = np.concatenate([np.asarray(request, dtype=np.int64) for request in answer])
        once = len(placed) == len(self.tokens) and bool((np.bincount(placed, minlength=len(self.tokens)) == 1).all())
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        correct = once and bool(
            (counts <= self.limits.documents).all()
            and (np.add.reduceat(self.costs[placed], starts) <= self.limits.tokens).all()
            and (self.chunks is None or (np.add.reduceat(self.chunks[placed], starts) <= self.limits.chunks).all())
        )
        over = len(answer) - self.bound
        return Verdict(correct, f"{len(answer):,} requests" + (f" (+{over:,})" if over else ""))


@dataclass(frozen=True, eq=False)
class ArrangedCase(PackCase):
    """Many documents of such sizes and in such an order as a packing could be quadratic in."""

    table: ClassVar = "Arrangements of documents"
    peers: ClassVar = peers.ARRANGED


@dataclass(frozen=True, eq=False)
class FamilyCase(Case):
    """Instances of one family, up to 1,000 documents, packed one after the other."""

    group: ClassVar = "pack"
    table: ClassVar = "Families of instances, 60 to 1,000 documents"
    peers: ClassVar = peers.FAMILY
    family: str
    instances: tuple[PackCase, ...]
    #: The fewest requests of each instance: by construction, or proven by a bound; None where neither is known.
    optima: tuple[int | None, ...]

    @property
    def label(self) -> str:
        return f"{self.family}, {len(self.instances)} instances"

    @property
    def size(self) -> dict[str, int]:
        return {"instances": len(self.instances), "documents": sum(len(one.tokens) for one in self.instances)}

    def judge(self, peer: Peer, answer: Any) -> Verdict:
        """Every packing keeps its limits; how many are known to be optimal is reported, not judged."""
        correct = all(one.judge(peer, requests).correct for one, requests in zip(self.instances, answer, strict=True))
        over = [
            len(requests) - (one.bound if optimum is None else optimum)
            for one, optimum, requests in zip(self.instances, self.optima, answer, strict=True)
        ]
        best = sum(gap == 0 for gap in over)
        note = f"{best}/{len(over)} optimal"
        return Verdict(correct, note + (f" (+{sum(over):,} requests)" if sum(over) else ""))


def _family(name: str, sizes: tuple[int, ...], seeds: int) -> FamilyCase:
    found = [FAMILIES[name](np.random.default_rng([seed, n]), n) for n in sizes for seed in range(seeds)]
    instances = tuple(PackCase(name, one.tokens, one.chunks, one.limits) for one in found)
    return FamilyCase(name, instances, tuple(_optimum(one) for one in found))


def _optimum(one: Any) -> int | None:
    """Return the fewest requests: what was cut, or a packing that meets the bound that proves it."""
    if one.optimum is not None:
        return one.optimum
    packing = ctxembed.pack(one.tokens, one.chunks, limits=one.limits, effort=2.0)
    return packing.lower_bound if packing.optimal else None


def _one_limit(capacity: int, longest: int) -> ctxembed.Limits:
    """Return limits of which tokens alone can bind."""
    return ctxembed.Limits(documents=2**20, chunks=2**30, tokens_per_document=longest, tokens=capacity)


def _documents(rng: np.random.Generator, number: int) -> np.ndarray:
    """Return document lengths like those of documentation.

    The files of PEPs, the Rust book (English, Chinese) and React's pages (Korean) are lognormal in bytes; at four
    bytes a token their logarithms have mean 7.8 and deviation 1.06. Longer ones than the API takes are redrawn.
    """
    lengths = np.empty(0, dtype=np.int64)
    while len(lengths) < number:
        drawn = np.ceil(rng.lognormal(7.8, 1.06, number)).astype(np.int64)
        lengths = np.concatenate([lengths, drawn[drawn <= LONGEST]])
    return lengths[:number]


def _triplets(rng: np.random.Generator, number: int) -> np.ndarray:
    """Falkenauer's triplets: three fill a request exactly, and no two or four do. The bound is the optimum."""
    first = rng.integers(380, 491, number // 3)
    second = rng.integers(250, (1000 - first) // 2 + 1)
    return rng.permutation(np.concatenate([first, second, 1000 - first - second]))


def _sources(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and chunks of notes, then tables, then manuals: each source meets another limit first."""
    notes, tables, manuals = 6000, 500, 300
    chunks = np.concatenate([np.ones(notes), rng.integers(100, 300, tables), rng.integers(20, 60, manuals)])
    per_chunk = np.concatenate(
        [rng.integers(20, 80, notes), rng.integers(3, 6, tables), rng.integers(300, 450, manuals)]
    )
    return (chunks * per_chunk).astype(np.int64), chunks.astype(np.int64)


def _chunk_bound(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and chunks of documents that fill requests by tokens and by chunks about alike."""
    chunks = rng.integers(1, 1000, number)
    return np.minimum(_documents(rng, number), LONGEST - chunks), chunks


def _arranged(rng: np.random.Generator, number: int) -> list[tuple[str, np.ndarray]]:
    uniform = rng.integers(1, LONGEST + 1, number)
    ascending = np.sort(uniform)
    return [
        ("uniform", uniform),
        ("uniform, ascending", ascending),
        ("uniform, descending", ascending[::-1].copy()),
        ("all of 25,000 tokens", np.full(number, 25_000)),
        ("all of one token", np.ones(number, dtype=np.int64)),
        ("one token and 32,000 in turn", np.where(np.arange(number) % 2, 1, LONGEST)),
    ]


def cases(scale: Scale) -> list[Case]:
    rng = np.random.default_rng(7)
    part = {"smoke": 100, "quick": 10, "full": 1}[scale]
    tokens_alone = _one_limit(CAPACITY, LONGEST)
    # From 80 to 160 documents the families without room to spare are at their hardest.
    sizes = {"smoke": (60,), "quick": (60, 250), "full": (60, 80, 100, 120, 160, 250, 500, 1000)}[scale]
    seeds = {"smoke": 1, "quick": 2, "full": 3}[scale]
    return [
        PackCase("uniform 1 to 32,000 tokens", rng.integers(1, LONGEST + 1, 1000), limits=tokens_alone),
        PackCase("triplets", _triplets(rng, 501), limits=_one_limit(1000, 500)),
        PackCase("lognormal", _documents(rng, 10_000 // min(part, 10)), limits=tokens_alone),
        PackCase("lognormal", _documents(rng, 1_000_000 // part), limits=tokens_alone),
        PackCase("three sources, three limits", *_sources(rng)),
        PackCase("chunks bind", *_chunk_bound(rng, 1_000_000 // part)),
        *(ArrangedCase(name, tokens, limits=tokens_alone) for name, tokens in _arranged(rng, 1_000_000 // part)),
        *(_family(name, sizes, seeds) for name in FAMILIES),
    ]


def test_pack(run, measure):
    measure(run)
