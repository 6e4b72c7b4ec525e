"""Calls that are under way at once share requests: rows, usage, failures and limits.

A request that no further document fits in starts at once, so limits of as many documents as there are calls make the
tests independent of time: the window of a minute is never waited for.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

from .coalescing import (
    MINUTE,
    Calls,
    WindowClock,
    assert_rows,
    flat_body,
    limit,
    queries,
    reported,
    total_usage,
)
from .conftest import KEY, MODEL, FakeClock, make_documents, response_body, vector_of
from .test_journal import MemoryJournal
from .test_telemetry import telemetry  # noqa: F401  # a fixture


@pytest.fixture(params=["sync", "asyncio", "trio"])
def call_all(request):
    return Calls(request.param)


@pytest.fixture
def options(scripted_server):
    def script(request):
        documents = [[text] if isinstance(text, str) else text for text in request["input"]]
        body = response_body(documents, request["model"])
        if request["path"] == "/v1/embeddings":
            body = flat_body(request["input"], request["model"])
        return 200, {}, body

    scripted_server.script = script
    return {"base_url": scripted_server.base_url}


# Rows


@pytest.mark.parametrize("method", ["embed_queries", "embed_texts", "embed"])
def test_calls_share_a_request_and_each_has_its_own_rows(call_all, options, scripted_server, method):
    texts = [[f"text {i} {j}" for j in range(1 + i % 3)] for i in range(12)]
    calls = [(method, [[text] for text in own] if method == "embed" else own, {}) for own in texts]
    results = call_all(calls, **options, limits=limit(sum(map(len, texts))))
    assert len(scripted_server.requests) == 1
    for result, own in zip(results, texts, strict=True):
        assert_rows(result, own)
        assert result.offsets.tolist() == list(range(len(own) + 1))
        assert result.failures == ()
        assert result.vectors.base is None  # no row keeps those of others in memory


def test_documents_of_several_chunks_keep_their_order(call_all, options, scripted_server):
    documents = [make_documents(n)[-n:] for n in (3, 1, 5, 2)]
    for place, own in enumerate(documents):
        own[0][0] = f"first of call {place}"
    results = call_all([("embed", own, {}) for own in documents], **options, limits=limit(11))
    assert len(scripted_server.requests) == 1
    for result, own in zip(results, documents, strict=True):
        assert_rows(result, [chunk for document in own for chunk in document])
        assert np.diff(result.offsets).tolist() == [len(document) for document in own]


def test_a_call_alone_waits_for_the_window_and_no_longer(driver, options, scripted_server, clock):
    result = driver.embed_queries(["alone"], _client={**options, "coalesce": 0.25}, _clock=clock)
    assert_rows(result, ["alone"])
    assert clock.slept == [0.25]
    assert result.usage.requests == 1


def test_calls_within_the_window_share_a_request(call_all, options, scripted_server):
    results = call_all(queries(5), **options, coalesce=1.0)
    assert len(scripted_server.requests) == 1
    assert total_usage(results).requests == 1


def test_calls_without_coalesce_send_requests_of_their_own(call_all, options, scripted_server):
    results = call_all(queries(5), **options, coalesce=None)
    assert len(scripted_server.requests) == 5
    assert [result.usage.requests for result in results] == [1] * 5


def test_nothing_to_embed_needs_no_request(driver, options, scripted_server):
    assert len(driver.embed_queries([], _client={**options, "coalesce": MINUTE})) == 0
    assert scripted_server.requests == []


# Who shares


def test_calls_that_differ_do_not_share(call_all, options, scripted_server):
    kinds = [
        ("embed_queries", ["a"], {}),
        ("embed_queries", ["a"], {"dimensions": 256}),
        ("embed_queries", ["a"], {"encoding_format": "base64_binary"}),
        ("embed_queries", ["a"], {"model": "pplx-embed-context-v1-4b"}),
        ("embed", [["a"]], {}),
        ("embed_texts", ["a"], {}),
        ("embed_queries", ["a"], {"model": "pplx-embed-v2-context-0.6b"}),
        ("embed", [["a"]], {"model": "pplx-embed-v2-context-0.6b"}),
    ]
    scripted_server.script = lambda request: (400, {}, b"no")
    call_all([kind for kind in kinds for _ in range(2)], **options, limits=limit(2))
    pairs = [request for request in scripted_server.requests if len(request["input"]) == 2]
    assert len(pairs) == len(kinds)
    sent = {
        tuple(request.get(name) for name in ("path", "model", "dimensions", "encoding_format", "input_type"))
        for request in pairs
    }
    assert len(sent) == len(kinds) - 1  # queries and documents of a model without roles look alike


def test_a_copy_shares_only_if_it_sends_what_its_original_sends(call_all, options, scripted_server):
    same = [{}, {"deadline": 50.0}, {"deadline": 70.0}, {"deadline": None}]
    results = call_all(queries(4), same, **options, limits=limit(4))
    assert len(scripted_server.requests) == 1
    assert total_usage(results).requests == 1
    scripted_server.requests.clear()
    other = [{"coalesce": 0.2, **changed} for changed in ({"max_retries": 1}, {"default_headers": {"x-a": "b"}}, {})]
    call_all(queries(3), [*other], **options)
    assert len(scripted_server.requests) == 3


def test_a_call_of_several_requests_is_sent_alone(call_all, options, scripted_server):
    documents = make_documents(5, max_chunks=1)
    one, two = call_all([("embed", documents, {}), ("embed", [["x"], ["y"]], {})], **options, limits=limit(2))
    assert_rows(one, [chunk for document in documents for chunk in document])
    assert_rows(two, ["x", "y"])
    assert sorted(len(request["input"]) for request in scripted_server.requests) == [1, 2, 2, 2]


# Limits


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (ctxembed.Limits(documents=4), ("documents", 4)),
        (ctxembed.Limits(chunks=10), ("chunks", 10)),
        (ctxembed.Limits(tokens=30), ("tokens", 30)),
    ],
    ids=["documents", "chunks", "tokens"],
)
def test_a_shared_request_stays_within_the_limits(call_all, options, scripted_server, limits, most):
    def count(texts):
        return [len(text.split()) for text in texts]

    documents = [[f"document {i} of several words" for _ in range(1 + i % 3)] for i in range(20)]
    results = call_all(
        [("embed", [document], {}) for document in documents],
        **options,
        limits=limits,
        token_counter=count,
        coalesce=0.3,
    )
    for result, document in zip(results, documents, strict=True):
        assert_rows(result, document)
    sizes = {"documents": [], "chunks": [], "tokens": []}
    for request in scripted_server.requests:
        sizes["documents"].append(len(request["input"]))
        sizes["chunks"].append(sum(map(len, request["input"])))
        sizes["tokens"].append(sum(sum(count(chunks)) + len(chunks) - 1 for chunks in request["input"]))
    name, bound = most
    assert max(sizes[name]) <= bound
    assert 1 < len(scripted_server.requests) < 20
    assert total_usage(results).requests == len(scripted_server.requests)


def test_large_documents_do_not_wait_for_what_does_not_fit(call_all, options, scripted_server):
    limits = ctxembed.Limits(tokens=1000, tokens_per_document=1000)
    calls = [("embed", [[f"{i} " + "word " * 600]], {}) for i in range(4)]
    results = call_all(
        calls, **options, limits=limits, coalesce=1.0, token_counter=lambda t: [len(x.split()) for x in t]
    )
    assert [len(request["input"]) for request in scripted_server.requests] == [1] * 4
    assert [result.usage.requests for result in results] == [1] * 4


def test_a_document_that_may_be_too_large_is_sent_alone(call_all, options, scripted_server):
    limits = ctxembed.Limits(tokens_per_document=100)
    large = "un\u00edv " * 30
    assert ctxembed.plan([[large], ["b"]], limits=limits).requests == 2

    def script(request):
        bad = any(chunks == [large] for chunks in request["input"])
        return (400, {}, b"no") if bad else (200, {}, response_body(request["input"]))

    scripted_server.script = script
    calls = [*queries(5), ("embed_queries", [large], {}), *queries(5)]
    results = call_all(calls, **options, limits=limits, coalesce=1.0)
    assert isinstance(results[5], ctxembed.EmbedError)
    assert sorted(len(request["input"]) for request in scripted_server.requests) == [1, 10]


def test_a_request_takes_calls_in_while_it_waits_for_a_slot(server, control):
    control.faults({"delay": 1.0})

    async def main():
        options = {"base_url": server.base_url, "coalesce": 0.001, "max_concurrency": 1}
        async with AsyncClient(KEY, **options) as client, anyio.create_task_group() as group:
            group.start_soon(client.embed_queries, ["first"])
            await anyio.to_thread.run_sync(control.wait_for_in_flight, 1)
            for number in range(40):
                group.start_soon(client.embed_queries, [f"query {number}"])
                await anyio.sleep(0.005)

    anyio.run(main)
    assert control.stats()["requests"] == 2


def test_a_request_takes_calls_in_while_the_rate_lets_it_wait(options, scripted_server):
    class Gate(FakeClock):
        """Time stands still until the test has made all calls."""

        async def sleep(self, seconds):
            if seconds > 1:
                await opened.wait()
            await super().sleep(seconds)

    async def main():
        nonlocal opened
        opened = anyio.Event()
        limits = {"requests_per_minute": 6, "coalesce": 0.5}
        async with AsyncClient(KEY, **options, **limits, clock=Gate()) as client, anyio.create_task_group() as group:
            await client.embed_queries(["the bucket is empty now"])
            for number in range(30):
                group.start_soon(client.embed_queries, [f"query {number}"])
                await anyio.wait_all_tasks_blocked()
            opened.set()

    opened = None
    anyio.run(main)
    assert [len(request["input"]) for request in scripted_server.requests] == [1, 30]


@pytest.mark.parametrize(("calls", "seconds_later", "wait"), [(40, 10, 50), (40, 70, 0), (40, 130, 60), (20, 10, 60)])
def test_windows_follow_each_other_after_many_calls(options, scripted_server, clock, calls, seconds_later, wait):
    async def main():
        async with AsyncClient(KEY, **options, coalesce=60, clock=clock) as client:
            async with anyio.create_task_group() as group:
                for number in range(calls):
                    group.start_soon(client.embed_queries, [f"query {number}"])
            clock.advance(seconds_later)
            await client.embed_queries(["one more"])
            await client.embed_queries(["another"])

    anyio.run(main)
    assert [len(request["input"]) for request in scripted_server.requests] == [calls, 1, 1]
    assert clock.slept == [60, wait, 60]


# Usage


def test_usage_adds_up_to_what_was_reported(call_all, options, scripted_server):
    results = call_all(queries(20), **options, limits=limit(20))
    total = total_usage(results)
    tokens, cost = reported(scripted_server.requests)
    assert (total.prompt_tokens, total.total_tokens, total.cost_usd, total.requests) == (tokens, tokens, cost, 1)
    assert sorted(result.usage.requests for result in results) == [0] * 19 + [1]
    assert min(result.usage.total_tokens for result in results) > 0


def test_usage_of_a_discarded_response_is_divided_too(call_all, options, scripted_server):
    def script(request):
        broken = len(scripted_server.requests) == 1
        return 200, {}, response_body(request["input"][: -1 if broken else None])

    scripted_server.script = script
    results = call_all(queries(6), **options, limits=limit(6), clock=WindowClock())
    total = total_usage(results)
    assert (total.requests, total.discarded.requests) == (2, 1)
    first, second = scripted_server.requests
    tokens = [
        sum(len(text) for chunks in chosen for text in chunks) for chosen in (first["input"][:-1], second["input"])
    ]
    assert (total.discarded.total_tokens, total.total_tokens) == (tokens[0], sum(tokens))
    assert total.discarded.cost_usd == Decimal(repr(tokens[0] * 1e-9))


# Failures


@pytest.mark.parametrize("named", [True, False], ids=["named", "found by halving"])
def test_a_refused_text_fails_its_caller_alone(call_all, options, scripted_server, named):
    accepted = []

    def script(request):
        bad = [place for place, chunks in enumerate(request["input"]) if "poison" in chunks[0]]
        if bad:
            detail = [{"loc": ["body", "input", bad[0]], "msg": "no", "type": "value_error"}] if named else "no"
            return 422, {}, json.dumps({"detail": detail}).encode()
        accepted.append(request)
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    calls = queries(16)
    calls[5] = ("embed_queries", ["poison"], {})
    results = call_all(calls, **options, limits=limit(16))
    for place, (result, (_, texts, _)) in enumerate(zip(results, calls, strict=True)):
        if place == 5:
            assert isinstance(result, ctxembed.EmbedError)
            assert [failure.document for failure in result.failures] == [0]
            assert isinstance(result.__cause__, ctxembed.UnprocessableEntityError)
        else:
            assert_rows(result, texts)
    assert len(scripted_server.requests[0]["input"]) == 16
    tokens, cost = reported(accepted)
    total = total_usage(results)
    assert (total.total_tokens, total.cost_usd, total.requests) == (tokens, cost, len(accepted))


def test_on_error_is_that_of_each_call(call_all, options, scripted_server):
    def script(request):
        bad = any("poison" in chunks[0] for chunks in request["input"])
        return (400, {}, b"no") if bad else (200, {}, response_body(request["input"]))

    scripted_server.script = script
    documents = [["good"], [""], ["poison"], ["fine"]]
    calls = [
        ("embed", documents, {"on_error": "return"}),
        ("embed", [["other"], ["poison too"]], {}),
        ("embed", [["a"], ["b"]], {"on_error": "raise"}),
    ]
    kept, raised, good = call_all(calls, **options, limits=limit(7))
    assert [failure.document for failure in kept.failures] == [1, 2]
    assert np.diff(kept.offsets).tolist() == [1, 0, 0, 1]
    assert_rows(kept, ["good", "fine"])
    assert [failure.document for failure in raised.failures] == [1]
    np.testing.assert_array_equal(raised.partial[0][0], vector_of("other"))
    assert_rows(good, ["a", "b"])


def test_many_refused_calls_do_not_fail_the_others(options, scripted_server):
    def script(request):
        bad = any("poison" in chunks[0] for chunks in request["input"])
        return (400, {}, b"no") if bad else (200, {}, response_body(request["input"]))

    scripted_server.script = script
    # Of one call's documents the first would count as refused too, after many requests with nothing accepted.
    calls = [("embed_queries", ["good"], {})] + [("embed_queries", [f"poison {i}"], {}) for i in range(199)]
    good, *refused = Calls("asyncio")(calls, **options, limits=limit(200), max_concurrency=1)
    assert_rows(good, ["good"])
    assert {type(result) for result in refused} == {ctxembed.EmbedError}
    sizes = [len(request["input"]) for request in scripted_server.requests]
    assert sizes[0] == 200
    assert len(sizes) < 2 * 200 - 1  # it was not halved to the end
    assert min(failure.attempts for result in refused for failure in result.failures) > 2


def test_usage_of_pieces_that_are_given_up_is_not_lost(options, scripted_server):
    discarded = []

    def script(request):
        if len(scripted_server.requests) % 2:
            discarded.append({"input": request["input"][:-1]})
            return 200, {}, response_body(request["input"][:-1])
        return 400, {}, b"no"

    scripted_server.script = script
    more = {"clock": WindowClock(), "retry_budget": 1.0, "max_concurrency": 1}
    results = Calls("asyncio")(queries(200), **options, limits=limit(200), **more)
    assert 200 < len(scripted_server.requests) < 2 * (2 * 200 - 1)
    tokens, cost = reported(discarded)
    total = total_usage(results)
    assert (total.discarded.total_tokens, total.discarded.cost_usd) == (tokens, cost)


def test_an_error_that_all_requests_meet_fails_all_callers(call_all, options, scripted_server):
    scripted_server.script = lambda request: (401, {}, b"<html>")
    results = call_all(queries(6), **options, limits=limit(6))
    assert len(scripted_server.requests) == 1
    assert {type(result.__cause__) for result in results} == {ctxembed.AuthenticationError}
    assert [len(result.failures) for result in results] == [1] * 6


def test_a_shared_request_is_retried(call_all, options, scripted_server):
    good = scripted_server.script
    scripted_server.script = lambda request: (500, {}, b"") if len(scripted_server.requests) < 3 else good(request)
    retries = []
    results = call_all(queries(4), **options, limits=limit(4), clock=WindowClock(), on_retry=retries.append)
    assert len(scripted_server.requests) == 3
    assert len(retries) == 2
    for result, (_, texts, _) in zip(results, queries(4), strict=True):
        assert_rows(result, texts)


def test_a_slow_shared_request_is_hedged(call_all, server, control):
    options = {"base_url": server.base_url, "limits": limit(3), "hedge": 0.5}
    control.faults(*["none"] * 21, {"delay": 20})
    events = []
    calls = [("embed_queries", [f"query {i}"], {}) for i in range(66)]
    results = call_all(calls, **options, on_request=events.append)
    assert all(len(result.vectors) == 1 for result in results)
    assert total_usage(results).requests <= len(events)


# Options


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-0.1, ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        ("0.005", TypeError),
        (Decimal("0.005"), TypeError),
    ],
)
def test_a_window_that_is_no_time_is_named(kind, value, error):
    with pytest.raises(error, match=r"^coalesce must be .*got"):
        kind(KEY, coalesce=value)
    with pytest.raises(error, match=r"^coalesce must be .*got"):
        kind(KEY).with_options(coalesce=value)
    for good in (None, 1, 0.005, np.float32(0.005)):
        kind(KEY, coalesce=good)


# Hooks, progress, spans, journal


def test_exceptions_of_hooks_change_nothing(call_all, options, scripted_server, caplog):
    def broken(event):
        raise LookupError("a hook")

    results = call_all(queries(4), **options, limits=limit(4), on_request=broken, on_response=broken)
    for result, (_, texts, _) in zip(results, queries(4), strict=True):
        assert_rows(result, texts)
    assert caplog.text.count("hook raised") == 2


def test_hooks_see_the_shared_request(call_all, options):
    requests = []
    call_all(queries(4), **options, limits=limit(4), on_request=requests.append)
    assert [(event.documents, event.chunks) for event in requests] == [(4, 4)]


def test_progress_is_that_of_each_call_and_its_exceptions_too(call_all, options, scripted_server):
    def broken(event):
        raise LookupError("progress")

    seen = []
    calls = [
        ("embed", [["a"], ["b", "c"]], {"progress": seen.append}),
        ("embed", [["d"]], {"progress": broken}),
        ("embed", [["e"]], {}),
    ]
    first, second, third = call_all(calls, **options, limits=limit(4))
    assert_rows(first, ["a", "b", "c"])
    assert (seen[-1].documents_done, seen[-1].documents_total, seen[-1].chunks_done) == (2, 2, 3)
    assert (seen[-1].requests_done, seen[-1].requests_total) == (1, 1)
    assert isinstance(second, LookupError)
    assert_rows(third, ["e"])
    assert len(scripted_server.requests) == 1


def test_a_shared_request_is_one_span(call_all, options, telemetry):  # noqa: F811
    exporter, _ = telemetry
    results = call_all(queries(5), **options, limits=limit(5))
    [span] = exporter.get_finished_spans()
    assert span.attributes["ctxembed.documents"] == 5
    assert span.attributes["gen_ai.usage.input_tokens"] == total_usage(results).prompt_tokens


def test_a_journal_stores_a_shared_response_once(call_all, options, scripted_server):
    journal = MemoryJournal()
    documents = make_documents(8)
    calls = [("embed", [document], {}) for document in documents]
    results = call_all(calls, **options, limits=limit(8), journal=journal)
    assert len(journal.usages) == len(scripted_server.requests) == 1
    assert journal.usages[0] == total_usage(results)
    for document, result in zip(documents, results, strict=True):
        key = ctxembed.document_key(document, model=MODEL)
        np.testing.assert_array_equal(journal.rows[key], result.vectors)
    again = call_all(calls, **options, limits=limit(8), journal=journal)
    assert len(scripted_server.requests) == 1
    for before, now in zip(results, again, strict=True):
        np.testing.assert_array_equal(before.vectors, now.vectors)


def test_a_journal_that_fails_fails_the_calls_of_the_response(call_all, options):
    class Full(MemoryJournal):
        def put(self, rows, usage):
            super().put(rows, usage)
            raise OSError(28, "No space left on device")

    documents = make_documents(3)
    results = call_all(
        [("embed", [document], {}) for document in documents], **options, limits=limit(3), journal=Full()
    )
    for document, result in zip(documents, results, strict=True):
        assert isinstance(result, OSError)
        assert_rows(result.partial, document)  # they are paid for


def test_an_api_key_callable_that_exits_ends_each_call(options):
    def key():
        raise SystemExit(3)

    results = Calls("sync")(queries(3), **{**options, "api_key": key}, limits=limit(3))
    assert [type(result) for result in results] == [SystemExit] * 3
