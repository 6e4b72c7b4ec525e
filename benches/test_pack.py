"""Packing documents into requests: the time, and the number of requests, each of which costs latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ctxembed
import numpy as np

from benches.cases.packing import ArrangedCase, FamilyCase, PackCase
from benches.peers import packing as peers
from tests.packing.packing_families import FAMILIES

if TYPE_CHECKING:
    from benches.harness import Case, Scale

CAPACITY = 120_000
LONGEST = 32_000

PEERS = {PackCase: peers.PACK, ArrangedCase: peers.ARRANGED, FamilyCase: peers.FAMILY}


def _family(name: str, sizes: tuple[int, ...], seeds: int) -> FamilyCase:
    found = [FAMILIES[name](np.random.default_rng([seed, n]), n) for n in sizes for seed in range(seeds)]
    instances = tuple(PackCase(name, one.tokens, one.chunks, one.limits) for one in found)
    return FamilyCase(name, instances, tuple(_optimum(one) for one in found))


def _optimum(one: Any) -> int | None:
    """Return the fewest requests, known by construction or by a packing that meets the lower bound."""
    if one.optimum is not None:
        return one.optimum
    packing = ctxembed.pack(one.tokens, one.chunks, limits=one.limits, effort=2.0)
    return packing.lower_bound if packing.optimal else None


def _one_limit(capacity: int, longest: int) -> ctxembed.Limits:
    """Return limits of which only the tokens can bind."""
    return ctxembed.Limits(documents=2**20, chunks=2**30, tokens_per_document=longest, tokens=capacity)


def _documents(rng: np.random.Generator, number: int) -> np.ndarray:
    """Return document lengths like those of documentation.

    The files of PEPs, the Rust book (English, Chinese) and React's pages (Korean) are lognormal in bytes. At four
    bytes per token their logarithms have mean 7.8 and standard deviation 1.06. A length above the API's limit is
    drawn again.
    """
    lengths = np.empty(0, dtype=np.int64)
    while len(lengths) < number:
        drawn = np.ceil(rng.lognormal(7.8, 1.06, number)).astype(np.int64)
        lengths = np.concatenate([lengths, drawn[drawn <= LONGEST]])
    return lengths[:number]


def _triplets(rng: np.random.Generator, number: int) -> np.ndarray:
    """Return Falkenauer's triplets: three documents fill a request, two or four never do. The bound is the optimum."""
    first = rng.integers(380, 491, number // 3)
    second = rng.integers(250, (1000 - first) // 2 + 1)
    return rng.permutation(np.concatenate([first, second, 1000 - first - second]))


def _sources(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and chunks of notes, then tables, then manuals. Each source reaches a different limit first."""
    notes, tables, manuals = 6000, 500, 300
    chunks = np.concatenate([np.ones(notes), rng.integers(100, 300, tables), rng.integers(20, 60, manuals)])
    per_chunk = np.concatenate(
        [rng.integers(20, 80, notes), rng.integers(3, 6, tables), rng.integers(300, 450, manuals)]
    )
    return (chunks * per_chunk).astype(np.int64), chunks.astype(np.int64)


def _chunk_bound(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and chunks of documents that reach the limits on tokens and on chunks about equally often."""
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
    # The families without spare room are hardest at 80 to 160 documents.
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
