"""Send the batches of a call: a limited number at once, split where they are refused.

Both clients use it: :class:`AsyncClient` in the caller's task, :class:`Client` in an event loop of its own thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio

from ctxembed._client._http.errors import is_unreachable
from ctxembed._client._policy.clock import Deadline
from ctxembed._client._policy.retry import is_transient
from ctxembed._client.attempts import BatchRequest
from ctxembed._client.endpoint import is_refusal, refused_documents
from ctxembed._client.hooks import log
from ctxembed._errors import DocumentError
from ctxembed._results import NO_USAGE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterable

    from anyio.abc import TaskGroup

    from ctxembed._client.batches import Batch, Outcome
    from ctxembed._client.endpoint import RequestTemplate
    from ctxembed._client.journal import JournalWriter
    from ctxembed._client.state import ClientState

__all__ = ["Dispatcher", "Job", "NotAdmittedError", "abort", "affects_all"]

_SUSPICIOUS: Final = 16
"""Single documents of a planned request that were refused, with nothing accepted, before all of it is suspected."""

_MAX_REFUSED: Final = 128
"""Pieces of a suspected request that are tried. The rest counts as refused."""

_MAX_SUSPECTED: Final = 4
"""Suspected requests that show that everything is refused."""


@dataclass(slots=True)
class _Refusals:
    """The refusals of a planned request and its pieces."""

    pieces: int = 0
    single_documents: int = 0
    last: Exception | None = None

    @property
    def is_suspected(self) -> bool:
        return self.single_documents >= _SUSPICIOUS


def _ignore(outcome: Outcome) -> None:
    del outcome


class NotAdmittedError(Exception):
    """``Job.admit`` kept a batch from being sent."""


@dataclass(slots=True)
class Job:
    """The state of one call while its batches are in flight.

    Parameters
    ----------
    template : RequestTemplate
        What all requests have in common.
    emit : callable
        Receives each outcome, in the thread of the event loop.
    deadline : Deadline
        Of the call.
    fatal : Exception or None
        An error that every other request would meet. No request starts after it.
    abort : BaseException or None
        What a callable of the caller's raised to end more than its request, such as ``SystemExit``, or what ``emit``,
        the journal, ``admit`` or ``settled`` raised. It cancels the requests in flight and ends the call.
    journal : JournalWriter or None
        Stores each successful outcome before it is emitted.
    unstored : callable
        Receives the outcome that the journal failed to store, in place of ``emit``.
    admit : callable or None
        Called with each batch that has a slot, before its first attempt. Where it returns False, the batch is not sent
        and fails with :class:`NotAdmittedError`.
    settled : callable or None
        Called with the outcome of each admitted batch, before it is emitted. The outcome of a batch that is split has
        no usage: that of its first piece includes it. It is not called for requests that are cancelled.
    """

    template: RequestTemplate
    emit: Callable[[Outcome], object]
    deadline: Deadline = field(default_factory=Deadline)
    fatal: Exception | None = None
    abort: BaseException | None = None
    journal: JournalWriter | None = None
    unstored: Callable[[Outcome], object] = _ignore
    admit: Callable[[Batch], bool] | None = None
    settled: Callable[[Outcome], object] | None = None
    succeeded: int = 0
    refusals: dict[int, _Refusals] = field(default_factory=dict)

    def record(self, outcome: Outcome, *, outage: bool) -> None:
        """Learn what an outcome means for the other batches.

        Parameters
        ----------
        outcome : Outcome
            How a batch ended.
        outage : bool
            Whether the API responds to no request at all.
        """
        error = outcome.error
        if error is None:
            self.succeeded += 1
            self.refusals.clear()
            return
        refused = is_refusal(error)
        everything_is_refused = (
            refused
            and self.succeeded == 0
            and sum(found.is_suspected for found in self.refusals.values()) >= _MAX_SUSPECTED
        )
        if self.fatal is None and (affects_all(error) or everything_is_refused or (outage and not refused)):
            self.fatal = error

    def record_refusal(self, batch: Batch, error: Exception) -> None:
        """Count a refusal."""
        if self.succeeded == 0:
            found = self.refusals.setdefault(batch.root, _Refusals())
            found.pieces += 1
            found.single_documents += len(batch.documents) == 1
            found.last = error

    def is_suspected(self, batch: Batch) -> bool:
        """Return whether so much of the planned request was refused that its largest pieces are tried first."""
        found = self.refusals.get(batch.root)
        return found is not None and found.is_suspected

    def given_up(self, batch: Batch) -> Exception | None:
        """Return the refusal that counts for all that is left of the planned request, if there is one."""
        found = self.refusals.get(batch.root)
        return found.last if found is not None and found.is_suspected and found.pieces >= _MAX_REFUSED else None


def affects_all(error: Exception) -> bool:
    """Return whether every other request would meet the error: 401, 403, 404, no connection at all, and their like."""
    if isinstance(error, DocumentError | NotAdmittedError):
        return False
    if is_refusal(error):
        return refused_documents(error, 0) is None
    return not is_transient(error) or is_unreachable(error)


class Dispatcher:
    """Send batches through the connections of a client.

    Parameters
    ----------
    state : ClientState
        Options, policies and connections.
    """

    def __init__(self, state: ClientState) -> None:
        self._state = state

    async def run(self, job: Job, batches: Iterable[Batch]) -> None:
        """Send all batches. Outcomes go to ``job.emit``, in the order in which they arrive.

        An exception that ``emit`` raises cancels the requests in flight and is raised here.
        """
        async with anyio.create_task_group() as group:
            for batch in batches:
                if job.fatal is None and await self._acquire(job):
                    group.start_soon(self._send, group, job, batch)
                else:
                    _emit(group, job, self._request(job, batch).outcome(job.fatal))
        if job.abort is not None:
            raise job.abort

    async def run_late(self, job: Job, compose: Callable[[], Awaitable[Batch]]) -> None:
        """Send one batch, which ``compose`` returns once a slot is free, and the pieces that it is split into."""
        concurrency = self._state.pacing.concurrency
        await concurrency.acquire()
        try:
            batch = await compose()
        except BaseException:
            concurrency.release()
            raise
        async with anyio.create_task_group() as group:
            await self._send(group, job, batch)
        if job.abort is not None:
            raise job.abort

    async def send_one(
        self, template: RequestTemplate, batch: Batch, deadline: Deadline, *, keep_body: bool = False
    ) -> Outcome:
        """Send one batch, which is never split."""
        job = Job(template, _ignore, deadline)
        request = self._request(job, batch, keep_body=keep_body)
        if not await self._acquire(job):
            return request.outcome(job.fatal)
        try:
            return await request.run()
        finally:
            self._state.pacing.concurrency.release()

    async def serve(self, job: Job, inbox: asyncio.Queue[Batch]) -> None:
        """Send batches as they come, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                batch = await inbox.get()
                group.start_soon(self.send, group, job, batch)
        if job.abort is not None:
            raise job.abort

    async def send(self, group: TaskGroup, job: Job, batch: Batch) -> None:
        """Wait for a slot, then send a batch and all pieces that it is split into."""
        # Pieces go first: a split that goes deep before it goes wide soon shows which document is refused.
        if await self._acquire(job, first=batch.attempts > 0 and not job.is_suspected(batch)):
            await self._send(group, job, batch)
        else:
            _emit(group, job, self._request(job, batch).outcome(job.fatal))

    async def _send(self, group: TaskGroup, job: Job, batch: Batch) -> None:
        """Send a batch that has a slot."""
        request = self._request(job, batch)
        given_up: Exception | None = None
        try:
            given_up = job.fatal or job.given_up(batch)
            if given_up is None and not _admit(group, job, batch):
                given_up = NotAdmittedError("the batch was not admitted")
            outcome = await request.run() if given_up is None else request.outcome(given_up)
        except Exception as error:  # noqa: BLE001  # whatever it is, what others have paid for is kept
            outcome = request.outcome(error)
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise
            abort(group, job, error)
            return
        finally:
            self._state.pacing.concurrency.release()
        await self._end(group, job, outcome, was_sent=given_up is None)

    async def _end(self, group: TaskGroup, job: Job, outcome: Outcome, *, was_sent: bool) -> None:
        """Split a batch that was refused; else store and emit its outcome."""
        batch, error = outcome.batch, outcome.error
        if error is not None and is_refusal(error):
            job.record_refusal(batch, error)
            if was_sent and len(batch.documents) > 1:
                named = refused_documents(error, len(batch.documents))
                if named is not None:
                    if _settle(group, job, replace(outcome, usage=NO_USAGE)):
                        self._split(group, job, outcome, error, named)
                    return
        if not isinstance(error, NotAdmittedError):
            job.record(outcome, outage=self._state.budget.is_outage)
        unstored = None if job.journal is None else await job.journal.store(outcome)
        if unstored is not None:
            job.unstored(outcome)
            abort(group, job, unstored)
        elif not was_sent or _settle(group, job, outcome):
            _emit(group, job, outcome)

    def _split(self, group: TaskGroup, job: Job, outcome: Outcome, refusal: Exception, named: list[int]) -> None:
        batch = outcome.batch
        if not named:  # the request as a whole may be too large
            self._state.calibrations.of(job.template.model).refuse(batch.estimate, batch.tokens)
        message = "a request of %(documents)d documents was refused (%(error)s): split"
        log(message, job.template, batch, refusal, attempts=outcome.attempts)
        for piece in batch.split(named, outcome.attempts, outcome.usage):
            group.start_soon(self.send, group, job, piece)

    async def _acquire(self, job: Job, *, first: bool = False) -> bool:
        """Wait for a slot among the requests in flight; return False where the deadline comes before it."""
        concurrency = self._state.pacing.concurrency
        if concurrency.try_acquire():
            return True
        with anyio.move_on_after(job.deadline.remaining(self._state.clock)):
            await concurrency.acquire(first=first)
            return True
        if job.fatal is None:
            job.fatal = job.deadline.error(None)
        return False

    def _request(self, job: Job, batch: Batch, *, keep_body: bool = False) -> BatchRequest:
        return BatchRequest(self._state, job.template, batch, job.deadline, keep_body=keep_body)


def _admit(group: TaskGroup, job: Job, batch: Batch) -> bool:
    """Call ``job.admit``. An exception of it ends the call."""
    try:
        return job.admit is None or job.admit(batch)
    except BaseException as error:  # noqa: BLE001  # raised when the group has ended
        abort(group, job, error)
        return False


def _settle(group: TaskGroup, job: Job, outcome: Outcome) -> bool:
    """Call ``job.settled``; return False where that ends the call."""
    try:
        if job.settled is not None:
            job.settled(outcome)
    except BaseException as error:  # noqa: BLE001  # raised when the group has ended
        abort(group, job, error)
        return False
    return True


def _emit(group: TaskGroup, job: Job, outcome: Outcome) -> None:
    try:
        if job.abort is None:
            job.emit(outcome)
    except BaseException as error:  # noqa: BLE001  # raised when the group has ended, which would wrap it
        abort(group, job, error)


def abort(group: TaskGroup, job: Job, error: BaseException) -> None:
    """Cancel all requests of a call. An exception group would hide ``error``, and asyncio's loop would end by it."""
    if job.abort is None:
        job.abort = error
    group.cancel_scope.cancel()
