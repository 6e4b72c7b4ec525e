"""The one engine, on anyio: sends batches, at most so many at once, retries, splits what is refused, hands back.

Both clients run it: :class:`AsyncClient` in the caller's task, :class:`Client` in a thread of its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from ctxembed._calibration import Calibration
from ctxembed._client._parts import Outcome
from ctxembed._client._retry import Clock, RetryPolicy, is_congestion, is_transient
from ctxembed._client._transport import Outgoing, unreachable
from ctxembed._client._wire import blamed, is_refusal, spent
from ctxembed._embeddings import Embeddings, Usage
from ctxembed._errors import APIStatusError, BadResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anyio.abc import TaskGroup

    from ctxembed._client._pacing import Gate, Pacer
    from ctxembed._client._parts import Batch
    from ctxembed._client._secret import KeySource
    from ctxembed._client._transport import Pool, Timeouts
    from ctxembed._client._wire import Call

__all__ = ["Engine", "Job"]

_LOG: Final = logging.getLogger("ctxembed")

_REFUSED_IN_A_ROW: Final = 16
"""Single documents refused, with nothing accepted before, that show a refusal to mean every request."""


@dataclass(slots=True)
class Job:
    """One call's state while its batches are under way.

    Parameters
    ----------
    call : Call
        What all its requests have in common.
    emit : callable
        Takes each outcome, in the event loop's thread.
    fatal : Exception or None
        An error that every other request would meet: what has not started does not start any more.
    """

    call: Call
    emit: Callable[[Outcome], object]
    fatal: Exception | None = None
    landed: int = 0
    refused: int = 0

    def note(self, outcome: Outcome) -> None:
        """Learn from an outcome what it means for the others."""
        error = outcome.error
        if error is None:
            self.landed += 1
            return
        if is_refusal(error):
            self.refused += len(outcome.batch.documents) == 1
            everywhere = blamed(error, len(outcome.batch.documents)) is None or (
                self.landed == 0 and self.refused >= _REFUSED_IN_A_ROW
            )
        else:
            everywhere = not is_transient(error) or unreachable(error)
        if everywhere and self.fatal is None:
            self.fatal = error


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
    timeouts, policy, pacer, gate, pool, clock, calibration
        See their classes.
    """

    base_url: str
    headers: Mapping[str, str]
    key: KeySource
    timeouts: Timeouts
    policy: RetryPolicy
    pacer: Pacer
    gate: Gate
    pool: Pool
    clock: Clock = field(default_factory=Clock)
    calibration: Calibration = field(default_factory=Calibration)

    async def run(self, job: Job, batches: Iterable[Batch]) -> None:
        """Send all batches; outcomes go to ``job.emit``, in the order they land.

        An exception that ``emit`` raises cancels what is in flight and is raised here.
        """
        crash: list[BaseException] = []
        async with anyio.create_task_group() as group:
            guarded = Job(job.call, _guard(job.emit, crash, group))
            for batch in batches:
                if guarded.fatal is None:
                    await self.gate.acquire()
                    group.start_soon(self._settle, group, guarded, batch)
                else:
                    guarded.emit(Outcome(batch, None, guarded.fatal, 0))
        if crash:
            raise crash[0]

    async def one(self, call: Call, batch: Batch) -> Outcome:
        """Send one batch as it is, never split."""
        await self.gate.acquire()
        try:
            return await self.send(call, batch)
        finally:
            self.gate.release()

    async def settle(self, group: TaskGroup, job: Job, batch: Batch) -> None:
        """Wait for a place, then send a batch and all that it is split into."""
        # Pieces go first, so that a split goes deep before it goes wide and soon shows what it is that is refused.
        await self.gate.acquire(first=batch.attempts > 0)
        await self._settle(group, job, batch)

    async def _settle(self, group: TaskGroup, job: Job, batch: Batch) -> None:
        try:
            if job.fatal is None:
                outcome = await self.send(job.call, batch)
            else:
                outcome = Outcome(batch, None, job.fatal, batch.attempts)
        except Exception as error:  # noqa: BLE001  # whatever it is, what others have paid for is kept
            outcome = Outcome(batch, None, error, batch.attempts)
        finally:
            self.gate.release()
        refusal = outcome.error
        if refusal is not None and len(batch.documents) > 1 and is_refusal(refusal) and job.fatal is None:
            named = blamed(refusal, len(batch.documents))
            if named is not None:
                if not named:  # no document's own fault: the request as a whole may have been too large
                    self.calibration.refuse(batch.estimate, batch.tokens)
                _LOG.info("a request of %d documents was refused (%s): split", len(batch.documents), _name(refusal))
                for piece in batch.split(named, outcome.attempts):
                    group.start_soon(self.settle, group, job, piece)
                return
        job.note(outcome)
        job.emit(outcome)

    async def send(self, call: Call, batch: Batch) -> Outcome:
        """Send one batch until it lands or no attempt is left."""
        body = call.body(batch.documents)
        shape = batch.shape
        limit = call.longest_answer(len(shape), sum(shape))
        usage = Usage()
        attempts, retries, renewed = 0, 0, False
        while True:
            await self.pacer.wait(batch.tokens, self.clock)
            secret = self.key.get()
            started = self.clock.monotonic()
            attempts += 1
            reply = await self.pool.post(
                Outgoing(
                    self.base_url + call.path, self.headers, body, secret, self.timeouts, limit, call.decoder(shape)
                )
            )
            result = reply if isinstance(reply, Exception) else call.read(reply, secret)
            if isinstance(result, Embeddings):
                self.gate.succeeded()
                self.pacer.correct(batch.tokens, result.usage.total_tokens)
                self.calibration.observe(batch.estimate, result.usage.total_tokens or 0)
                usage += result.usage
                return Outcome(batch, result, None, batch.attempts + attempts, retries, usage)
            if isinstance(result, BadResponseError) and not isinstance(reply, Exception):
                usage += spent(reply.body)
            if _is_unauthorized(result) and self.key.rotates and not renewed:
                renewed = True  # the key may have changed since: ask once more
                continue
            if is_congestion(result):
                self.gate.congested(started, self.clock.monotonic())
            delay = self.policy.delay(result, retries, self.clock)
            if delay is None:
                _LOG.info(
                    "a request of %d documents failed after %d attempts (%s)", len(shape), attempts, _name(result)
                )
                return Outcome(batch, None, result, batch.attempts + attempts, retries, usage)
            retries += 1
            _LOG.info("attempt %d failed (%s): the next in %.2f s", attempts, _name(result), delay)
            if is_congestion(result) and isinstance(result, APIStatusError) and "retry-after" in result.headers:
                self.pacer.hold(delay, self.clock)  # it means all requests; this one waits with them
            else:
                await self.clock.sleep(delay)


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


def _is_unauthorized(error: Exception) -> bool:
    return isinstance(error, APIStatusError) and error.status_code == 401


def _name(error: Exception) -> str:
    status = f" {error.status_code}" if isinstance(error, APIStatusError) else ""
    return type(error).__name__ + status
