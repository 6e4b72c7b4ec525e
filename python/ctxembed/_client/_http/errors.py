"""Exceptions of the HTTP libraries, translated to ours by their class."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx

from ctxembed._errors import APIConnectionError, APITimeoutError

if TYPE_CHECKING:
    from ctxembed._client._http.credentials import Credentials

__all__ = ["is_unreachable", "translate"]


def translate(error: Exception, credentials: Credentials) -> APIConnectionError | None:
    """Translate an exception of the network; return None for any other exception, which is a bug.

    The cause of the result is a copy that holds text only: the original refers to the request and to frames that hold
    the key.
    """
    if isinstance(error, APIConnectionError):  # raised by a custom transport
        return error
    known = _as_httpx(error)
    if known is None:
        return None
    root = _operating_system_error(known)
    text = str(known) or (str(root) if root is not None else "")
    message = type(known).__name__ + (f": {text}" if text else "")
    if root is not None and str(root) not in message:
        message += f" ({root})"
    message = credentials.redact_text(message)
    if isinstance(known, httpx.TimeoutException):
        translated: APIConnectionError = APITimeoutError(f"no response in time: {message}")
    else:
        translated = APIConnectionError(f"no response: {message}")
    cause = _text_copy(known)
    if root is not None and root is not known:
        cause.__cause__ = _text_copy(root)
    translated.__cause__ = cause
    return translated


def is_unreachable(error: BaseException) -> bool:
    """Return whether no connection was made at all, so that no other request will fare better."""
    return isinstance(error, APIConnectionError) and isinstance(
        error.__cause__, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.ProxyError
    )


def _as_httpx(error: Exception) -> Exception | None:
    """Return the exception that httpx raises for the same event; None where it does not come from the network."""
    aiohttp = sys.modules.get("aiohttp")
    if aiohttp is not None:
        from ctxembed._client._http import aiohttp_errors

        # A client over httpx-aiohttp 0.2 reports any broken connection as ConnectTimeout.
        wrapped = isinstance(error, httpx.ConnectTimeout) and isinstance(error.__cause__, aiohttp.ClientError)
        inner = error.__cause__ if wrapped else error
        if isinstance(inner, aiohttp.ClientError):
            return aiohttp_errors.as_httpx(inner)
    return error if isinstance(error, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError | OSError) else None


def _text_copy(error: BaseException) -> BaseException:
    try:
        if isinstance(error, OSError):
            return type(error)(*(argument for argument in error.args if isinstance(argument, str | int)))
        return type(error)(str(error))
    except Exception:  # noqa: BLE001  # a class with a constructor of its own
        return Exception(f"{type(error).__name__}: {error}")


def _operating_system_error(error: BaseException) -> BaseException | None:
    """Return the innermost ``OSError`` of a chain of exceptions, if there is one."""
    seen: set[int] = set()
    found: BaseException | None = None
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, OSError):
            found = current
        if isinstance(current, BaseExceptionGroup):
            queue.extend(current.exceptions)
        queue += [current.__cause__, current.__context__]
    return found
