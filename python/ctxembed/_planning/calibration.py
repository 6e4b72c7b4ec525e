"""Calibrates the token estimate with the counts that the API reports. No I/O, no clock."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import numpy as np

from ctxembed._models import get_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CLASSES", "ModelCalibrations", "TokenCalibration", "class_of", "classes_of"]

_STEPS: Final = (1.05, 1.5, 2.2)
"""Bytes per character that separate the classes of text: ASCII, some of other scripts, about half, most."""

_STEPS_ARRAY: Final = np.array(_STEPS)

CLASSES: Final = len(_STEPS) + 1
"""Number of classes of text. The error of the estimate differs between them."""

# At first the mean and its margin make 1, so the estimate is used unchanged. It has a margin of nine percent of its
# own: over the corpora, by folder, exact counts are 0.91 to 0.93 of it.
_MEAN: Final = 0.92
_DEVIATION: Final = (1 - _MEAN) / 3
_MARGINS: Final = 4.5  # deviations above the mean: packing by size puts documents with similar errors together
_REQUEST: Final = 120_000.0  # tokens of a full request, for which the noise is stated
_NOISE: Final = 0.01  # of a full request, before the first response: 0.03 of a document (measured), about 25 a request
_NOISE_WEIGHT: Final = 4.0  # weight of this guess, in requests
_LEAST_NOISE: Final = 0.003
_MEMORY: Final = 0.98  # share of the knowledge that is kept at each response, so that a change of text is learned
_START: Final = np.eye(CLASSES) / _DEVIATION**2  # precision before the first response
_RANGE: Final = (0.6, 2.0)  # bounds of the factors


def classes_of(characters: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class of each document, from its characters and its UTF-8 bytes."""
    per_character = size / np.maximum(characters, 1)
    return _STEPS_ARRAY.searchsorted(per_character).astype(np.int64)


def class_of(characters: int, size: int) -> int:
    """Return the class of one document."""
    return bisect_left(_STEPS, size / max(characters, 1))


class TokenCalibration:
    """Factors between the token estimate and the API's counts, by class of text.

    Notes
    -----
    Bayesian linear regression: a request's tokens are the sum over classes of factor times estimate, plus noise whose
    variance falls with the request's size. The factors start at 0.92, with a deviation such that the mean and three
    deviations make 1. Each response sharpens the factors of its classes, a full request more than a short one. The
    noise is the mean square of the prediction errors, less the part that uncertain factors explain. A factor in use is
    the mean and 4.5 deviations of both. Knowledge fades by 2 percent a response, so that the factors follow a change
    of text.

    Whether the API counts separators in ``usage`` is not published. Its count is taken as that of the text alone,
    which can only make the factors larger.

    Thread-safe.

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
        """The factor of each class, margin included: shape (CLASSES,), read-only."""
        factors = self._factors
        if factors is None:  # a response was observed since they were computed
            with self._lock:
                factors = self._factors = self._compute_factors()
        return factors

    def observe(self, estimates: Sequence[float], tokens: int) -> None:
        """Learn from a response.

        Parameters
        ----------
        estimates : sequence of float
            Estimated tokens of the request's texts by class, before any factor, without separators.
        tokens : int
            Tokens that the API counted.
        """
        total = float(sum(estimates))
        if total > 0 and tokens > 0:
            with self._lock:
                self._learn(np.asarray(estimates, dtype=np.float64) / total, tokens / total, min(total / _REQUEST, 1.0))

    def _learn(self, shares: NDArray[np.float64], ratio: float, size: float) -> None:
        # Knowledge fades towards the initial state.
        known = _MEMORY * self._precision + (1 - _MEMORY) * _START
        fade = (1 - _MEMORY) / _DEVIATION**2 * (_MEAN - self._mean)
        difference = ratio - float(shares @ self._mean)
        # The noise explains a part of the difference, the uncertainty of the factors the rest.
        variance = self._noise() ** 2 / size
        spread, drift = np.linalg.solve(known, np.stack([shares, fade], axis=1)).T
        unknown = float(shares @ spread)
        self._squares = _MEMORY * self._squares + difference**2 * size * variance / (variance + unknown)
        self._weight = _MEMORY * self._weight + 1.0
        variance = self._noise() ** 2 / size
        self._precision = known + np.outer(shares, shares) / variance
        # The inverse of the new precision from the previous one (Sherman and Morrison, 1950).
        step = difference / variance
        step -= (float(shares @ drift) + unknown * step) / (variance + unknown)
        self._mean = self._mean + drift + spread * step
        self._factors = None

    def refuse(self, estimates: Sequence[float], planned: int) -> None:
        """Learn from a request that was refused as too large: it has more tokens than planned.

        Parameters
        ----------
        estimates : sequence of float
            As for :meth:`observe`.
        planned : int
            Tokens that it was planned with.
        """
        total = float(sum(estimates))
        if total > 0:
            with self._lock:
                shares = np.asarray(estimates, dtype=np.float64) / total
                # The refusal does not say how many more: assume a little. A short request counts like a full one.
                self._learn(shares, 1.02 * max(float(shares @ self._mean), planned / total), 1.0)

    def _noise(self) -> float:
        return max(float(np.sqrt(self._squares / self._weight)), _LEAST_NOISE)

    def _compute_factors(self) -> NDArray[np.float64]:
        spread = np.sqrt(np.diag(np.linalg.inv(self._precision)))
        seen = spread < _DEVIATION * 0.999  # a class without a response keeps the estimate's own margin
        margin = np.where(seen, _MARGINS * np.hypot(spread, self._noise()), 1 - self._mean)
        factors: NDArray[np.float64] = np.clip(self._mean + margin, *_RANGE)
        # Where little is known the estimate's own margin is enough, unless the API counted many more tokens.
        factors = np.minimum(factors, np.maximum(1.0, 1.05 * self._mean))
        factors.flags.writeable = False
        return factors


class ModelCalibrations:
    """A calibration for each vocabulary. Models with the same separator have the same one."""

    def __init__(self) -> None:
        self._by_separator: dict[str | None, TokenCalibration] = {}

    def of(self, model: str) -> TokenCalibration:
        """Return the calibration of a model's vocabulary."""
        separator = get_model(model).separator
        found = self._by_separator.get(separator)
        return self._by_separator.setdefault(separator, TokenCalibration()) if found is None else found
