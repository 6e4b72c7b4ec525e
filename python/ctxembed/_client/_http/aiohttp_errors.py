"""Exceptions of aiohttp, by class, as those that httpx raises for the same event."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import httpx

__all__ = ["as_httpx"]

_BY_NAME: Final[dict[str, type[Exception]]] = {
    "ClientError": httpx.RemoteProtocolError,
    "ClientConnectionError": httpx.ReadError,
    "ClientConnectionResetError": httpx.ReadError,
    "ClientOSError": httpx.ReadError,
    "ClientPayloadError": httpx.ReadError,
    "ServerConnectionError": httpx.ReadError,
    "ServerDisconnectedError": httpx.ReadError,
    "UploadAbortedError": httpx.WriteError,
    "ClientConnectorError": httpx.ConnectError,
    "ClientConnectorDNSError": httpx.ConnectError,
    "ClientConnectorSSLError": httpx.ConnectError,
    "ClientConnectorCertificateError": httpx.ConnectError,
    "ClientSSLError": httpx.ConnectError,
    "ServerFingerprintMismatch": httpx.ConnectError,
    "ClientProxyConnectionError": httpx.ProxyError,
    "ClientHttpProxyError": httpx.ProxyError,
    "ConnectionTimeoutError": httpx.ConnectTimeout,
    "ServerTimeoutError": httpx.ReadTimeout,
    "SocketTimeoutError": httpx.ReadTimeout,
    "ClientResponseError": httpx.RemoteProtocolError,
    "ContentTypeError": httpx.RemoteProtocolError,
    "WSServerHandshakeError": httpx.RemoteProtocolError,
    "InvalidURL": httpx.UnsupportedProtocol,
    "InvalidUrlClientError": httpx.UnsupportedProtocol,
    "NonHttpUrlClientError": httpx.UnsupportedProtocol,
    "RedirectClientError": httpx.RemoteProtocolError,
    "InvalidUrlRedirectClientError": httpx.RemoteProtocolError,
    "NonHttpUrlRedirectClientError": httpx.RemoteProtocolError,
    "TooManyRedirects": httpx.TooManyRedirects,
}
# By name, since the older releases that are supported lack some.
BY_CLASS: Final[dict[type[BaseException], type[Exception]]] = {
    getattr(aiohttp, name): translated for name, translated in _BY_NAME.items() if hasattr(aiohttp, name)
}


def as_httpx(error: aiohttp.ClientError) -> Exception:
    """Return the exception of httpx for an exception of aiohttp, which is its cause."""
    translated = next(BY_CLASS[cls] for cls in type(error).__mro__ if cls in BY_CLASS)
    text = str(error)
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own text names the TLS settings, over plain http too. aiohttp 3.11 has only one of the two attributes.
        inner: Any = getattr(error, "certificate_error", None) or error.os_error
        text = f"cannot connect to {error.host}:{error.port}: {inner}"
    raised = translated(text)
    raised.__cause__ = error
    return raised
