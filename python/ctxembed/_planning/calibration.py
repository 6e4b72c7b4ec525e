"""An estimate of tokens that learns from what the API has counted. Arithmetic alone: no I/O, no clock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CLASSES", "TokenCalibration", "classes_of"]

_STEPS: Final = np.array([1.05, 1.5, 2.2])
"""Bytes per character that divide the classes of text: ASCII, some of other scripts, about half, most."""

CLASSES: Final = len(_STEPS) + 1
"""Classes of text, which err differently."""

# Before anything is learned the mean and its margin make 1: the estimate as it is, which has its own margin of nine
# percent. Over the corpora, by folder, exact counts are 0.91 to 0.93 of it.
_MEAN: Final = 0.92
_DEVIATION: Final = (1 - _MEAN) / 3
_MARGINS: Final = 4.5  # deviations above what is learned: packing by size puts documents together that err alike
_REQUEST: Final = 120_000.0  # tokens of a full request, for which the noise is stated
_NOISE: Final = 0.01  # of a full request, before any is seen: 0.03 of a document (measured), some 25 a request
_NOISE_WEIGHT: Final = 4.0  # requests' worth that this guess counts
_LEAST_NOISE: Final = 0.003
_MEMORY: Final = 0.98  # of what is known stays with each request, so that another kind of text is learned too
_START: Final = np.eye(CLASSES) / _DEVIATION**2  # precision before any response
_RANGE: Final = (0.6, 2.0)  # factors that are believed


def classes_of(characters: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Class of each document: its characters, and its bytes of UTF-8."""
    per_character = size / np.maximum(characters, 1)
    return np.searchsorted(_STEPS, per_character).astype(np.int64)


class TokenCalibration:
    """How the API's counts compare with the estimate, by class of text, and how sure that is.

    Notes
    -----
    Bayesian linear regression: a request's tokens are the sum over classes of factor times estimate, plus noise whose
    variance falls with the request's size. The factors start at 0.92 with a deviation such that mean and three
    deviations make 1; each response sharpens those of the classes it holds, a full request more than a short one. The
    noise is the mean square of what the responses differed from what was expected of them, as far as that was known.
    A factor in use is the mean and 4.5 deviations of both. What is known fades by 2 percent a response, so that a
    change of text is followed.

    Whether the API counts separators in ``usage`` is not published: its count is taken as that of the text alone,
    which can only make the factors larger.

    Safe to share between threads.

    Examples
    --------
    >>> calibration = TokenCalibration()
    >>> calibration.factors.tolist()
    [1.0, 1.0, 1.0, 1.0]
    >>> for _ in range(5):
    ...     calibration.observe([120_000, 0, 0, 0], 108_000)
    >>> calibration.factors.round(2).tolist()
    [0.93, 1.0, 1.0, 1.0]
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._precision = _START
        self._mean = np.full(CLASSES, _MEAN)
        self._squares = _NOISE_WEIGHT * _NOISE**2
        self._weight = _NOISE_WEIGHT
        self._factors: NDArray[np.float64] | None = np.ones(CLASSES)
        self._factors.flags.writeable = False

    @property
    def factors(self) -> NDArray[np.float64]:
        """What to multiply the estimate of each class with, margin included: shape (CLASSES,), read-only."""
        factors = self._factors
        if factors is None:  # something was learned since they were asked for last
            with self._lock:
                factors = self._factors = self._learned()
        return factors

    def observe(self, estimates: Sequence[float], tokens: int) -> None:
        """Learn from a response.

        Parameters
        ----------
        estimates : sequence of float
            Estimate of the request's texts by class, before any factor, separators not included.
        tokens : int
            What the API counted.
        """
        total = float(sum(estimates))
        if total > 0 and tokens > 0:
            with self._lock:
                self._learn(np.asarray(estimates, dtype=np.float64) / total, tokens / total, min(total / _REQUEST, 1.0))

    def _learn(self, shares: NDArray[np.float64], ratio: float, size: float) -> None:
        # What was known fades towards the state before any response.
        known = _MEMORY * self._precision + (1 - _MEMORY) * _START
        fade = (1 - _MEMORY) / _DEVIATION**2 * (_MEAN - self._mean)
        difference = ratio - float(shares @ self._mean)
        # Of the difference, the noise has its part, and what was not known yet of the factors the rest.
        variance = self._noise() ** 2 / size
        spread, drift = np.linalg.solve(known, np.stack([shares, fade], axis=1)).T
        unknown = float(shares @ spread)
        self._squares = _MEMORY * self._squares + difference**2 * size * variance / (variance + unknown)
        self._weight = _MEMORY * self._weight + 1.0
        variance = self._noise() ** 2 / size
        self._precision = known + np.outer(shares, shares) / variance
        # The inverse of the new precision by that of the one before (Sherman and Morrison, 1950).
        step = difference / variance
        step -= (float(shares @ drift) + unknown * step) / (variance + unknown)
        self._mean = self._mean + drift + spread * step
        self._factors = None

    def refuse(self, estimates: Sequence[float], planned: int) -> None:
        """Learn from a refusal of a request as too large: it has more tokens than it was planned to have.

        Parameters
        ----------
        estimates : sequence of float
            As for :meth:`observe`.
        planned : int
            Tokens that it was planned to have, which the limits allow.
        """
        total = float(sum(estimates))
        if total > 0:
            with self._lock:
                shares = np.asarray(estimates, dtype=np.float64) / total
                # How many more is not said: a little. A short request tells as much as a full one here.
                self._learn(shares, 1.02 * max(float(shares @ self._mean), planned / total), 1.0)

    def _noise(self) -> float:
        return max(float(np.sqrt(self._squares / self._weight)), _LEAST_NOISE)

    def _learned(self) -> NDArray[np.float64]:
        spread = np.sqrt(np.diag(np.linalg.inv(self._precision)))
        seen = spread < _DEVIATION * 0.999  # a class without a response keeps the estimate's own margin
        margin = np.where(seen, _MARGINS * np.hypot(spread, self._noise()), 1 - self._mean)
        factors: NDArray[np.float64] = np.clip(self._mean + margin, *_RANGE)
        # Where little is known the estimate's own margin is enough, unless much more than usual was counted.
        factors = np.minimum(factors, np.maximum(1.0, 1.05 * self._mean))
        factors.flags.writeable = False
        return factors
