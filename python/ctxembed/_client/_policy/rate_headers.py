"""The headers of a response that tell when to send again: ``x-ratelimit-*``, and numbers in headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LONGEST_WAIT", "parse_number", "parse_rate_headers"]

LONGEST_WAIT: Final = 604_800.0
"""Seconds. A longer time in a header counts as a week, so that no response can stop a key for good."""

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d*)?)s)?(?:(\d+(?:\.\d*)?)ms)?", re.ASCII)
_EPOCH: Final = 1e9  # a larger number of seconds is a time since 1970
_EPOCH_IN_MS: Final = 1e11
_HEADERS: Final = tuple(
    (kind, "x-ratelimit-remaining" + suffix, "x-ratelimit-reset" + suffix)
    for kind, suffix in (("requests", "-requests"), ("tokens", "-tokens"), ("requests", ""))
)


def parse_rate_headers(headers: Mapping[str, str], now: float) -> dict[str, tuple[float, float]]:
    """Parse ``x-ratelimit-remaining`` and ``x-ratelimit-reset``, with and without ``-requests`` and ``-tokens``.

    Parameters
    ----------
    headers : mapping of str to str
        Names in lower case.
    now : float
        Seconds since 1970, for a reset that is a time and not a duration.

    Returns
    -------
    dict of str to (float, float)
        For ``"requests"`` and ``"tokens"``: how many remain, and the seconds until the reset, a week at most.

    Examples
    --------
    >>> parse_rate_headers({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, now=0.0)
    {'requests': (0.0, 62.5)}
    >>> parse_rate_headers({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "1700000030"}, now=1700000000.0)
    {'requests': (3.0, 30.0)}
    """
    found: dict[str, tuple[float, float]] = {}
    for kind, remaining_header, reset_header in _HEADERS:
        if remaining_header not in headers or reset_header not in headers:
            continue
        remaining, reset = parse_number(headers[remaining_header]), _duration(headers[reset_header], now)
        if remaining is not None and reset is not None:
            found.setdefault(kind, (remaining, reset))
    return found


def parse_number(value: str) -> float | None:
    """Parse a decimal number without sign and exponent; infinite where it has too many digits."""
    value = value.strip()
    return float(value) if value.isascii() and value.replace(".", "", 1).isdigit() else None


def _duration(value: str, now: float) -> float | None:
    seconds = parse_number(value)
    if seconds is None:
        parts = _DURATION.fullmatch(value.strip())
        if parts is None or not any(parts.groups()):
            return None
        hours, minutes, whole, thousandths = (float(part or 0) for part in parts.groups())
        seconds = 3600 * hours + 60 * minutes + whole + thousandths / 1000
    elif seconds > _EPOCH:
        seconds = max(0.0, seconds / (1000 if seconds > _EPOCH_IN_MS else 1) - now)
    return min(seconds, LONGEST_WAIT)
