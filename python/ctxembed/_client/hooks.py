"""Events of requests, for the caller's hooks and for ``logging``."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ctxembed._errors import APIStatusError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctxembed._client.batches import Batch
    from ctxembed._client.endpoint import RequestTemplate
    from ctxembed._results import Usage

__all__ = ["Hooks", "RequestEvent", "ResponseEvent", "RetryEvent", "log"]

_LOG: Final = logging.getLogger("ctxembed")


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """An attempt that is about to be sent.

    Parameters
    ----------
    url : str
        Its URL.
    headers : mapping of str to str
        Without the key.
    model : str
        Name of the model in the request.
    documents, chunks, tokens, bytes : int
        Size of the request; tokens are estimated.
    attempt : int
        1 for the first.
    hedge : bool
        Whether it is sent in addition to a slow attempt.
    """

    url: str
    headers: Mapping[str, str]
    model: str
    documents: int
    chunks: int
    tokens: int
    bytes: int
    attempt: int
    hedge: bool = False


@dataclass(frozen=True, slots=True)
class ResponseEvent:
    """The end of an attempt.

    Parameters
    ----------
    request : RequestEvent
        The attempt.
    status_code : int or None
        None where there was no response.
    headers : mapping of str to str
        Headers of the response, names in lower case, without cookies.
    seconds : float
        From the start of the attempt to the end of the response.
    usage : Usage
        As the response reported it.
    error : Exception or None
        The error; None for a valid response.
    """

    request: RequestEvent
    status_code: int | None
    headers: Mapping[str, str]
    seconds: float
    usage: Usage
    error: Exception | None


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """An attempt that failed and is followed by another.

    Parameters
    ----------
    request : RequestEvent
        The attempt that failed.
    error : Exception
        Its error.
    delay : float
        Minimum seconds until the next attempt.
    retries : int
        Retries of the request so far, including this one.
    """

    request: RequestEvent
    error: Exception
    delay: float
    retries: int


@dataclass(frozen=True, slots=True)
class Hooks:
    """The caller's callables, or None. An awaitable that one returns is awaited; an exception is logged."""

    on_request: Callable[[RequestEvent], Any] | None = None
    on_response: Callable[[ResponseEvent], Any] | None = None
    on_retry: Callable[[RetryEvent], Any] | None = None

    @property
    def any(self) -> bool:
        """Whether there is any hook."""
        return self.on_request is not None or self.on_response is not None or self.on_retry is not None

    async def call(self, name: str, event: object) -> None:
        """Call a hook. Its exceptions are logged, never raised: the requests in flight are paid for."""
        hook = getattr(self, name)
        if hook is None:
            return
        try:
            result = hook(event)
            if inspect.isawaitable(result):
                await result
        except Exception:  # noqa: BLE001
            _LOG.exception("the %s hook raised (nothing else happened)", name, extra={"ctxembed": {"event": "hook"}})


def log(
    message: str,
    template: RequestTemplate,
    batch: Batch,
    error: BaseException,
    *,
    level: int = logging.INFO,
    **more: Any,
) -> None:
    """Log an event of a request. ``record.ctxembed`` holds the details, never the key or texts."""
    if not _LOG.isEnabledFor(level):
        return
    status = error.status_code if isinstance(error, APIStatusError) else None
    facts = {
        "model": template.model,
        "documents": len(batch.documents),
        "tokens": batch.tokens,
        "error": type(error).__name__,
        "status_code": status,
        "request_id": error.request_id if isinstance(error, APIStatusError) else None,
        **more,
    }
    name = type(error).__name__ + (f" {status}" if status is not None else "")
    _LOG.log(level, message, {**facts, "error": name}, extra={"ctxembed": facts})
