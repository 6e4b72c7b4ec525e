"""Requests that calls share: calls that are under way at once, and fit one request, are sent in one.

A task of its own sends each shared request, so that any of its callers can leave and no other notices. Both clients use
it: :class:`AsyncClient` in the caller's event loop, :class:`Client` in that of its background thread.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import numpy as np

from ctxembed._client._policy.clock import Deadline
from ctxembed._client._runtime import current_event_loop, spawn_task
from ctxembed._client.batches import Batch, Outcome
from ctxembed._client.dispatch import Job
from ctxembed._client.endpoint import is_refusal
from ctxembed._costs import divide_cost, divide_int
from ctxembed._errors import APITimeoutError, ClosedClientError, CtxembedError
from ctxembed._results import NO_USAGE, Embeddings, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctxembed._client.batches import PlannedCall
    from ctxembed._client.dispatch import Dispatcher
    from ctxembed._client.endpoint import RequestTemplate
    from ctxembed._client.journal import JournalWriter
    from ctxembed._client.state import ClientState
    from ctxembed._planning.limits import Limits

__all__ = ["Coalescer", "divide_usage"]

_CROWD: Final = 32
"""Calls of a request from which on the next window begins at once. Fewer wait for others for all of the time."""


class Coalescer:
    """Send calls of a client in shared requests.

    A request takes calls in from its first one until it starts. That is when the window has passed, a slot is free and
    the rate allows it, so that requests grow where they have to wait. After a request of many calls the next window
    begins at once, not with its first call. Else each window would begin later by the time that the rows of the one
    before take, and callers that call again and again would come together in ever fewer requests.

    Parameters
    ----------
    window : float
        Seconds for which a request waits for further calls, unless none fits any more.
    dispatcher : Dispatcher
        Sends the requests.
    state : ClientState
        Clock, policies and connections.
    limits : Limits
        Of a request.
    """

    def __init__(self, window: float, dispatcher: Dispatcher, state: ClientState, limits: Limits) -> None:
        self._window = window
        self._dispatcher = dispatcher
        self._state = state
        self._limits = limits
        self._forget(None)

    def _forget(self, event_loop: object) -> None:
        """Start anew in another event loop: the calls that waited in the last one are gone."""
        self._event_loop = event_loop
        self._open: dict[tuple[RequestTemplate, str], _SharedRequest] = {}
        self._unsent: set[_SharedRequest] = set()
        self._window_ends: dict[tuple[RequestTemplate, str], float] = {}  # of windows that have begun already

    async def run(self, planned: PlannedCall, job: Job) -> None:
        """Send the only batch of a call. Its outcomes go to ``job.emit``, as those of :meth:`Dispatcher.run`."""
        [batch] = planned.batches
        caller = _Caller(job, batch)
        shared = self._join((planned.template, planned.subject), caller)
        try:
            # Its deadline is the caller's alone: the request goes on for the others.
            await _wait(caller.ended, job.deadline.remaining(self._state.clock))
        finally:
            is_late = caller.is_waiting
            if is_late or caller.error is not None:
                await self._leave(shared, caller)
        if is_late:
            job.emit(caller.missed(job.deadline.error(None), attempts=int(shared.is_sent)))
        if caller.error is not None:
            raise caller.error
        if caller.unsent:
            await self._dispatcher.run(job, caller.unsent)

    def _join(self, key: tuple[RequestTemplate, str], caller: _Caller) -> _SharedRequest:
        """Add a caller to the open request of its kind, or to a new one where it does not fit."""
        event_loop = current_event_loop()
        if event_loop != self._event_loop:
            self._forget(event_loop)
        shared = self._open.get(key)
        if shared is None or not shared.fits(caller.batch):
            if shared is not None:
                self._close(shared)
            shared = self._open[key] = _SharedRequest(key, self._limits)
            self._unsent.add(shared)
            shared.add(caller)
            spawn_task(partial(self._send, shared, caller.job.journal), shared.scope)
        else:
            shared.add(caller)
        if shared.is_full:
            self._close(shared)
        return shared

    def _close(self, shared: _SharedRequest) -> None:
        """Take no further callers in, so there is nothing to wait for."""
        if self._open.get(shared.key) is shared:
            del self._open[shared.key]
        shared.window.cancel()

    async def _leave(self, shared: _SharedRequest, caller: _Caller) -> None:
        """Go on without a caller. The last one cancels the request and waits until it has ended."""
        shared.remove(caller)
        if not shared.has_callers:
            self._close(shared)
            shared.scope.cancel()
            with anyio.CancelScope(shield=True):
                await shared.ended.wait()

    async def _send(self, shared: _SharedRequest, journal: JournalWriter | None) -> None:
        """Send a shared request, in a task of its own. All callers may have left before it begins."""
        template, _ = shared.key
        job = Job(
            template,
            shared.emit,
            journal=journal,
            unstored=shared.add_unstored,
            admit=shared.is_wanted,
            settled=shared.settle,
        )
        try:
            with shared.scope:
                with shared.window:
                    left = self._window_ends.pop(shared.key, -math.inf) - self._state.clock.monotonic()
                    await self._state.clock.sleep(max(left, 0.0) if left > -self._window else self._window)
                await self._dispatcher.run_late(job, partial(self._compose, shared, job))
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise
            shared.fail(error)  # each caller raises it
        finally:
            self._close(shared)
            self._unsent.discard(shared)
            shared.fail(ClosedClientError("the event loop ended during the call"))
            shared.ended.set()

    async def _compose(self, shared: _SharedRequest, job: Job) -> Batch:
        """Wait until the request may start, and return the documents of all its callers."""
        state = self._state
        await state.pacing.turn()
        while (seconds := state.pacing.delay(shared.tokens)) > 0:
            too_late = state.clock.monotonic() + seconds > shared.deadline.at
            if too_late or state.pacing.blocked(shared.tokens) > state.retry.max_wait:
                break  # the request fails at once, with the error of this
            await state.clock.sleep(seconds)
        if state.connections.closed or not shared.has_callers:
            raise ClosedClientError("the client was closed during the call")
        self._close(shared)
        self._unsent.discard(shared)
        if len(shared.callers) >= _CROWD:
            self._window_ends[shared.key] = state.clock.monotonic() + self._window
        job.deadline = shared.deadline
        return shared.compose()

    def close(self) -> None:
        """Fail the calls whose requests have not started."""
        for shared in [*self._unsent]:
            self._close(shared)
            shared.fail(ClosedClientError("the client was closed during the call"))
            shared.scope.cancel()


async def _wait(event: anyio.Event, seconds: float | None) -> None:
    """Wait for an event, for that many seconds at most."""
    if seconds is None:
        await event.wait()
    else:
        with anyio.move_on_after(seconds):
            await event.wait()


class _Caller:
    """A call that waits for its part of a shared request.

    Parameters
    ----------
    job : Job
        Of the call. Only its ``emit``, ``unstored`` and ``deadline`` are used while it waits.
    batch : Batch
        Its documents.
    """

    __slots__ = ("_missing", "batch", "ended", "error", "is_waiting", "job", "unsent")

    def __init__(self, job: Job, batch: Batch) -> None:
        self.job = job
        self.batch = batch
        self.ended = anyio.Event()
        self.is_waiting = True
        self.error: BaseException | None = None  # raised in the call
        self.unsent: list[Batch] = []  # documents that were given up because of those of others
        self._missing = set(range(len(batch.documents)))  # documents without an outcome

    def end(self, error: BaseException | None = None) -> None:
        """Let the call go on."""
        if self.is_waiting:
            self.is_waiting, self.error = False, error
            self.ended.set()

    def slice(self, start: int, stop: int, attempts: int) -> Batch:
        """Return a range of its documents as a batch."""
        whole = stop - start == len(self.batch.documents)
        return self.batch if whole else self.batch.slice(start, stop, attempts)

    def add(self, part: _Part, outcome: Outcome) -> None:
        """Emit the outcome of a part of its documents. An exception of ``emit`` ends this call alone."""
        try:
            self.job.emit(outcome)
        except BaseException as error:  # noqa: BLE001  # raised in the call
            self.end(error)
        else:
            self._settle(part)

    def add_unsent(self, part: _Part, outcome: Outcome) -> None:
        """Leave a part of its documents for requests of its own."""
        self.unsent.append(replace(outcome.batch, attempts=outcome.attempts, spent=outcome.usage))
        self._settle(part)

    def _settle(self, part: _Part) -> None:
        self._missing.difference_update(range(part.start, part.stop))
        if not self._missing:
            self.end()

    def missed(self, error: Exception, attempts: int) -> Outcome:
        """Return the outcome of the documents that have none."""
        at = sorted(self._missing)
        batch = replace(
            self.batch,
            documents=[self.batch.documents[place] for place in at],
            positions=self.batch.positions[at],
            shape=[self.batch.shape[place] for place in at],
            keys=[],
        )
        return Outcome(batch, None, error, attempts)


class _SharedRequest:
    """A request with the documents of several callers, in the order in which they came.

    Parameters
    ----------
    key : tuple of RequestTemplate and str
        What its callers agree in: the template, and whether they send documents, queries or texts.
    limits : Limits
        Of a request.

    Attributes
    ----------
    callers : list
        Its callers; from its start on also those that have left.
    tokens : int
        Estimated tokens.
    is_sent : bool
        Whether it has started.
    scope, window : CancelScope
        Around its task, and around the wait for further callers.
    ended : Event
        Set when its task has ended.
    """

    def __init__(self, key: tuple[RequestTemplate, str], limits: Limits) -> None:
        self.key = key
        self.callers: list[_Caller] = []
        self.tokens = 0
        self.is_sent = False
        self.scope, self.window = anyio.CancelScope(), anyio.CancelScope()
        self.ended = anyio.Event()
        self._limits = limits
        self._documents = self._chunks = 0
        self._starts: list[int] = []  # position of the first document of each caller
        self._last_deadline = Deadline()  # the latest, at its start
        self._settled: Outcome | None = None  # the latest outcome of a batch that was sent
        self._usage = NO_USAGE  # of batches whose callers have left

    def _fits(self, documents: int, chunks: int, tokens: int) -> bool:
        limits = self._limits
        return (
            self._documents + documents <= limits.documents
            and self._chunks + chunks <= limits.chunks
            and self.tokens + tokens <= limits.tokens
        )

    def fits(self, batch: Batch) -> bool:
        """Return whether a batch fits too."""
        return self._fits(len(batch.documents), sum(batch.shape), batch.tokens)

    @property
    def is_full(self) -> bool:
        """Whether no further document fits."""
        return not self._fits(1, 1, 1)

    @property
    def has_callers(self) -> bool:
        """Whether any caller waits."""
        return any(caller.is_waiting for caller in self.callers)

    @property
    def deadline(self) -> Deadline:
        """The latest deadline of its callers."""
        deadlines = (caller.job.deadline for caller in self.callers)
        return max(deadlines, key=lambda deadline: deadline.at, default=Deadline())

    def add(self, caller: _Caller) -> None:
        """Add a caller."""
        self.callers.append(caller)
        self._count(caller.batch, 1)

    def remove(self, caller: _Caller) -> None:
        """Go on without a caller. Its documents are not sent, unless they are under way."""
        caller.is_waiting = False
        if not self.is_sent:
            self.callers.remove(caller)
            self._count(caller.batch, -1)

    def _count(self, batch: Batch, sign: int) -> None:
        self._documents += sign * len(batch.documents)
        self._chunks += sign * sum(batch.shape)
        self.tokens += sign * batch.tokens

    def fail(self, error: BaseException) -> None:
        """End the calls that still wait, each with an exception of its own, which takes a ``.partial``."""
        for caller in self.callers:
            if caller.is_waiting:
                caller.end(_copy_of(error))

    def compose(self) -> Batch:
        """Return the documents of all callers as one batch. From now on none is added."""
        self.is_sent, self._last_deadline = True, self.deadline
        documents: list[list[str]] = []
        shape: list[int] = []
        keys: list[bytes] = []
        for caller in self.callers:
            self._starts.append(len(documents))
            documents += caller.batch.documents
            shape += caller.batch.shape
            keys += caller.batch.keys
        estimates = zip(*(caller.batch.estimate for caller in self.callers), strict=True)
        return Batch(
            documents,
            np.arange(len(documents), dtype=np.int64),
            self.tokens,
            estimate=tuple(map(sum, estimates)),
            shape=shape,
            keys=keys,
        )

    def is_wanted(self, batch: Batch) -> bool:
        """Return whether a caller waits for documents of a batch."""
        return any(part.caller.is_waiting for part in self._parts(batch))

    def settle(self, outcome: Outcome) -> None:
        """Remember an outcome as one of a batch that was sent."""
        self._settled = outcome

    def emit(self, outcome: Outcome) -> None:
        """Hand an outcome out to the callers whose documents it has."""
        # After many refusals the rest is given up unsent. Refusals of others are no reason for that.
        is_given_up = outcome is not self._settled and outcome.error is not None and is_refusal(outcome.error)
        for part, own in self._divide(outcome):
            if is_given_up and len(self.callers) > 1:
                part.caller.add_unsent(part, own)
            else:
                part.caller.add(part, own)

    def add_unstored(self, outcome: Outcome) -> None:
        """Hand an outcome out that the journal failed to store. The failure ends the calls."""
        for part, own in self._divide(outcome):
            part.caller.job.unstored(own)

    def _parts(self, batch: Batch) -> Iterator[_Part]:
        """Iterate over the callers with documents in a batch."""
        first = int(batch.positions[0])
        end = first + len(batch.documents)  # the pieces of a batch are ranges of it
        for place in range(bisect_right(self._starts, first) - 1, len(self._starts)):
            caller, start = self.callers[place], self._starts[place]
            if start >= end:
                break
            begin, stop = max(first, start), min(end, start + len(caller.batch.documents))
            yield _Part(caller, begin - start, stop - start, begin - first)

    def _divide(self, outcome: Outcome) -> list[tuple[_Part, Outcome]]:
        """Divide an outcome among the callers that wait for it. They also bear what those who left have cost."""
        self._usage += outcome.usage
        parts = [part for part in self._parts(outcome.batch) if part.caller.is_waiting]
        if not parts:
            return []
        batches = [part.caller.slice(part.start, part.stop, outcome.batch.attempts) for part in parts]
        usages = divide_usage(self._usage, [batch.tokens for batch in batches])
        self._usage = NO_USAGE
        return [
            (
                part,
                Outcome(
                    batch, part.rows(outcome), self._error(part, outcome), outcome.attempts, outcome.retries, usage
                ),
            )
            for part, batch, usage in zip(parts, batches, usages, strict=True)
        ]

    def _error(self, part: _Part, outcome: Outcome) -> Exception | None:
        """Return the error of an outcome. That of the latest deadline becomes that of the caller's own."""
        error, latest = outcome.error, self._last_deadline
        if isinstance(error, APITimeoutError) and latest.seconds is not None:
            own = part.caller.job.deadline
            return own.error(error.__cause__) if error.args == latest.error(None).args else error
        return error


class _Part(NamedTuple):
    """The documents of one caller in a batch.

    Parameters
    ----------
    caller : _Caller
        The caller.
    start, stop : int
        The range of its documents.
    at : int
        Position of the first of them in the batch.
    """

    caller: _Caller
    start: int
    stop: int
    at: int

    def rows(self, outcome: Outcome) -> Embeddings | None:
        """Return the caller's vectors: a copy, which keeps no memory of others, unless all are the caller's."""
        found = outcome.embeddings
        count = self.stop - self.start
        if found is None or count == len(outcome.batch.documents):
            return found
        offsets = found.offsets[self.at : self.at + count + 1]
        return Embeddings(
            vectors=found.vectors[offsets[0] : offsets[-1]].copy(),
            offsets=offsets - offsets[0],
            model=found.model,
            dimensions=found.dimensions,
            encoding_format=found.encoding_format,
            space=found.space,
            input_type=found.input_type,
        )


def _copy_of(error: BaseException) -> BaseException:
    """Return a copy of an exception. Where its class allows none, it is the cause of another."""
    try:
        found = copy(error)
    except Exception:  # noqa: BLE001  # a class of the caller's
        found = None
    if type(found) is not type(error):
        found = CtxembedError(f"the request, which other calls share, failed with {type(error).__name__}: {error}")
        found.__cause__ = error
        return found
    found.__cause__ = error.__cause__
    return found.with_traceback(error.__traceback__)


def divide_usage(usage: Usage, weights: Sequence[int]) -> list[Usage]:
    """Divide a usage in proportion to weights. The shares add up to it exactly; the first has its requests."""
    if len(weights) == 1 or usage is NO_USAGE:
        return [usage] * len(weights)
    nothing = [None] * len(weights)
    shares = zip(
        nothing if usage.prompt_tokens is None else divide_int(usage.prompt_tokens, weights),
        nothing if usage.total_tokens is None else divide_int(usage.total_tokens, weights),
        nothing if usage.cost_usd is None else divide_cost(usage.cost_usd, weights),
        nothing if usage.discarded is None else divide_usage(usage.discarded, weights),
        strict=True,
    )
    return [
        Usage(prompt, total, cost, 0 if place else usage.requests, discarded, 0 if place else usage.unreported)
        for place, (prompt, total, cost, discarded) in enumerate(shares)
    ]
