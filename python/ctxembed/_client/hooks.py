"""What happens to requests, told: to the caller's hooks and to ``logging``."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ctxembed._errors import APIStatusError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ctxembed._client.batches import Batch
    from ctxembed._client.endpoint import Call
    from ctxembed._results import Usage

__all__ = ["Hooks", "RequestEvent", "ResponseEvent", "RetryEvent", "log"]

_LOG: Final = logging.getLogger("ctxembed")


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """An attempt that is about to be sent.

    Parameters
    ----------
    url : str
        Where to.
    headers : mapping of str to str
        Without the key.
    model : str
        As the request names it.
    documents, chunks, tokens, bytes : int
        How large it is; tokens as estimated.
    attempt : int
        1 for the first.
    hedge : bool
        Whether it is sent beside an attempt that is slow.
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
    """How an attempt ended.

    Parameters
    ----------
    request : RequestEvent
        The attempt.
    status_code : int or None
        None where no answer came.
    headers : mapping of str to str
        The answer's, names in lower case, without cookies.
    seconds : float
        From sending to the end of the answer.
    usage : Usage
        As the answer reported it.
    error : Exception or None
        What was wrong; None for an answer that proved itself.
    """

    request: RequestEvent
    status_code: int | None
    headers: Mapping[str, str]
    seconds: float
    usage: Usage
    error: Exception | None


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """An attempt that failed and will be followed by another.

    Parameters
    ----------
    request : RequestEvent
        The attempt that failed.
    error : Exception
        Why.
    delay : float
        Seconds until the next one, at least.
    retries : int
        Retries of the request so far, this one included.
    """

    request: RequestEvent
    error: Exception
    delay: float
    retries: int


@dataclass(frozen=True, slots=True)
class Hooks:
    """The caller's callables, or None. What one returns is awaited where it can be; what it raises is logged."""

    on_request: Callable[[RequestEvent], Any] | None = None
    on_response: Callable[[ResponseEvent], Any] | None = None
    on_retry: Callable[[RetryEvent], Any] | None = None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.on_request is not None or self.on_response is not None or self.on_retry is not None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Hooks:
        """Check the three options."""
        for name in ("on_request", "on_response", "on_retry"):
            if options[name] is not None and not callable(options[name]):
                raise TypeError(f"{name} must be a callable or None, got {type(options[name]).__name__}")
        return cls(options["on_request"], options["on_response"], options["on_retry"])

    async def tell(self, name: str, event: object) -> None:
        """Call one, if it is there. Never raises what it raises: others have paid for what is under way."""
        hook = getattr(self, name)
        if hook is None:
            return
        try:
            result = hook(event)
            if inspect.isawaitable(result):
                await result
        except Exception:  # noqa: BLE001  # told in the log
            _LOG.exception("the %s hook raised (nothing else happened)", name, extra={"ctxembed": {"event": "hook"}})


def log(
    message: str, call: Call, batch: Batch, error: BaseException, *, level: int = logging.INFO, **more: Any
) -> None:
    """Log something about a request, with the facts under ``record.ctxembed``; neither key nor texts are among them."""
    if not _LOG.isEnabledFor(level):
        return
    status = error.status_code if isinstance(error, APIStatusError) else None
    facts = {
        "model": call.model,
        "documents": len(batch.documents),
        "tokens": batch.tokens,
        "error": type(error).__name__,
        "status_code": status,
        "request_id": error.request_id if isinstance(error, APIStatusError) else None,
        **more,
    }
    name = type(error).__name__ + (f" {status}" if status is not None else "")
    _LOG.log(level, message, {**facts, "error": name}, extra={"ctxembed": facts})
