"""What a job may spend."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import TYPE_CHECKING

from ctxembed._costs import add_costs, price_of
from ctxembed._models import get_model

if TYPE_CHECKING:
    from ctxembed._results import Usage

__all__ = ["Budget", "amount_of"]


class Budget:
    """Reported cost, and the expected cost of what is in flight.

    Parameters
    ----------
    model : str
        Its list price counts where a response reports no cost, and for what is in flight.
    most : Decimal, float, int or None
        USD. No request starts once cost and expected cost reach it. None: no limit.

    Raises
    ------
    TypeError, ValueError
        ``most`` is not a finite number from 0, or the model has no known price.
    """

    def __init__(self, model: str, most: object) -> None:
        self._price = get_model(model).usd_per_million_tokens
        self._most = None if most is None else amount_of(most)
        if self._most is not None and self._price is None:
            raise ValueError(
                f"max_cost_usd needs a price, and that of {model!r} is not known: register the model with one"
            )
        self._lock = threading.Lock()
        self._spent = Decimal(0)
        self._tokens = 0  # in flight
        self.reached = False

    @property
    def spent(self) -> Decimal:
        """USD so far: as reported, else at list price."""
        return self._spent

    def price(self, tokens: int) -> Decimal:
        """Return the list price of tokens; 0 where it is not known."""
        return Decimal(0) if self._price is None else price_of(tokens, Decimal(str(self._price)))

    def admit(self, tokens: int) -> bool:
        """Return whether a request may start, and count its tokens as in flight."""
        with self._lock:
            if self._most is not None and add_costs(self._spent, self.price(self._tokens)) >= self._most:
                self.reached = True
                return False
            self._tokens += tokens
            return True

    def settle(self, tokens: int, usage: Usage) -> None:
        """Count what an admitted request has cost."""
        with self._lock:
            self._tokens -= tokens
            cost = usage.cost_usd
            if cost is None:
                cost = self.price(usage.total_tokens or 0)
            self._spent = add_costs(self._spent, cost)


def amount_of(most: object) -> Decimal:
    """Return what may be spent.

    Raises
    ------
    TypeError, ValueError
        It is not a finite number from 0.
    """
    if isinstance(most, bool) or not isinstance(most, int | float | Decimal):
        raise TypeError(f"max_cost_usd must be a number or None, got {most!r:.100}")
    amount = most if isinstance(most, Decimal) else Decimal(str(most))
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"max_cost_usd must be finite and at least 0, got {most!r:.100}")
    return amount
