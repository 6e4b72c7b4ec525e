"""Connections: the engines below, their errors, reuse, proxies, cookies, TLS, HTTP/2."""

from __future__ import annotations

import asyncio
import gc
import shutil
import ssl
import subprocess
import warnings
from pathlib import Path

import anyio
import ctxembed
import httpx
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, answer, documents_of


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
@pytest.mark.parametrize("fault", ["none", "reset", "truncated", "truncated-chunked", "gzip", "429", "garbage"])
def test_both_transports_bring_the_same(server, control, monkeypatch, kind, fault):
    from ctxembed._client._http import lines as _lines

    from .conftest import Driver, FakeClock

    pytest.importorskip("aiohttp")
    found = []
    for installed in (True, False):
        monkeypatch.setattr(_lines, "_AIOHTTP", installed)
        control.faults(fault, "none")
        events = []
        client = {"base_url": server.base_url, "on_response": events.append}
        emb = Driver(kind).embed(documents_of(9), _client=client, _clock=FakeClock())
        found.append((emb.vectors.tobytes(), [(event.status_code, type(event.error)) for event in events]))
    assert found[0] == found[1]


@pytest.mark.parametrize("fault", ["reset", {"delay": 20}])
def test_both_transports_fail_the_same(server, control, monkeypatch, fault):
    from ctxembed._client._http import lines as _lines

    pytest.importorskip("aiohttp")
    kinds = []
    for installed in (True, False):
        monkeypatch.setattr(_lines, "_AIOHTTP", installed)
        control.faults(fault)
        with (
            Client(KEY, base_url=server.base_url, max_retries=0, timeout=0.4) as client,
            pytest.raises(ctxembed.APIConnectionError) as caught,
        ):
            client.create([["a"]])
        kinds.append(type(caught.value))
        assert KEY not in repr(caught.value)
    assert kinds[0] is kinds[1]


@pytest.mark.parametrize("aiohttp", [True, False])
def test_who_is_not_there_is_named_without_a_word_of_tls(monkeypatch, aiohttp):
    from ctxembed._client._http import lines as _lines

    monkeypatch.setattr(_lines, "_AIOHTTP", aiohttp)
    with (
        Client(KEY, base_url="http://127.0.0.1:1", max_retries=0) as client,
        pytest.raises(ctxembed.APIConnectionError) as caught,
    ):
        client.create([["a"]])
    said = str(caught.value)
    assert "ssl" not in said.lower()
    assert said.count("127.0.0.1" if aiohttp else "All connection attempts failed") == (2 if aiohttp else 1)


@pytest.mark.parametrize("how", ["asyncio.run", "a loop that is just closed"])
@pytest.mark.parametrize("aiohttp", [True, False])
def test_a_client_that_outlives_its_loop_works_in_the_next_without_a_word(server, monkeypatch, caplog, aiohttp, how):
    from ctxembed._client._http import lines as _lines

    monkeypatch.setattr(_lines, "_AIOHTTP", aiohttp)
    client = AsyncClient(KEY, base_url=server.base_url)

    async def once():
        return len(await client.embed(documents_of(5)))

    def run(work):
        if how == "asyncio.run":
            return asyncio.run(work)
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(work)
        finally:
            loop.close()

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert [run(once()), run(once())] == [5, 5]
        run(client.aclose())
        client = None
        gc.collect()
    # Who closes a loop without shutting it down leaves its sockets to the collector, which tells who asks to be told.
    assert not warned or how != "asyncio.run"
    assert not caplog.records


@pytest.mark.parametrize("aiohttp", [True, False])
def test_connections_end_with_the_loop_that_nobody_closed_them_in(server, monkeypatch, aiohttp):
    from ctxembed._client._http import lines as _lines

    monkeypatch.setattr(_lines, "_AIOHTTP", aiohttp)
    client = AsyncClient(KEY, base_url=server.base_url)
    gc.collect()
    descriptors = Path("/proc/self/fd")
    before = len([*descriptors.iterdir()])
    for _ in range(3):
        asyncio.run(client.embed(documents_of(5)))
    assert len([*descriptors.iterdir()]) == before


@pytest.mark.parametrize(("backend", "aiohttp"), [("asyncio", True), ("asyncio", False), ("trio", False)])
def test_a_connection_that_the_server_has_closed_is_not_used_again(scripted, monkeypatch, backend, aiohttp):
    from ctxembed._client._http import lines as _lines

    monkeypatch.setattr(_lines, "_AIOHTTP", aiohttp)
    scripted.server.RequestHandlerClass.timeout = 0.05  # for the next request on a connection

    async def main():
        async with AsyncClient(KEY, base_url=scripted.base_url, max_retries=0) as client:
            first = await client.create([["a"]])
            await anyio.sleep(0.3)
            return len(first), len(await client.create([["b"]]))

    assert anyio.run(main, backend=backend) == (1, 1)


@pytest.mark.parametrize(("backend", "aiohttp"), [("asyncio", True), ("asyncio", False), ("trio", False)])
def test_connections_are_used_again(scripted, monkeypatch, backend, aiohttp):
    from ctxembed._client._http import lines as _lines

    monkeypatch.setattr(_lines, "_AIOHTTP", aiohttp)
    opened, handle = [], scripted.server.process_request
    monkeypatch.setattr(scripted.server, "process_request", lambda *args: (opened.append(args), handle(*args)))

    async def main():
        async with AsyncClient(KEY, base_url=scripted.base_url, max_retries=0) as client:
            for _ in range(4):
                await client.create(documents_of(30))

    anyio.run(main, backend=backend)
    assert len(opened) == 1


def test_each_error_of_httpcore_is_what_httpx_calls_it():
    import httpcore
    from ctxembed._client._http.lines import as_httpx

    names = [name for name in httpcore.__all__ if isinstance(getattr(httpcore, name), type)]
    errors = [getattr(httpcore, name) for name in names if issubclass(getattr(httpcore, name), Exception)]
    for kind in set(errors) - {httpcore.ConnectionNotAvailable}:
        said = as_httpx(kind("why"))
        assert type(said) is getattr(httpx, kind.__name__)
        assert str(said) == "why"
        assert isinstance(said.__cause__, kind)
    assert isinstance(as_httpx(httpcore.ConnectionNotAvailable()), httpx.TransportError)


def test_each_error_of_aiohttp_is_what_httpx_calls_it():
    from ctxembed._client._http.lines import as_httpx

    aiohttp = pytest.importorskip("aiohttp")
    refused = ConnectionRefusedError(111, "refused")
    key = aiohttp.client_reqrep.ConnectionKey("host", 443, True, True, None, None, None)
    said = {
        aiohttp.ConnectionTimeoutError("late"): httpx.ConnectTimeout,
        aiohttp.SocketTimeoutError("late"): httpx.ReadTimeout,
        aiohttp.ClientConnectorError(key, refused): httpx.ConnectError,
        aiohttp.ServerDisconnectedError(): httpx.ReadError,
        aiohttp.ClientOSError(104, "reset"): httpx.ReadError,
        aiohttp.ClientPayloadError("short"): httpx.ReadError,
        aiohttp.InvalidURL("x://"): httpx.UnsupportedProtocol,
        aiohttp.ClientError("else"): httpx.RemoteProtocolError,
    }
    untrusted = aiohttp.ClientConnectorCertificateError(key, ssl.SSLCertVerificationError(1, "self-signed"))
    vars(untrusted).pop("_os_error", None)  # as aiohttp 3.11 and 3.12 leave it
    said[untrusted] = httpx.ConnectError
    for error, kind in said.items():
        assert type(as_httpx(error)) is kind
        wrapped = httpx.ConnectTimeout("what httpx-aiohttp 0.2 calls most of them")
        wrapped.__cause__ = error
        assert type(as_httpx(wrapped)) is kind


def test_what_is_no_error_of_the_network_is_none_of_httpx():
    from ctxembed._client._http.lines import as_httpx

    reset = ConnectionResetError()
    assert as_httpx(reset) is reset
    assert as_httpx(ValueError("a bug")) is None


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_http2_is_an_option(server, kind):
    from .conftest import Driver

    pytest.importorskip("h2")
    # Without TLS there is no negotiation: the option must not break HTTP/1.1.
    assert len(Driver(kind).embed(documents_of(3), _client={"base_url": server.base_url, "http2": True})) == 3


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_a_proxy_is_asked_and_is_no_secret_in_messages(scripted, kind):
    from .conftest import Driver

    # The scripted server takes any path: it plays the proxy, and the host behind it need not exist.
    client = {"base_url": "http://127.0.0.1:9", "proxy": scripted.base_url.replace("//", "//user:hidden@")}
    assert len(Driver(kind).create([["a"]], _client=client)) == 1
    [request] = scripted.requests
    assert request["path"] == "http://127.0.0.1:9/v1/contextualizedembeddings"
    assert "proxy-authorization" in request["headers"]
    with pytest.raises(ValueError, match="proxy must begin") as caught:
        Client(KEY, proxy="ftp://user:hidden@host")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("way", ["proxy", "httpcore", "aiohttp"])
def test_no_cookie_is_kept(scripted, monkeypatch, way):
    from ctxembed._client._http import lines as _lines

    monkeypatch.setattr(_lines, "_AIOHTTP", way == "aiohttp")
    scripted.script = lambda request: (200, {"set-cookie": "session=1; path=/"}, answer(request["input"]))
    through = {"base_url": "http://127.0.0.1:9", "proxy": scripted.base_url}
    with Client(KEY, **(through if way == "proxy" else {"base_url": scripted.base_url})) as client:
        for _ in range(2):
            client.create([["a"]])
    assert not [request for request in scripted.requests if "cookie" in request["headers"]]


def test_a_custom_authority_is_a_file_or_a_context(tmp_path):
    with pytest.raises(ValueError, match="verify"):
        Client(KEY, verify=str(tmp_path / "missing.pem"))
    with pytest.raises(TypeError, match="verify"):
        Client(KEY, verify=False)
    context = ssl.create_default_context()
    assert Client(KEY, verify=context)._engine.pool.connecting.verify is context
    client = Client(KEY, verify=tmp_path)
    assert client._engine.pool.connecting.verify is not None
    assert client.with_options(max_retries=1)._engine.pool is client._engine.pool


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate for this machine that signs itself, and its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("authority")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run([openssl, *command.split(), *files], check=True, capture_output=True, timeout=30)
    return folder


SENDERS = [("sync", True), ("asyncio", True), ("asyncio", False), ("trio", False)]


@pytest.mark.parametrize(
    ("kind", "aiohttp", "http2"), [*((*sender, False) for sender in SENDERS), ("asyncio", True, True)]
)
def test_over_tls_the_server_must_be_trusted(scripted, authority, monkeypatch, kind, aiohttp, http2):
    from ctxembed._client._http import lines as _lines

    from .conftest import Driver

    monkeypatch.setattr(_lines, "_AIOHTTP", aiohttp)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "certificate.pem", authority / "key.pem")
    scripted.server.socket = context.wrap_socket(scripted.server.socket, server_side=True)
    client = {"base_url": scripted.base_url.replace("http:", "https:"), "max_retries": 0, "http2": http2}
    trusting = {**client, "verify": authority / "certificate.pem"}
    assert len(Driver(kind).create(documents_of(200), _client=trusting)) == 200
    with pytest.raises(ctxembed.APIConnectionError, match="(?i)certificate") as caught:
        Driver(kind).create([["a"]], _client=client)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(("kind", "aiohttp"), SENDERS)
def test_a_request_of_megabytes_is_sent_as_any_other(scripted, monkeypatch, kind, aiohttp):
    from ctxembed._client._http import lines as _lines

    from .conftest import Driver

    monkeypatch.setattr(_lines, "_AIOHTTP", aiohttp)
    documents = [[f"{i} " + "long " * 5_000] * 3 for i in range(40)]
    assert len(Driver(kind).create(documents, _client={"base_url": scripted.base_url}).vectors) == 120
    [request] = scripted.requests
    assert request["input"] == documents
    assert "content-length" in request["headers"]
    assert "transfer-encoding" not in request["headers"]
