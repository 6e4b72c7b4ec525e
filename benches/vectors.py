"""Vectors that behave like those of an embedding model, without one.

What matters to a search is how scores are spread, since that decides how often the k-th best so far is beaten, and
how much two representations of a vector agree. Random bytes would make both unlike anything real: all cosines within
a few percent of zero. Four traits of real embeddings are modelled, each with the usual shape:

- a common direction: any two vectors of one model have a positive cosine, here about 0.25;
- clusters (topics) of very different size: the weight of the i-th of 1,000 is 1 / (i + 10);
- correlated dimensions: topics and the spread within them live in 96 directions whose strength falls as
  (1 + i / 8) ** -0.5, and only a tenth of a vector's energy is noise of its own in every dimension;
- lengths that differ from vector to vector by some 15 %, so that inner product and cosine rank differently.

Values then go the way the model's do: int8 = round(127 * tanh(x)), bit = (x >= 0), least significant bit first.
"""

from __future__ import annotations

from functools import cache

import numpy as np

LATENT = 96
TOPICS = 1000
BLOCK = 50_000


@cache
def _model(dims: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(20_251)
    strength = (1 + np.arange(LATENT) / 8) ** -0.5
    basis = rng.standard_normal((LATENT, dims), dtype=np.float32) * strength[:, None].astype(np.float32)
    basis *= np.float32(0.2) / np.sqrt(np.float32(np.square(strength).sum()))
    topics = rng.standard_normal((TOPICS, LATENT), dtype=np.float32)
    common = rng.standard_normal(dims, dtype=np.float32) * np.float32(0.13)
    weights = 1 / (np.arange(TOPICS) + 10.0)
    return basis, topics, common, np.cumsum(weights / weights.sum())


def _values(seed: int, rows: int, dims: int):
    """Yield blocks of float32 values before quantisation."""
    basis, topics, common, cumulated = _model(dims)
    rng = np.random.default_rng(seed)
    # Noise of a row is a stretch of one long pool: drawing it anew would take most of the time.
    pool = rng.standard_normal(1 << 22, dtype=np.float32) * np.float32(0.07)
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        topic = np.minimum(np.searchsorted(cumulated, rng.random(count)), TOPICS - 1)
        latent = topics[topic] * np.float32(0.8) + rng.standard_normal((count, LATENT), dtype=np.float32) * np.float32(
            0.6
        )
        block = latent @ basis
        block += common
        for row, offset in enumerate(rng.integers(0, len(pool) - dims, count)):
            block[row] += pool[offset : offset + dims]
        block *= np.exp(rng.standard_normal((count, 1), dtype=np.float32) * np.float32(0.15))
        yield block


def int8_vectors(seed: int, rows: int, dims: int = 1024) -> np.ndarray:
    """Return ``(rows, dims)`` int8."""
    out = np.empty((rows, dims), dtype=np.int8)
    start = 0
    for block in _values(seed, rows, dims):
        out[start : start + len(block)] = np.rint(127 * np.tanh(block))
        start += len(block)
    return out


def binary_vectors(seed: int, rows: int, dims: int = 1024) -> np.ndarray:
    """Return ``(rows, dims // 8)`` uint8."""
    out = np.empty((rows, dims // 8), dtype=np.uint8)
    start = 0
    for block in _values(seed, rows, dims):
        out[start : start + len(block)] = np.packbits(block >= 0, axis=1, bitorder="little")
        start += len(block)
    return out
