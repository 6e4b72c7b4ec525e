"""What a 200 must prove before its vectors are used, and the usage of one that does not."""

from __future__ import annotations

import decimal
import gzip
import json
import threading
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


def test_a_deeply_nested_200_is_a_bad_response(driver, scripted_server, clock):
    for text in ("[" * 20_000, '{"data": ' + "[" * 20_000 + "]" * 20_000 + "}", '{"usage": ' + '{"cost":' * 7_000):
        scripted_server.script = lambda request, text=text: (200, {}, text.encode())
        with pytest.raises(ctxembed.BadResponseError) as caught:
            driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0}, _clock=clock)
        assert isinstance(caught.value.__cause__, ctxembed.DecodeError)


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("8E-8", "8E-8"),
        ("0", "0"),
        ("1" * 40 + "." + "1" * 40, "1" * 40 + "." + "1" * 40),
        ("1e39", "1E+39"),
        ("1e-40", "1E-40"),
        ("1e-000000000000000040", "1E-40"),
        ("1e40", None),
        ("1e-41", None),
        ("1e1000000000000000000", None),
        ("1e-1000000000000000000", None),
        ("0e1000000000000000000", None),
        ("-1", None),
        ("1e400", None),
        ("9" * 5_000, None),
        ("0." + "0" * 5_000 + "1", None),
        ("Infinity", None),
        ("-Infinity", None),
        ("NaN", None),
        ('"1"', None),
        ("true", None),
        ("[]", None),
    ],
)
def test_an_absurd_cost_counts_as_not_reported(spelled, expected):
    usage = read_usage(f'{{"usage": {{"prompt_tokens": 3, "total_tokens": 4, "cost": {{"total_cost": {spelled}}}}}}}')
    assert (usage.prompt_tokens, usage.total_tokens, usage.requests) == (3, 4, 1)
    assert (None if usage.cost_usd is None else str(usage.cost_usd)) == expected


@pytest.mark.parametrize("spelled", ["-1", "1.5", "1e3", "9" * 19, "9" * 5_000, "null", '"3"', "true", "NaN"])
def test_absurd_token_counts_count_as_not_reported(spelled):
    usage = read_usage(f'{{"usage": {{"prompt_tokens": {spelled}, "total_tokens": 4}}}}')
    assert usage == ctxembed.Usage(None, 4, None, 1)


def hostile_context():
    return decimal.Context(prec=3, Emin=-2, Emax=2, traps=list(decimal.Context().flags))


def test_costs_are_exact_in_any_decimal_context(driver, scripted_server):
    costs = iter(["1" * 40 + "." + "1" * 40, "8" * 40 + "." + "8" * 40, "0.00000000000000000000000000000000000001"])

    def script(request):
        body = json.loads(response_body(request["input"]))
        text = json.dumps(body | {"usage": {"total_tokens": 1, "cost": {"total_cost": 0.5}}})
        return 200, {}, text.replace("0.5", next(costs)).encode()

    scripted_server.script = script
    found = []

    def embed():
        decimal.setcontext(hostile_context())
        client = {"base_url": scripted_server.base_url, "limits": ctxembed.Limits(documents=1), "max_concurrency": 1}
        found.append(driver.embed(make_documents(3), _client=client).usage)

    thread = threading.Thread(target=embed)
    thread.start()
    thread.join()
    with decimal.localcontext(decimal.Context(prec=200)):
        total = Decimal("1" * 40 + "." + "1" * 40) + Decimal("8" * 40 + "." + "8" * 40) + Decimal("1e-38")
    assert found[0].cost_usd == total


def test_usage_and_prices_add_exactly_in_any_decimal_context():
    large, small = Decimal("9" * 40 + "." + "9" * 40), Decimal("1E-40")
    with decimal.localcontext(hostile_context()):
        usage = ctxembed.Usage(cost_usd=large, requests=1)
        for _ in range(3):
            usage += ctxembed.Usage(cost_usd=small, requests=1)
        price = ctxembed.models()[0].cost(123_456_789_123)
        emb = ctxembed.Embeddings.from_response(
            {"data": [], "usage": {"prompt_tokens": 1, "cost": {"total_cost": 0.123456789}}}
        )
    assert str(usage.cost_usd) == "1" + "0" * 40 + "." + "0" * 39 + "2"
    assert price == Decimal("987.654312984")
    assert emb.usage.cost_usd == Decimal("0.123456789")


@pytest.mark.parametrize(
    "cost",
    [float("nan"), float("inf"), -1, -1e-9, 1e300, 10**400, 10**5000, Decimal("1e999999"), Decimal("sNaN")],
    ids=lambda cost: f"{type(cost).__name__} of {len(bin(cost))} bits" if type(cost) is int else repr(cost),
)
def test_an_absurd_cost_of_a_parsed_response_counts_as_not_reported(cost):
    usage = {"prompt_tokens": "3", "total_tokens": 4, "cost": {"total_cost": cost}}
    emb = ctxembed.Embeddings.from_response({"data": [], "usage": usage})
    assert emb.usage == ctxembed.Usage(None, 4, None, 1)
