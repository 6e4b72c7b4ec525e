"""Connections: errors, reuse, event loops, proxies, cookies, TLS, HTTP/2."""

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

from .conftest import KEY, Driver, FakeClock, make_documents, response_body

TRANSPORTS = ["aiohttp", "httpx"]
COMBINATIONS = [("sync", "aiohttp"), ("asyncio", "aiohttp"), ("asyncio", "httpx"), ("trio", "httpx")]


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
@pytest.mark.parametrize("fault", ["none", "reset", "truncated", "truncated-chunked", "gzip", "429", "garbage"])
def test_both_transports_give_the_same_result(server, control, kind, fault):
    results = []
    for transport in TRANSPORTS:
        control.faults(fault, "none")
        events = []
        client = {"base_url": server.base_url, "on_response": events.append, "transport": transport}
        emb = Driver(kind).embed(make_documents(9), _client=client, _clock=FakeClock())
        results.append((emb.vectors.tobytes(), [(event.status_code, type(event.error)) for event in events]))
    assert results[0] == results[1]


@pytest.mark.parametrize("fault", ["reset", {"delay": 20}])
def test_both_transports_raise_the_same_error(server, control, fault):
    kinds = []
    for transport in TRANSPORTS:
        control.faults(fault)
        options = {"base_url": server.base_url, "max_retries": 0, "timeout": 0.4, "transport": transport}
        with Client(KEY, **options) as client, pytest.raises(ctxembed.APIConnectionError) as caught:
            client.create([["a"]])
        kinds.append(type(caught.value))
        assert KEY not in repr(caught.value)
    assert kinds[0] is kinds[1]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_error_of_a_refused_connection_names_the_host(transport):
    with (
        Client(KEY, base_url="http://127.0.0.1:1", max_retries=0, transport=transport) as client,
        pytest.raises(ctxembed.APIConnectionError) as caught,
    ):
        client.create([["a"]])
    message = str(caught.value)
    assert "ssl" not in message.lower()
    assert ("127.0.0.1" if transport == "aiohttp" else "All connection attempts failed") in message


@pytest.mark.parametrize("how", ["asyncio.run", "a loop that is only closed"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_works_in_a_second_event_loop_without_warnings(server, caplog, transport, how):
    client = AsyncClient(KEY, base_url=server.base_url, transport=transport)

    async def once():
        return len(await client.embed(make_documents(5)))

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
    # A loop that is closed without a shutdown leaves its sockets open. The garbage collector may warn of them.
    assert not warned or how != "asyncio.run"
    assert not caplog.records


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_connections_close_with_their_event_loop(server, transport):
    client = AsyncClient(KEY, base_url=server.base_url, transport=transport)
    gc.collect()
    descriptors = Path("/proc/self/fd")
    before = len([*descriptors.iterdir()])
    for _ in range(3):
        asyncio.run(client.embed(make_documents(5)))
    assert len([*descriptors.iterdir()]) == before


@pytest.mark.parametrize(("kind", "transport"), COMBINATIONS[1:])
def test_a_connection_that_the_server_closed_is_not_reused(scripted_server, kind, transport):
    scripted_server.server.RequestHandlerClass.timeout = 0.05  # seconds until an idle connection is closed

    async def main():
        options = {"base_url": scripted_server.base_url, "max_retries": 0, "transport": transport}
        async with AsyncClient(KEY, **options) as client:
            first = await client.create([["a"]])
            await anyio.to_thread.run_sync(scripted_server.closed.wait)
            await anyio.sleep(0.01)  # the event loop has read the end of the connection
            return len(first), len(await client.create([["b"]]))

    assert anyio.run(main, backend=kind) == (1, 1)


@pytest.mark.parametrize(("kind", "transport"), COMBINATIONS[1:])
def test_connections_are_reused(scripted_server, kind, transport):
    async def main():
        options = {"base_url": scripted_server.base_url, "max_retries": 0, "transport": transport}
        async with AsyncClient(KEY, **options) as client:
            for _ in range(4):
                await client.create(make_documents(30))

    anyio.run(main, backend=kind)
    assert scripted_server.connections == 1


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_http2_falls_back_to_http1_without_tls(server, kind):
    pytest.importorskip("h2")
    # Without TLS there is no negotiation: the option must not break HTTP/1.1.
    assert len(Driver(kind).embed(make_documents(3), _client={"base_url": server.base_url, "http2": True})) == 3


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_requests_go_through_the_proxy_and_errors_hide_its_password(scripted_server, kind):
    # The scripted server is the proxy: it accepts any path, and the host behind it need not exist.
    client = {"base_url": "http://127.0.0.1:9", "proxy": scripted_server.base_url.replace("//", "//user:hidden@")}
    assert len(Driver(kind).create([["a"]], _client=client)) == 1
    [request] = scripted_server.requests
    assert request["path"] == "http://127.0.0.1:9/v1/contextualizedembeddings"
    assert "proxy-authorization" in request["headers"]
    with pytest.raises(ValueError, match="proxy must begin") as caught:
        Client(KEY, proxy="ftp://user:hidden@host")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("way", ["proxy", "httpx", "aiohttp"])
def test_cookies_are_not_stored(scripted_server, way):
    scripted_server.script = lambda request: (200, {"set-cookie": "session=1; path=/"}, response_body(request["input"]))
    through = {"base_url": "http://127.0.0.1:9", "proxy": scripted_server.base_url}
    with Client(
        KEY, **(through if way == "proxy" else {"base_url": scripted_server.base_url, "transport": way})
    ) as client:
        for _ in range(2):
            client.create([["a"]])
    assert not [request for request in scripted_server.requests if "cookie" in request["headers"]]


def test_verify_takes_a_path_or_a_context(tmp_path):
    with pytest.raises(ValueError, match="verify"):
        Client(KEY, verify=str(tmp_path / "missing.pem"))
    with pytest.raises(TypeError, match="verify"):
        Client(KEY, verify=False)
    context = ssl.create_default_context()
    assert Client(KEY, verify=context)._state.connections.settings.verify is context
    client = Client(KEY, verify=tmp_path)
    assert client._state.connections.settings.verify is not None
    assert client.with_options(max_retries=1)._state.connections is client._state.connections


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A folder with a self-signed certificate for this machine, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("authority")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run([openssl, *command.split(), *files], check=True, capture_output=True, timeout=30)
    return folder


@pytest.mark.parametrize(
    ("kind", "transport", "http2"),
    [*((*combination, False) for combination in COMBINATIONS), ("asyncio", "httpx", True)],
)
def test_an_untrusted_certificate_is_refused(scripted_server, authority, kind, transport, http2):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "certificate.pem", authority / "key.pem")
    scripted_server.server.socket = context.wrap_socket(scripted_server.server.socket, server_side=True)
    base_url = scripted_server.base_url.replace("http:", "https:")
    client = {"base_url": base_url, "max_retries": 0, "http2": http2, "transport": transport}
    trusting = {**client, "verify": authority / "certificate.pem"}
    assert len(Driver(kind).create(make_documents(200), _client=trusting)) == 200
    with pytest.raises(ctxembed.APIConnectionError, match="(?i)certificate") as caught:
        Driver(kind).create([["a"]], _client=client)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert len(scripted_server.requests) == 1


@pytest.mark.parametrize(("kind", "transport"), COMBINATIONS)
def test_a_large_request_has_a_content_length(scripted_server, kind, transport):
    documents = [[f"{i} " + "long " * 5_000] * 3 for i in range(40)]
    client = {"base_url": scripted_server.base_url, "transport": transport}
    assert len(Driver(kind).create(documents, _client=client).vectors) == 120
    [request] = scripted_server.requests
    assert request["input"] == documents
    assert "content-length" in request["headers"]
    assert "transfer-encoding" not in request["headers"]
