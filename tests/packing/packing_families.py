"""Families of packing instances, from the bin packing literature and for the three limits of this API.

Each function takes a random generator and about how many documents to make, and returns a :class:`Case`. ``optimum`` is
the fewest requests if the construction proves it (it cuts full requests), else None: then a packing counts as optimal
when it meets its own lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ctxembed._models import Limits


@dataclass(frozen=True)
class Case:
    """One instance."""

    tokens: np.ndarray
    chunks: np.ndarray | None
    limits: Limits
    optimum: int | None = None


def one_dimension(sizes, capacity: int, optimum: int | None = None, documents: int = 2**20) -> Case:
    limits = Limits(documents=documents, chunks=2**30, tokens_per_document=capacity, tokens=capacity)
    return Case(np.asarray(sizes, dtype=np.int64), None, limits, optimum)


def cut(rng, capacity: int, pieces: int, low: int, high: int) -> np.ndarray:
    """Cut ``capacity`` into pieces from ``low`` to ``high``, by rejection."""
    while True:
        free = capacity - low * pieces
        marks = np.sort(rng.integers(0, free + 1, pieces - 1))
        sizes = low + np.diff(np.concatenate(([0], marks, [free])))
        if sizes.max() <= high:
            return sizes


def shuffled(rng, parts):
    sizes = np.concatenate(parts)
    rng.shuffle(sizes)
    return sizes


def uniform(rng, n):
    """Falkenauer (1996), class u: 20 to 100 into 150."""
    return one_dimension(rng.integers(20, 101, n), 150)


def uniform_fine(rng, n):
    """Sizes up to this API's document limit."""
    return one_dimension(rng.integers(1, 32_001, n), 120_000)


def triplets(rng, n):
    """Falkenauer (1996), class t: three fill 1,000 exactly, none below a quarter."""
    parts = []
    for _ in range(n // 3):
        first = int(rng.integers(380, 491))
        second = int(rng.integers(250, (1000 - first) // 2 + 1))
        parts.append([first, second, 1000 - first - second])
    return one_dimension(shuffled(rng, parts), 1000, n // 3)


def bounded(rng, n):
    """Scholl, Klein and Juergens (1997), set 2: around a ninth to a third of 1,000, spread by 20 to 90 percent."""
    mean = 1000 / rng.choice([3, 5, 7, 9])
    spread = rng.choice([0.2, 0.5, 0.9])
    return one_dimension(rng.integers(int(mean * (1 - spread)), int(mean * (1 + spread)) + 1, n), 1000)


def scholl_hard(rng, n):
    """Scholl, Klein and Juergens (1997), set 3: 20,000 to 35,000 into 100,000."""
    return one_dimension(rng.integers(20_000, 35_001, n), 100_000)


def few_large(rng, n):
    """Five sizes from an eighth to a half of a request."""
    sizes = rng.integers(15_000, 60_001, 5)
    return one_dimension(rng.choice(sizes, n), 120_000)


def schwerin(rng, n):
    """Schwerin and Waescher (1997): 150 to 200 into 1,000."""
    return one_dimension(rng.integers(150, 201, n), 1000)


def hard28_like(rng, n):
    """Sizes spread as in Schoenfield's hard28 (2002): 1 to 700 into 1,000."""
    return one_dimension(rng.integers(1, 701, n), 1000)


def cut_coarse(rng, n):
    """Full requests of 1,000 cut into four to eight."""
    parts = []
    while sum(map(len, parts)) < n:
        parts.append(cut(rng, 1000, int(rng.integers(4, 9)), 1, 900))
    return one_dimension(shuffled(rng, parts), 1000, len(parts))


def cut_full(rng, n):
    """Full requests cut into documents of up to 32,000 tokens, about eight each."""
    parts = []
    while sum(map(len, parts)) < n:
        parts.append(cut(rng, 120_000, int(rng.integers(6, 11)), 1, 32_000))
    return one_dimension(shuffled(rng, parts), 120_000, len(parts), documents=512)


def cut_few(rng, n):
    """Full requests cut into four or five documents of up to 32,000 tokens: no slack, and little choice."""
    parts = []
    while sum(map(len, parts)) < n:
        parts.append(cut(rng, 120_000, int(rng.integers(4, 6)), 10_000, 32_000))
    return one_dimension(shuffled(rng, parts), 120_000, len(parts), documents=512)


def cut_some(rng, n):
    """Full requests cut into five to seven documents of up to 32,000 tokens."""
    parts = []
    while sum(map(len, parts)) < n:
        parts.append(cut(rng, 120_000, int(rng.integers(5, 8)), 1, 32_000))
    return one_dimension(shuffled(rng, parts), 120_000, len(parts), documents=512)


def cut_nearly(rng, n):
    """As cut_few, but each request with ten tokens to spare."""
    parts = []
    while sum(map(len, parts)) < n:
        parts.append(cut(rng, 119_990, int(rng.integers(4, 6)), 10_000, 32_000))
    return one_dimension(shuffled(rng, parts), 120_000, len(parts), documents=512)


def cardinality_tight(rng, n):
    """Every request holds exactly as many documents as it may, and is full to 99 percent in tokens."""
    documents = 8
    parts = [cut(rng, 118_800, documents, 1, 32_000) for _ in range(max(1, n // documents))]
    return one_dimension(shuffled(rng, parts), 120_000, len(parts), documents=documents)


def cardinality_exact(rng, n):
    """Every request holds exactly as many documents as it may, and is full in tokens."""
    documents = 8
    parts = [cut(rng, 1000, documents, 1, 300) for _ in range(max(1, n // documents))]
    return one_dimension(shuffled(rng, parts), 1000, len(parts), documents=documents)


def chunk_tight(rng, n):
    """Every request is full in chunks and to 95 percent in tokens."""
    tokens, chunks = [], []
    while sum(map(len, tokens)) < n:
        pieces = int(rng.integers(5, 12))
        tokens.append(cut(rng, 114_000 - 16_000, pieces, 1, 25_000))
        chunks.append(cut(rng, 16_000, pieces, 1, 6_000))
    return two_dimensions(rng, tokens, chunks)


def both_tight(rng, n):
    """Every request is full to 99.9 percent in chunks and in tokens."""
    tokens, chunks = [], []
    while sum(map(len, tokens)) < n:
        pieces = int(rng.integers(5, 12))
        tokens.append(cut(rng, 119_900 - 15_990, pieces, 1, 25_000))
        chunks.append(cut(rng, 15_990, pieces, 1, 6_000))
    return two_dimensions(rng, tokens, chunks)


def both_exact(rng, n):
    """Every request is full to the last chunk and token. No family, as these are not packed optimally yet."""
    tokens, chunks = [], []
    while sum(map(len, tokens)) < n:
        pieces = int(rng.integers(5, 12))
        tokens.append(cut(rng, 120_000 - 16_000 + pieces, pieces, 1, 25_000))
        chunks.append(cut(rng, 16_000, pieces, 1, 6_000))
    return two_dimensions(rng, tokens, chunks)


def two_dimensions(rng, tokens, chunks) -> Case:
    order = rng.permutation(sum(map(len, tokens)))
    flat_tokens, flat_chunks = np.concatenate(tokens)[order], np.concatenate(chunks)[order]
    return Case(flat_tokens, flat_chunks, Limits(), len(tokens))


FAMILIES = {
    generator.__name__: generator
    for generator in (
        uniform,
        uniform_fine,
        triplets,
        bounded,
        scholl_hard,
        few_large,
        schwerin,
        hard28_like,
        cut_coarse,
        cut_full,
        cut_few,
        cut_some,
        cut_nearly,
        cardinality_tight,
        cardinality_exact,
        chunk_tight,
        both_tight,
    )
}
