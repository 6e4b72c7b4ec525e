"""Exceptions of the HTTP libraries, translated to ours by their class."""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import TYPE_CHECKING, Any

import httpx

from ctxembed._errors import APIConnectionError, APITimeoutError

if TYPE_CHECKING:
    from ctxembed._client._http.credentials import Credentials

__all__ = ["hide_key", "is_unreachable", "translate"]


def translate(error: Exception, credentials: Credentials) -> APIConnectionError | None:
    """Translate an exception of the network; return None for any other exception, which is a bug.

    The cause of the result is a copy that holds text only: the original refers to the request and to frames that hold
    the key.
    """
    if isinstance(error, APIConnectionError):  # raised by a custom transport
        hide_key(error, credentials)
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
    cause = _text_copy(known, credentials)
    if root is not None and root is not known:
        cause.__cause__ = _text_copy(root, credentials)
    translated.__cause__ = cause
    return translated


def is_unreachable(error: BaseException) -> bool:
    """Return whether no connection was made at all, so that no other request will fare better."""
    if not isinstance(error, APIConnectionError):
        return False
    cause = error.__cause__
    unusable_environment = type(cause) is ValueError
    return unusable_environment or isinstance(cause, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.ProxyError)


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


def _text_copy(error: BaseException, credentials: Credentials) -> BaseException:
    text = credentials.redact_text(str(error))
    try:
        if isinstance(error, OSError):
            return type(error)(
                *(_redacted(argument, credentials) for argument in error.args if isinstance(argument, str | int))
            )
        return type(error)(text)
    except Exception:  # noqa: BLE001  # a class with a constructor of its own
        return Exception(f"{type(error).__name__}: {text}")


def hide_key(error: BaseException, credentials: Credentials) -> None:
    """Remove the key from an exception, and from the causes and contexts that were raised with it.

    The frames of their tracebacks stay, without their locals. Exceptions from elsewhere, such as one that the caller is
    handling, are left as they are: clearing a frame that is suspended would end its coroutine.

    Parameters
    ----------
    error : BaseException
        The exception. The first frame of its traceback is the one that has caught it.
    credentials : Credentials
        The key.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    known = {id(frame) for frame in frames}
    for found in _chain(error):
        trace = found.__traceback__
        if trace is not None and id(trace.tb_frame) not in known:
            continue
        for frame, _ in traceback.walk_tb(trace):
            if frame is not frames[0]:
                with contextlib.suppress(RuntimeError):  # it is running
                    frame.clear()
        with contextlib.suppress(Exception):  # a foreign class may refuse any of this
            args = tuple(_redacted(argument, credentials) for argument in found.args)
            if args != found.args:
                found.args = args
            for name, value in vars(found).items():
                if isinstance(value, str | bytes) and _redacted(value, credentials) != value:
                    setattr(found, name, _redacted(value, credentials))


def _redacted(value: Any, credentials: Credentials) -> Any:
    """Return a str or bytes without the key, an int or None; the text of anything else that shows the key."""
    if isinstance(value, str):
        return credentials.redact_text(value)
    if value is None or isinstance(value, int):
        return value
    shown = repr(value)
    redacted = credentials.redact_text(shown)
    return value if redacted == shown else redacted


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception with all its causes, contexts and members of groups."""
    found: list[BaseException] = []
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        found.append(current)
        if isinstance(current, BaseExceptionGroup):
            queue.extend(current.exceptions)
        queue += [current.__cause__, current.__context__]
    return found


def _operating_system_error(error: BaseException) -> BaseException | None:
    """Return the innermost ``OSError`` of a chain of exceptions, if there is one."""
    return next((found for found in reversed(_chain(error)) if isinstance(found, OSError)), None)
