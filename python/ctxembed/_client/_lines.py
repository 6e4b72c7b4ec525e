"""Connections of our own: httpx's transports without httpx's client around them.

A client's redirects, cookies, event hooks, authentication flows and merged options are not wanted here and take more
time than a request's transport. Where the environment names proxies a client is used all the same: it reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import ssl
import urllib.request
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ctxembed._client._secret import Secret

__all__ = ["Connecting", "Line", "Once"]

_KEEPALIVE: Final = 30.0
_PIECE: Final = 1 << 18  # bytes of a body that are taken at once, where the transport asks how many
_AIOHTTP: Final = importlib.util.find_spec("httpx_aiohttp") is not None


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


@lru_cache(maxsize=64)
def _url(url: str) -> tuple[httpx.URL, bytes]:
    """Parse a URL, and make its ``Host`` header."""
    parsed = httpx.URL(url)
    return parsed, parsed.netloc


class Line:
    """A transport and how to speak to it.

    Parameters
    ----------
    transport : httpx.AsyncBaseTransport
        Closed with this.
    whole : bool
        Whether it wants the body as bytes, and not as a stream.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, whole: bool) -> None:
        self._transport = transport
        self._whole = whole

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, secret: Secret, timeout: httpx.Timeout
    ) -> httpx.Response:
        """Send a request; the answer's body is still to come.

        Raises
        ------
        httpx.HTTPError
            As the transport does.
        """
        parsed, host = _url(url)
        fields = [
            (b"Host", host),
            *((name.encode(), value.encode()) for name, value in headers.items()),
            (b"Authorization", secret.header().encode()),
            (b"Content-Length", str(len(body)).encode()),
        ]
        request = httpx.Request(
            "POST",
            parsed,
            headers=fields,
            extensions={"timeout": timeout.as_dict()},
            content=body if self._whole else None,
            stream=None if self._whole else Once(body),
        )
        with _as_httpx():
            response = await self._transport.handle_async_request(request)
        response.request = request
        if self._whole:
            setattr(response.stream, "CHUNK_SIZE", _PIECE)  # noqa: B010  # an attribute of httpx_aiohttp's
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


@lru_cache(maxsize=1)
def _keep_memory() -> None:
    """Let the allocator keep the memory of one request for the next.

    glibc returns what is free beyond twice the largest mapped block that was ever freed, and mapped blocks at once. A
    request's body and answer, half a megabyte each, would be mapped and touched anew each time, which is 40% of the
    CPU time of a request over aiohttp. Freeing one block that nobody has touched makes it keep up to 16 MB.
    """
    bytearray(8 << 20)


@contextlib.contextmanager
def _as_httpx() -> Any:
    """Turn what a transport did not translate into what httpx says."""
    try:
        yield
    except (httpx.HTTPError, OSError):
        raise
    except Exception as error:
        if not type(error).__module__.startswith("aiohttp"):
            raise
        raise httpx.RemoteProtocolError(str(error)) from error


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
        # How many are in flight is the gate's decision; a second limit here could only time out.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE)
        verify: ssl.SSLContext | bool = True
        if self.verify is not None:
            verify = self.verify
        elif not self.trust_env:
            # No TLS happens on the way to this very machine over plain http: a context that trusts no authority will
            # do. Loading them takes 16.5 ms of making a client, which is 0.12 ms without (medians of 15, one run).
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.trust_env and self.proxy is None and urllib.request.getproxies():
            return httpx.AsyncClient(limits=limits, verify=verify, http2=self.http2, follow_redirects=False)
        if _AIOHTTP and not self.http2 and self.proxy is None and _is_asyncio():
            return Line(_aiohttp_transport(verify, self.trust_env), whole=True)
        transport = httpx.AsyncHTTPTransport(
            verify=verify, trust_env=self.trust_env, http2=self.http2, limits=limits, proxy=self.proxy
        )
        return Line(transport, whole=False)


def _aiohttp_transport(verify: ssl.SSLContext | bool, trust_env: bool) -> httpx.AsyncBaseTransport:
    import aiohttp
    from httpx_aiohttp import AiohttpTransport

    context = verify if isinstance(verify, ssl.SSLContext) else httpx.create_ssl_context(trust_env=trust_env)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE, ssl=context)
        # Its own defaults would end a long answer after five minutes, and keep a server's cookies.
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            read_bufsize=_PIECE,
        )

    transport: httpx.AsyncBaseTransport = AiohttpTransport(verify=context, client=session)
    return transport


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
