"""Costs in USD: parsed within bounds, and computed exactly, whatever decimal context the caller has set."""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["add_costs", "divide_cost", "divide_int", "parse_cost", "price_of"]

_DIGITS: Final = 40
"""Digits of a cost on either side of the point. More is no amount of money."""

_NUMBER: Final = re.compile(r"[0-9]{1,100}(?:\.[0-9]{1,100})?(?:[eE][+-]?0{0,20}[0-9]{1,3})?")

_SHARE_DIGITS: Final = 6
"""Digits that a share of a cost has beyond those of the cost, for shares that are fair."""

# 120 digits hold every sum of 10**40 costs. Nothing is trapped: all of the caller's settings stay out of it.
_EXACT: Final = Context(prec=120, Emin=-999_999, Emax=999_999, traps=[])


def parse_cost(text: str) -> Decimal | None:
    """Return a cost exactly as it is spelled, or None for anything that is no plausible cost.

    A cost is finite, not negative, and has at most 40 digits before and after the point.

    Examples
    --------
    >>> parse_cost("8E-8")
    Decimal('8E-8')
    >>> parse_cost("1e41") is parse_cost("-1") is parse_cost("NaN") is None
    True
    """
    if _NUMBER.fullmatch(text) is None:
        return None
    cost = _EXACT.create_decimal(text)
    exponent = cost.as_tuple().exponent
    if not isinstance(exponent, int) or not -_DIGITS <= exponent <= _DIGITS or cost.adjusted() >= _DIGITS:
        return None
    return cost


def add_costs(a: Decimal, b: Decimal) -> Decimal:
    """Return the exact sum."""
    return _EXACT.add(a, b)


def price_of(tokens: int, usd_per_million: Decimal) -> Decimal:
    """Return the exact price of some tokens."""
    return _EXACT.divide(_EXACT.multiply(usd_per_million, tokens), 1_000_000)


def divide_int(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a number in proportion to weights, by largest remainder. The shares add up to it exactly.

    Examples
    --------
    >>> divide_int(10, [1, 1, 1])
    [4, 3, 3]
    """
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    shares = [total * weight // whole for weight in weights]
    missing = total - sum(shares)
    if missing:
        largest = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole))
        for place in largest[:missing]:
            shares[place] += 1
    return shares


def divide_cost(cost: Decimal, weights: Sequence[int]) -> list[Decimal]:
    """Divide a cost in proportion to weights. The shares add up to it exactly.

    Examples
    --------
    >>> divide_cost(Decimal("0.000001"), [1, 2])
    [Decimal('3.33333E-7'), Decimal('6.66667E-7')]
    """
    exponent = int(cost.as_tuple().exponent) - _SHARE_DIGITS
    units = int(_EXACT.scaleb(cost, -exponent))
    return [_EXACT.normalize(_EXACT.scaleb(Decimal(share), exponent)) for share in divide_int(units, weights)]
