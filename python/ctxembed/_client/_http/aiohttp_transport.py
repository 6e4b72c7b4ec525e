"""Transport over aiohttp: HTTP/1.1 on asyncio, at the least CPU time a request. Imported when it is used."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from yarl import URL

from ctxembed._client._http.httpx_transport import KEEPALIVE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from ctxembed._client._http.transport import Timeouts, TransportRequest

__all__ = ["AiohttpTransport"]

_READ_SIZE: Final = 1 << 18  # bytes that are buffered of a response: as many as asyncio reads from a socket at once
_FIRST_WRITE: Final = 1 << 16  # bytes of the body that are joined with the headers


class AiohttpTransport:
    """Send requests through an ``aiohttp.ClientSession`` of the running event loop."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts: tuple[Timeouts | None, aiohttp.ClientTimeout | None] = (None, None)
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=KEEPALIVE, ssl=context),
            # The defaults end a response after five minutes, decompress without a limit, and keep cookies.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            read_bufsize=_READ_SIZE,
        )

    async def send(self, request: TransportRequest) -> _AiohttpResponse:
        authorization = request.credentials.authorization()
        response = await self._session.request(
            request.method,
            URL(request.url, encoded=True),  # an escaped "&" stays one
            data=_Payload(request.body) if request.body else None,
            headers={**request.headers, "Authorization": authorization} if authorization else request.headers,
            timeout=self._timeout(request.timeouts),
            allow_redirects=False,
        )
        return _AiohttpResponse(response)

    def _timeout(self, timeouts: Timeouts) -> aiohttp.ClientTimeout | None:
        known, timeout = self._timeouts
        if known is not timeouts:
            timeout = aiohttp.ClientTimeout(
                connect=timeouts.pool, sock_connect=timeouts.connect, sock_read=timeouts.read
            )
            self._timeouts = (timeouts, timeout)
        return timeout

    async def aclose(self) -> None:
        await self._session.close()

    async def abandon(self) -> None:
        """Forget the connections of another event loop. They cannot be closed from here."""
        if self._loop.is_closed():
            await self._session.close()  # touches no connection any more, and silences the warning


class _AiohttpResponse:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = _headers(response.raw_headers)
        self._response = response
        self.read = response.content.readany

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class _Connector(aiohttp.TCPConnector):
    """Reuse no connection that has received bytes which belong to no request.

    aiohttp checks this when a response ends. The bytes may arrive later, while the connection is idle.
    """

    async def connect(self, *args: Any, **options: Any) -> Any:
        while True:
            connection = await super().connect(*args, **options)
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                return connection
            connection.close()


class _Payload(aiohttp.Payload):
    """A body that is not copied behind the headers as a whole, and brings no warning for being large."""

    _autoclose = True  # nothing is open

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: Any) -> None:
        body: bytes = self._value
        await writer.write(body[:_FIRST_WRITE])
        if len(body) > _FIRST_WRITE:
            await writer.write(memoryview(body)[_FIRST_WRITE:])


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = _text(raw_name).lower(), _text(raw_value)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
