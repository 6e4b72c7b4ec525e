"""What the calls of a client share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxembed._client._policy.clock import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._client._http.connections import Connections
    from ctxembed._client._http.credentials import KeySource
    from ctxembed._client._http.transport import Timeouts
    from ctxembed._client._policy.clock import Clock
    from ctxembed._client._policy.hedging import HedgingPolicy
    from ctxembed._client._policy.pacing import Pacing
    from ctxembed._client._policy.retry import RetryBudget, RetryPolicy
    from ctxembed._client.hooks import Hooks
    from ctxembed._client.journal import ClientJournal
    from ctxembed._planning.calibration import ModelCalibrations

__all__ = ["ClientState"]


@dataclass(frozen=True, slots=True)
class ClientState:
    """What the calls of a client share.

    Parameters
    ----------
    base_url : str
        Without a trailing slash.
    headers : mapping of str to str
        Headers of every request, without the key.
    key : KeySource
        Asked before each attempt.
    deadline : float or None
        Seconds that a call may take, unless the call says otherwise.
    journal : ClientJournal or None
        Knows and stores the rows of documents.
    timeouts, retry, budget, hedging, hooks, pacing, connections, clock, calibrations
        See their classes.
    """

    base_url: str
    headers: Mapping[str, str]
    key: KeySource
    deadline: float | None
    timeouts: Timeouts
    retry: RetryPolicy
    budget: RetryBudget
    hedging: HedgingPolicy
    hooks: Hooks
    pacing: Pacing
    connections: Connections
    clock: Clock
    calibrations: ModelCalibrations
    journal: ClientJournal | None = None

    def deadline_after(self, seconds: float | None) -> Deadline:
        """Start the deadline of a call that may take that many seconds; None for the client's."""
        return Deadline.after(self.deadline if seconds is None else seconds, self.clock)

    def is_storing(self) -> bool:
        """Return whether the journal is storing rows of a response."""
        return self.journal is not None and self.journal.is_storing()
