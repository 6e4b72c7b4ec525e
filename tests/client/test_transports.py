"""The transports: selection, the protocol, surplus bytes, errors of each library, and HTTP mocks."""

from __future__ import annotations

import inspect
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import aiohttp
import anyio
import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client
from ctxembed._client._http import aiohttp_errors
from ctxembed._client._http.credentials import Credentials
from ctxembed._client._http.errors import translate

from .conftest import KEY, Driver, make_documents, response_body, vector_of

# Selection


def test_aiohttp_is_the_default():
    assert Client(KEY).transport == "aiohttp"
    assert AsyncClient(KEY).transport == "aiohttp"
    assert Client(KEY, transport="httpx").transport == "httpx"


@pytest.mark.parametrize("options", [{"http2": True}, {"proxy": "http://127.0.0.1:9"}])
def test_http2_and_proxies_select_httpx(options):
    assert Client(KEY, **options).transport == "httpx"
    with pytest.raises(ValueError, match="option of transport='httpx'"):
        Client(KEY, transport="aiohttp", **options)


def test_a_proxy_in_the_environment_selects_httpx(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden@127.0.0.1:9")
    assert Client(KEY).transport == "httpx"
    with pytest.raises(ValueError, match="HTTPS_PROXY") as caught:
        Client(KEY, transport="aiohttp")
    assert "hidden" not in str(caught.value)


def test_trio_selects_httpx(server):
    async def main():
        async with AsyncClient(KEY, base_url=server.base_url) as client:
            assert client.transport == "httpx"
            await client.create([["a"]])
        async with AsyncClient(KEY, base_url=server.base_url, transport="aiohttp") as client:
            with pytest.raises(RuntimeError, match="needs asyncio"):
                await client.create([["a"]])

    anyio.run(main, backend="trio")


def test_without_aiohttp_httpx_is_used_and_errors_name_the_extra(server):
    code = f"""
import sys
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "aiohttp" else find(name, *rest)
import ctxembed
with ctxembed.Client("key-key-key", base_url={server.base_url!r}) as client:
    print(client.transport, len(client.create([["a"]])))
try:
    ctxembed.Client("key-key-key", transport="aiohttp")
except ImportError as error:
    print(error)
print("aiohttp" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "httpx 1",
        "transport='aiohttp' needs aiohttp: pip install 'ctxembed[aiohttp]'",
        "False",
    ]


@pytest.mark.parametrize(
    ("transport", "error"),
    [
        ("requests", ValueError),
        (3, TypeError),
        (None, TypeError),
        (object(), TypeError),
        (httpx.AsyncClient, TypeError),
    ],
)
def test_other_transports_are_refused(transport, error):
    with pytest.raises(error, match="transport must be"):
        Client(KEY, transport=transport)


def test_an_httpx_client_is_refused_as_transport():
    with pytest.raises(TypeError, match="pass it as http_client"):
        AsyncClient(KEY, transport=httpx.AsyncClient())


# Custom transports


class RecordingTransport:
    """Responds to each request with its vectors, in pieces, and counts what is closed."""

    def __init__(self):
        self.requests, self.closed, self.closed_responses = [], 0, 0

    async def send(self, request):
        self.requests.append(request)
        assert request.credentials.authorization() == f"Bearer {KEY}"
        outer = self

        class Response:
            def __init__(self, body):
                self.status = 200
                self.headers = {"content-type": "application/json", "x-request-id": "7"}
                self.pieces = iter([body[start : start + 1000] for start in range(0, len(body), 1000)])

            async def read(self):
                await anyio.sleep(0)
                return next(self.pieces, b"")

            async def aclose(self):
                outer.closed_responses += 1

        return Response(response_body(json.loads(request.body)["input"]))

    async def aclose(self):
        self.closed += 1


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_a_custom_transport_is_used(kind):
    transport = RecordingTransport()
    documents = make_documents(5)
    emb = Driver(kind).embed(documents, _client={"transport": transport})
    np.testing.assert_array_equal(emb.vectors, [vector_of(chunk) for document in documents for chunk in document])
    [request] = transport.requests
    assert request.url == "https://api.perplexity.ai/v1/contextualizedembeddings"
    assert "authorization" not in request.headers
    assert KEY not in repr(request)
    assert transport.closed_responses == 1
    assert transport.closed == 0  # the caller closes it
    assert Client(KEY, transport=transport).transport is transport


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ConnectionResetError("gone"), ctxembed.APIConnectionError),
        (httpx.ReadTimeout("late"), ctxembed.APITimeoutError),
        (ctxembed.APIConnectionError("its own"), ctxembed.APIConnectionError),
        (ZeroDivisionError("a bug"), ZeroDivisionError),
    ],
)
def test_exceptions_of_a_custom_transport_are_translated(raised, expected):
    class Failing(RecordingTransport):
        async def send(self, request):
            raise raised

    with Client(KEY, transport=Failing(), max_retries=0) as client, pytest.raises(expected):
        client.create([["a"]])


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_an_httpx_transport_is_used(kind):
    seen = []

    def handle(request):
        seen.append(request.headers["authorization"])
        return httpx.Response(200, content=response_body(json.loads(request.content)["input"]))

    assert len(Driver(kind).create([["a"]], _client={"transport": httpx.MockTransport(handle)})) == 1
    assert seen == [f"Bearer {KEY}"]


# Bytes after a response


SURPLUS = {
    "a response": lambda body: b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body,
    "half a header": lambda body: b"HTTP/1.1 200 OK\r\ncontent-le",
    "garbage": lambda body: b"\0\1\2 surplus",
    "one byte": lambda body: b"\n",
}


@contextmanager
def surplus_server(surplus, *, later=False, chunked=False):
    """Run a server whose first response is followed by bytes that belong to no request.

    Yields its URL, its connections, and an event that is set when those bytes were sent.
    """
    connections, first, surplus_sent = [], threading.Event(), threading.Event()

    def serve(connection):
        with connection, suppress(OSError):
            stream = connection.makefile("rb")
            while head := stream.readline():
                length = 0
                while (line := stream.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                documents = json.loads(stream.read(length))["input"]
                body = response_body(documents)
                head = b"HTTP/1.1 200 OK\r\n"
                if chunked:
                    payload = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                else:
                    payload = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
                extra = b"" if first.is_set() else SURPLUS[surplus](response_body([["of another request"]]))
                first.set()
                connection.sendall(payload if later else payload + extra)
                if later and extra:
                    time.sleep(0.05)  # so that the client reads the response first
                    connection.sendall(extra)
                surplus_sent.set()

    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections, surplus_sent
    finally:
        listener.close()


CLIENTS = [
    "sync aiohttp",
    "sync httpx",
    "asyncio aiohttp",
    "asyncio httpx",
    "trio httpx",
    "asyncio injected",
    "sync injected",
]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("surplus", SURPLUS)
@pytest.mark.parametrize("client", CLIENTS)
def test_surplus_bytes_are_not_read_as_the_next_response(client, surplus, later, chunked):
    kind, transport = client.split()
    with surplus_server(surplus, later=later, chunked=chunked) as (base_url, connections, surplus_sent):

        async def main():
            http_client = httpx.AsyncClient() if transport == "injected" else None
            options = {"http_client": http_client} if http_client else {"transport": transport}
            async with AsyncClient(KEY, base_url=base_url, **options) as client:
                first = await client.create([["first"]])
                await anyio.to_thread.run_sync(surplus_sent.wait)
                await anyio.sleep(0.01)  # the event loop has read the surplus
                second = await client.create([["second"]])
            if http_client:
                await http_client.aclose()
            return first, second

        if kind == "sync":
            http_client = httpx.Client() if transport == "injected" else None
            options = {"http_client": http_client} if http_client else {"transport": transport}
            with Client(KEY, base_url=base_url, **options) as client:
                first = client.create([["first"]])
                surplus_sent.wait()
                time.sleep(0.01)
                second = client.create([["second"]])
            if http_client:
                http_client.close()
        else:
            first, second = anyio.run(main, backend=kind)
    np.testing.assert_array_equal(first.vectors, [vector_of("first")])
    np.testing.assert_array_equal(second.vectors, [vector_of("second")])
    # aiohttp drops blank lines and an incomplete header with its parser of the response, and keeps the connection.
    if transport != "aiohttp" or surplus in ("a response", "garbage"):
        assert len(connections) == 2


# Errors of each library


def exceptions_of(module):
    found = [getattr(module, name) for name in dir(module)]
    return {kind for kind in found if inspect.isclass(kind) and issubclass(kind, Exception)}


def test_every_httpx_exception_is_translated():
    unrelated = {httpx.CookieConflict}
    request = httpx.Request("POST", "http://127.0.0.1")
    for kind in exceptions_of(httpx) - unrelated:
        if kind is httpx.HTTPStatusError:
            error = kind("why", request=request, response=httpx.Response(500))
        elif kind in (httpx.StreamConsumed, httpx.StreamClosed, httpx.RequestNotRead, httpx.ResponseNotRead):
            error = kind()
        else:
            error = kind("why")
        ours = translate(error, Credentials(KEY))
        expected = ctxembed.APITimeoutError if issubclass(kind, httpx.TimeoutException) else ctxembed.APIConnectionError
        assert type(ours) is expected


def test_every_aiohttp_exception_maps_to_an_httpx_exception():
    unrelated = {"WSMessageTypeError", "WebSocketError", "EofStream", "BadContentDispositionHeader",
                 "BadContentDispositionParam"}  # fmt: skip
    exported = {kind for kind in exceptions_of(aiohttp) if kind.__name__ not in unrelated}
    assert exported == set(aiohttp_errors.BY_CLASS)


def test_aiohttp_exceptions_are_translated_by_class():
    refused = ConnectionRefusedError(111, "refused")
    key = aiohttp.client_reqrep.ConnectionKey("host", 443, True, True, None, None, None)
    errors = {
        aiohttp.ConnectionTimeoutError("late"): httpx.ConnectTimeout,
        aiohttp.SocketTimeoutError("late"): httpx.ReadTimeout,
        aiohttp.ClientConnectorError(key, refused): httpx.ConnectError,
        aiohttp.ServerDisconnectedError(): httpx.ReadError,
        aiohttp.ClientOSError(104, "reset"): httpx.ReadError,
        aiohttp.ClientPayloadError("short"): httpx.ReadError,
        aiohttp.InvalidURL("x://"): httpx.UnsupportedProtocol,
        aiohttp.ClientError("else"): httpx.RemoteProtocolError,
        type("Newer", (aiohttp.ServerDisconnectedError,), {})(): httpx.ReadError,
    }
    untrusted = aiohttp.ClientConnectorCertificateError(key, ssl.SSLCertVerificationError(1, "self-signed"))
    vars(untrusted).pop("_os_error", None)  # as aiohttp 3.11 and 3.12 leave it
    errors[untrusted] = httpx.ConnectError
    for error, kind in errors.items():
        ours = translate(error, Credentials(KEY))
        assert type(ours.__cause__) is kind
        wrapped = httpx.ConnectTimeout("as httpx-aiohttp 0.2 reports most of them")
        wrapped.__cause__ = error
        assert type(translate(wrapped, Credentials(KEY)).__cause__) is kind


def test_other_exceptions_are_not_translated():
    assert isinstance(translate(ConnectionResetError("reset"), Credentials(KEY)), ctxembed.APIConnectionError)
    assert translate(ValueError("a bug"), Credentials(KEY)) is None


# HTTP mocks of users


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_respx_sees_the_requests(kind):
    respx = pytest.importorskip("respx")
    with respx.mock(base_url="https://api.perplexity.ai") as mock:
        route = mock.post("/v1/contextualizedembeddings").respond(200, content=response_body([["a"]]))
        assert len(Driver(kind).create([["a"]], _client={"transport": "httpx"})) == 1
    assert route.call_count == 1
    assert route.calls[0].request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_pytest_httpx_sees_the_requests(kind, request):
    pytest.importorskip("pytest_httpx")
    mock = request.getfixturevalue("httpx_mock")
    mock.add_response(url="https://api.perplexity.ai/v1/contextualizedembeddings", content=response_body([["a"]]))
    assert len(Driver(kind).create([["a"]], _client={"transport": "httpx"})) == 1
    [seen] = mock.get_requests()
    assert json.loads(seen.content)["input"] == [["a"]]


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_vcr_records_and_replays(kind, scripted_server, tmp_path):
    vcr = pytest.importorskip("vcr")
    cassette = str(tmp_path / "cassette.yaml")
    client = {"base_url": scripted_server.base_url, "transport": "httpx"}
    for _ in range(2):
        with vcr.use_cassette(cassette, filter_headers=["authorization"]):
            emb = Driver(kind).create([["a"]], _client=client)
        np.testing.assert_array_equal(emb.vectors, [vector_of("a")])
    assert len(scripted_server.requests) == 1
    assert KEY not in (tmp_path / "cassette.yaml").read_text(encoding="utf-8")
