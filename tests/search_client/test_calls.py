"""Requests, retries, errors and credentials, against a scripted server."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import threading
import traceback

import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncSearchClient,
    AuthenticationError,
    BadResponseError,
    ClosedClientError,
    CollectionError,
    Hit,
    InternalServerError,
    NotFoundError,
    RateLimitError,
    SearchClient,
    UnprocessableEntityError,
)

from tests.client.conftest import FakeClock
from tests.search_client.conftest import COLLECTION, HIT, KEY, hits_response, refusal

EXPECTED = Hit(
    "heron", 1, 0.5, "It caught a fish.", {"year": 2020, "tags": ["a"]}, (30, 47), 0.5, None, "a.md",
    "It caught a fish.", (1, 2), (30, 47), 0,
)  # fmt: skip


def listing(*collections):
    return 200, {}, {"object": "list", "data": list(collections)}


# --- requests ---


def test_a_search_sends_its_arguments_and_returns_hits(driver, scripted):
    scripted.script = lambda _: hits_response(HIT)
    found = driver.search(
        scripted.url, "who?", np.int64(3), where="year >= ? AND lang = ?", params=(np.int64(2000), "en"), hybrid=True,
        stage="two-stage", oversample=4, dimensions=64, group_by_document=True, neighbours=2, collection="corpus",
    )  # fmt: skip
    assert found == [EXPECTED]
    assert [type(value) for value in (found[0].span, found[0].passage_chunks, found[0].passage_span)] == [tuple] * 3
    (request,) = scripted.requests
    assert (request.method, request.path) == ("POST", "/v1/search")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.body == {
        "collection": "corpus", "query": "who?", "k": 3, "where": "year >= ? AND lang = ?", "params": [2000, "en"],
        "hybrid": True, "stage": "two-stage", "oversample": 4, "dimensions": 64, "group_by_document": True,
        "neighbours": 2,
    }  # fmt: skip


def test_parameters_by_name_are_sent_as_an_object(driver, scripted):
    scripted.script = lambda _: hits_response()
    assert driver.search(scripted.url, "who?", where="year = :y", params={"y": 2000.5}) == []
    assert scripted.requests[0].body["params"] == {"y": 2000.5}


def test_a_batch_of_long_queries_fits_the_bodies_that_a_server_takes(driver, scripted):
    scripted.script = lambda request: hits_response(*([] for _ in request.body["queries"]))
    texts = [
        "\x01" * 200_000,
        *["long " * 20_000] * 12,
        "short",
        "\u65e5" * 300_000,
    ]  # a control character takes six bytes
    assert driver.search_batch(scripted.url, texts) == [[] for _ in texts]
    assert [text for request in scripted.requests for text in request.body["queries"]] == texts
    assert max(int(request.headers["content-length"]) for request in scripted.requests) < 4 << 20


def test_a_batch_is_sent_in_requests_of_512_queries(driver, scripted):
    scripted.script = lambda request: hits_response(*([{**HIT, "text": text}] for text in request.body["queries"]))
    texts = [f"question {n}" for n in range(1000)]
    found = driver.search_batch(scripted.url, iter(texts), 1)
    assert [hits[0].text for hits in found] == texts
    assert [len(request.body["queries"]) for request in scripted.requests] == [512, 488]
    assert driver.search_batch(scripted.url, []) == []
    assert len(scripted.requests) == 2


def test_an_id_is_one_segment_of_the_path(driver, scripted):
    chunks = [{"chunk": 0, "text": "one", "span": [0, 3]}, {"chunk": 1, "text": "two", "span": None}]
    chunks[1]["span"] = [4, 7]
    body = {"id": "a/ü ?#%", "source": None, "metadata": {"n": 1}, "chunk_count": 2, "first": 0, "chunks": chunks}
    scripted.script = lambda _: (200, {}, body)
    found = driver.document(scripted.url, "a/ü ?#%", collection="b&c")
    assert found == ctxembed.Document("a/ü ?#%", ["one", "two"], {"n": 1}, [(0, 3), (4, 7)])
    (request,) = scripted.requests
    assert (request.method, request.path) == ("GET", "/v1/documents/b%26c/a%2F%C3%BC%20%3F%23%25")
    assert request.body is None


def test_a_document_of_a_collection_without_text_has_no_chunks(driver, scripted):
    body = {
        "id": "a",
        "source": "s",
        "metadata": None,
        "chunk_count": 1,
        "chunks": [{"chunk": 0, "text": None, "span": None}],
    }
    scripted.script = lambda _: (200, {}, body)
    assert driver.get(scripted.url, "a", collection="corpus") == ctxembed.Document("a", [], source="s")


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_both_transports_get_and_post_with_and_without_a_key(scripted, transport):
    def script(request):
        return listing(COLLECTION) if request.method == "GET" else hits_response(HIT)

    scripted.script = script
    for key in (KEY, None):
        with SearchClient(scripted.url + "/v1/", key, transport=transport) as client:
            assert client.search("a") == [EXPECTED]
            assert client.collections() == [COLLECTION]
            assert client.transport == transport
    sent = [request.headers.get("authorization") for request in scripted.requests]
    assert sent == [f"Bearer {KEY}"] * 2 + [None] * 2
    assert "content-length" not in scripted.requests[1].headers


def test_a_response_larger_than_the_loop_parses_is_read_whole(driver, scripted):
    scripted.script = lambda _: hits_response(*[{**HIT, "text": "x" * 1000}] * 1000)
    assert len(driver.search(scripted.url, "a", 1000)) == 1000


# --- vectors ---


def test_a_vector_is_checked_against_the_collection_and_sent_in_base64(driver, scripted):
    scripted.script = lambda request: listing(COLLECTION) if request.method == "GET" else hits_response(HIT)
    vector = np.arange(-64, 64, dtype=np.int8)
    for given in (vector, vector[None], np.stack([-vector, vector])[1:]):
        assert driver.search(scripted.url, given) == [EXPECTED]
        sent = scripted.requests[-1].body["vector"]
        assert np.array_equal(np.frombuffer(base64.b64decode(sent), np.int8), vector)


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.zeros(127, np.int8), ValueError),
        (np.zeros((2, 128), np.int8), ValueError),
        (np.zeros(128, np.uint8), TypeError),  # its bytes could be taken for int8
        (np.zeros(16, np.int8), ValueError),  # its bytes could be taken for packed bits
        (np.zeros(128, np.float32), TypeError),
        ([0] * 128, TypeError),
        (None, TypeError),
    ],
)
def test_a_vector_that_the_collection_could_not_hold_is_refused(driver, scripted, vector, error):
    scripted.script = lambda request: listing(COLLECTION) if request.method == "GET" else hits_response(HIT)
    with pytest.raises(error):
        driver.search(scripted.url, vector)
    assert not [request for request in scripted.requests if request.method == "POST"]


def test_embeddings_of_another_space_are_refused_and_a_new_space_is_noticed(scripted):
    served = [COLLECTION]
    scripted.script = lambda request: listing(*served) if request.method == "GET" else hits_response(HIT)

    def embeddings(space, role=None):
        vectors = np.ones((1, 128), np.int8)
        usage = ctxembed.Usage(1, 1, None, 1)
        return ctxembed.Embeddings(
            vectors, np.array([0, 1]), "m", 128, "base64_int8", usage, space=space, input_type=role
        )

    clock = FakeClock()
    with SearchClient(scripted.url, KEY, clock=clock) as client:
        assert client.search(embeddings("a space")) == client.search(embeddings("a space", "query")) == [EXPECTED]
        assert sum(request.method == "GET" for request in scripted.requests) == 2  # the name, and what it is
        with pytest.raises(ctxembed.SpaceError, match="a space.*another"):
            client.search(embeddings("another"))
        with pytest.raises(ctxembed.SpaceError, match="embed_queries instead of embed"):
            client.search(embeddings("a space", "document"))
        served[0] = {**COLLECTION, "space": "another"}
        assert client.search(embeddings("another")) == [EXPECTED]
        served[0] = COLLECTION
        clock.advance(61)
        with pytest.raises(ctxembed.SpaceError, match="a space.*another"):
            client.search(embeddings("another"))


# --- arguments ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"query": ""}, ValueError, "the query is empty"),
        ({"query": "\ud800"}, ValueError, "lone surrogate"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": "3"}, TypeError, "k must be an int"),
        ({"neighbours": -1}, ValueError, "neighbours must be at least 0"),
        ({"hybrid": 1}, TypeError, "hybrid must be a bool"),
        ({"group_by_document": None}, TypeError, "group_by_document must be a bool"),
        ({"where": 1}, TypeError, "where must be a str or None"),
        ({"where": "a", "params": "b"}, TypeError, "params must be a tuple"),
        ({"where": "a = ?", "params": (b"b",)}, TypeError, r"params\[0\] must be"),
        ({"where": "a = ?", "params": (float("nan"),)}, ValueError, "params must be finite"),
        ({"stage": 2}, TypeError, "stage must be a str"),
        ({"oversample": 1.5}, TypeError, "oversample must be an int"),
        ({"collection": 1}, TypeError, "collection must be a str or None"),
        ({"query": np.zeros(128, np.int8), "hybrid": True}, TypeError, "needs a text query"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(driver, scripted, arguments, error, message):
    with pytest.raises(error, match=message):
        driver.search(scripted.url, **{"query": "a", **arguments})
    assert scripted.requests == []


@pytest.mark.parametrize("queries", ["a", b"a", {"a"}, {"a": 1}, 3, [1], [""], np.zeros((2, 128), np.int8)])
def test_a_batch_takes_texts_only(driver, scripted, queries):
    with pytest.raises((TypeError, ValueError), match="quer"):
        driver.search_batch(scripted.url, queries)
    assert scripted.requests == []


@pytest.mark.parametrize("cls", [SearchClient, AsyncSearchClient])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "http://example.com"}, "would send the API key unencrypted"),
        ({"url": "ftp://example.com"}, "url must be http"),
        ({"url": "https://user:secret@example.com"}, "must not hold a user name"),
        ({"url": None}, "url must be a str, got NoneType"),
        ({"api_key": ""}, "api_key is empty"),
        ({"api_key": "a b"}, "not usable in a header"),
        ({"max_retries": -1}, "max_retries must be from 0"),
        ({"timeout": 0}, "timeout must be"),
        ({"transport": "curl"}, "transport must be"),
        ({"collection": 3}, "collection must be"),
    ],
)
def test_wrong_options_are_refused_without_showing_the_key(cls, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        cls(**{"url": "https://example.com", "api_key": KEY, **arguments})
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY not in shown.replace(f"'api_key': '{KEY}'", "")  # this test's own locals
    assert "secret@" not in str(caught.value)


def test_a_key_is_sent_over_http_where_it_is_allowed_and_without_one_http_is(monkeypatch):
    monkeypatch.delenv("CTXEMBED_SERVER_KEY", raising=False)
    assert SearchClient("http://example.com").url == "http://example.com"
    assert SearchClient("http://example.com/", KEY, allow_insecure=True).url == "http://example.com"
    monkeypatch.setenv("CTXEMBED_SERVER_KEY", KEY)
    with pytest.raises(ValueError, match="unencrypted"):
        SearchClient("http://example.com")


def test_the_key_comes_from_the_servers_variable_and_never_from_the_apis(scripted, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_API_KEY", "pplx-secret")
    monkeypatch.setenv("PERPLEXITY_CUSTOM_HEADERS", "x-secret: of the API")
    monkeypatch.delenv("CTXEMBED_SERVER_KEY", raising=False)
    scripted.script = lambda _: hits_response()
    for value in (None, f"{KEY}, another"):
        if value is not None:
            monkeypatch.setenv("CTXEMBED_SERVER_KEY", value)
        with SearchClient(scripted.url) as client:
            client.search("a")
    keys = iter(["first-key", "second-key"])
    with SearchClient(scripted.url, lambda: next(keys)) as client:
        client.search("a")
        client.search("a")
    sent = [request.headers.get("authorization") for request in scripted.requests]
    assert sent == [None, f"Bearer {KEY}", "Bearer first-key", "Bearer second-key"]
    assert not [request for request in scripted.requests if "x-secret" in request.headers]


# --- errors ---


def test_a_422_is_a_value_error_that_says_what_the_server_said(driver, scripted):
    detail = [
        {
            "loc": ["body", "where"],
            "msg": "unknown name 'yaer': the fields are id, source, year",
            "type": "value_error",
        },
        {"loc": ["body", "k"], "msg": "k must be at most 10000", "type": "value_error"},
    ]
    scripted.script = lambda _: (422, {}, {"detail": detail})
    with pytest.raises(ValueError, match="422") as caught:
        driver.search(scripted.url, "a", where="yaer > 1")
    assert isinstance(caught.value, UnprocessableEntityError)
    assert str(caught.value) == (
        "the server returned 422: where: unknown name 'yaer': the fields are id, source, year; k must be at most 10000"
    )
    assert caught.value.body == {"detail": detail}
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.status_code, again.code) == (str(caught.value), 422, "CTX-010")
    assert len(scripted.requests) == 1


def test_a_404_says_what_the_server_has(driver, scripted):
    scripted.script = lambda request: listing(COLLECTION) if request.path == "/v1/collections" else refusal(404, "no")
    with pytest.raises(CollectionError, match=f"no collection 'other' at {scripted.url}: it serves corpus"):
        driver.search(scripted.url, "a", collection="other")
    with pytest.raises(CollectionError, match="no collection 'other'"):
        driver.document(scripted.url, "a", collection="other")
    assert driver.document(scripted.url, "a") is None
    assert driver.document(scripted.url, "a", collection="corpus") is None
    with pytest.raises(NotFoundError, match="the server returned 404: no"):
        driver.search(scripted.url, "a")
    scripted.script = lambda _: refusal(404, "Not found")
    for call in (lambda: driver.search(scripted.url, "a"), lambda: driver.collections(scripted.url)):
        with pytest.raises(NotFoundError, match="has no search endpoints, which `ctxembed serve --collection"):
            call()


def test_a_document_needs_a_name_where_several_collections_are_served(driver, scripted):
    scripted.script = lambda _: listing(COLLECTION, {**COLLECTION, "name": "second"})
    with pytest.raises(ValueError, match="serves corpus, second: pass collection="):
        driver.document(scripted.url, "a")


def test_a_401_says_whether_a_key_was_sent(driver, scripted, monkeypatch):
    monkeypatch.delenv("CTXEMBED_SERVER_KEY", raising=False)
    scripted.script = lambda _: refusal(401, "Invalid key")
    with pytest.raises(AuthenticationError, match="the server returned 401: Invalid key$"):
        driver.search(scripted.url, "a")
    with pytest.raises(AuthenticationError, match="no key was sent: pass api_key, or set CTXEMBED_SERVER_KEY"):
        driver.search(scripted.url, "a", _client={"api_key": None})


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"<html>welcome</html>", "Expecting value"),
        ([], "the body is no object"),
        ({}, "the body has no 'hits'"),
        ({"hits": {}}, "'hits' of the body is {}, expected a list"),
        ({"hits": [1]}, r"hits\[0\] is no object"),
        ({"hits": [{**HIT, "chunk": "1"}]}, r"'chunk' of hits\[0\] is '1', expected a whole number"),
        ({"hits": [HIT, {**HIT, "score": None}]}, r"'score' of hits\[1\] is None, expected a number"),
        ({"hits": [{**HIT, "span": [1]}]}, r"'span' of hits\[0\] is \[1\], expected two whole numbers"),
        ({"hits": [{name: HIT[name] for name in HIT if name != "passage"}]}, r"hits\[0\] has no 'passage'"),
        (b"[" * 100_000, "invalid"),
    ],
)
def test_a_200_that_is_no_result_is_an_error(driver, scripted, payload, message):
    scripted.script = lambda _: (200, {}, payload)
    with pytest.raises(BadResponseError, match=message):
        driver.search(scripted.url, "a")
    assert len(scripted.requests) == 1


def test_a_batch_with_fewer_lists_than_queries_is_an_error(driver, scripted):
    scripted.script = lambda _: hits_response([HIT])
    with pytest.raises(BadResponseError, match="hits of 1 queries, and 2 were asked"):
        driver.search_batch(scripted.url, ["a", "b"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunk_count": 2}, "1 of 2 chunks"),
        ({"chunks": [{"chunk": 1, "text": "a", "span": None}]}, "not in their order"),
        (
            {"chunk_count": 2, "chunks": [{"chunk": n, "text": ["a", None][n], "span": None} for n in range(2)]},
            "some of its chunks have a text",
        ),
    ],
)
def test_a_document_that_is_not_whole_is_an_error(driver, scripted, changed, message):
    chunks = [{"chunk": 0, "text": "a", "span": None}]
    scripted.script = lambda _: (
        200, {}, {"id": "a", "source": None, "metadata": None, "chunk_count": 1, "chunks": chunks, **changed},
    )  # fmt: skip
    with pytest.raises(BadResponseError, match=message):
        driver.document(scripted.url, "a", collection="corpus")


def test_an_echoed_key_is_in_no_error_and_no_log(driver, scripted, caplog):
    caplog.set_level(logging.DEBUG, "ctxembed")

    def script(request):
        return (
            503,
            {"retry-after": "0", "x-echo": KEY},
            {"error": {"message": f"you sent {request.headers['authorization']}"}},
        )

    scripted.script = script
    with pytest.raises(InternalServerError) as caught:
        driver.search(scripted.url, "a", _client={"max_retries": 1})
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr((error.body, error.headers)) + caplog.text
    assert "you sent Bearer ***" in shown
    assert KEY not in shown


def test_texts_of_hits_are_returned_as_they_are(driver, scripted):
    scripted.script = lambda _: hits_response({**HIT, "text": f"the key {KEY} stands in a document"})
    assert driver.search(scripted.url, "a")[0].text == f"the key {KEY} stands in a document"


# --- retries ---


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitError), (503, InternalServerError)])
def test_a_busy_server_is_asked_again_after_its_retry_after(driver, scripted, status, error):
    clock = FakeClock()
    responses = iter([refusal(status, "busy", **{"retry-after": "7"}), hits_response(HIT)])
    scripted.script = lambda _: next(responses)
    assert driver.search(scripted.url, "a", _client={"clock": clock}) == [EXPECTED]
    assert clock.slept == [7.0]
    scripted.script = lambda _: refusal(status, "busy", **{"retry-after": "7"})
    with pytest.raises(error, match=f"the server returned {status}: busy"):
        driver.search(scripted.url, "a", _client={"clock": FakeClock(), "max_retries": 2})
    assert len(scripted.requests) == 2 + 3


def test_a_429_without_a_time_is_retried_with_backoff(driver, scripted):
    clock = FakeClock()
    responses = iter([refusal(429, "busy"), refusal(429, "busy"), hits_response()])
    scripted.script = lambda _: next(responses)
    assert driver.search(scripted.url, "a", _client={"clock": clock}) == []
    assert clock.slept == [0.25, 0.5]


@pytest.mark.parametrize("status", [307, 400, 403, 413, 415, 421, 500, 502, 503])
def test_what_would_be_the_same_again_is_not_retried(driver, scripted, status):
    scripted.script = lambda _: refusal(status, "for a reason")
    with pytest.raises(APIStatusError, match=f"the server returned {status}.*: for a reason") as caught:
        driver.search(scripted.url, "a")
    assert caught.value.status_code == status
    assert len(scripted.requests) == 1


def test_a_long_retry_after_is_not_waited_for(driver, scripted):
    scripted.script = lambda _: refusal(503, "stopping", **{"retry-after": "61"})
    with pytest.raises(InternalServerError, match="stopping"):
        driver.search(scripted.url, "a")
    assert len(scripted.requests) == 1


def test_a_broken_connection_is_retried(driver, scripted):
    responses = iter([(200, {"content-length": "9999", "connection": "close"}, b"{"), hits_response(HIT)])
    scripted.script = lambda _: next(responses)
    assert driver.search(scripted.url, "a", _client={"clock": FakeClock()}) == [EXPECTED]


def test_a_server_that_is_not_there_is_a_connection_error(driver, scripted):
    scripted.close()
    clock = FakeClock()
    with pytest.raises(APIConnectionError, match="no response"):
        driver.search(scripted.url, "a", _client={"clock": clock, "max_retries": 2})
    assert len(clock.slept) == 2


def test_retries_of_all_calls_share_a_budget(scripted):
    scripted.script = lambda _: refusal(429, "busy")
    with SearchClient(scripted.url, KEY, clock=FakeClock()) as client:
        for _ in range(20):
            with pytest.raises(RateLimitError):
                client.search("a")
    assert len(scripted.requests) <= 20 + 20 + 10


def test_a_deadline_ends_a_call_with_its_waits(driver, scripted):
    scripted.script = lambda _: refusal(429, "busy", **{"retry-after": "30"})
    with pytest.raises(APITimeoutError, match="deadline of 20 seconds") as caught:
        driver.search(scripted.url, "a", _client={"clock": FakeClock(), "deadline": 20})
    assert isinstance(caught.value.__cause__, RateLimitError)


def test_a_response_that_does_not_come_is_a_timeout(driver, scripted):
    released = threading.Event()

    def script(_):
        released.wait(30)
        return hits_response()

    scripted.script = script
    try:
        with pytest.raises(APITimeoutError):
            driver.search(scripted.url, "a", _client={"timeout": 0.2, "max_retries": 0})
    finally:
        released.set()


# --- life ---


def test_a_closed_client_says_so(scripted):
    scripted.script = lambda _: hits_response()
    client = SearchClient(scripted.url, KEY, "corpus")
    assert repr(client) == f"SearchClient('{scripted.url}', collection='corpus')"
    assert client.search("a") == []
    client.close()
    client.close()
    assert repr(client).endswith(", closed)")
    for call in (lambda: client.search("a"), client.collections, lambda: client.get("a"), client.__enter__):
        with pytest.raises(ClosedClientError):
            call()
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(client)


def test_threads_share_a_client(scripted):
    scripted.script = lambda request: hits_response({**HIT, "text": request.body["query"]})
    with SearchClient(scripted.url, KEY) as client:
        found = {}

        def ask(n):
            found[n] = [client.search(f"{n} {i}")[0].text for i in range(5)]

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {n: [f"{n} {i}" for i in range(5)] for n in range(8)}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_a_call_leaves_the_client_usable(scripted, backend):
    import anyio

    started, released = threading.Event(), threading.Event()

    def script(request):
        if request.body["query"] == "slow":
            started.set()
            released.wait(30)
        return hits_response(HIT)

    scripted.script = script

    async def main():
        async with AsyncSearchClient(scripted.url, KEY) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(client.search, "slow")
                await anyio.to_thread.run_sync(started.wait)
                group.cancel_scope.cancel()
            return await client.search("quick")

    try:
        assert anyio.run(main, backend=backend) == [EXPECTED]
    finally:
        released.set()


def test_a_transport_of_httpx_can_take_the_place_of_a_server():
    def respond(request):
        assert json.loads(request.content)["query"] == "a"
        return httpx.Response(200, json={"hits": [HIT]})

    with SearchClient("http://search.test", transport=httpx.MockTransport(respond)) as client:
        assert client.search("a") == [EXPECTED]


def test_a_collection_that_is_served_under_another_name_is_found_again(scripted):
    served = [COLLECTION]
    body = {"id": "a", "source": None, "metadata": {}, "chunk_count": 0, "chunks": []}

    def script(request):
        if request.path == "/v1/collections":
            return listing(*served)
        return (200, {}, body) if served[0]["name"] in request.path else refusal(404, "no such collection")

    scripted.script = script
    with SearchClient(scripted.url, KEY) as client:
        assert client.get("a") is not None
        served[0] = {**COLLECTION, "name": "renamed"}
        with pytest.raises(CollectionError, match="no collection 'corpus'"):
            client.get("a")
        assert client.get("a") is not None
