"""One request: attempt after attempt, until one succeeds or none is left."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ctxembed._client._http.errors import is_unreachable
from ctxembed._client._http.transport import TransportRequest
from ctxembed._client._policy.pacing import Start
from ctxembed._client._policy.retry import retry_after
from ctxembed._client.batches import Outcome
from ctxembed._client.endpoint import read_response, read_usage
from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent, log
from ctxembed._client.telemetry import begin_span
from ctxembed._errors import APIStatusError, BadResponseError, RateLimitError
from ctxembed._results import NO_USAGE, Embeddings, Usage

if TYPE_CHECKING:
    from ctxembed._client._http.body import Response
    from ctxembed._client._policy.clock import Deadline
    from ctxembed._client.batches import Batch
    from ctxembed._client.endpoint import RequestTemplate
    from ctxembed._client.state import ClientState

__all__ = ["BatchRequest"]


@dataclass(slots=True)
class _Attempt:
    """The result of an attempt."""

    result: Embeddings | Exception
    response: Response | None
    retry_after: float | None
    event: RequestEvent | None
    usage: Usage

    @property
    def succeeded(self) -> bool:
        return isinstance(self.result, Embeddings)


@dataclass(slots=True)
class _Record:
    """What a shared limiter is told of an attempt."""

    outcome: str = "unused"
    started: float | None = None
    retry_after: float | None = None
    tokens: int | None = None


class BatchRequest:
    """The request of a batch, with all its attempts.

    Parameters
    ----------
    state : ClientState
        Options, policies and connections of the client.
    template : RequestTemplate
        What all requests of the call have in common.
    batch : Batch
        The documents to send.
    deadline : Deadline
        Of the call.
    keep_body : bool
        Whether the bytes of the response are kept.
    """

    __slots__ = (
        "_attempts",
        "_batch",
        "_body",
        "_deadline",
        "_keep_body",
        "_retries",
        "_state",
        "_template",
        "_usage",
    )

    def __init__(
        self,
        state: ClientState,
        template: RequestTemplate,
        batch: Batch,
        deadline: Deadline,
        *,
        keep_body: bool = False,
    ) -> None:
        self._state = state
        self._template = template
        self._batch = batch
        self._deadline = deadline
        self._keep_body = keep_body
        self._usage = NO_USAGE
        self._body = b""
        self._attempts = 0
        self._retries = 0

    async def run(self) -> Outcome:
        """Send until an attempt succeeds or none is left."""
        state = self._state
        span = begin_span(state.base_url, self._template, self._batch, state.clock.monotonic())
        if span is None:
            return await self._run()
        outcome = None
        try:
            outcome = await self._run()
        except Exception as error:
            outcome = self.outcome(error)
            raise
        finally:
            span.end(outcome, state.clock.monotonic())
        return outcome

    async def _run(self) -> Outcome:
        state, batch = self._state, self._batch
        self._body = self._template.body(batch.documents) if batch.body is None else batch.body
        state.budget.request()
        error: Exception | None = None
        key_was_renewed = False
        while True:
            start = await self._wait_for_start(error)
            if isinstance(start, Exception):
                return self.outcome(start)
            attempt = await self._hedged_attempt(start)
            if isinstance(attempt.result, Embeddings):
                counted = attempt.result.usage.total_tokens
                state.pacing.settle(batch.tokens, counted)
                state.calibrations.of(self._template.model).observe(batch.estimate, counted or 0)
                return self.outcome(None, attempt)
            error = attempt.result
            unauthorized = isinstance(error, APIStatusError) and error.status_code == 401
            if unauthorized and state.key.rotates and not key_was_renewed:
                key_was_renewed = True  # the key may have changed since: ask for it once more
                continue
            delay = self._retry_delay(error, attempt.retry_after)
            if delay is None:
                self._log("a request of %(documents)d documents failed after %(attempts)d attempts (%(error)s)", error)
                return self.outcome(error, attempt)
            if state.clock.monotonic() + delay > self._deadline.at:
                return self.outcome(self._deadline.error(error), attempt)
            self._retries += 1
            self._log("attempt %(attempts)d failed (%(error)s): the next in %(delay).2f s", error, delay=delay)
            if attempt.event is not None:
                await state.hooks.call("on_retry", RetryEvent(attempt.event, error, delay, self._retries))
            if state.pacing.blocked() < delay:
                await state.clock.sleep(delay)  # else all requests are blocked for so long, and this one with them

    async def _wait_for_start(self, last_error: Exception | None) -> Start | Exception:
        """Wait until an attempt may start; return the error of one that may not start in time."""
        state, deadline = self._state, self._deadline
        if state.clock.monotonic() >= deadline.at:
            return deadline.error(last_error)
        start = await state.pacing.wait(self._batch.tokens, deadline.at, state.retry.max_wait)
        if isinstance(start, Start):
            return start
        if start.seconds <= state.retry.max_wait:
            return deadline.error(last_error)
        message = f"limits allow no request for another {start.seconds:.0f} seconds, and max_wait is shorter"
        return RateLimitError(message, 429, None, {"retry-after": str(math.ceil(start.seconds))})

    def _retry_delay(self, error: Exception, asked: float | None) -> float | None:
        state = self._state
        delay = state.retry.delay(error, self._retries, asked, state.clock)
        if delay is not None and not state.budget.spend():
            self._log("no retry of %(error)s: the retry budget is spent", error, level=logging.WARNING)
            return None
        return delay

    async def _hedged_attempt(self, start: Start) -> _Attempt:
        """Send, and send once more where the response is late and hedging is on. The first success counts."""
        state = self._state
        delay = state.hedging.delay()
        if delay is None:
            attempt = await self._attempt(start, hedge=False)
            self._usage += attempt.usage if attempt.succeeded else attempt.usage.thrown_away()
            return attempt
        attempts: list[_Attempt] = []
        crashes: list[BaseException] = []
        in_flight = 1
        hedged = False
        done = anyio.Event()

        async def run(start: Start, hedge: bool) -> None:  # start_soon passes positions only
            nonlocal in_flight
            try:
                attempts.append(await self._attempt(start, hedge=hedge))
            except BaseException as error:  # raised below when both attempts have ended
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
                crashes.append(error)
            in_flight -= 1
            if not in_flight or (attempts and attempts[-1].succeeded):
                done.set()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(run, start, False)
                while not (done.is_set() or hedged):
                    with anyio.move_on_after(delay):
                        await done.wait()
                    second = None if done.is_set() else await self._second_start()
                    if second is not None:
                        hedged = True
                        state.hedging.spend()
                        in_flight += 1
                        group.start_soon(run, second, True)
                await done.wait()
                group.cancel_scope.cancel()
        finally:
            if hedged:
                state.pacing.concurrency.release()
        if not attempts:
            raise crashes[0]
        best = next((attempt for attempt in attempts if attempt.succeeded), attempts[0])
        for attempt in attempts:
            self._usage += attempt.usage if attempt is best and best.succeeded else attempt.usage.thrown_away()
        self._usage += Usage(unreported=in_flight)
        return best

    async def _second_start(self) -> Start | None:
        """Take a slot and a start, unless one of them has to be waited for: then it is tried later once more."""
        pacing = self._state.pacing
        if self._state.hedging.delay() is None or not pacing.concurrency.try_acquire():
            return None
        start = None
        try:
            start = await pacing.try_start(self._batch.tokens)
        except Exception as error:  # noqa: BLE001  # of a limiter: the next request meets it, and this one is under way
            self._log("no second attempt: the limiter raised %(error)s", error, level=logging.WARNING)
        finally:
            if start is None:
                pacing.concurrency.release()
        return start

    async def _attempt(self, start: Start, *, hedge: bool) -> _Attempt:
        """Send the request once, and tell the shared limiter how it ended."""
        record = _Record()
        pacing, clock = self._state.pacing, self._state.clock
        error: BaseException | None = None
        try:
            return await self._send(record, hedge=hedge)
        except BaseException as raised:
            error = raised
            raise
        finally:
            age = 0.0 if record.started is None else max(0.0, clock.monotonic() - record.started)
            await pacing.end(start, record.outcome, age, record.retry_after, record.tokens, error=error)

    async def _send(self, record: _Record, *, hedge: bool) -> _Attempt:
        """Send the request once, read its response, and record both where others learn from them."""
        state, template, batch, clock = self._state, self._template, self._batch, self._state.clock
        try:
            credentials = state.key.get()
        except anyio.get_cancelled_exc_class() as error:  # of another loop or thread; this request is not cancelled
            raise RuntimeError(f"the api_key callable raised {type(error).__name__}") from error
        self._attempts += 1
        url = state.base_url + template.path
        chunks = sum(batch.shape)
        event = None
        if state.hooks.any:
            event = RequestEvent(
                url=url,
                headers=state.headers,
                model=template.model,
                documents=len(batch.shape),
                chunks=chunks,
                tokens=batch.tokens,
                bytes=len(self._body),
                attempt=self._attempts,
                hedge=hedge,
            )
            await state.hooks.call("on_request", event)
        record.started = started = clock.monotonic()
        record.outcome = "failed"
        sent = await state.connections.send(
            TransportRequest(url, state.headers, self._body, credentials, state.timeouts),
            template.decoder(batch.shape),
            template.max_response_size(len(batch.shape), chunks),
            keep_body=self._keep_body,
            remaining=self._deadline.remaining(clock),
        )
        ended = clock.monotonic()
        response = None if isinstance(sent, Exception) else sent
        result: Embeddings | Exception
        if isinstance(sent, Exception):
            result = sent if ended < self._deadline.at else self._deadline.error(sent)
        else:
            result = read_response(template, sent, credentials)
        asked = self._record(record, result, response, started, ended)
        usage = self._usage_of(result, response)
        if event is not None:
            await state.hooks.call(
                "on_response",
                ResponseEvent(
                    request=event,
                    status_code=None if response is None else response.status,
                    headers={} if response is None else response.headers,
                    seconds=ended - started,
                    usage=usage,
                    error=result if isinstance(result, Exception) else None,
                ),
            )
        return _Attempt(result, response, asked, event, usage)

    def _record(
        self,
        record: _Record,
        result: Embeddings | Exception,
        response: Response | None,
        started: float,
        ended: float,
    ) -> float | None:
        """Record an attempt with the policies, and return the seconds of its ``Retry-After``."""
        state = self._state
        succeeded = isinstance(result, Embeddings)
        state.budget.record(success=succeeded)
        if succeeded:
            state.pacing.concurrency.increase()
            state.hedging.record(ended - started)
        if response is None:
            return None
        asked = None
        if isinstance(result, APIStatusError):
            asked = retry_after(result.headers, state.clock.wall())
        record.outcome = state.pacing.record(response.status, response.headers, asked, started, ended)
        record.retry_after = asked
        record.tokens = result.usage.total_tokens if isinstance(result, Embeddings) else None
        return asked

    @staticmethod
    def _usage_of(result: Embeddings | Exception, response: Response | None) -> Usage:
        if isinstance(result, Embeddings):
            return result.usage
        if response is None:
            return Usage() if is_unreachable(result) else Usage(unreported=1)
        if not isinstance(result, BadResponseError):
            return Usage()
        found = read_usage(response.text)
        return found if found.requests else Usage(unreported=1)

    def outcome(self, error: Exception | None, attempt: _Attempt | None = None) -> Outcome:
        """Create the outcome of the batch."""
        result = None if attempt is None or error is not None else attempt.result
        return Outcome(
            batch=self._batch,
            embeddings=result if isinstance(result, Embeddings) else None,
            error=error,
            attempts=self._batch.attempts + self._attempts,
            retries=self._retries,
            usage=self._batch.spent + self._usage,
            response=attempt.response if attempt is not None and self._keep_body else None,
        )

    def _log(self, message: str, error: Exception, *, level: int = logging.INFO, **more: object) -> None:
        log(message, self._template, self._batch, error, level=level, attempts=self._attempts, **more)
