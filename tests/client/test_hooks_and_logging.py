"""Hooks and log records."""

from __future__ import annotations

import logging

import anyio
import ctxembed
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, make_documents

ONE = ctxembed.Limits(documents=1)


# Hooks


def test_hooks_see_every_attempt(driver, server_options, control, clock):
    control.faults({"status": 503}, "missing-chunk", "none")
    seen = []
    client = dict.fromkeys(("on_request", "on_response", "on_retry"), seen.append)
    driver.create([["a", "b"], ["c"]], _client={**server_options, **client}, _clock=clock)
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["RequestEvent", "ResponseEvent", "RetryEvent"] * 2 + ["RequestEvent", "ResponseEvent"]
    request = seen[0]
    assert (request.documents, request.chunks, request.attempt, request.hedge) == (2, 3, 1, False)
    assert request.url == server_options["base_url"] + "/v1/contextualizedembeddings"
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


def test_on_response_is_called_when_the_connection_fails(driver, clock):
    seen = []
    client = {"base_url": "http://127.0.0.1:1", "max_retries": 0, "on_response": seen.append}
    with pytest.raises(ctxembed.APIConnectionError):
        driver.create([["a"]], _client=client, _clock=clock)
    assert [(event.status_code, type(event.error)) for event in seen] == [(None, ctxembed.APIConnectionError)]


def test_an_exception_in_a_hook_is_logged_and_changes_nothing(driver, server_options, caplog):
    def hook(event):
        raise RuntimeError("mine")

    with caplog.at_level(logging.ERROR, "ctxembed"):
        emb = driver.embed(make_documents(3), _client={**server_options, "on_request": hook, "on_response": hook})
    assert len(emb) == 3
    assert not emb.failures
    assert [record.exc_info[1].args for record in caplog.records] == [("mine",)] * 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hook_may_be_a_coroutine_function(server_options, backend):
    seen = []

    async def hook(event):
        await anyio.sleep(0)
        seen.append(event)

    async def main():
        async with AsyncClient(KEY, **server_options, on_response=hook) as client:
            await client.create([["a"]])

    anyio.run(main, backend=backend)
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["on_request", "on_response", "on_retry"])
def test_a_hook_must_be_callable(name):
    with pytest.raises(TypeError, match=name):
        Client(KEY, **{name: 3})


# Logging


def test_log_records_carry_details_without_key_or_texts(driver, server_options, control, clock, caplog):
    control.faults("429", {"status": 403})
    with caplog.at_level(logging.INFO, "ctxembed"), pytest.raises(ctxembed.PermissionDeniedError):
        driver.create([["a text"]], _client=server_options, _clock=clock)
    details = [record.ctxembed for record in caplog.records if record.name == "ctxembed"]
    assert [(detail["status_code"], detail["attempts"]) for detail in details] == [(429, 1), (403, 2)]
    assert details[0]["delay"] == 0.25
    assert all(detail["request_id"] and detail["documents"] == 1 for detail in details)
    assert "a text" not in caplog.text
    assert KEY not in caplog.text
    assert "attempt 1 failed (RateLimitError 429): the next in 0.25 s" in caplog.text
