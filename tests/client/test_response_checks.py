"""What a 200 must prove before its vectors are used, and the usage of one that does not."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal

import ctxembed
import numpy as np
import pytest
from ctxembed._client.endpoint import RequestTemplate, read_usage

from .conftest import FakeClock, make_documents, response_body

INVALID_RESPONSES = [
    "html",
    "empty",
    "garbage",
    "missing-chunk",
    "duplicate-chunk",
    "corrupt-chunk",
    "wrong-dimensions",
    "wrong-model",
    "mislabelled-gzip",
    "unlabelled-gzip",
    {"omit": ["data"]},
    {"body": "null"},
    {"body": '{"data": []}'},
]


@pytest.mark.parametrize("fault", INVALID_RESPONSES, ids=str)
def test_an_invalid_200_is_retried_and_then_raised(driver, server_options, control, clock, fault):
    documents = [["a", "b"], ["c"]]
    control.faults(fault)
    emb = driver.create(documents, _client=server_options, _clock=clock)
    assert emb.vectors.shape == (3, 1024)
    assert clock.slept == [0.25]

    control.faults(*[fault] * 3)
    with pytest.raises(ctxembed.BadResponseError) as caught:
        driver.create(documents, _client={**server_options, "max_retries": 2}, _clock=FakeClock())
    assert isinstance(caught.value, ctxembed.APIError)
    assert isinstance(caught.value.body, str)
    if fault in ("garbage", "missing-chunk", "duplicate-chunk", "corrupt-chunk", "wrong-dimensions"):
        assert isinstance(caught.value.__cause__, ctxembed.DecodeError)


@pytest.mark.parametrize("fault", ["shuffled", "gzip", {"chunked": True}, {"omit": ["usage", "object"]}], ids=str)
def test_an_unusual_but_complete_200_is_accepted(driver, server_options, control, fault):
    documents = make_documents(9)
    plain = driver.create(documents, _client=server_options)
    control.faults(fault)
    odd = driver.create(documents, _client={**server_options, "max_retries": 0})
    np.testing.assert_array_equal(odd.vectors, plain.vectors)


def test_the_content_type_of_a_response_is_ignored(driver, scripted_server, clock):
    scripted_server.script = lambda request: (200, {"content-type": "text/html"}, response_body(request["input"]))
    assert len(driver.create([["a"]], _client={"base_url": scripted_server.base_url}, _clock=clock)) == 1


def test_a_decompression_bomb_is_refused(driver, scripted_server, clock):
    bomb = gzip.compress(b" " * 50_000_000)
    scripted_server.script = lambda request: (200, {"content-encoding": "gzip"}, bomb)
    with pytest.raises(ctxembed.BadResponseError, match="larger than"):
        driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0}, _clock=clock)


def test_an_oversized_response_is_refused(driver, scripted_server, clock):
    scripted_server.script = lambda request: (200, {}, response_body(request["input"]) + b" " * 1_000_000)
    with pytest.raises(ctxembed.BadResponseError, match="larger than"):
        driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0}, _clock=clock)


def test_the_max_response_size_leaves_room_for_indented_json():
    call = RequestTemplate.create("/v1/contextualizedembeddings", "pplx-embed-context-v1-0.6b", None, "base64_int8")
    row = {"object": "embedding", "index": 15_999, "embedding": "A" * 1368}
    documents = [{"object": "list", "index": 511, "data": [row] * 30} for _ in range(512)]
    for indent in (None, 2, 8):
        assert len(json.dumps({"data": documents}, indent=indent)) < call.max_response_size(512, 512 * 30)


def test_an_unknown_content_encoding_is_refused(driver, scripted_server, clock):
    scripted_server.script = lambda request: (200, {"content-encoding": "br"}, b"...")
    with pytest.raises(ctxembed.BadResponseError, match="'br'"):
        driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0}, _clock=clock)


def test_a_204_is_a_bad_response(driver, scripted_server, clock):
    scripted_server.script = lambda request: (204, {}, b"")
    with pytest.raises(ctxembed.BadResponseError, match="204"):
        driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0}, _clock=clock)


def test_usage_of_a_discarded_response_is_counted(driver, server_options, control, clock):
    control.faults("missing-chunk")
    emb = driver.embed([["a", "b"]], _client=server_options, _clock=clock)
    stats = control.stats()
    assert stats["requests"] == emb.usage.requests == 2
    assert emb.usage.total_tokens == stats["tokens"]
    assert emb.usage.cost_usd == Decimal(stats["tokens"]) * Decimal("0.008") / 1_000_000


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage": {"prompt_tokens": 3, "total_tokens": 4, "cost": {"total_cost": 8E-8}}}', (3, 4, "8E-8", 1)),
        (b'{"usage": {"total_tokens": "4", "prompt_tokens": true}}', (None, None, None, 1)),
        (b'{"usage": {"cost": null}}', (None, None, None, 1)),
        (b'{"usage": {"cost": {"total_cost": 1, "currency": "EUR"}}}', (None, None, None, 1)),
        (b'{"usage": null}', (None, None, None, 0)),
        (b"[]", (None, None, None, 0)),
        (b"garbage \xff", (None, None, None, 0)),
        (b'{"usage": {"cost": {"total_cost": NaN}}}', (None, None, None, 1)),
        (b"[" * 100_000, (None, None, None, 0)),
    ],
)
def test_usage_is_read_from_responses_without_vectors(body, expected):
    usage = read_usage(body.decode(errors="replace"))
    cost = None if usage.cost_usd is None else str(usage.cost_usd)
    assert (usage.prompt_tokens, usage.total_tokens, cost, usage.requests) == expected
