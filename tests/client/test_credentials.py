"""The API key is sent to the base URL only, and no error, log or repr shows it."""

from __future__ import annotations

import base64
import copy
import gc
import gzip
import html
import io
import pickle
import re
import socket
import threading
import time
import traceback
import urllib.parse
from contextlib import contextmanager, suppress

import anyio
import anyio.to_thread
import ctxembed
import httpx
import pytest
from ctxembed._client import AsyncClient, Client
from rich.console import Console
from rich.traceback import Traceback

from .conftest import KEY, Driver, make_documents, response_body

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


SPELLINGS = {
    "plain": KEY,
    "lower case": KEY.lower(),
    "upper case": KEY.upper(),
    "Bearer": f"Bearer {KEY}",
    "Basic": "Basic " + base64.b64encode(f"user:{KEY}".encode()).decode(),
    "Basic, shifted by one": base64.b64encode(f"u:{KEY}:".encode()).decode(),
    "Basic, shifted by two": base64.urlsafe_b64encode(f"us:{KEY}::".encode()).decode(),
    "quoted for a URL": "".join(f"%{ord(character):02x}" for character in KEY),
    "escaped for JSON": "".join(f"\\u{ord(character):04x}" for character in KEY),
    "escaped for HTML": "".join(f"&#{ord(character)};" for character in KEY),
    "escaped for Python": "".join(f"\\x{ord(character):02x}" for character in KEY),
    "first half": KEY[: len(KEY) // 2] + "...",
    "last half": "..." + KEY[len(KEY) // 2 :],
    "over two lines": KEY[:20] + "\r\n " + KEY[20:],
}


def key_parts(text):
    """Return the parts of the key, of 8 characters, that a text shows in one of the spellings."""
    texts = [text, urllib.parse.unquote(text), html.unescape(text), re.sub(r"\\\\*r|\\\\*n|\\s", "", text)]
    texts.append(re.sub(r"\\\\*[ux](?:00)?([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text))
    for word in set(re.findall(r"[A-Za-z0-9+/_-]{12,}", text)):
        for start in range(4 if len(set(word)) > 4 else 0):
            encoded = word[start:].replace("-", "+").replace("_", "/")
            texts.append(base64.b64decode(encoded[: len(encoded) // 4 * 4]).decode("latin-1"))
    lowered = "\n".join(texts).lower()
    return [KEY[i : i + 8] for i in range(len(KEY) - 7) if KEY[i : i + 8].lower() in lowered]


def assert_hides_the_key(error):
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()).split("  File ")
    frames = [frame for frame in shown if "/tests/" not in frame.split("\n")[0]]
    assert not key_parts("\n".join([*frames, *reachable_strings(error)]))


@contextmanager
def raw_server(respond):
    """Run a server that sends the bytes of ``respond(key as it was received)`` and closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), connection, connection.makefile("rb") as stream:
                length = 0
                while line := stream.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                for piece in respond():
                    connection.sendall(piece)
                    time.sleep(0.01)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


TRANSPORTS = [("sync", "aiohttp"), ("sync", "httpx"), ("asyncio", "aiohttp"), ("asyncio", "httpx"), ("trio", "httpx")]


@pytest.mark.parametrize(("kind", "transport"), [TRANSPORTS[0], *TRANSPORTS[3:]])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("where", ["text", "json", "header", "header name", "invalid 200", "content-encoding"])
def test_a_key_that_the_server_spells_in_its_own_way_is_removed(scripted_server, kind, transport, spelling, where):
    shown = SPELLINGS[spelling]
    line = shown.replace("\r\n", "")
    events = []

    def script(request):
        if where == "header":
            return 401, {"x-echo": line}, b"{}"
        if where == "header name":
            name = re.sub(r"[^A-Za-z0-9-]", "", line)
            return 401, {f"x-{name}": "1"}, b"{}"
        if where == "content-encoding":
            return 200, {"content-encoding": line}, b"{}"
        if where == "json":
            text = line.replace("\\x", "").replace("\r\n", "")
            return 400, {}, f'{{"detail": [{{"msg": "{text}", "loc": ["{text}"]}}]}}'.encode()
        return (200 if where == "invalid 200" else 500), {}, f"wrong key {shown}.".encode()

    scripted_server.script = script
    client = {"base_url": scripted_server.base_url, "max_retries": 0, "transport": transport}
    client["on_response"] = events.append
    with pytest.raises(ctxembed.APIError) as caught:
        Driver(kind).create([["a"]], _client=client)
    if where == "json" and "\\x" in shown:
        return  # no JSON
    if where == "header name":
        assert KEY[8:30].lower() not in repr(caught.value.headers)
        return
    assert_hides_the_key(caught.value)
    [event] = events
    assert not key_parts(repr(event))


@pytest.mark.parametrize(("kind", "transport"), [TRANSPORTS[0], *TRANSPORTS[3:]])
@pytest.mark.parametrize("length", range(65_536 - 49, 65_536, 12))
def test_a_key_at_the_cut_of_a_long_body_is_removed(scripted_server, kind, transport, length):
    for status, cut in ((500, 65_536), (500, 8 * 1024), (500, 200), (200, 500), (200, 16 * 1024)):
        body = b"x" * (cut - 65_536 + length) + KEY.encode() + b"y" * 60_000
        scripted_server.script = lambda request, status=status, body=body: (status, {}, body)
        with pytest.raises(ctxembed.APIError) as caught:
            Driver(kind).create(
                [["a"]],
                _client={"base_url": scripted_server.base_url, "max_retries": 0, "transport": transport},
            )
        assert_hides_the_key(caught.value)


def test_a_key_that_resembles_headers_changes_no_behaviour(driver, scripted_server):
    body = gzip.compress(response_body([["a"]]))
    scripted_server.script = lambda request: (200, {"content-encoding": "gzip", "x-request-id": "7"}, body)
    client = {"base_url": scripted_server.base_url, "api_key": "x-request-id-gzip-identity"}
    assert len(driver.create([["a"]], _client=client)) == 1
    scripted_server.script = lambda request: (400, {"content-encoding": "identity", "x-request-id": "7"}, b"{}")
    with pytest.raises(ctxembed.BadRequestError) as caught:
        driver.create([["a"]], _client=client)
    assert caught.value.request_id == "7"


MALFORMED = {
    "status line": [b"HTTP/1.1 " + KEY.encode() + b"\r\n\r\n"],
    "no HTTP": [b"invalid key " + KEY.encode() + b"\r\n\r\n"],
    "status line in two pieces": [b"HTTP/1.1 2" + KEY[:20].encode(), KEY[20:].encode() + b"\r\n\r\n"],
    "header": [b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b"\0: 1\r\n\r\n"],
    "header value": [b"HTTP/1.1 200 OK\r\nx: \0" + KEY.encode() + b"\r\n\r\n"],
    "header in lower case": [b"HTTP/1.1 200 OK\r\nx: \0bearer " + KEY.lower().encode() + b"\r\n\r\n"],
    "content length": [b"HTTP/1.1 200 OK\r\ncontent-length: " + KEY.encode() + b"\r\n\r\n"],
    "transfer coding": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: " + KEY.encode() + b"\r\n\r\n"],
    "chunk header": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + KEY.encode() + b"\r\n\r\n"],
    "long header": [b"HTTP/1.1 200 OK\r\nx: " + KEY.encode() * 3000 + b"\r\n\r\n"],
}


@pytest.mark.parametrize(("kind", "transport"), TRANSPORTS)
@pytest.mark.parametrize("part", MALFORMED)
def test_a_key_in_a_malformed_response_is_removed_from_error_and_cause(kind, transport, part):
    with raw_server(lambda: MALFORMED[part]) as base_url, pytest.raises(ctxembed.APIError) as caught:
        Driver(kind).create([["a"]], _client={"base_url": base_url, "max_retries": 0, "transport": transport})
    assert_hides_the_key(caught.value)
    assert not key_parts(repr(pickle.dumps(caught.value)))


# Exceptions that end a call


@pytest.mark.parametrize(("kind", "transport"), TRANSPORTS[2:])
@pytest.mark.parametrize("method", ["create", "embed"])
@pytest.mark.parametrize("when", ["before the response", "in the body"])
def test_a_cancelled_call_does_not_show_the_key_in_the_locals_of_frames(kind, transport, method, when):
    started = threading.Event()

    def respond():
        if when == "in the body":
            yield b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nx-echo: " + KEY.encode() + b"\r\n\r\n{"
        started.set()
        time.sleep(0.5)
        yield b""

    raised = []

    async def call(client):
        try:
            await getattr(client, method)([["a"]])
        except BaseException as error:
            raised.append(error)
            raise

    async def main():
        async with AsyncClient(KEY, base_url=base_url, transport=transport) as client:
            with anyio.move_on_after(10) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(call, client)
                    await anyio.to_thread.run_sync(started.wait)
                    await anyio.sleep(0.05)
                    group.cancel_scope.cancel()
            assert not scope.cancelled_caught

    with raw_server(respond) as base_url:
        anyio.run(main, backend=kind)
    [error] = raised
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "exchange.py" in shown or method == "embed"  # where it happened is still there
    ours = "\n".join(part for part in shown.split("  File ") if "/tests/" not in part.split("\n")[0])
    assert not key_parts(ours)


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, SystemExit, ctxembed.APIConnectionError])
def test_an_exception_of_a_custom_transport_does_not_show_the_key(kind, exception):
    class Failing:
        async def send(self, request):
            header = request.credentials.authorization()
            try:
                raise ValueError(f"refused {header}")
            except ValueError as error:
                raise exception(f"bad header {header!r}") from error

        async def aclose(self):
            pass

    if kind == "sync" and not issubclass(exception, Exception):
        pytest.skip("the sync client's loop does not run in this thread")
    with pytest.raises(exception, match=r"bad header 'Bearer \*\*\*'") as caught:
        Driver(kind).create([["a"]], _client={"transport": Failing(), "max_retries": 0})
    assert isinstance(caught.value.__cause__, ValueError)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "in send" in shown
    frames = shown.split("  File ")
    ours = [part for part in frames if "/tests/" not in part.split("\n")[0] or "in send" in part.split("\n")[0]]
    assert not key_parts("\n".join(ours))


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
