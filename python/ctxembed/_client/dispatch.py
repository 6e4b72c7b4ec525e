"""The one engine, on anyio: sends batches, at most so many at once, splits what is refused, hands back.

Both clients run it: :class:`AsyncClient` in the caller's task, :class:`Client` in a thread of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from ctxembed._client._http.transport import unreachable
from ctxembed._client._policy.concurrency import Pacer
from ctxembed._client._policy.rate_limiter import account_of
from ctxembed._client._policy.retry import CLOCK, Clock, Deadline, Hedger, RetryBudget, RetryPolicy, is_transient
from ctxembed._client.endpoint import blamed, is_refusal
from ctxembed._client.hooks import Hooks, log
from ctxembed._client.sending import Sending
from ctxembed._planning.calibration import TokenCalibration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anyio.abc import TaskGroup

    from ctxembed._client._http.credentials import KeySource
    from ctxembed._client._http.transport import Pool, Timeouts
    from ctxembed._client._policy.concurrency import Gate
    from ctxembed._client.batches import Batch, Outcome
    from ctxembed._client.endpoint import Call

__all__ = ["Engine", "Job"]

_REFUSED_ALONE: Final = 16
"""Documents of a planned request refused alone, with nothing accepted, that make it doubtful that any will pass."""

_REFUSED: Final = 128
"""Pieces of a doubtful request that may be refused, before what is left of it counts as refused."""

_DOUBTFUL: Final = 4
"""Doubtful requests that show that everything is refused."""


@dataclass(slots=True)
class _Refusals:
    """Of one planned request and its pieces."""

    pieces: int = 0
    alone: int = 0
    last: Exception | None = None

    @property
    def doubtful(self) -> bool:
        return self.alone >= _REFUSED_ALONE


@dataclass(slots=True)
class Job:
    """One call's state while its batches are under way.

    Parameters
    ----------
    call : Call
        What all its requests have in common.
    emit : callable
        Takes each outcome, in the event loop's thread.
    deadline : Deadline
        When it must have ended.
    fatal : Exception or None
        An error that every other request would meet: what has not started does not start any more.
    """

    call: Call
    emit: Callable[[Outcome], object]
    deadline: Deadline = field(default_factory=Deadline)
    fatal: Exception | None = None
    landed: int = 0
    refused: dict[int, _Refusals] = field(default_factory=dict)

    def note(self, outcome: Outcome, *, down: bool) -> None:
        """Learn from an outcome what it means for the others; ``down``: the API answers nobody."""
        error = outcome.error
        if error is None:
            self.landed += 1
            self.refused.clear()
            return
        if is_refusal(error):
            everywhere = blamed(error, len(outcome.batch.documents)) is None or (
                self.landed == 0 and sum(found.doubtful for found in self.refused.values()) >= _DOUBTFUL
            )
        else:
            everywhere = down or not is_transient(error) or unreachable(error)
        if everywhere and self.fatal is None:
            self.fatal = error

    def refuse(self, batch: Batch, error: Exception) -> None:
        """Note a refusal."""
        if self.landed == 0:
            found = self.refused.setdefault(batch.root, _Refusals())
            found.pieces += 1
            found.alone += len(batch.documents) == 1
            found.last = error

    def is_doubtful(self, batch: Batch) -> bool:
        """Whether so much of the planned request was refused that the largest pieces are tried first."""
        found = self.refused.get(batch.root)
        return found is not None and found.doubtful

    def hopeless(self, batch: Batch) -> Exception | None:
        """Return the refusal that stands for all that is left of the planned request, if there is one."""
        found = self.refused.get(batch.root)
        return found.last if found is not None and found.doubtful and found.pieces >= _REFUSED else None


@dataclass(slots=True)
class Engine:
    """What a client's calls share.

    Parameters
    ----------
    base_url : str
        Without a trailing slash.
    headers : mapping of str to str
        Of every request, the key not among them.
    key : KeySource
        Asked before each attempt.
    rates : tuple of float or None
        The caller's caps: requests and tokens a minute.
    deadline : float or None
        Seconds that a call may take, unless it says otherwise.
    timeouts, policy, budget, hedger, hooks, gate, pool, clock, calibration
        See their classes.
    """

    base_url: str
    headers: Mapping[str, str]
    key: KeySource
    rates: tuple[float | None, float | None]
    deadline: float | None
    timeouts: Timeouts
    policy: RetryPolicy
    budget: RetryBudget
    hedger: Hedger
    hooks: Hooks
    gate: Gate
    pool: Pool
    clock: Clock = CLOCK
    calibration: TokenCalibration = field(default_factory=TokenCalibration)
    _pacer: Pacer | None = None
    _paced_by: Clock | None = None

    @property
    def pacer(self) -> Pacer:
        """The rates, shared with all clients of this key and host that go by the same clock."""
        if self._pacer is None or self._paced_by is not self.clock:
            self._pacer = Pacer(account_of(self.key, self.base_url, self.clock), *self.rates)
            self._paced_by = self.clock
        return self._pacer

    def until(self, seconds: float | None) -> Deadline:
        """Start the clock of a call that has so many seconds."""
        return Deadline.after(self.deadline if seconds is None else seconds, self.clock)

    async def run(self, job: Job, batches: Iterable[Batch]) -> None:
        """Send all batches; outcomes go to ``job.emit``, in the order they land.

        An exception that ``emit`` raises cancels what is in flight and is raised here.
        """
        crash: list[BaseException] = []
        async with anyio.create_task_group() as group:
            guarded = Job(job.call, _guard(job.emit, crash, group), job.deadline)
            for batch in batches:
                if guarded.fatal is None and await self._place(guarded):
                    group.start_soon(self._settle, group, guarded, batch)
                else:
                    guarded.emit(Sending(self, job.call, batch, job.deadline).outcome(guarded.fatal))
        if crash:
            raise crash[0]

    async def one(self, call: Call, batch: Batch, deadline: Deadline, *, keep: bool = False) -> Outcome:
        """Send one batch as it is, never split."""
        job = Job(call, _ignore, deadline)
        if not await self._place(job):
            return Sending(self, call, batch, deadline).outcome(job.fatal)
        try:
            return await Sending(self, call, batch, deadline, keep).end()
        finally:
            self.gate.release()

    async def settle(self, group: TaskGroup, job: Job, batch: Batch) -> None:
        """Wait for a place, then send a batch and all that it is split into."""
        # Pieces go first, so that a split goes deep before it goes wide and soon shows what it is that is refused.
        if await self._place(job, first=batch.attempts > 0 and not job.is_doubtful(batch)):
            await self._settle(group, job, batch)
        else:
            job.emit(Sending(self, job.call, batch, job.deadline).outcome(job.fatal))

    async def _place(self, job: Job, *, first: bool = False) -> bool:
        """Wait for a place among the requests in flight; False where the deadline comes before it."""
        if self.gate.try_acquire():
            return True
        with anyio.move_on_after(job.deadline.left(self.clock)):
            await self.gate.acquire(first=first)
            return True
        if job.fatal is None:
            job.fatal = job.deadline.missed(None)
        return False

    async def _settle(self, group: TaskGroup, job: Job, batch: Batch) -> None:
        sending = Sending(self, job.call, batch, job.deadline)
        given_up: Exception | None = None
        try:
            given_up = job.fatal or job.hopeless(batch)
            outcome = await sending.end() if given_up is None else sending.outcome(given_up)
        except Exception as error:  # noqa: BLE001  # whatever it is, what others have paid for is kept
            outcome = sending.outcome(error)
        finally:
            self.gate.release()
        refusal = outcome.error
        if refusal is not None and is_refusal(refusal):
            job.refuse(batch, refusal)
        if refusal is not None and len(batch.documents) > 1 and is_refusal(refusal) and given_up is None:
            named = blamed(refusal, len(batch.documents))
            if named is not None:
                if not named:  # no document's own fault: the request as a whole may have been too large
                    self.calibration.refuse(batch.estimate, batch.tokens)
                message = "a request of %(documents)d documents was refused (%(error)s): split"
                log(message, job.call, batch, refusal, attempts=outcome.attempts)
                for piece in batch.split(named, outcome.attempts, outcome.usage):
                    group.start_soon(self.settle, group, job, piece)
                return
        job.note(outcome, down=self.budget.is_down)
        job.emit(outcome)


def _ignore(outcome: Outcome) -> None:
    del outcome


def _guard(
    emit: Callable[[Outcome], object], crash: list[BaseException], group: TaskGroup
) -> Callable[[Outcome], object]:
    def guarded(outcome: Outcome) -> None:
        try:
            if not crash:
                emit(outcome)
        except BaseException as error:  # noqa: BLE001  # raised by run(), bare, when the group is gone
            crash.append(error)
            group.cancel_scope.cancel()

    return guarded
