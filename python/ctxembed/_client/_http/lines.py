"""Connections of our own: the engines below httpx, without httpx's objects around each request.

httpx's client merges options, follows redirects and keeps cookies; its transports wrap each request, answer and piece.
None of that is wanted here, and it takes more time than what moves the bytes. So httpcore, which is what httpx itself
sends with, is driven directly, or aiohttp where its extra is installed. Through a proxy it is httpx all the same.
"""

from __future__ import annotations

import asyncio
import importlib.util
import select
import ssl
import sys
import urllib.request
from dataclasses import dataclass, field
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpcore
import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from ctxembed._client._http.credentials import Secret

__all__ = ["Answer", "Connecting", "Line", "Once", "Streamed", "as_httpx"]

_KEEPALIVE: Final = 30.0
_PIECE: Final = 1 << 18  # bytes of a body that are taken at once: what asyncio takes from a socket
_FIRST: Final = 1 << 16  # bytes of a body that go out with the headers
_AIOHTTP: Final = importlib.util.find_spec("aiohttp") is not None


class Answer:
    """The head of an answer, and its body to come.

    Parameters
    ----------
    status : int
        HTTP status.
    headers : dict of str to str
        Names in lower case.
    """

    __slots__ = ("headers", "status")

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers

    async def read(self, take: Callable[[bytes], bool]) -> None:
        """Read the body as it comes, packed as it is; ``take`` says whether more is wanted."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Give the connection back, or end it where the body was not read to its end."""
        raise NotImplementedError


class Streamed(Answer):
    """An answer whose body is an asynchronous iterator."""

    __slots__ = ("_close", "_pieces")

    def __init__(
        self,
        status: int,
        headers: dict[str, str],
        pieces: AsyncIterable[bytes],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(status, headers)
        self._pieces = pieces
        self._close = close

    async def read(self, take: Callable[[bytes], bool]) -> None:
        # Leaving the loop would leave generators behind, which trio minds. Cancelling ends each of them.
        with anyio.CancelScope() as reading:
            async for piece in self._pieces:
                if not take(piece):
                    reading.cancel()

    async def aclose(self) -> None:
        await self._close()


class Once(httpx.AsyncByteStream):
    """A request's body, iterated without a generator: trio minds one that a cancelled request leaves behind."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._given = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return Once(self._body)

    async def __anext__(self) -> bytes:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        return self._body


class Line:
    """What sends a request and brings its answer."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, secret: Secret, timeout: httpx.Timeout
    ) -> Answer:
        """Send a request. Raises what the engine below raises: see :func:`as_httpx`."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the connections."""
        raise NotImplementedError

    async def abandon(self) -> None:
        """Forget the connections of an event loop that is not this one, which cannot be closed from here."""


def as_httpx(error: Exception) -> Exception | None:
    """Return what httpx says for an error of the network; None where it is none."""
    aiohttp = sys.modules.get("aiohttp")
    cause = error.__cause__
    if aiohttp is not None and isinstance(error, httpx.ConnectTimeout) and isinstance(cause, aiohttp.ClientError):
        error = cause  # a client of the caller's over httpx-aiohttp, which calls any broken connection so (0.2)
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError):
        return error
    kind: type[Exception]
    text = str(error)
    if type(error).__module__.startswith("httpcore"):
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)  # each has its like there, by its name
    elif aiohttp is None or not isinstance(error, aiohttp.ClientError):
        return error if isinstance(error, OSError) else None
    elif isinstance(error, TimeoutError):
        kind = httpx.ConnectTimeout if type(error).__name__ == "ConnectionTimeoutError" else httpx.ReadTimeout
    elif isinstance(error, aiohttp.ClientConnectorError):
        kind = httpx.ConnectError
        # Its own words name the TLS settings, over plain http too.
        below = getattr(error, "certificate_error", None) or error.os_error  # aiohttp 3.11 has one or the other
        text = f"cannot connect to {error.host}:{error.port}: {below}"
    elif isinstance(error, aiohttp.InvalidURL):
        kind = httpx.UnsupportedProtocol
    elif isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        kind = httpx.ReadError
    else:
        kind = httpx.RemoteProtocolError
    said = kind(text)
    said.__cause__ = error
    return said


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Read an answer's headers; what comes more than once is joined."""
    found: dict[str, str] = {}
    for name, value in raw:
        key, text = _text(name).lower(), _text(value)
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


@lru_cache(maxsize=64)
def _url(url: str) -> tuple[httpcore.URL, bytes]:
    """Parse a URL, and make its ``Host`` header."""
    parsed = httpx.URL(url)
    target = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
    return target, parsed.netloc


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that takes more at once than the 64 KB that httpcore asks for."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._socket: Any = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max(max_bytes, _PIECE), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable":
            return self._stream.get_extra_info(info)
        # Asked of every idle connection before each request. What lies below asks the socket for all that it can tell.
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
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))


class _Network(httpcore.AsyncNetworkBackend):
    """Makes such connections."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend() if _is_asyncio() else httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._network.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class HttpcoreLine(Line):
    """Over httpcore: HTTP/1.1 or HTTP/2, on asyncio and on trio."""

    def __init__(self, context: ssl.SSLContext, *, http2: bool) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            # How many are in flight is the gate's decision; a second limit here could only time out.
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=_KEEPALIVE,
            http2=http2,
            network_backend=_Network(),
        )

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, secret: Secret, timeout: httpx.Timeout
    ) -> Answer:
        target, host = _url(url)
        fields = [
            (b"Host", host),
            *((name.encode(), value.encode()) for name, value in headers.items()),
            (b"Authorization", secret.header().encode()),
            (b"Content-Length", str(len(body)).encode()),
        ]
        request = httpcore.Request(
            b"POST", target, headers=fields, content=Once(body), extensions={"timeout": timeout.as_dict()}
        )
        response = await self._pool.handle_async_request(request)
        stream: Any = response.stream
        return Streamed(response.status, _headers(response.headers), stream, stream.aclose)

    async def aclose(self) -> None:
        await self._pool.aclose()


class _AiohttpAnswer(Answer):
    """An answer that aiohttp brings."""

    __slots__ = ("_response",)

    def __init__(self, response: Any) -> None:
        super().__init__(response.status, _headers(response.raw_headers))
        self._response = response

    async def read(self, take: Callable[[bytes], bool]) -> None:
        readany = self._response.content.readany
        while (piece := await readany()) and take(piece):
            pass

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


@lru_cache(maxsize=1)
def _payload() -> Callable[[bytes], Any]:
    """Make the type of a request's body for aiohttp: its own join a body with the headers, and warn of a large one."""
    import aiohttp

    class Payload(aiohttp.Payload):
        _autoclose = True  # nothing is open

        def __init__(self, body: bytes) -> None:
            super().__init__(body)
            self._size = len(body)

        def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
            return str(self._value, encoding, errors)

        async def write(self, writer: Any) -> None:
            body: bytes = self._value
            await writer.write(body[:_FIRST])  # is copied behind the headers
            if len(body) > _FIRST:
                await writer.write(memoryview(body)[_FIRST:])

    return Payload


class AiohttpLine(Line):
    """Over aiohttp: HTTP/1.1 on asyncio."""

    def __init__(self, context: ssl.SSLContext) -> None:
        import aiohttp

        self._loop = asyncio.get_running_loop()
        self._timeouts: tuple[httpx.Timeout | None, Any] = (None, None)
        self._payload = _payload()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE, ssl=context),
            # Its own defaults would end a long answer after five minutes, unpack it without a limit, and keep a
            # server's cookies.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            read_bufsize=_PIECE,
        )

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, secret: Secret, timeout: httpx.Timeout
    ) -> Answer:
        response = await self._session.post(
            url,
            data=self._payload(body),
            headers={**headers, "Authorization": secret.header()},
            timeout=self._timeout(timeout),
            allow_redirects=False,
        )
        return _AiohttpAnswer(response)

    def _timeout(self, timeout: httpx.Timeout) -> Any:
        """Say the same in aiohttp's words."""
        known, said = self._timeouts
        if known is not timeout:
            import aiohttp

            said = aiohttp.ClientTimeout(connect=timeout.pool, sock_connect=timeout.connect, sock_read=timeout.read)
            self._timeouts = (timeout, said)
        return said

    async def aclose(self) -> None:
        await self._session.close()

    async def abandon(self) -> None:
        if self._loop.is_closed():
            await self._session.close()  # touches no connection any more, and keeps it from complaining


@lru_cache(maxsize=1)
def _keep_memory() -> None:
    """Let the allocator keep the memory of one request for the next.

    glibc returns what is free beyond twice the largest mapped block that was ever freed, and mapped blocks at once. A
    request's body and answer, half a megabyte each, would be mapped and touched anew each time, which is 40% of the
    CPU time of a request over aiohttp. Freeing one block that nobody has touched makes it keep up to 16 MB.
    """
    bytearray(8 << 20)


@dataclass(frozen=True, slots=True)
class Connecting:
    """How connections of our own are made.

    Parameters
    ----------
    trust_env : bool
        Whether proxies and certificates come from the environment. Not so over plain http to this machine.
    http2 : bool
        Whether HTTP/2 is offered.
    proxy : str or None
        A proxy's URL.
    verify : ssl.SSLContext or None
        What is trusted in place of the public authorities.
    """

    trust_env: bool
    http2: bool = False
    proxy: str | None = field(default=None, repr=False)
    verify: ssl.SSLContext | None = None

    def open(self) -> Line | httpx.AsyncClient:
        """Make what requests are sent through, in the event loop that runs."""
        _keep_memory()
        if self.verify is not None:
            context = self.verify
        elif self.trust_env:
            context = httpx.create_ssl_context()
        else:
            # No TLS happens on the way to this very machine over plain http: a context that trusts no authority will
            # do. Loading them takes 16.5 ms of making a client, which is 0.12 ms without (medians of 15, one run).
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.proxy is not None or (self.trust_env and urllib.request.getproxies()):
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE)
            return httpx.AsyncClient(
                limits=limits,
                verify=context,
                http2=self.http2,
                proxy=self.proxy,
                trust_env=self.trust_env,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none is kept
            )
        if _AIOHTTP and not self.http2 and _is_asyncio():
            return AiohttpLine(context)
        return HttpcoreLine(context, http2=self.http2)


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
