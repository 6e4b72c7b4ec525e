"""The connections of a client: which transport sends, in which event loop, and after a fork."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import httpx

from ctxembed._client._http.environment import Proxy, environment_proxy, environment_ssl_context
from ctxembed._client._http.exchange import exchange
from ctxembed._client._http.httpx_transport import HttpxTransport, ThreadedHttpxTransport, create_client
from ctxembed._client._http.transport import Transport
from ctxembed._client._runtime import current_event_loop, is_asyncio
from ctxembed._errors import APIConnectionError, APITimeoutError, ClosedClientError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ctxembed._client._http.body import Response
    from ctxembed._client._http.transport import TransportRequest
    from ctxembed._codec import ResponseDecoder

__all__ = ["Connections", "TransportName", "TransportSettings"]

TransportName = Literal["auto", "httpx", "aiohttp"]

_HAS_AIOHTTP: Final = importlib.util.find_spec("aiohttp") is not None

_INHERITED: Final[list[object]] = []
"""Connections that a forked child inherited. They are the parent's: kept, so that the collector closes none."""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """The choice of the transport, and the options of its connections.

    Parameters
    ----------
    transport : {"auto", "httpx", "aiohttp"} or object
        As the caller chose.
    http_client : httpx.AsyncClient, httpx.Client or None
        The caller's client, used in place of a transport. It is never closed here.
    trust_env : bool
        Whether proxies and certificates of the environment are used. They are not over plain http to this machine.
    http2 : bool
        Whether HTTP/2 is offered.
    origin : str
        Scheme, host and port of the API, on which the environment's proxy depends.
    proxy : Proxy or None
        Used in place of the environment's.
    verify : ssl.SSLContext or None
        Trusted in place of the public authorities.
    """

    transport: object
    http_client: Any
    trust_env: bool
    http2: bool = False
    origin: str = ""
    proxy: Proxy | None = None
    verify: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        chosen = self.transport
        if isinstance(chosen, str):
            if chosen not in ("auto", "httpx", "aiohttp"):
                raise ValueError(f"transport must be 'auto', 'httpx', 'aiohttp' or a transport, got {chosen!r}")
        elif isinstance(chosen, httpx.AsyncClient | httpx.Client):
            raise TypeError(f"transport must not be an {type(chosen).__name__}: pass it as http_client")
        elif isinstance(chosen, type) or not isinstance(
            chosen, Transport | httpx.AsyncBaseTransport | httpx.BaseTransport
        ):
            raise TypeError(
                "transport must be 'auto', 'httpx', 'aiohttp', an object with async send() and aclose(), or a "
                f"transport of httpx, got {chosen!r}"
            )
        own = [name for name in ("http_client", "proxy") if getattr(self, name) is not None]
        own += ["http2"] if self.http2 else []
        if own and chosen not in ("auto", "httpx"):
            raise ValueError(f"{own[0]} is an option of transport='httpx', got transport={chosen!r}")
        if chosen == "aiohttp":
            if not _HAS_AIOHTTP:
                raise ImportError("transport='aiohttp' needs aiohttp: pip install 'ctxembed[aiohttp]'")
            if self._has_environment_proxy:
                raise ValueError(
                    "transport='aiohttp' uses no proxy, and the environment names one (HTTPS_PROXY or its like): "
                    "use transport='httpx'"
                )

    def chosen(self, *, trio: bool) -> object:
        """Return the transport that sends: ``"httpx"``, ``"aiohttp"``, or the caller's object.

        ``"auto"`` is aiohttp where it is installed and can be used: on asyncio, without HTTP/2 and proxies.
        """
        if self.transport != "auto":
            return self.transport
        unsuited = self.http_client is not None or self.http2 or self.proxy is not None or self._has_environment_proxy
        return "httpx" if unsuited or not _HAS_AIOHTTP or trio else "aiohttp"

    @property
    def _has_environment_proxy(self) -> bool:
        try:
            return self._environment_proxy() is not None
        except APIConnectionError:  # raised again when it is to be used
            return True

    def _environment_proxy(self) -> Proxy | None:
        return environment_proxy(self.origin) if self.trust_env else None

    def open(self) -> Transport:
        """Create the transport for the running event loop.

        Raises
        ------
        APIConnectionError
            The environment names a proxy or certificates that cannot be used.
        """
        if self.http_client is not None:
            return _over_httpx_client(self.http_client)
        trio = not is_asyncio()
        chosen = self.chosen(trio=trio)
        if isinstance(chosen, httpx.AsyncBaseTransport):
            return HttpxTransport(httpx.AsyncClient(transport=chosen, trust_env=False), owned=False)
        if isinstance(chosen, httpx.BaseTransport):
            return ThreadedHttpxTransport(httpx.Client(transport=chosen, trust_env=False))
        if isinstance(chosen, Transport):
            return chosen
        if chosen == "aiohttp":
            if trio:
                raise RuntimeError("transport='aiohttp' needs asyncio, and trio is running: use transport='httpx'")
            from ctxembed._client._http.aiohttp_transport import AiohttpTransport

            return AiohttpTransport(self._ssl_context())
        proxy = self._environment_proxy() if self.proxy is None else self.proxy
        return HttpxTransport(create_client(self._ssl_context(), http2=self.http2, proxy=proxy), owned=True)

    def _ssl_context(self) -> ssl.SSLContext:
        if self.verify is not None:
            return self.verify
        if self.trust_env:
            return environment_ssl_context()
        # No TLS happens over plain http to this machine, so a context without authorities will do. Loading them takes
        # 16.5 ms of the 16.6 ms that creating a client takes (medians of 15, one run).
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Connections:
    """The transport of a client and of its copies, created anew in each event loop and each forked process.

    Parameters
    ----------
    settings : TransportSettings
        How it is created.
    """

    def __init__(self, settings: TransportSettings) -> None:
        self.settings = settings
        self.closed = False
        self._transport: Transport | None = None
        self._finalizer: AsyncGenerator[None] | None = None
        self._event_loop: object = None
        self._pid = os.getpid()

    @property
    def _is_callers(self) -> bool:
        """Whether the caller passed the transport, and so has to close it."""
        return self.settings.http_client is not None or not isinstance(self.settings.transport, str)

    async def send(
        self,
        request: TransportRequest,
        decoder: ResponseDecoder | None,
        limit: int,
        *,
        keep_body: bool,
        remaining: float | None = None,
    ) -> Response | APIConnectionError:
        """Send a request and read its response, within ``remaining`` seconds if given.

        ``decoder``, ``limit`` and ``keep_body`` are those of :class:`BodyReader`.
        """
        result: Response | APIConnectionError | None = None
        total = min((seconds for seconds in (request.timeouts.total, remaining) if seconds is not None), default=None)
        with anyio.move_on_after(total):
            try:
                transport = await self._open()
            except APIConnectionError as error:
                return error
            result = await exchange(transport, request, decoder, limit, keep_body=keep_body)
        if result is None:
            return APITimeoutError(f"no whole response within {total:g} seconds")
        return result

    async def _open(self) -> Transport:
        if self.closed:
            raise ClosedClientError("the client was closed during the call")
        event_loop = current_event_loop()
        if self._transport is None or event_loop != self._event_loop:
            # Connections belong to an event loop: those of another one cannot be closed from here.
            before = self._transport
            if os.getpid() != self._pid:
                _INHERITED.append((before, self._finalizer))
            self._event_loop, self._pid = event_loop, os.getpid()
            transport = self._transport = self.settings.open()
            self._finalizer = None if self._is_callers else _close_with_event_loop(transport)
            await _abandon(before)
            return transport
        return self._transport

    async def aclose(self) -> None:
        """Close the connections, unless they are the caller's or another event loop's."""
        transport, finalizer = self._transport, self._finalizer
        self._transport = self._finalizer = None
        if transport is None or self._is_callers:
            return
        if current_event_loop() != self._event_loop:
            await _abandon(transport)
            return
        await transport.aclose()
        if finalizer is not None:
            await finalizer.aclose()


async def _abandon(transport: Transport | None) -> None:
    abandon = getattr(transport, "abandon", None)
    if abandon is not None:
        await abandon()


def _over_httpx_client(client: httpx.AsyncClient | httpx.Client) -> Transport:
    return ThreadedHttpxTransport(client) if isinstance(client, httpx.Client) else HttpxTransport(client, owned=False)


def _close_with_event_loop(transport: Transport) -> AsyncGenerator[None] | None:
    """Let asyncio close the connections when its event loop ends, for a client that is never closed.

    ``asyncio.run`` closes the asynchronous generators that it knows. trio does too, with a warning.
    """
    if not is_asyncio():
        return None

    async def closing() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await transport.aclose()

    generator = closing()
    with contextlib.suppress(StopIteration):
        anext(generator).__await__().send(None)  # runs to the yield, which waits for nothing
    return generator
