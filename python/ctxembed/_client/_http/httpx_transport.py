"""Transport over httpx: HTTP/1.1 or HTTP/2, asyncio or trio, proxies."""

from __future__ import annotations

import select
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import httpcore
import httpx

from ctxembed._client._runtime import is_asyncio

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Generator, Iterator

    from ctxembed._client._http.credentials import Credentials
    from ctxembed._client._http.environment import Proxy
    from ctxembed._client._http.transport import TransportRequest

__all__ = ["KEEPALIVE", "HttpxTransport", "ThreadedHttpxTransport", "create_client"]

KEEPALIVE: Final = 30.0
"""Seconds for which an idle connection is kept."""

_READ_SIZE: Final = 1 << 18  # bytes that are read from a connection at once


def create_client(context: ssl.SSLContext, *, http2: bool, proxy: Proxy | None) -> httpx.AsyncClient:
    """Create the httpx client of a transport.

    httpx creates the connections where there is a proxy. Others read larger pieces.
    """
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # keeps none
    # The concurrency limiter decides how many requests are in flight; a second limit here could only time out.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE)
    if proxy is not None:
        return httpx.AsyncClient(
            limits=limits, verify=context, http2=http2, proxy=proxy.as_httpx(), trust_env=False, cookies=cookies
        )
    transport = _LargeReadsTransport(context, limits, http2=http2)
    return httpx.AsyncClient(transport=transport, trust_env=False, cookies=cookies)


class HttpxTransport:
    """Send requests through an ``httpx.AsyncClient``.

    Parameters
    ----------
    client : httpx.AsyncClient
        Sends the requests.
    owned : bool
        Whether the client is closed with this transport. The caller's client is not.
    """

    def __init__(self, client: httpx.AsyncClient, *, owned: bool) -> None:
        self._client = client
        self._owned = owned

    async def send(self, request: TransportRequest) -> _HttpxResponse:
        built = _build(self._client, request)
        built.stream = _Body(request.body)
        auth = _BearerAuth(request.credentials)
        return _HttpxResponse(await self._client.send(built, auth=auth, stream=True, follow_redirects=False))

    async def aclose(self) -> None:
        if self._owned:
            await self._client.aclose()


class ThreadedHttpxTransport:
    """Send requests through the caller's ``httpx.Client``, in worker threads.

    A blocked read cannot be interrupted: after a cancellation its thread ends by itself.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    async def send(self, request: TransportRequest) -> _ThreadedResponse:
        built, auth = _build(self._client, request), _BearerAuth(request.credentials)

        def send() -> httpx.Response:
            return self._client.send(built, auth=auth, stream=True, follow_redirects=False)

        return _ThreadedResponse(await _in_thread(send))

    async def aclose(self) -> None:
        """Leave the caller's client open."""


class _HttpxResponse:
    """A response of an ``httpx.AsyncClient``."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = _headers(response)
        self._response = response
        self._connection = _http11_connection(response)
        self._is_read = response.is_stream_consumed  # by a transport or a hook of the caller's, which decompressed it
        self._pieces: AsyncIterator[bytes] = _Body(response.content) if self._is_read else response.aiter_raw()

    async def read(self) -> bytes:
        piece = await anext(self._pieces, b"")
        if not piece:
            self._is_read = True
        return piece

    async def aclose(self) -> None:
        if not self._is_read:
            # A generator that is dropped while suspended is a warning under trio: cancelling ends each of them.
            with anyio.CancelScope() as scope:
                scope.cancel()
                while await anext(self._pieces, b""):
                    pass
        await self._response.aclose()
        if self._is_read and _has_surplus(self._response, self._connection):
            await self._response.extensions["network_stream"].aclose()


class _ThreadedResponse:
    """A response of an ``httpx.Client``."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = _headers(response)
        self._response = response
        self._connection = _http11_connection(response)
        self._is_read = response.is_stream_consumed
        whole = iter([response.content]) if self._is_read else None
        self._pieces: Iterator[bytes] = whole if whole is not None else response.iter_raw(_READ_SIZE)

    async def read(self) -> bytes:
        piece: bytes = await _in_thread(lambda: next(self._pieces, b""))
        if not piece:
            self._is_read = True
        return piece

    async def aclose(self) -> None:
        await _in_thread(self._close)

    def _close(self) -> None:
        self._response.close()
        if self._is_read and _has_surplus(self._response, self._connection):
            self._response.extensions["network_stream"].close()


async def _in_thread(work: Any) -> Any:
    has_started = False

    def run() -> Any:
        nonlocal has_started
        has_started = True
        return work()

    try:
        # The concurrency limiter bounds how many threads there are, so each call brings a limiter of its own.
        return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError:
        if has_started:
            raise
        return work()  # no thread can be started, as while the interpreter shuts down


def _build(client: httpx.AsyncClient | httpx.Client, request: TransportRequest) -> httpx.Request:
    timeouts = request.timeouts
    return client.build_request(
        request.method,
        request.url,
        content=request.body,
        headers=dict(request.headers),
        timeout=httpx.Timeout(connect=timeouts.connect, read=timeouts.read, write=timeouts.write, pool=timeouts.pool),
    )


def _headers(response: httpx.Response) -> dict[str, str]:
    headers = dict(response.headers.items())
    if response.is_stream_consumed:
        headers.pop("content-encoding", None)
    return headers


class _BearerAuth(httpx.Auth):
    """Set the header when the request leaves; ``httpx.Headers`` masks it in its repr."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if authorization := self._credentials.authorization():
            request.headers["Authorization"] = authorization
        yield request


class _Body(httpx.AsyncByteStream):
    """A body in one piece. It is no generator: trio warns of one that a cancelled request leaves behind."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._is_read = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Body(self._body)

    async def __anext__(self) -> bytes:
        if self._is_read:
            raise StopAsyncIteration
        self._is_read = True
        return self._body


# Neither httpx nor httpcore reports bytes that are left over after a response. The next request on that connection
# would receive them as its response. The parser below has them. It is reached through private attributes; where these
# are missing, the connection is closed after each response, which is slower and safe.


def _http11_connection(response: httpx.Response) -> Any:
    """Return httpcore's HTTP/1.1 connection of a response that is still to be read, or None."""
    stream: Any = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream"):
        stream = getattr(stream, name, None)
    return getattr(stream, "_connection", None)


def _has_surplus(response: httpx.Response, connection: Any) -> bool:
    if "network_stream" not in response.extensions or response.http_version == "HTTP/2":
        return False  # a mock, or HTTP/2, whose frames name their request
    parser = getattr(connection, "_h11_state", None)
    return parser is None or bool(parser.trailing_data[0])


class _LargeReadsTransport(httpx.AsyncHTTPTransport):
    """An ``httpx.AsyncHTTPTransport`` whose connections read 256 KB at once instead of 64 KB."""

    def __init__(self, context: ssl.SSLContext, limits: httpx.Limits, *, http2: bool) -> None:
        super().__init__(verify=context, http2=http2, limits=limits, trust_env=False)
        # httpx takes no network backend. Its own pool takes 0.5 ms of CPU more a request of 0.6 MB each way.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http2=http2,
            network_backend=_NetworkBackend(),
        )


class _NetworkBackend(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend() if is_asyncio() else httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        return _NetworkStream(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class _NetworkStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._socket: Any = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max(max_bytes, _READ_SIZE), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable":
            return self._stream.get_extra_info(info)
        # httpcore asks every idle connection for it before each request, and for each the stream below collects all
        # that it knows of its socket.
        if self._socket is None:
            self._socket = self._stream.get_extra_info("socket")
        if self._socket is None or (descriptor := self._socket.fileno()) < 0:
            return True  # closed
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _NetworkStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
