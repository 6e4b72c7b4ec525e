"""The key is sent where it should go, and is found nowhere else."""

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

from .conftest import KEY, documents_of

CLIENTS = [Client, AsyncClient]


def everything_reachable(start):
    """All strings that can be reached from an exception: attributes, causes, contexts, frames' locals."""
    seen, queue, texts = set(), [start], []
    while queue:
        at = queue.pop()
        if id(at) in seen or isinstance(at, type) or callable(at):
            continue
        seen.add(id(at))
        if isinstance(at, str | bytes):
            texts.append(at if isinstance(at, str) else at.decode(errors="replace"))
        elif isinstance(at, dict):
            queue += [*at.keys(), *at.values()]
        elif isinstance(at, list | tuple | set | frozenset):
            queue += at
        elif isinstance(at, BaseException):
            queue += [at.__cause__, at.__context__, at.args, vars(at)]
        elif not isinstance(at, int | float | Client | AsyncClient):
            queue.append(getattr(at, "__dict__", None))
            queue += [getattr(at, name, None) for name in getattr(type(at), "__slots__", ()) if name[:2] != "__"]
    return texts


def shown(error):
    """All that a log, pytest or rich would show of an exception, locals of our frames included."""
    out = io.StringIO()
    inside = Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, locals_max_string=9999)
    # Frames of this test hold the key as the caller's own business.
    for stack in inside.trace.stacks:
        stack.frames = [frame for frame in stack.frames if "/tests/" not in frame.filename]
    Console(file=out, width=500, color_system=None).print(inside)
    return out.getvalue() + "".join(traceback.format_exception(error)) + repr(error) + str(error)


def test_the_key_is_sent_as_a_bearer_token(driver, scripted):
    driver.create([["a"]], _client={"base_url": scripted.base_url})
    assert scripted.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("kind", CLIENTS)
def test_no_repr_or_attribute_shows_the_key(kind):
    client = kind(KEY)
    seen = repr(client) + str(client) + repr(vars(client)) + repr(client._state) + repr(vars(client._state.connections))
    assert KEY not in seen
    assert KEY not in repr(client.with_options(api_key=KEY + "2"))
    out = io.StringIO()
    Console(file=out, width=200).print(vars(client))
    assert KEY not in out.getvalue()


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_is_neither_pickled_nor_copied(kind):
    client = kind(KEY)
    for copier in (pickle.dumps, copy.copy, copy.deepcopy, lambda c: pickle.dumps(c._state.key)):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copier(client)


def test_no_log_shows_the_key_or_a_text(driver, server, control, caplog):
    caplog.set_level(1)
    for name in ("ctxembed", "httpx", "httpcore", "httpcore.http11", "httpcore.connection", "asyncio", "trio"):
        caplog.set_level(1, logger=name)
    control.faults("500", "reset", "garbage", {"status": 429, "headers": {"retry-after": "0"}}, "422")
    documents = [["very private text"], ["another private text"]]
    driver.embed(documents, _client={"base_url": server.base_url})
    assert {record.name for record in caplog.records} >= {"ctxembed", "httpx", "httpcore.http11"}
    everything = "\n".join(f"{record.getMessage()} {record.__dict__!r}" for record in caplog.records)
    assert KEY not in everything
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name == "ctxembed")
    assert "InternalServerError 500" in ours
    assert "private" not in ours


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
def test_no_error_shows_the_key(driver, server, control, plan):
    control.faults(*plan)
    client = {"base_url": server.base_url, "max_retries": 0, "timeout": 0.5}
    with pytest.raises(ctxembed.APIError) as caught:
        driver.create(documents_of(2), _client=client)
    assert KEY not in shown(caught.value)
    assert not [text for text in everything_reachable(caught.value) if KEY in text]
    assert KEY.encode() not in pickle.dumps(caught.value)

    control.faults(*plan)
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client=client)
    assert KEY not in shown(caught.value)
    assert not [text for text in everything_reachable(caught.value) if KEY in text]


def test_no_connection_error_shows_the_key(driver):
    with pytest.raises(ctxembed.APIConnectionError) as caught:
        driver.create([["a"]], _client={"base_url": "http://127.0.0.1:1", "max_retries": 0})
    assert KEY not in shown(caught.value)
    assert not [text for text in everything_reachable(caught.value) if KEY in text]
    cause = caught.value.__cause__
    while cause is not None:
        assert cause.__traceback__ is None
        assert getattr(cause, "_request", None) is None
        cause = cause.__cause__ or cause.__context__


def test_a_server_that_repeats_the_key_does_not_spread_it(driver, scripted):
    status = 401

    def script(request):
        text = f'{{"error": {{"message": "Incorrect API key: {KEY}", "{KEY}": ["{KEY}"]}}}}'
        return status, {"x-echo": request["headers"]["authorization"]}, text.encode()

    scripted.script = script
    for status in (401, 400, 500, 200):  # noqa: B007  # the script reads it
        with pytest.raises(ctxembed.APIError) as caught:
            driver.create([["a"]], _client={"base_url": scripted.base_url, "max_retries": 0})
        assert not [text for text in everything_reachable(caught.value) if KEY in text]
        assert "***" in repr(vars(caught.value))


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("bad", [KEY + "\n", " " + KEY, KEY + "\x00", KEY + "é", KEY + "鍵", "", "a b"])
def test_a_key_that_no_header_can_hold_is_refused_unshown(kind, bad, monkeypatch):
    def check(**options):
        with pytest.raises(ValueError, match="key") as caught:
            kind(**options)
        assert KEY not in shown(caught.value)

    check(api_key=bad)
    if bad and "\x00" not in bad:
        monkeypatch.setenv("PERPLEXITY_API_KEY", bad)
        check()


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("bad", [KEY.encode(), 3, [KEY]])
def test_a_key_of_another_type_is_refused_unshown(kind, bad):
    with pytest.raises(TypeError, match="api_key") as caught:
        kind(api_key=bad)
    assert KEY not in shown(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_another_bad_option_does_not_show_the_key_either(kind):
    with pytest.raises(ValueError, match="max_retries") as caught:
        kind(api_key=KEY, max_retries=-1)
    assert KEY not in shown(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_key_comes_from_the_environment(kind, monkeypatch):
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


def test_a_callable_is_asked_before_each_attempt(driver, server, scripted, control):
    keys = iter(f"key-{i}" for i in range(9))
    scripted.script, good = (lambda request: (500, {}, b"")), scripted.script

    with pytest.raises(ctxembed.InternalServerError):
        driver.create([["a"]], _client={"base_url": scripted.base_url, "api_key": lambda: next(keys), "max_retries": 1})
    scripted.script = good
    driver.create([["a"]], _client={"base_url": scripted.base_url, "api_key": lambda: next(keys)})
    sent = [request["headers"]["authorization"] for request in scripted.requests]
    assert sent == ["Bearer key-0", "Bearer key-1", "Bearer key-2"]


def test_after_a_401_a_callable_is_asked_once_more(driver, fresh_server, control_of):
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


def test_a_callable_that_fails_is_told_as_it_is(driver, scripted):
    def vault():
        raise LookupError("the vault is closed")

    with pytest.raises(LookupError, match="the vault is closed"):
        driver.create([["a"]], _client={"base_url": scripted.base_url, "api_key": vault})
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed([["a"]], _client={"base_url": scripted.base_url, "api_key": vault})
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(ValueError, match="callable returned") as caught:
        driver.create([["a"]], _client={"base_url": scripted.base_url, "api_key": lambda: KEY + "\n"})
    assert KEY not in str(caught.value)
    assert scripted.requests == []


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
def test_plain_http_to_this_machine_is_fine(kind, url):
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
def test_what_is_no_plain_url_is_refused(kind, url):
    with pytest.raises(ValueError, match="base_url"):
        kind(KEY, base_url=url)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_password_in_the_url_is_refused_unshown(kind):
    with pytest.raises(ValueError, match="user name or password") as caught:
        kind(KEY, base_url="https://me:hunter2@a.example")
    assert "hunter2" not in str(caught.value)


def test_a_proxy_of_the_environment_does_not_see_the_key_on_its_way_to_this_machine(driver, scripted, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    driver.create([["a"]], _client={"base_url": scripted.base_url, "max_retries": 0})
    assert len(scripted.requests) == 1


def test_headers_cannot_carry_another_key(scripted, driver):
    for headers in ({"Authorization": "Bearer x"}, {"bad name": "x"}, {"x": "a\nb"}, {"x": "é"}):
        with pytest.raises(ValueError, match="default_headers"):
            Client(KEY, default_headers=headers)
    for headers in ({"x": 3}, {3: "x"}, [3], "x"):
        with pytest.raises(TypeError, match="default_headers"):
            Client(KEY, default_headers=headers)
    driver.create([["a"]], _client={"base_url": scripted.base_url, "default_headers": {"X-Team": "search"}})
    sent = scripted.requests[0]["headers"]
    assert (sent["x-team"], sent["content-type"]) == ("search", "application/json")
    assert sent["user-agent"].startswith("ctxembed/")


def test_nothing_global_keeps_the_key(scripted):
    def holders():
        gc.collect()
        return {id(held) for held in gc.get_objects() if type(held).__name__ in ("Secret", "KeySource")}

    before = holders()
    client = Client(KEY, base_url=scripted.base_url)
    client.embed([["a"]])
    list(client.with_options(max_retries=1).stream([["a"]]))
    assert holders() > before
    del client
    assert holders() <= before


def test_an_injected_client_gets_the_key_per_request_only(scripted):
    with httpx.Client() as http:
        Client(KEY, base_url=scripted.base_url, http_client=http).create([["a"]])
        assert "authorization" not in http.headers
    assert scripted.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"
