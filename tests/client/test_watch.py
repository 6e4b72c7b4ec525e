"""What a caller can see of the traffic: hooks, log records, raw responses, what a call that was cut short leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import textwrap
import time

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, answer, documents_of

ONE = ctxembed.Limits(documents=1)


@pytest.fixture
def to(server):
    return {"base_url": server.base_url}


# Hooks


def test_hooks_see_every_attempt(driver, to, control, clock):
    control.faults({"status": 503}, "missing-chunk", "none")
    seen = []
    client = dict.fromkeys(("on_request", "on_response", "on_retry"), seen.append)
    driver.create([["a", "b"], ["c"]], _client={**to, **client}, _clock=clock)
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["RequestEvent", "ResponseEvent", "RetryEvent"] * 2 + ["RequestEvent", "ResponseEvent"]
    request = seen[0]
    assert (request.documents, request.chunks, request.attempt, request.hedge) == (2, 3, 1, False)
    assert request.url == to["base_url"] + "/v1/contextualizedembeddings"
    assert [event.status_code for event in seen[1::3]] == [503, 200, 200]
    assert [type(event.error).__name__ for event in seen[1::3]] == [
        "InternalServerError",
        "BadResponseError",
        "NoneType",
    ]
    assert seen[7].usage.total_tokens > 0
    assert [(event.retries, event.delay) for event in seen[2::3]] == [(1, 0.25), (2, 0.5)]
    assert KEY not in repr(seen)
    assert "authorization" not in request.headers


def test_a_hook_sees_that_no_answer_came(driver, clock):
    seen = []
    client = {"base_url": "http://127.0.0.1:1", "max_retries": 0, "on_response": seen.append}
    with pytest.raises(ctxembed.APIConnectionError):
        driver.create([["a"]], _client=client, _clock=clock)
    assert [(event.status_code, type(event.error)) for event in seen] == [(None, ctxembed.APIConnectionError)]


def test_a_hook_that_raises_is_logged_and_loses_nothing(driver, to, caplog):
    def hook(event):
        raise RuntimeError("mine")

    with caplog.at_level(logging.ERROR, "ctxembed"):
        emb = driver.embed(documents_of(3), _client={**to, "on_request": hook, "on_response": hook})
    assert len(emb) == 3
    assert not emb.failures
    assert [record.exc_info[1].args for record in caplog.records] == [("mine",)] * 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hook_may_be_a_coroutine_function(to, backend):
    seen = []

    async def hook(event):
        await anyio.sleep(0)
        seen.append(event)

    async def main():
        async with AsyncClient(KEY, **to, on_response=hook) as client:
            await client.create([["a"]])

    anyio.run(main, backend=backend)
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["on_request", "on_response", "on_retry"])
def test_a_hook_is_callable(name):
    with pytest.raises(TypeError, match=name):
        Client(KEY, **{name: 3})


# Logging


def test_records_carry_facts(driver, to, control, clock, caplog):
    control.faults("429", {"status": 403})
    with caplog.at_level(logging.INFO, "ctxembed"), pytest.raises(ctxembed.PermissionDeniedError):
        driver.create([["a text"]], _client=to, _clock=clock)
    facts = [record.ctxembed for record in caplog.records if record.name == "ctxembed"]
    assert [(fact["status_code"], fact["attempts"]) for fact in facts] == [(429, 1), (403, 2)]
    assert facts[0]["delay"] == 0.25
    assert all(fact["request_id"] and fact["documents"] == 1 for fact in facts)
    assert "a text" not in caplog.text
    assert KEY not in caplog.text
    assert "attempt 1 failed (RateLimitError 429): the next in 0.25 s" in caplog.text


# Raw responses


def raw(driver, documents, clock=None, **options):
    if driver.kind == "sync":
        with Client(KEY, **options) as client:
            return client.with_raw_response.create(documents)

    async def main():
        async with AsyncClient(KEY, **options) as client:
            return await client.with_raw_response.create(documents)

    return anyio.run(main, backend=driver.kind)


def test_a_raw_response_has_headers_body_and_vectors(driver, to):
    documents = documents_of(40)
    response = raw(driver, documents, **to)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.request_id == response.headers["x-request-id"]
    assert response.retries_taken == 0
    again = ctxembed.decode_response(response.content)
    np.testing.assert_array_equal(again.vectors, response.parse().vectors)
    assert response.json() == json.loads(response.text()) == json.loads(response.read())
    assert len(response.parse()) == 40
    assert "embedding" not in repr(response)


def test_a_raw_response_of_an_error_is_raised(driver, to, control):
    control.faults("400")
    with pytest.raises(ctxembed.BadRequestError):
        raw(driver, [["a"]], **to)


def test_a_raw_response_is_unpacked_and_proven_too(driver, to, control):
    control.faults("gzip")
    response = raw(driver, [["a"]], **to)
    assert response.json()["data"][0]["index"] == 0
    control.faults("missing-chunk")
    with pytest.raises(ctxembed.BadResponseError):
        raw(driver, [["a", "b"]], **to, max_retries=0)


# Calls that are cut short


def test_ctrl_c_carries_what_had_landed(fresh_server, control_of):
    server = fresh_server()
    control_of(server).faults("none", "none", *[{"delay": 25}] * 9)
    code = f"""
        import ctxembed
        from ctxembed._client import Client
        client = Client("key", base_url={server.base_url!r}, limits=ctxembed.Limits(documents=1), max_concurrency=1)
        try:
            client.embed([["a"], ["b"], ["c"], ["d"]], progress=lambda p: print(p.documents_done, flush=True))
        except KeyboardInterrupt as interrupt:
            partial = interrupt.partial
            print(len(partial), [len(rows) for rows in partial], [f.document for f in partial.failures], flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "1\n"
        assert process.stdout.readline() == "2\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert out == "4 [1, 1, 0, 0] [2, 3]\n"


def test_a_progress_that_raises_carries_what_had_landed(driver, to):
    def progress(event):
        if event.documents_done == 2:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough") as caught:
        driver.embed(documents_of(4), progress=progress, _client={**to, "limits": ONE, "max_concurrency": 1})
    assert len(caught.value.partial[0]) == 1
    assert len(caught.value.partial) == 4
    assert {failure.document for failure in caught.value.partial.failures} <= {2, 3}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_call_carries_what_had_landed(server, control, backend):
    control.faults("none", *[{"delay": 25}] * 9)
    found = []

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, limits=ONE, max_concurrency=1) as client:
            with anyio.move_on_after(0.5):
                try:
                    await client.embed(documents_of(3))
                except anyio.get_cancelled_exc_class() as cancelled:
                    found.append(cancelled.partial)
                    raise

    anyio.run(main, backend=backend)
    assert np.diff(found[0].offsets).tolist() == [1, 0, 0]
    assert [failure.document for failure in found[0].failures] == [1, 2]


@pytest.mark.parametrize("limit", [asyncio.timeout, None])
def test_a_timeout_of_asyncio_carries_what_had_landed_as_its_cause(server, control, limit):
    control.faults("none", *[{"delay": 25}] * 9)

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url, limits=ONE, max_concurrency=1) as client:
            if limit is None:
                await asyncio.wait_for(client.embed(documents_of(3)), 0.5)
            else:
                async with limit(0.5):
                    await client.embed(documents_of(3))

    with pytest.raises(TimeoutError) as caught:
        asyncio.run(main())
    assert np.diff(caught.value.__cause__.partial.offsets).tolist() == [1, 0, 0]


def test_closing_from_another_thread_carries_what_had_landed(server, control):
    control.faults("none", *[{"delay": 25}] * 9)
    client = Client(KEY, base_url=server.base_url, limits=ONE, max_concurrency=1)

    async def main():
        call = asyncio.create_task(asyncio.to_thread(client.embed, documents_of(3)))
        await asyncio.sleep(0.5)
        client.close()
        with pytest.raises(ctxembed.ClosedClientError) as caught:
            await call
        return caught.value.partial

    assert np.diff(asyncio.run(main()).offsets).tolist() == [1, 0, 0]


# Options that the environment brings


def test_headers_come_from_the_environment_and_the_callers_win(driver, scripted, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_CUSTOM_HEADERS", "X-Team: search\nX-Other: one\n\n")
    driver.create([["a"]], _client={"base_url": scripted.base_url, "default_headers": {"x-other": "two"}})
    [request] = scripted.requests
    assert (request["headers"]["x-team"], request["headers"]["x-other"]) == ("search", "two")
    monkeypatch.setenv("PERPLEXITY_CUSTOM_HEADERS", "Authorization: Bearer nothing")
    with pytest.raises(ValueError, match="PERPLEXITY_CUSTOM_HEADERS"):
        Client(KEY)


def test_an_answer_that_lies_about_its_content_type_is_judged_by_its_bytes(driver, scripted, clock):
    scripted.script = lambda request: (200, {"content-type": "text/html"}, answer(request["input"]))
    assert len(driver.create([["a"]], _client={"base_url": scripted.base_url}, _clock=clock)) == 1
