"""Errors as one line of text, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxembed._errors import APIConnectionError, CtxembedError, MissingKeyError
from ctxembed._results import EmbedError, InvalidDocumentsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["IncompleteError", "error_code", "error_json", "error_text", "query_error", "request_error"]


class IncompleteError(Exception):
    """The command did not do all that it should. It carries the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def error_code(error: BaseException) -> str | None:
    """Return the code of one of the package's own errors, else None."""
    return error.code if isinstance(error, CtxembedError) else None


def error_text(error: BaseException) -> str:
    """Return the message of an error, in the words of the command line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, MissingKeyError):
        return "no API key: set PERPLEXITY_API_KEY or PPLX_API_KEY (neither is set, or both are empty)"
    if isinstance(error, KeyError) and error.args:  # its text is the repr of its message
        return str(error.args[0])
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:  # without its number
        message = f"{error.filename}: {error.strerror}"
    # The message may name a Python argument, which is an option or has no place here.
    message = message.replace("allow_insecure=True", "--allow-insecure").replace("overwrite=True", "--overwrite")
    message = message.replace("skip_unjudged=True", "--skip-unjudged").replace("allow_missing=True", "--allow-missing")
    message = message.replace("max_cost_usd=", "--max-cost ").replace("max_cost_usd", "--max-cost")
    message = message.replace("by='document'", "--by document").replace("variants: ", "--variant: ")
    message = message.replace("pass api_key, or set CTXEMBED_SERVER_KEY", "set CTXEMBED_SERVER_KEY")
    return message.replace(", or open it with read_only=True", "") or type(error).__name__


def error_json(error: BaseException, message: str) -> dict[str, Any]:
    """Return the JSON object of an error: ``code``, ``type``, ``message``, and ``cause`` if that has a code."""
    shown: dict[str, Any] = {"code": error_code(error), "type": type(error).__name__, "message": message}
    if isinstance(error.__cause__, CtxembedError):
        shown["cause"] = error_json(error.__cause__, str(error.__cause__))
    return shown


def request_error(error: Exception, base_url: str) -> str:
    """Return the message of a failed request."""
    refused = any(isinstance(cause, ConnectionRefusedError) for cause in _chain(error))
    if isinstance(error, APIConnectionError) and refused:
        return f"cannot connect to {base_url}: connection refused"
    return f"{type(error).__name__}: {error}"


def query_error(error: EmbedError, base_url: str) -> EmbedError:
    """Return the error of embedding queries, with a message that speaks of queries."""
    if isinstance(error, InvalidDocumentsError):
        message = "; ".join(f"query {problem.document + 1}: {problem.reason}" for problem in error.problems)
        return InvalidDocumentsError(message, error.partial, error.failures, error.problems)
    cause = error.failures[0].error
    count = f"{len(error.failures)} of {len(error.partial)} queries" if len(error.partial) > 1 else "the query"
    verb = "was" if len(error.partial) == 1 else "were"
    message = f"{count} {verb} not embedded: {request_error(cause, base_url)}"
    renamed = EmbedError(message, error.partial, error.failures)
    renamed.__cause__ = error.__cause__
    return renamed


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
