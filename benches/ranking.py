"""Measures of ranking quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def ndcg(found: Sequence[int], judged: Mapping[int, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain of one query at ``k``.

    The gain of a document is its judgement, or 0 without one, times ``1 / log2(i + 2)`` at place i from 0 (Jarvelin and
    Kekalainen, 2002; linear gains, as in trec_eval). The sum is divided by that of the best possible order, so the
    maximum is 1. A document that is found twice gains once.
    """
    first = list(dict.fromkeys(found[:k]))
    gained = sum(judged.get(document, 0.0) / np.log2(place + 2) for place, document in enumerate(first))
    ideal = sorted((gain for gain in judged.values() if gain > 0), reverse=True)[:k]
    most = sum(gain / np.log2(place + 2) for place, gain in enumerate(ideal))
    return float(gained / most) if most else 0.0


def mean_ndcg(found: np.ndarray, judged: Sequence[Mapping[int, float]], k: int = 10) -> float:
    """Return the mean over the queries that have a relevant document."""
    pairs = zip(found.tolist(), judged, strict=True)
    scores = [ndcg(row, gains, k) for row, gains in pairs if any(gain > 0 for gain in gains.values())]
    return float(np.mean(scores))


def recall(found: np.ndarray, best: np.ndarray) -> float:
    """Return the share of ``best`` that is in the same row of ``found``, as a mean over the rows."""
    pairs = zip(found.tolist(), best.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))
