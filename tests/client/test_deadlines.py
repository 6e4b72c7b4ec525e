"""Deadlines of calls and timeouts of attempts."""

from __future__ import annotations

import asyncio
import itertools

import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed._client import AsyncClient

from .conftest import KEY, FakeClock, make_documents

ONE = ctxembed.Limits(documents=1)


@pytest.fixture
def server_options(server):
    return {"base_url": server.base_url, "limits": ONE}


@pytest.mark.parametrize("where", ["client", "call"])
def test_a_job_ends_at_its_deadline_with_a_partial_result(driver, server_options, control, clock, where):
    control.faults("none", "none", *[{"delay": 20}] * 9)
    # Two responses leave 0.2 of the 60 seconds to the third request.
    client = {**server_options, "max_concurrency": 1, "on_response": lambda event: clock.advance(29.9)}
    call = {}
    (client if where == "client" else call)["deadline"] = 60
    with pytest.raises(ctxembed.EmbedError, match="deadline of 60 seconds") as caught:
        driver.embed(make_documents(30), _client=client, _clock=clock, **call)
    assert control.stats()["requests"] <= 3
    assert isinstance(caught.value.__cause__, ctxembed.APITimeoutError)
    assert len(caught.value.failures) == 28
    assert np.diff(caught.value.partial.offsets).tolist()[:2] == [1, 2]
    assert [failure.attempts for failure in caught.value.failures] == [1] + [0] * 27


def test_one_request_ends_at_its_deadline(driver, server_options, control):
    control.faults({"delay": 20})
    with pytest.raises(ctxembed.APITimeoutError, match="deadline"):
        driver.create([["a"]], _client=server_options, deadline=0.3)


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_stream_ends_at_its_deadline(driver, server_options, clock, on_error):
    def source():
        for number in itertools.count():
            yield [f"text {number}"]
            clock.advance(1)

    done = []

    def progress(event):
        done.append(event.documents_done)

    kind = ctxembed.EmbedError if on_error == "raise" else ctxembed.CtxembedError
    with pytest.raises(kind, match="deadline"):
        driver.stream(
            source(), _client=server_options, _clock=clock, deadline=120, on_error=on_error, progress=progress
        )
    assert done
    assert clock.monotonic() - FakeClock().monotonic() >= 120


def test_a_wait_that_would_pass_the_deadline_is_not_started(driver, server_options, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": "50"}})
    with pytest.raises(ctxembed.APITimeoutError, match="deadline of 40 seconds") as caught:
        driver.create([["a"]], _client=server_options, _clock=clock, deadline=40)
    assert isinstance(caught.value.__cause__, ctxembed.RateLimitError)
    assert clock.slept == []


def test_the_deadline_includes_the_wait_for_a_slot(server, control):
    control.faults({"delay": 20})

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, max_concurrency=1, limits=ONE) as client:
            slow = asyncio.create_task(client.create([["slow"]]))
            await asyncio.to_thread(control.wait_for_in_flight, 1)
            with pytest.raises(ctxembed.APITimeoutError, match="deadline"):
                await client.create([["a"]], deadline=0.2)
            with pytest.raises(ctxembed.EmbedError, match="deadline"):
                await client.embed([["a"]], deadline=0.2)
            assert not slow.done()
            slow.cancel()
            await asyncio.wait([slow])

    asyncio.run(main())
    assert control.wait_until_idle()["requests"] == 1


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_deadline_must_be_positive_and_finite(driver, server_options, value):
    with pytest.raises(ValueError, match="deadline"):
        driver.create([["a"]], _client=server_options, deadline=value)


def test_total_timeout_limits_the_whole_attempt(driver, server_options, control, clock):
    control.faults({"delay": 20})
    client = {**server_options, "timeout": httpx.Timeout(30), "total_timeout": 0.3, "max_retries": 0}
    with pytest.raises(ctxembed.APITimeoutError, match=r"within 0\.3 seconds"):
        driver.create([["a"]], _client=client, _clock=clock)


def test_a_late_response_is_a_timeout_error(driver, server_options, control, clock):
    control.faults({"delay": 30}, {"delay": 30})
    with pytest.raises(ctxembed.APITimeoutError):
        driver.create([["a"]], _client={**server_options, "timeout": 0.2, "max_retries": 1}, _clock=clock)
    assert len(clock.slept) == 1


def test_a_stalled_body_is_a_timeout_error(driver, server_options, control, clock):
    control.faults("stall")
    with pytest.raises(ctxembed.APITimeoutError):
        driver.create([["a"]], _client={**server_options, "timeout": 0.3, "max_retries": 0}, _clock=clock)
