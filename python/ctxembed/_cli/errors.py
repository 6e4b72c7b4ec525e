"""Errors as one line of text, or as JSON."""

from __future__ import annotations

from typing import Any

from ctxembed._errors import CtxembedError

__all__ = ["error_code", "error_json"]


def error_code(error: BaseException) -> str | None:
    """Return the code of one of the package's own errors, else None."""
    return error.code if isinstance(error, CtxembedError) else None


def error_json(error: BaseException, message: str) -> dict[str, Any]:
    """Return the JSON object of an error: ``code``, ``type``, ``message``, and ``cause`` if that has a code."""
    shown: dict[str, Any] = {"code": error_code(error), "type": type(error).__name__, "message": message}
    if isinstance(error.__cause__, CtxembedError):
        shown["cause"] = error_json(error.__cause__, str(error.__cause__))
    return shown
