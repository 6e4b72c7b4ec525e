"""Synthetic vectors with the properties of real embeddings.

The speed and quality of a search depend on the distribution of the scores, which decides how often a row beats the
k-th best so far, and on the agreement of two representations of a vector. Random bytes are unlike real embeddings in
both: all cosines are within a few percent of zero, and bits rarely find the nearest rows. These properties are
modelled:

- a common direction: any two vectors of one model have a positive cosine, here about 0.3, and most bits are far from
  balanced (Mu and Viswanath, "All-but-the-Top", 2018; Ethayarajh, 2019);
- correlated dimensions: rows span 160 directions whose variance falls by a power law, so that the effective number of
  dimensions is about 60 to 100; a tenth of the energy is independent noise in each dimension;
- topics of very different sizes, by Zipf's law: the weight of the i-th of 2,000 is 1 / (i + 10);
- a low intrinsic dimension near a row, about 10 to 30 for text by Levina and Bickel's estimate (2004): within a topic
  only some directions vary, different ones in each topic, and rows are dense around its centre;
- near-duplicates: 3 % of the rows are copies of others with a little noise. Lee et al. (2022, "Deduplicating training
  data makes language models better") find 3 % in C4, and more elsewhere;
- leading dimensions with more information, an effect of Matryoshka training (Kusupati et al., 2022): the signal falls
  from the first dimension on, the noise does not. A vector of fewer dimensions is a prefix of the full one;
- lengths that vary by some 15 %, so that inner product and cosine rank differently.

The values are quantised like the model's: int8 = round(127 * tanh(x)), bit = (x >= 0), least significant bit first.

``tests/bench/test_vectors.py`` checks all of this. Bits alone find 50 to 80 % of the exact ten nearest rows. This
agrees with reports on binary embeddings, which keep 92 to 96 % of the retrieval quality (Shakir, Aarsen and Lee,
"Binary and scalar embedding quantization", 2024): the other rows found are about as relevant.

Every block of rows has its own generator, seeded by (seed, block), so that rows depend neither on the number of rows
nor on the number of threads.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_DIMS = 2560
LATENT = 160
TOPICS = 2000
SUBSPACES = 64
BLOCK = 2048
POOL = 1 << 20

COMMON = 0.17
"""Length of the common direction, per dimension. The constants below have the same unit."""
SIGNAL = 0.24
NOISE = 0.09
TOPIC_SHARE = 0.72
DUPLICATES = 0.03


@cache
def _model() -> dict[str, np.ndarray]:
    """Return the parameters that are shared by vectors of all seeds."""
    rng = np.random.default_rng(20_251)
    f = np.float32
    place = np.arange(LATENT)
    spread = (1 + place / 8) ** -0.5
    basis = rng.standard_normal((LATENT, MOST_DIMS), dtype=f) * (spread / np.sqrt(np.square(spread).mean()))[:, None]
    # The signal falls over the dimensions. The mean square of the first 1,024 factors is one.
    profile = (1 + np.arange(MOST_DIMS) / 128) ** -0.2
    profile /= np.sqrt(np.square(profile[:1024]).mean())
    basis *= profile * SIGNAL / np.sqrt(LATENT)
    # Each subspace orders the directions differently, and its variance falls faster.
    own = (1 + place / 3) ** -1.0
    own /= np.sqrt(np.square(own).mean())
    weights = 1 / (np.arange(TOPICS) + 10.0)
    return {
        "basis": basis.astype(f),
        "topics": rng.standard_normal((TOPICS, LATENT), dtype=f) * f(TOPIC_SHARE),
        "within": np.array([rng.permutation(own) for _ in range(SUBSPACES)]).astype(f) * f(np.sqrt(1 - TOPIC_SHARE**2)),
        "common": (rng.standard_normal(MOST_DIMS) * COMMON).astype(f),
        "cumulated": np.cumsum(weights / weights.sum()),
        "noise": rng.standard_normal(POOL + MOST_DIMS, dtype=f) * f(NOISE),
    }


def _block(seed: int, number: int, dims: int) -> np.ndarray:
    """Return the values of one block before quantisation, (BLOCK, dims) float32."""
    model, f = _model(), np.float32
    rng = np.random.default_rng([seed, number])
    topic = np.minimum(np.searchsorted(model["cumulated"], rng.random(BLOCK)), TOPICS - 1)
    latent = rng.standard_normal((BLOCK, LATENT), dtype=f)
    latent *= model["within"][topic % SUBSPACES]
    # The distance from the centre of the topic: most rows are near, some far.
    latent *= np.exp(rng.standard_normal((BLOCK, 1), dtype=f) * f(0.35))
    latent += model["topics"][topic]
    # The noise of a row is a slice of one pool, since drawing new noise would take most of the time.
    offset = rng.integers(0, POOL, BLOCK)
    copies = np.flatnonzero(rng.random(BLOCK) < DUPLICATES)
    originals = rng.integers(0, BLOCK, len(copies))
    latent[copies] = latent[originals] + rng.standard_normal((len(copies), LATENT), dtype=f) * f(0.2)
    offset[copies] = offset[originals]
    length = np.exp(rng.standard_normal((BLOCK, 1), dtype=f) * f(0.15))
    values = latent @ model["basis"][:, :dims]
    values += model["common"][:dims]
    values += np.lib.stride_tricks.sliding_window_view(model["noise"], dims)[offset]
    values *= length
    return values


def _fill(out: np.ndarray, seed: int, dims: int, quantise: Callable[[np.ndarray, np.ndarray], None]) -> np.ndarray:
    def fill(start: int) -> None:
        part = out[start : start + BLOCK]
        quantise(_block(seed, start // BLOCK, dims)[: len(part)], part)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fill, range(0, len(out), BLOCK)))
    return out


def _to_int8(values: np.ndarray, out: np.ndarray) -> None:
    np.tanh(values, out=values)
    values *= np.float32(127)
    np.copyto(out, np.rint(values, out=values), casting="unsafe")


def _to_bits(values: np.ndarray, out: np.ndarray) -> None:
    out[:] = np.packbits(values >= 0, axis=1, bitorder="little")


def int8_vectors(seed: int, rows: int, dims: int = 1024) -> np.ndarray:
    """Return ``(rows, dims)`` int8."""
    return _fill(np.empty((rows, dims), dtype=np.int8), seed, dims, _to_int8)


def binary_vectors(seed: int, rows: int, dims: int = 1024) -> np.ndarray:
    """Return ``(rows, dims // 8)`` uint8: the bits of the same vectors."""
    return _fill(np.empty((rows, dims // 8), dtype=np.uint8), seed, dims, _to_bits)


def grown(rows: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` rows, the given ones first, in less time than drawing them.

    The others are copies of ``rows``, in turn, with independent noise: an eighth of the bits flipped, or up to 40 added
    or subtracted. They are neighbours of neighbours, not near-duplicates.
    """
    out = np.empty((count, rows.shape[1]), dtype=rows.dtype)
    out[: len(rows)] = rows[:count]

    def fill(start: int) -> None:
        part = out[start : start + 8 * BLOCK]
        rng = np.random.default_rng([6, start])
        origin = rows[(start + np.arange(len(part))) % len(rows)]
        if rows.dtype == np.uint8:
            flips = [rng.integers(0, 256, part.shape, dtype=np.uint8) for _ in range(3)]
            np.bitwise_xor(origin, flips[0] & flips[1] & flips[2], out=part)
        else:
            noise = rng.integers(-40, 41, part.shape, dtype=np.int8)
            np.copyto(part, np.clip(origin.astype(np.int16) + noise, -127, 127), casting="unsafe")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fill, range(len(rows), count, 8 * BLOCK)))
    return out


def main() -> None:
    """Write int8 rows or queries as raw bytes, for experiments outside Python."""
    parser = argparse.ArgumentParser(prog="python -m benches.vectors", description=main.__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=3, help="3: the rows of the benches; 4: their queries")
    parser.add_argument("--dims", type=int, default=1024)
    options = parser.parse_args()
    int8_vectors(options.seed, options.rows, options.dims).tofile(options.file)


if __name__ == "__main__":
    main()
