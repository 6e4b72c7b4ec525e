"""One request, attempt after attempt, until it lands or no attempt is left."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ctxembed._client._http.transport import Outgoing, Reply, unreachable
from ctxembed._client._policy.retry import Deadline, is_congestion, is_overload, retry_after
from ctxembed._client.batches import Outcome
from ctxembed._client.endpoint import spent
from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent, log
from ctxembed._client.telemetry import begin
from ctxembed._errors import APIStatusError, BadResponseError, RateLimitError
from ctxembed._results import NO_USAGE, Embeddings, Usage

if TYPE_CHECKING:
    from ctxembed._client.batches import Batch
    from ctxembed._client.dispatch import Engine
    from ctxembed._client.endpoint import Call

__all__ = ["Sending"]


@dataclass(slots=True)
class _Answer:
    """What an attempt ended with."""

    result: Embeddings | Exception
    reply: Reply | None
    event: RequestEvent | None
    usage: Usage

    @property
    def landed(self) -> bool:
        return isinstance(self.result, Embeddings)


@dataclass(slots=True)
class Sending:
    """One request under way.

    Parameters
    ----------
    engine : Engine
        Whose options, rates and connections it uses.
    call : Call
        What all requests of the call have in common.
    batch : Batch
        What to send.
    deadline : Deadline
        Of the job.
    keep : bool
        Whether the answer's bytes are kept.
    """

    engine: Engine
    call: Call
    batch: Batch
    deadline: Deadline = field(default_factory=Deadline)
    keep: bool = False
    _usage: Usage = NO_USAGE
    _body: bytes = b""
    _attempts: int = 0
    _retries: int = 0

    async def end(self) -> Outcome:
        """Send until it lands, or no attempt is left."""
        engine = self.engine
        span = begin(engine.base_url, self.call, self.batch, engine.clock.monotonic())
        if span is None:
            return await self._end()
        outcome = None
        try:
            outcome = await self._end()
        except Exception as error:
            outcome = self.outcome(error)
            raise
        finally:
            span.end(outcome, engine.clock.monotonic())
        return outcome

    async def _end(self) -> Outcome:
        engine = self.engine
        body = self.batch.body
        self._body = self.call.body(self.batch.documents) if body is None else body
        engine.budget.request()
        error: Exception | None = None
        renewed = False
        while True:
            error = await self._turn(error)
            if error is not None:
                return self.outcome(error)
            answer = await self._attempt()
            if isinstance(answer.result, Embeddings):
                counted = answer.result.usage.total_tokens
                engine.pacer.correct(self.batch.tokens, counted)
                engine.calibration.observe(self.batch.estimate, counted or 0)
                return self.outcome(None, answer)
            error = answer.result
            if engine.key.rotates and not renewed and isinstance(error, APIStatusError) and error.status_code == 401:
                renewed = True  # the key may have changed since: ask once more
                continue
            delay = self._delay(error)
            if delay is None:
                self._log("a request of %(documents)d documents failed after %(attempts)d attempts (%(error)s)", error)
                return self.outcome(error, answer)
            if engine.clock.monotonic() + delay > self.deadline.at:
                return self.outcome(self.deadline.missed(error), answer)
            self._retries += 1
            self._log("attempt %(attempts)d failed (%(error)s): the next in %(delay).2f s", error, delay=delay)
            if answer.event is not None:
                await engine.hooks.tell("on_retry", RetryEvent(answer.event, error, delay, self._retries))
            if engine.pacer.account.held(engine.clock.monotonic()) < delay:
                await engine.clock.sleep(delay)  # else it means all requests, and this one waits with them

    async def _turn(self, error: Exception | None) -> Exception | None:
        """Wait until an attempt may start; return what keeps it from starting."""
        engine, clock = self.engine, self.engine.clock
        if clock.monotonic() >= self.deadline.at:
            return self.deadline.missed(error)
        if await engine.pacer.wait(self.batch.tokens, clock, self.deadline.at, engine.policy.max_wait):
            return None
        held = engine.pacer.account.held(clock.monotonic(), self.batch.tokens)
        if held <= engine.policy.max_wait:
            return self.deadline.missed(error)
        message = f"the API asked for no request for another {held:.0f} seconds, and max_wait is shorter"
        return RateLimitError(message, 429, None, {"retry-after": str(math.ceil(held))})

    def _delay(self, error: Exception) -> float | None:
        engine = self.engine
        delay = engine.policy.delay(error, self._retries, engine.clock)
        if delay is not None and not engine.budget.spend():
            self._log("no retry of %(error)s: the retry budget is spent", error, level=logging.WARNING)
            return None
        return delay

    async def _attempt(self) -> _Answer:
        """Send, and once more where the answer is late and hedging is on. The first good answer counts."""
        engine = self.engine
        patience = engine.hedger.patience()
        if patience is None:
            answer = await self._post(hedge=False)
            self._usage += answer.usage if answer.landed else answer.usage.thrown_away()
            return answer
        answers: list[_Answer] = []
        crash: list[Exception] = []
        under_way = 1
        hedged = False
        over = anyio.Event()

        async def run(*, hedge: bool) -> None:
            nonlocal under_way
            try:
                answers.append(await self._post(hedge=hedge))
            except Exception as error:  # noqa: BLE001  # raised below, bare, when both are gone
                crash.append(error)
            under_way -= 1
            if not under_way or (answers[-1:] and answers[-1].landed):
                over.set()

        async def hedge_run() -> None:
            await run(hedge=True)

        async def first_run() -> None:
            await run(hedge=False)

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(first_run)
                while not (over.is_set() or hedged):
                    with anyio.move_on_after(patience):
                        await over.wait()
                    # Where all places are taken, or no request may start, there may be one after as long again.
                    if over.is_set() or engine.hedger.patience() is None or not engine.gate.try_acquire():
                        continue
                    hedged = engine.pacer.may_start(self.batch.tokens, engine.clock.monotonic())
                    if hedged:
                        engine.hedger.spend()
                        under_way += 1
                        group.start_soon(hedge_run)
                    else:
                        engine.gate.release()
                await over.wait()
                group.cancel_scope.cancel()
        finally:
            if hedged:
                engine.gate.release()
        if not answers:
            raise crash[0]
        best = next((answer for answer in answers if answer.landed), answers[0])
        for answer in answers:
            self._usage += answer.usage if answer is best and best.landed else answer.usage.thrown_away()
        self._usage += Usage(unreported=under_way)
        return best

    async def _post(self, *, hedge: bool) -> _Answer:
        engine, call, batch, clock = self.engine, self.call, self.batch, self.engine.clock
        shape = batch.shape
        secret = engine.key.get()
        self._attempts += 1
        url = engine.base_url + call.path
        chunks = sum(shape)
        event = None
        if engine.hooks.any:
            event = RequestEvent(
                url,
                engine.headers,
                call.model,
                len(shape),
                chunks,
                batch.tokens,
                len(self._body),
                self._attempts,
                hedge,
            )
            await engine.hooks.tell("on_request", event)
        limit = call.longest_answer(len(shape), chunks)
        decoder = call.decoder(shape)
        started = clock.monotonic()
        got = await engine.pool.post(
            Outgoing(url, engine.headers, self._body, secret, engine.timeouts, limit, decoder, self.keep),
            self.deadline.left(clock),
        )
        ended = clock.monotonic()
        result: Embeddings | Exception
        reply = None if isinstance(got, Exception) else got
        if isinstance(got, Exception):
            result = got
            if ended >= self.deadline.at:
                result = self.deadline.missed(result)
        else:
            result = call.read(got, secret)
        self._learn(result, reply, started, ended)
        usage = self._cost(result, reply)
        if event is not None:
            status, headers = (None, {}) if reply is None else (reply.status, reply.headers)
            wrong = result if isinstance(result, Exception) else None
            await engine.hooks.tell("on_response", ResponseEvent(event, status, headers, ended - started, usage, wrong))
        return _Answer(result, reply, event, usage)

    def _learn(self, result: Embeddings | Exception, reply: Reply | None, started: float, ended: float) -> None:
        """Tell rates, places and budgets what an answer means for others."""
        engine = self.engine
        account = engine.pacer.account
        worked = isinstance(result, Embeddings)
        engine.budget.note(worked=worked)
        if worked:
            engine.gate.succeeded()
            engine.hedger.landed(ended - started)
        if reply is None:
            return
        account.told(reply.headers, ended, engine.clock.wall())
        asked = None
        if isinstance(result, APIStatusError) and is_congestion(result):
            asked = retry_after(result.headers, engine.clock.wall())
            engine.gate.congested(started, ended)
        if reply.status == 429:
            account.refused(started, ended, asked)
        elif not is_overload(reply.status):
            account.accepted(started, ended)
        elif asked is not None:
            account.hold(asked, started, ended)

    @staticmethod
    def _cost(result: Embeddings | Exception, reply: Reply | None) -> Usage:
        """Read what an attempt cost."""
        if isinstance(result, Embeddings):
            return result.usage
        if reply is None:
            return Usage() if unreachable(result) else Usage(unreported=1)
        if not isinstance(result, BadResponseError):
            return Usage()
        found = spent(reply.body)
        return found if found.requests else Usage(unreported=1)

    def outcome(self, error: Exception | None, answer: _Answer | None = None) -> Outcome:
        """Make what this ends with."""
        result = None if answer is None or error is not None else answer.result
        return Outcome(
            self.batch,
            result if isinstance(result, Embeddings) else None,
            error,
            self.batch.attempts + self._attempts,
            self._retries,
            self.batch.spent + self._usage,
            answer.reply if answer is not None and self.keep else None,
        )

    def _log(self, message: str, error: Exception, *, level: int = logging.INFO, **more: object) -> None:
        log(message, self.call, self.batch, error, level=level, attempts=self._attempts, **more)
