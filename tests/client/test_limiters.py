"""The ``limiter`` option: what clients ask of a limiter, and what they do without it."""

from __future__ import annotations

import asyncio
import math
import pickle
import threading

import anyio
import ctxembed
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, FakeClock, make_documents, response_body

ONE = ctxembed.Limits(documents=1)


class Recorder:
    """A limiter that records its calls. ``waits`` are returned in turn, and exceptions raised."""

    def __init__(self, *waits):
        self.waits = list(waits)
        self.reserved, self.settled = [], []

    def reserve(self, requests, tokens):
        self.reserved.append((requests, tokens))
        wait = self.waits.pop(0) if self.waits else 0.0
        if isinstance(wait, BaseException):
            raise wait
        return wait

    def settle(self, outcome, age, retry_after, actual_tokens):
        self.settled.append((outcome, age, retry_after, actual_tokens))

    @property
    def outcomes(self):
        return [outcome for outcome, *_ in self.settled]


class AsyncRecorder(Recorder):
    """The same with ``async`` methods."""

    async def reserve(self, requests, tokens):
        await anyio.sleep(0)
        return super().reserve(requests, tokens)

    async def settle(self, *ending):
        await anyio.sleep(0)
        super().settle(*ending)


@pytest.fixture(params=[Recorder, AsyncRecorder])
def recorder(request):
    return request.param


def options(server, limiter, **more):
    return {"base_url": server.base_url, "limits": ONE, "limiter": limiter, **more}


def test_each_request_is_reserved_and_settled_once(driver, server, recorder):
    limiter = recorder()
    emb = driver.embed(make_documents(5), _client=options(server, limiter))
    assert len(limiter.reserved) == 5
    assert all(requests == 1 and tokens > 0 for requests, tokens in limiter.reserved)
    assert limiter.outcomes == ["accepted"] * 5
    assert sum(tokens for *_, tokens in limiter.settled) == emb.usage.total_tokens
    assert all(age > 0 and retry_after is None for _, age, retry_after, _ in limiter.settled)


def test_a_reserved_start_is_waited_for_and_not_asked_for_again(driver, server, recorder, clock):
    limiter = recorder(0.5, 0.25, 0.0)
    driver.embed(make_documents(3), _client=options(server, limiter, max_concurrency=1), _clock=clock)
    assert clock.slept == [0.5, 0.25]
    assert len(limiter.reserved) == 3


@pytest.mark.parametrize(
    ("fault", "outcome", "retry_after"),
    [
        ({"status": 429, "retry_after": 2}, "refused", 2.0),
        ({"status": 429}, "refused", None),
        ({"status": 503, "retry_after": 3}, "unavailable", 3.0),
        ({"status": 502}, "failed", None),
        ({"status": 500}, "accepted", None),
    ],
)
def test_outcomes_of_responses(driver, scripted_server, recorder, clock, fault, outcome, retry_after):
    headers = {"retry-after": str(fault["retry_after"])} if "retry_after" in fault else {}

    def script(request):
        first = len(scripted_server.requests) == 1
        return (fault["status"], headers, b"{}") if first else (200, {}, response_body(request["input"]))

    scripted_server.script = script
    limiter = recorder()
    driver.embed([["a"]], _client=options(scripted_server, limiter), _clock=clock)
    assert limiter.outcomes == [outcome, "accepted"]
    assert limiter.settled[0][2] == retry_after
    assert len(limiter.reserved) == 2


def test_a_connection_that_fails_is_settled_as_failed(driver, recorder):
    limiter = recorder()
    with pytest.raises(ctxembed.EmbedError):
        driver.embed(
            [["a"]], _client={"base_url": "http://127.0.0.1:9", "limiter": limiter, "max_retries": 0, "limits": ONE}
        )
    assert limiter.outcomes == ["failed"]


def test_a_start_beyond_the_deadline_is_given_back(driver, server, recorder):
    limiter = recorder(60.0)
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client=options(server, limiter, deadline=20.0), _clock=FakeClock())
    assert isinstance(caught.value.__cause__, ctxembed.APITimeoutError)
    assert limiter.outcomes == ["unused"]


def test_a_start_beyond_max_wait_is_given_back(driver, server, recorder):
    limiter = recorder(3600.0)
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client=options(server, limiter, max_wait=60), _clock=FakeClock())
    assert isinstance(caught.value.__cause__, ctxembed.RateLimitError)
    assert "3600 seconds, and max_wait is shorter" in str(caught.value.__cause__)
    assert limiter.outcomes == ["unused"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_wait_gives_its_start_back(server, recorder, backend):
    limiter = recorder(60.0)

    async def main():
        async with AsyncClient(KEY, **options(server, limiter)) as client:
            with anyio.move_on_after(0.2) as scope:
                await client.embed([["a"]])
            assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    assert limiter.outcomes == ["unused"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_request_is_settled_as_failed(fresh_server, recorder, backend):
    limiter, server = recorder(), fresh_server(latency=30.0)

    async def main():
        async with AsyncClient(KEY, **options(server, limiter)) as client:
            with anyio.move_on_after(1.0):
                await client.embed([["a"]])

    anyio.run(main, backend=backend)
    assert limiter.outcomes == ["failed"]


def test_what_the_api_told_this_process_holds_too(driver, server, control, clock):
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "4.5s"}
    control.faults("none", {"headers": headers}, "none")
    limiter = Recorder()
    driver.embed(make_documents(4), _client=options(server, limiter, max_concurrency=1), _clock=clock)
    assert clock.slept == [4.5]
    assert len(limiter.reserved) == 4


def test_limits_of_the_caller_hold_too(driver, server, clock):
    client = options(server, Recorder(), max_concurrency=1, requests_per_minute=120)
    driver.embed([["a"]] * 5, _client=client, _clock=clock)
    assert clock.slept == [0.5] * 3


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("soon", TypeError, "must return seconds as an int or float, got 'soon'"),
        (None, TypeError, "got None"),
        (True, TypeError, "got True"),
        (-0.5, ValueError, "must return finite seconds from 0, got -0.5"),
        (math.nan, ValueError, "got nan"),
        (math.inf, ValueError, "got inf"),
    ],
)
def test_a_limiter_that_returns_something_else_fails_the_request(driver, server, recorder, value, error, message):
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client=options(server, recorder(value)))
    assert isinstance(caught.value.__cause__, error)
    assert message in str(caught.value.__cause__)


def test_any_other_exception_of_a_limiter_fails_the_request(driver, server, recorder):
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client=options(server, recorder(KeyError("no such team"))))
    assert isinstance(caught.value.__cause__, KeyError)


def test_without_its_limiter_a_client_keeps_its_pace(driver, server, clock, caplog):
    """It had a start every half second. Alone it goes on a little slower."""
    limiter = Recorder(*[0.5] * 20, *[ConnectionError("gone")] * 100)
    driver.embed(make_documents(30), _client=options(server, limiter, max_concurrency=1), _clock=clock)
    assert clock.slept[:20] == [0.5] * 20
    assert min(clock.slept[20:]) >= 0.45
    assert max(clock.slept[20:]) <= 0.6
    assert len(clock.slept) == 30
    assert [record.message for record in caplog.records if "away" in record.message] == [
        "the limiter is away (ConnectionError: gone): requests go on at the pace that they had"
    ]
    assert limiter.outcomes == ["accepted"] * 20


def test_a_limiter_that_is_away_is_asked_again_ever_more_rarely(driver, server, clock):
    limiter = Recorder(*[0.5] * 20, *[ConnectionError("gone")] * 1000)
    driver.embed(make_documents(100), _client=options(server, limiter, max_concurrency=1), _clock=clock)
    seconds = sum(clock.slept[20:])
    assert 3 <= len(limiter.reserved) - 20 <= 5 + seconds / 5


def test_a_limiter_that_is_back_is_used_again(driver, server, clock, caplog):
    limiter = Recorder(*[0.5] * 20, ConnectionError("gone"), *[0.3] * 20)
    driver.embed(make_documents(30), _client=options(server, limiter, max_concurrency=1), _clock=clock)
    assert clock.slept[-7:] == [0.3] * 7
    assert "the limiter is back" in caplog.text


def test_a_limiter_that_held_nothing_back_is_not_missed(driver, server, clock):
    limiter = Recorder(*[0.0] * 10, *[ConnectionError("gone")] * 100)
    driver.embed(make_documents(30), _client=options(server, limiter, max_concurrency=1), _clock=clock)
    assert clock.slept == []


def test_a_limiter_that_never_was_there_is_no_error(driver, server):
    limiter = ctxembed.limiter("unix:/nonexistent/limiter.sock")
    assert len(driver.embed(make_documents(3), _client=options(server, limiter))) == 3


def test_a_limiter_that_hangs_is_given_up(driver, server):
    class Hangs(Recorder):
        reserve_timeout = 0.1

        async def reserve(self, requests, tokens):
            super().reserve(requests, tokens)
            await anyio.sleep(3600)

    limiter = Hangs()
    assert len(driver.embed(make_documents(4), _client=options(server, limiter))) == 4
    assert len(limiter.reserved) <= 2
    assert limiter.settled == []


def test_one_request_finds_that_a_limiter_still_hangs_and_no_other_waits_for_it(server):
    """The limiter is lost at its fourth call, and asked again by one request, which waits until the others are done."""
    lost, done = threading.Event(), threading.Event()

    class Hangs(Recorder):
        reserve_timeout = 60

        async def reserve(self, requests, tokens):
            super().reserve(requests, tokens)
            if len(self.reserved) == 4:
                lost.set()
                raise ConnectionError("gone")
            if lost.is_set():
                assert await anyio.to_thread.run_sync(done.wait, 60)
                raise ConnectionError("still away")
            return 0.0

    limiter = Hangs()

    async def main():
        clock = FakeClock()
        async with AsyncClient(KEY, base_url=server.base_url, limiter=limiter, clock=clock) as client:
            for _ in range(4):
                await client.embed([["a"]])
            clock.advance(10.0)  # it is due to be asked again
            calls = [asyncio.create_task(client.embed([["b"]])) for _ in range(5)]
            finished, waiting = set(), set(calls)
            while len(finished) < 4:
                now, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                finished |= now
            assert len(waiting) == 1
            done.set()
            await asyncio.gather(*calls)

    asyncio.run(main())
    assert len(limiter.reserved) == 5


def test_a_settle_that_fails_changes_nothing(driver, server):
    class Forgetful(Recorder):
        async def settle(self, *ending):
            super().settle(*ending)
            raise ConnectionResetError("gone")

    limiter = Forgetful()
    assert len(driver.embed(make_documents(3), _client=options(server, limiter))) == 3
    assert len(limiter.settled) == 3


def test_one_request_of_a_client_asks_at_a_time(driver, server):
    asking = []

    class Slow(Recorder):
        async def reserve(self, requests, tokens):
            asking.append(1)
            assert len(asking) == 1
            await anyio.sleep(0.01)
            asking.pop()
            return super().reserve(requests, tokens)

    limiter = Slow()
    driver.embed(make_documents(10), _client=options(server, limiter))
    assert len(limiter.reserved) == 10


def test_hedges_take_a_start_or_are_not_sent(driver, server, control):
    control.faults(*["none"] * 19, {"delay": 3}, "none")
    limiter = Recorder()
    driver.embed(make_documents(20), _client=options(server, limiter, hedge=0.5, max_concurrency=2))
    assert len(limiter.reserved) == len(limiter.settled) == control.wait_until_idle()["requests"]
    assert set(limiter.outcomes) == {"accepted", "failed"}


def test_calls_that_share_a_request_reserve_one_start(server):
    limiter = Recorder()

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, limiter=limiter, coalesce=0.05) as client:
            await asyncio.gather(*(client.embed_queries([f"query {n}"]) for n in range(20)))

    asyncio.run(main())
    assert len(limiter.reserved) == len(limiter.settled) == 1


def test_calls_are_taken_in_while_a_request_waits_for_its_start(server):
    class Slow(Recorder):
        async def reserve(self, requests, tokens):
            super().reserve(requests, tokens)
            await anyio.sleep(0.5)
            return 0.0

    limiter = Slow()

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, limiter=limiter, coalesce=0.01) as client:

            async def call(number):
                await anyio.sleep(0.02 * number)
                await client.embed_queries([f"query {number}"])

            await asyncio.gather(*(call(n) for n in range(10)))

    asyncio.run(main())
    assert len(limiter.reserved) == 2


def test_copies_of_a_client_share_its_limiter(server):
    limiter = Recorder()
    with Client(KEY, **options(server, limiter)) as client:
        client.with_options(max_retries=1).embed([["a"]])
        client.with_options(limiter=None).embed([["b"]])
    assert len(limiter.reserved) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("unix:/run/limiter", r"got str without reserve\(\): pass ctxembed.limiter"),
        (object(), r"got object without reserve\(\)"),
        (5, "got int"),
    ],
)
@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_an_object_that_is_no_limiter_is_refused(cls, value, message):
    with pytest.raises(TypeError, match=message):
        cls(KEY, limiter=value)


def test_a_local_limiter_keeps_a_known_limit(driver, server):
    clock = FakeClock()
    limiter = ctxembed.LocalLimiter(requests_per_minute=120, clock=clock)
    driver.embed([["a"]] * 5, _client=options(server, limiter, max_concurrency=1), _clock=clock)
    assert clock.slept == [0.5] * 3


def test_a_local_limiter_counts_the_tokens_that_the_api_counted(driver, server):
    clock = FakeClock()
    limiter = ctxembed.LocalLimiter(tokens_per_minute=6_000, clock=clock)
    client = options(server, limiter, max_concurrency=1, token_counter=lambda texts: [150 for _ in texts])
    driver.embed([["a"]] * 5, _client=client, _clock=clock)
    # At 150 tokens each would delay the next by half a second. The API counts far fewer, so hardly any waits.
    assert sum(clock.slept) < 0.5


def test_clients_in_many_threads_share_a_local_limiter(server):
    clock = FakeClock()
    limiter = ctxembed.LocalLimiter(requests_per_minute=60_000, clock=clock)
    found = []

    def work(number):
        with Client(KEY, **options(server, limiter), clock=clock) as client:
            found.append(len(client.embed(make_documents(5)).vectors) + number * 0)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [11] * 6
    assert limiter._reservations._in_flight == 0


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("/run/limiter.sock", ValueError, "must be unix:PATH or tcp:HOST:PORT, got '/run/limiter.sock'"),
        ("unix:", ValueError, "must be unix:PATH"),
        ("unix:a\0b", ValueError, "must be unix:PATH"),
        ("unix:/" + "a" * 200, ValueError, "107 bytes at most, this one has 201"),
        ("tcp:localhost", ValueError, "must be"),
        ("tcp:localhost:0", ValueError, "must be"),
        ("tcp:localhost:65536", ValueError, "must be"),
        ("tcp:::1:80", ValueError, "must be"),
        ("http://localhost:80", ValueError, "must be"),
        (None, TypeError, "must be a str, got NoneType"),
    ],
)
def test_addresses_that_cannot_be_are_refused(address, error, message):
    with pytest.raises(error, match=message):
        ctxembed.limiter(address)


@pytest.mark.parametrize(
    ("name", "error"), [("", ValueError), ("a\nb", ValueError), ("a" * 201, ValueError), (None, TypeError)]
)
def test_names_that_cannot_be_are_refused_and_not_shown(name, error):
    with pytest.raises(error, match="name must") as caught:
        ctxembed.limiter("unix:/run/limiter.sock", name=name)
    assert not name or name not in str(caught.value)


def test_a_connected_limiter_can_be_pickled():
    limiter = ctxembed.limiter("tcp:[::1]:7001", name="team-a")
    copy = pickle.loads(pickle.dumps(limiter))
    assert repr(copy) == repr(limiter) == "limiter('tcp:[::1]:7001', name='team-a')"
    assert (copy.address, copy.name) == ("tcp:[::1]:7001", "team-a")
