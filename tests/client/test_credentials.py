"""The API key is sent to the base URL only, and no error, log or repr shows it."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import traceback

import ctxembed
import httpx
import pytest
from ctxembed._client import AsyncClient, Client
from rich.console import Console
from rich.traceback import Traceback

from .conftest import KEY, make_documents

CLIENTS = [Client, AsyncClient]


def reachable_strings(start):
    """Return all strings that can be reached from an exception: attributes, causes and contexts."""
    seen, queue, texts = set(), [start], []
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, type) or callable(item):
            continue
        seen.add(id(item))
        if isinstance(item, str | bytes):
            texts.append(item if isinstance(item, str) else item.decode(errors="replace"))
        elif isinstance(item, dict):
            queue += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            queue += item
        elif isinstance(item, BaseException):
            queue += [item.__cause__, item.__context__, item.args, vars(item)]
        elif not isinstance(item, int | float | Client | AsyncClient):
            queue.append(getattr(item, "__dict__", None))
            queue += [getattr(item, name, None) for name in getattr(type(item), "__slots__", ()) if name[:2] != "__"]
    return texts


def rendered(error):
    """Return what logs, pytest and rich show of an exception, with the locals of the client's frames."""
    out = io.StringIO()
    shown = Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, locals_max_string=9999)
    # The tests' own frames hold the key.
    for stack in shown.trace.stacks:
        stack.frames = [frame for frame in stack.frames if "/tests/" not in frame.filename]
    Console(file=out, width=500, color_system=None).print(shown)
    return out.getvalue() + "".join(traceback.format_exception(error)) + repr(error) + str(error)


def test_the_key_is_sent_as_a_bearer_token(driver, scripted_server):
    driver.create([["a"]], _client={"base_url": scripted_server.base_url})
    assert scripted_server.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("kind", CLIENTS)
def test_no_repr_or_attribute_shows_the_key(kind):
    client = kind(KEY)
    texts = [client, vars(client), client._state, vars(client._state.connections)]
    assert KEY not in repr(texts) + str(client)
    assert KEY not in repr(client.with_options(api_key=KEY + "2"))
    out = io.StringIO()
    Console(file=out, width=200).print(vars(client))
    assert KEY not in out.getvalue()


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_cannot_be_pickled_or_copied(kind):
    client = kind(KEY)
    for copier in (pickle.dumps, copy.copy, copy.deepcopy, lambda c: pickle.dumps(c._state.key)):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copier(client)


def test_logs_show_neither_key_nor_texts(driver, server, control, caplog):
    caplog.set_level(1)
    for name in ("ctxembed", "httpx", "httpcore", "httpcore.http11", "httpcore.connection", "asyncio", "trio"):
        caplog.set_level(1, logger=name)
    control.faults("500", "reset", "garbage", {"status": 429, "headers": {"retry-after": "0"}}, "422")
    documents = [["very private text"], ["another private text"]]
    driver.embed(documents, _client={"base_url": server.base_url})
    assert {record.name for record in caplog.records} >= {"ctxembed", "httpx", "httpcore.http11"}
    assert KEY not in "\n".join(f"{record.getMessage()} {record.__dict__!r}" for record in caplog.records)
    messages = "\n".join(record.getMessage() for record in caplog.records if record.name == "ctxembed")
    assert "InternalServerError 500" in messages
    assert "private" not in messages


@pytest.mark.parametrize(
    "plan",
    [
        ["401"],
        ["403"],
        ["500"],
        ["422"],
        ["reset"],
        ["truncated"],
        ["garbage"],
        ["html"],
        ["missing-chunk"],
        [{"delay": 9}],
    ],
    ids=str,
)
def test_no_error_holds_the_key(driver, server, control, plan):
    control.faults(*plan)
    client = {"base_url": server.base_url, "max_retries": 0, "timeout": 0.5}
    with pytest.raises(ctxembed.APIError) as caught:
        driver.create(make_documents(2), _client=client)
    assert KEY not in rendered(caught.value)
    assert not [text for text in reachable_strings(caught.value) if KEY in text]
    assert KEY.encode() not in pickle.dumps(caught.value)

    control.faults(*plan)
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client=client)
    assert KEY not in rendered(caught.value)
    assert not [text for text in reachable_strings(caught.value) if KEY in text]


def test_no_connection_error_holds_the_key(driver):
    with pytest.raises(ctxembed.APIConnectionError) as caught:
        driver.create([["a"]], _client={"base_url": "http://127.0.0.1:1", "max_retries": 0})
    assert KEY not in rendered(caught.value)
    assert not [text for text in reachable_strings(caught.value) if KEY in text]
    cause = caught.value.__cause__
    while cause is not None:
        assert cause.__traceback__ is None
        assert getattr(cause, "_request", None) is None
        cause = cause.__cause__ or cause.__context__


def test_a_key_that_the_server_echoes_is_removed_from_errors(driver, scripted_server):
    status = 401

    def script(request):
        text = f'{{"error": {{"message": "Incorrect API key: {KEY}", "{KEY}": ["{KEY}"]}}}}'
        return status, {"x-echo": request["headers"]["authorization"]}, text.encode()

    scripted_server.script = script
    for status in (401, 400, 500, 200):  # noqa: B007  # the script reads it
        with pytest.raises(ctxembed.APIError) as caught:
            driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0})
        assert not [text for text in reachable_strings(caught.value) if KEY in text]
        assert "***" in repr(vars(caught.value))


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("bad", [KEY + "\n", " " + KEY, KEY + "\x00", KEY + "é", KEY + "鍵", "", "a b"])
def test_a_key_that_a_header_cannot_hold_is_refused_without_showing_it(kind, bad, monkeypatch):
    def check(**options):
        with pytest.raises(ValueError, match="key") as caught:
            kind(**options)
        assert KEY not in rendered(caught.value)

    check(api_key=bad)
    if bad and "\x00" not in bad:
        monkeypatch.setenv("PERPLEXITY_API_KEY", bad)
        check()


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("bad", [KEY.encode(), 3, [KEY]])
def test_a_key_of_another_type_is_refused_without_showing_it(kind, bad):
    with pytest.raises(TypeError, match="api_key") as caught:
        kind(api_key=bad)
    assert KEY not in rendered(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_errors_of_other_options_do_not_show_the_key(kind):
    with pytest.raises(ValueError, match="max_retries") as caught:
        kind(api_key=KEY, max_retries=-1)
    assert KEY not in rendered(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_key_is_read_from_the_environment(kind, monkeypatch):
    with pytest.raises(ctxembed.MissingKeyError, match="PERPLEXITY_API_KEY or PPLX_API_KEY") as caught:
        kind()
    assert isinstance(caught.value, ValueError)
    monkeypatch.setenv("PPLX_API_KEY", "second")
    assert kind()._state.key.get().authorization() == "Bearer second"
    monkeypatch.setenv("PERPLEXITY_API_KEY", "")
    assert kind()._state.key.get().authorization() == "Bearer second"
    monkeypatch.setenv("PERPLEXITY_API_KEY", "first")
    assert kind()._state.key.get().authorization() == "Bearer first"
    assert kind(api_key="given")._state.key.get().authorization() == "Bearer given"


def test_a_key_callable_is_called_before_each_attempt(driver, server, scripted_server, control):
    keys = iter(f"key-{i}" for i in range(9))
    scripted_server.script, good = (lambda request: (500, {}, b"")), scripted_server.script

    with pytest.raises(ctxembed.InternalServerError):
        driver.create(
            [["a"]], _client={"base_url": scripted_server.base_url, "api_key": lambda: next(keys), "max_retries": 1}
        )
    scripted_server.script = good
    driver.create([["a"]], _client={"base_url": scripted_server.base_url, "api_key": lambda: next(keys)})
    sent = [request["headers"]["authorization"] for request in scripted_server.requests]
    assert sent == ["Bearer key-0", "Bearer key-1", "Bearer key-2"]


def test_a_key_callable_is_called_once_more_after_a_401(driver, fresh_server, control_of):
    server = fresh_server(key="new-key")
    keys = ["old-key", "new-key"]
    emb = driver.create(
        [["a"]], _client={"base_url": server.base_url, "api_key": lambda: keys.pop(0), "max_retries": 0}
    )
    assert len(emb) == 1
    assert keys == []
    with pytest.raises(ctxembed.AuthenticationError):
        driver.create([["a"]], _client={"base_url": server.base_url, "api_key": lambda: "old-key"})
    assert control_of(server).stats()["requests"] == 4


def test_an_exception_of_the_key_callable_is_raised_unchanged(driver, scripted_server):
    def vault():
        raise LookupError("the vault is closed")

    with pytest.raises(LookupError, match="the vault is closed"):
        driver.create([["a"]], _client={"base_url": scripted_server.base_url, "api_key": vault})
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client={"base_url": scripted_server.base_url, "api_key": vault})
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(ValueError, match="callable returned") as caught:
        driver.create([["a"]], _client={"base_url": scripted_server.base_url, "api_key": lambda: KEY + "\n"})
    assert KEY not in str(caught.value)
    assert scripted_server.requests == []


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "http://10.0.0.7:8765",
        "http://127.0.0.1.example.com",
        "http://[2001:db8::1]/v1",
        "http://0.0.0.0:80",
        "HTTP://localhost.example.com",
    ],
)
def test_plain_http_to_another_machine_is_refused(kind, url, monkeypatch):
    with pytest.raises(ValueError, match="unencrypted"):
        kind(KEY, base_url=url)
    monkeypatch.setenv("PERPLEXITY_BASE_URL", url)
    with pytest.raises(ValueError, match="unencrypted"):
        kind(KEY)
    assert kind(KEY, allow_insecure=True).base_url == url.removesuffix("/v1")
    with pytest.raises(ValueError, match="unencrypted"):
        kind(KEY, base_url="https://a.example").with_options(base_url=url)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1", "http://localhost", "http://[::1]:80/", "http://127.3.2.1", "http://[::ffff:127.0.0.1]"],
)
def test_plain_http_to_loopback_is_allowed(kind, url):
    assert kind(KEY, base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "a.example",
        "",
        "https://",
        "https://a.example?x=1",
        "https://a.example/#x",
        "https://a.example:99999",
        "https://a.example\\@b.example",
        "https://a.example\n",
        "https://ex ample",
        "//a.example",
    ],
)
def test_a_malformed_base_url_is_refused(kind, url):
    with pytest.raises(ValueError, match="base_url"):
        kind(KEY, base_url=url)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_password_in_the_base_url_is_refused_without_showing_it(kind):
    with pytest.raises(ValueError, match="user name or password") as caught:
        kind(KEY, base_url="https://me:hunter2@a.example")
    assert "hunter2" not in str(caught.value)


def test_requests_to_loopback_bypass_the_proxy_of_the_environment(driver, scripted_server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0})
    assert len(scripted_server.requests) == 1


def test_default_headers_are_sent_and_cannot_set_the_key(scripted_server, driver):
    for headers in ({"Authorization": "Bearer x"}, {"bad name": "x"}, {"x": "a\nb"}, {"x": "é"}):
        with pytest.raises(ValueError, match="default_headers"):
            Client(KEY, default_headers=headers)
    for headers in ({"x": 3}, {3: "x"}, [3], "x"):
        with pytest.raises(TypeError, match="default_headers"):
            Client(KEY, default_headers=headers)
    driver.create([["a"]], _client={"base_url": scripted_server.base_url, "default_headers": {"X-Team": "search"}})
    sent = scripted_server.requests[0]["headers"]
    assert (sent["x-team"], sent["content-type"]) == ("search", "application/json")
    assert sent["user-agent"].startswith("ctxembed/")


def test_no_global_object_keeps_the_key(scripted_server):
    def live_keys():
        gc.collect()
        return {id(item) for item in gc.get_objects() if type(item).__name__ in ("Credentials", "KeySource")}

    before = live_keys()
    client = Client(KEY, base_url=scripted_server.base_url)
    client.embed([["a"]])
    list(client.with_options(max_retries=1).stream([["a"]]))
    assert live_keys() > before
    del client
    assert live_keys() <= before


def test_the_key_is_not_stored_in_an_injected_client(scripted_server):
    with httpx.Client() as http:
        Client(KEY, base_url=scripted_server.base_url, http_client=http).create([["a"]])
        assert "authorization" not in http.headers
    assert scripted_server.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"
