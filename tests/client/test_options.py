"""The options of both clients: signatures, checks and the environment."""

from __future__ import annotations

import inspect
import re
from decimal import Decimal
from fractions import Fraction

import httpx
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY


def test_the_signature_shows_each_option():
    for kind in (Client, AsyncClient):
        shown = inspect.signature(kind).parameters
        assert shown["transport"].default == "auto"
        assert shown["max_retries"].default == 4
        assert shown["transport"].kind is inspect.Parameter.KEYWORD_ONLY
        assert next(iter(shown)) == "api_key"
        documented = re.findall(r"^    ((?:\w+, )*\w+) : ", kind.__doc__, re.MULTILINE)
        assert sorted(name for names in documented for name in names.split(", ")) == sorted(shown)


def test_both_clients_have_the_same_methods_and_arguments():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(AsyncClient) - public(Client) == {"aclose"}
    assert public(Client) - public(AsyncClient) == set()
    for name in ("__init__", "embed", "embed_queries", "embed_texts", "create", "stream"):
        sync, other = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert [(p.name, p.kind, p.default) for p in sync.parameters.values()] == [
            (p.name, p.kind, p.default) for p in other.parameters.values()
        ]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_unknown_options_are_refused(kind):
    with pytest.raises(TypeError, match="retries"):
        kind(KEY, retries=3)
    with pytest.raises(TypeError, match=r"unknown options retries: expected api_key, base_url"):
        kind(KEY).with_options(retries=3)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_retries": -1}, ValueError),
        ({"max_retries": True}, TypeError),
        ({"max_retries": 2.0}, TypeError),
        ({"max_concurrency": 0}, ValueError),
        ({"max_concurrency": None}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": True}, TypeError),
        ({"timeout": "3"}, TypeError),
        ({"requests_per_minute": 0}, ValueError),
        ({"requests_per_minute": float("nan")}, ValueError),
        ({"requests_per_minute": "9"}, TypeError),
        ({"tokens_per_minute": -5}, ValueError),
        ({"tokens_per_minute": True}, TypeError),
        ({"limits": None}, TypeError),
        ({"token_counter": 3}, TypeError),
        ({"http_client": object()}, TypeError),
        ({"allow_insecure": "yes"}, TypeError),
        ({"base_url": 3}, TypeError),
    ],
)
def test_bad_options_are_named_in_errors(kind, options, error):
    [name] = options
    with pytest.raises(error, match=name):
        kind(KEY, **options)
    with pytest.raises(error, match=name):
        kind(KEY).with_options(**options)


SECONDS = ["timeout", "total_timeout", "deadline", "max_wait"]
NUMBERS = [*SECONDS, "requests_per_minute", "tokens_per_minute", "retry_budget", "hedge"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_are_accepted(kind, name):
    values = (
        [np.float32(0.5), np.float64(0.5)] if name == "hedge" else [np.int64(5), np.uint8(5), np.float16(5), 5, 5.0]
    )
    for value in values:
        kind(KEY, **{name: value}).with_options(**{name: value})
    kind(KEY, max_retries=np.int64(5), max_concurrency=np.int32(3))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", [*NUMBERS, "max_retries", "max_concurrency"])
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 10**5000, float("nan"), float("-inf"), -1, np.float64("nan"), Decimal(5), Fraction(5, 2),
     True, np.True_, "5", b"5", [5], np.array([5.0]), 5j],
    ids=lambda value: f"{type(value).__name__} of {len(bin(value))} bits" if type(value) is int else repr(value),
)  # fmt: skip
def test_a_value_that_is_no_fitting_number_is_named(kind, name, value):
    if (name == "hedge" and value is True) or (name == "max_wait" and type(value) is int and value > 0):
        return  # a flag, and a time without an end
    expected = TypeError
    if isinstance(value, int | float) and not isinstance(value, bool):
        expected = (
            TypeError if name.startswith("max_") and isinstance(value, float) and name != "max_wait" else ValueError
        )
    with pytest.raises(expected, match=rf"^{name} must be") as caught:
        kind(KEY, **{name: value})
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("phase", ["connect", "read", "write", "pool"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1, 10**400, True, Decimal(5), "5"])
def test_each_phase_of_an_httpx_timeout_is_checked(phase, value):
    with pytest.raises((TypeError, ValueError), match=rf"^timeout\.{phase} must be"):
        Client(KEY, timeout=httpx.Timeout(5, **{phase: value}))
    Client(KEY, timeout=httpx.Timeout(np.int64(5), **{phase: None}))


@pytest.mark.parametrize("name", ["timeout", "total_timeout", "deadline"])
def test_a_very_long_time_is_accepted(driver, scripted_server, name):
    for seconds in (1e300, 10**300, 2**63):
        assert len(driver.create([["a"]], _client={"base_url": scripted_server.base_url, name: seconds})) == 1
    with httpx.Client() as http_client:
        client = Client(KEY, base_url=scripted_server.base_url, http_client=http_client, **{name: 1e300})
        assert len(client.create([["a"]])) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "host",
    [
        "\u212aelvin.example", "localho\u017ft", "127.0.0.\u0661", "\uff11\uff12\uff17.0.0.1", "127\u30020.0.1",
        "ex\u00e4mple.com", "\u2460.example", "a\u00ad.example", "\u202elocalhost", "localhost\u2024example",
        "a..b", ".a", "a" * 64 + ".example", ".".join(["a" * 50] * 6), "[::g]", "[1.2.3.4]", "[::1]x", "[::1%25eth0]",
        "xn--a.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https", "http\u017f"])
def test_a_host_that_could_be_read_as_another_one_is_refused(kind, host, scheme, monkeypatch):
    for insecure in (False, True):
        with pytest.raises(ValueError, match="^base_url must be http") as caught:
            kind(KEY, base_url=f"{scheme}://{host}", allow_insecure=insecure)
        assert str(caught.value).isascii()
    monkeypatch.setenv("PERPLEXITY_BASE_URL", f"{scheme}://{host}")
    with pytest.raises(ValueError, match=r"^base_url \(from PERPLEXITY_BASE_URL\) must be http"):
        kind(KEY)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_base_url_is_read_from_argument_or_environment(scripted_server, driver, monkeypatch, suffix):
    driver.create([["a"]], _client={"base_url": scripted_server.base_url + suffix})
    driver.create([["a"]], _client={"base_url": scripted_server.base_url + "/proxy" + suffix})
    monkeypatch.setenv("PERPLEXITY_BASE_URL", scripted_server.base_url + suffix)
    driver.create([["a"]])
    assert [request["path"] for request in scripted_server.requests] == [
        "/v1/contextualizedembeddings",
        "/proxy/v1/contextualizedembeddings",
        "/v1/contextualizedembeddings",
    ]
    monkeypatch.delenv("PERPLEXITY_BASE_URL")
    assert Client(KEY).base_url == "https://api.perplexity.ai"


def test_default_headers_override_those_of_the_environment(driver, scripted_server, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_CUSTOM_HEADERS", "X-Team: search\nX-Other: one\n\n")
    driver.create([["a"]], _client={"base_url": scripted_server.base_url, "default_headers": {"x-other": "two"}})
    [request] = scripted_server.requests
    assert (request["headers"]["x-team"], request["headers"]["x-other"]) == ("search", "two")
    monkeypatch.setenv("PERPLEXITY_CUSTOM_HEADERS", "Authorization: Bearer nothing")
    with pytest.raises(ValueError, match="PERPLEXITY_CUSTOM_HEADERS"):
        Client(KEY)
