"""The options of both clients: signatures, checks and the environment."""

from __future__ import annotations

import inspect
import re

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
