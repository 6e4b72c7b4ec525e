"""Workers that share a limiter, on a simulated clock: seconds of hours, and the same result each time.

The rate limiter of the API, the shared limiter and what a worker does without it are the code that runs; processes,
sockets and time are simulated. ``python -m benches.simulation`` prints the case of ``docs/internet-scale.md``.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ctxembed._client._policy.own_pace import OwnPace
from ctxembed._client._policy.rate_limiter import RateLimiter
from ctxembed._client._policy.reservations import Ending, Reservations
from ctxembed._server.rate_limiter import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Parameters
    ----------
    workers, concurrency : int
        Processes, and requests in flight of each.
    per_second : float
        Requests a second that the API allows, which nobody knows.
    burst : int
        Requests that it allows at once after a pause.
    requests : int
        Requests to complete.
    latency : float
        Seconds of a response in the median. The logarithm is normal with a deviation of 0.4.
    stragglers, slowness : float
        Share of the responses that take ``slowness`` times as long.
    errors : float
        Share of the accepted requests that end with a 500, and are sent again.
    worker_lives : float
        Mean seconds until a worker is killed. Its requests are lost, and 10 seconds later it starts them anew.
    limiter_ends : tuple of float
        When the limiter is killed.
    limiter_away : float
        Seconds until it is back, without what it had learned.
    retry_after : bool
        Whether refusals carry a ``Retry-After``, in whole seconds.
    shared : bool
        Whether there is a limiter at all.
    seed : int
        Of all that is random.
    """

    workers: int
    concurrency: int
    per_second: float
    burst: int
    requests: int
    latency: float = 1.0
    stragglers: float = 0.0
    slowness: float = 10.0
    errors: float = 0.0
    worker_lives: float = math.inf
    limiter_ends: tuple[float, ...] = ()
    limiter_away: float = 30.0
    retry_after: bool = False
    shared: bool = True
    seed: int = 1


@dataclass
class Result:
    """What the API saw.

    Parameters
    ----------
    seconds, sent_seconds : float
        Until the last response, and until no request was left to be taken.
    accepted, refused : int
        Requests. Those that were repeated after an error or a worker's end count each time.
    deaths : int
        Workers that were killed.
    rate_used : float
        Requests accepted until none was left, as a share of what the API allows in that time.
    """

    seconds: float = 0.0
    sent_seconds: float = 0.0
    accepted: int = 0
    refused: int = 0
    deaths: int = 0
    rate_used: float = 0.0
    by_second: list[list[int]] = field(default_factory=list, repr=False)


_ROUND_TRIP = 0.001  # seconds to the limiter and back, at most
_NETWORK = 0.002  # to the API and back
_RESTART = 10.0


@dataclass
class _Worker:
    """A process. ``life`` counts its starts: events of an earlier one are void."""

    number: int
    life: int = 0
    in_flight: int = 0
    line: deque[float] = field(default_factory=deque)  # requests that wait for their turn
    asks: bool = False
    granted: bool = False
    alone: RateLimiter = field(default_factory=RateLimiter)
    pace: OwnPace = field(default_factory=OwnPace)
    had: tuple[float, float] | None = None
    is_alone: bool = False
    asked_at: float = 0.0

    @property
    def holder(self) -> tuple[int, int]:
        return self.number, self.life


class Simulation:
    """Events in the order of their times."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._random = random.Random(setting.seed)
        self._server = Bucket(60 * setting.per_second, setting.burst)
        self._limiter: Reservations | None = Reservations() if setting.shared else None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._timer = math.inf
        self._workers = [_Worker(number) for number in range(setting.workers)]
        self._left = setting.requests
        self._done = 0
        self._now = 0.0
        self.result = Result()

    def run(self) -> Result:
        """Run until all requests have succeeded."""
        setting = self._setting
        for worker in self._workers:
            self._at(0.01 * self._random.random(), lambda worker=worker: self._advance(worker))
            self._plan_death(worker)
        if setting.shared:
            for at in setting.limiter_ends:
                self._at(at, self._end_limiter)
        while self._done < setting.requests:
            self._now, _, event = heapq.heappop(self._events)
            event()
        result = self.result
        result.seconds = round(self._now, 3)
        whole = int(result.sent_seconds)
        accepted = sum(count for count, _ in result.by_second[:whole])
        result.rate_used = round(accepted / (setting.per_second * whole + setting.burst), 4)
        return result

    def _at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), event))

    def _plan_death(self, worker: _Worker) -> None:
        if self._setting.worker_lives < math.inf:
            self._at(self._random.expovariate(1 / self._setting.worker_lives), lambda: self._kill(worker))

    def _kill(self, worker: _Worker) -> None:
        """End a worker. What it had taken is taken again when it starts anew."""
        if self._limiter is not None:
            self._limiter.release(worker.holder)
        self.result.deaths += 1
        self._left += worker.in_flight
        fresh = _Worker(worker.number, worker.life + 1, in_flight=self._setting.concurrency)  # takes nothing yet

        def start() -> None:
            fresh.in_flight = 0
            self._plan_death(fresh)
            self._advance(fresh)

        self._workers[worker.number] = fresh
        self._at(_RESTART, start)

    def _end_limiter(self) -> None:
        self._limiter, self._timer = None, math.inf
        for worker in self._workers:
            if worker.asks and not worker.granted:
                self._lose(worker)
        self._at(self._setting.limiter_away, self._start_limiter)

    def _start_limiter(self) -> None:
        self._limiter = Reservations()

    def _lose(self, worker: _Worker) -> None:
        """Go on at the worker's own pace."""
        if not worker.is_alone:
            worker.is_alone = True
            worker.had = worker.pace.last(self._now)
            if worker.had is not None:
                worker.alone.assume(worker.had[0], self._now, worker.had[1])
        self._wait_alone(worker)

    def _advance(self, worker: _Worker) -> None:
        """Take requests, and let the first of them ask for its start."""
        if not self._left:
            self.result.sent_seconds = self.result.sent_seconds or round(self._now, 3)
        while self._left and worker.in_flight < self._setting.concurrency:
            self._left -= 1
            worker.in_flight += 1
            worker.line.append(self._now)
        if not worker.line or worker.asks:
            return
        worker.asks, worker.asked_at = True, self._now
        self._ask(worker)

    def _ask(self, worker: _Worker) -> None:
        if self._is_void(worker):
            return
        blocked = worker.alone.blocked(self._now)
        if not self._setting.shared:
            self._wait_alone(worker)
        elif blocked > 0:
            self._at(blocked, lambda: self._ask(worker))
        elif self._limiter is None:
            self._lose(worker)
        else:
            if worker.is_alone:
                worker.is_alone = False
                if worker.had is not None:
                    self._limiter.add_pace(worker.had[0], self._now)
            self._limiter.ask(worker.holder, 1, 0, worker)
            self._grant()

    def _is_void(self, worker: _Worker) -> bool:
        return self._workers[worker.number] is not worker

    def _grant(self) -> None:
        if self._limiter is None:
            return
        granted, seconds = self._limiter.grant(self._now)
        if seconds is not None and (self._now + seconds < self._timer or self._timer <= self._now):
            self._timer = self._now + seconds
            self._at(seconds, self._grant)
        for grant in granted:
            worker = grant.ticket
            worker.granted = True
            delay = grant.seconds + _ROUND_TRIP * self._random.random()
            self._at(delay, lambda worker=worker: self._send_granted(worker))

    def _send_granted(self, worker: _Worker) -> None:
        if self._is_void(worker):
            return
        worker.alone.reserve(0, None, None, self._now, learned=False)
        self._send(worker, self._now - worker.asked_at)

    def _wait_alone(self, worker: _Worker) -> None:
        if self._is_void(worker) or not worker.asks:
            return
        seconds = worker.alone.reserve(0, None, None, self._now)
        if seconds > 0:
            self._at(seconds + _ROUND_TRIP * self._random.random(), lambda: self._wait_alone(worker))
        else:
            self._send(worker, 0.0)

    def _send(self, worker: _Worker, waited: float) -> None:
        worker.pace.start(self._now, waited)
        worker.line.popleft()
        worker.asks = worker.granted = False
        started = self._now
        wait = self._server.take(1, self._now)
        seconds = _NETWORK
        if not wait:
            seconds += self._setting.latency * math.exp(self._random.gauss(0, 0.4))
            if self._random.random() < self._setting.stragglers:
                seconds *= self._setting.slowness
        self.result.accepted += not wait
        self.result.refused += bool(wait)
        while len(self.result.by_second) <= self._now:
            self.result.by_second.append([0, 0])
        self.result.by_second[int(self._now)][bool(wait)] += 1
        self._at(seconds, lambda: self._respond(worker, started, wait))
        self._advance(worker)

    def _respond(self, worker: _Worker, started: float, wait: float) -> None:
        if self._is_void(worker):
            return
        age = self._now - started
        if wait:
            retry_after = float(math.ceil(wait)) if self._setting.retry_after else None
            worker.alone.refused(started, self._now, retry_after)
            ending = Ending("refused", age, retry_after)
            # Full jitter after a refusal without a Retry-After, as the client has it.
            self._retry(worker, retry_after or 0.5 * self._random.random())
        else:
            worker.alone.accepted(started, self._now)
            ending = Ending("accepted", age)
            if self._random.random() < self._setting.errors:
                self._retry(worker, 0.5 * self._random.random())
            else:
                self._done += 1
                worker.in_flight -= 1
        if self._limiter is not None and not worker.is_alone:
            self._limiter.settle(worker.holder, ending, self._now)
            self._grant()
        self._advance(worker)

    def _retry(self, worker: _Worker, seconds: float) -> None:
        def again() -> None:
            if not self._is_void(worker):
                worker.line.append(self._now)
                self._advance(worker)

        self._at(seconds, again)


def simulate(setting: Setting) -> Result:
    """Run a simulation."""
    return Simulation(setting).run()


PAGE = Setting(
    workers=200,
    concurrency=8,
    per_second=100,
    burst=100,
    requests=60_000,
    latency=2.0,
    stragglers=0.02,
    errors=0.005,
    worker_lives=1200,
    limiter_ends=(120.0, 400.0),
)
"""The case of the page: ten minutes of 200 workers, with all that goes wrong."""


def main() -> None:
    for setting in (PAGE,):
        shown: dict[str, Any] = asdict(simulate(setting))
        del shown["by_second"]
        print(json.dumps(shown))


if __name__ == "__main__":
    main()
