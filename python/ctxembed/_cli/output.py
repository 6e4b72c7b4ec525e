"""Writing to stdout and stderr, whatever they are: closed, full, without a reader, or not UTF-8."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "check_stdout",
    "escape",
    "excerpt",
    "finish",
    "first_line",
    "open_streams",
    "write",
    "write_json",
    "write_message",
]

# C0, DEL and C1; Arabic letter mark; LRM, RLM; line and paragraph separator; embeddings, overrides and isolates;
# deprecated format characters; byte order mark; interlinear annotations; lone surrogates.
_CONTROL: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


class _StdoutError(OSError):
    """Stdout cannot be written."""


def escape(text: str) -> str:
    r"""Escape control characters as ``\x1b`` or ``\u202e``, so that a text cannot command or mislead a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def first_line(text: str, width: int = 100) -> str:
    """Return the first line of ``text`` that is not blank, cut to ``width`` characters."""
    line = " ".join(next((line for line in text.splitlines() if line.strip()), "").split())
    return line if len(line) <= width else line[: width - 3] + "..."


def excerpt(text: str, query: str, width: int) -> str:
    """Return a part of ``text`` in one line, escaped: its start, or what surrounds the first word of ``query`` in it.

    Parameters
    ----------
    text, query : str
        A chunk, and the question that it was found by.
    width : int
        Characters at most.
    """
    line = escape(" ".join(text.split()))
    if len(line) <= width:
        return line
    lower = line.lower()
    found = [at for word in re.findall(r"\w{4,}", query.lower()) if (at := lower.find(word)) >= 0]
    start = min(found, default=0)
    start = 0 if start < width * 2 // 3 else min(start - width // 3, len(line) - width + 3)
    before = "..." if start else ""
    after = "..." if start + width - len(before) < len(line) else ""
    return before + line[start : start + width - len(before) - len(after)] + after


def open_streams() -> None:
    """Prepare the standard streams: no closed descriptor, no character that stdout cannot encode.

    A closed descriptor is opened on the null device. Otherwise the next file or socket would get its number, and what
    native code prints would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError, LookupError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def check_stdout() -> None:
    """Raise ``OSError`` where stdout is closed, before work is done whose result it would take."""
    if sys.stdout is None or getattr(sys.stdout, "closed", False):
        raise _StdoutError("stdout is closed")


def write(*lines: str) -> None:
    """Write lines to stdout, with control characters escaped.

    Raises
    ------
    BrokenPipeError
        The reader has gone.
    OSError
        Stdout cannot be written.
    """
    check_stdout()
    try:
        sys.stdout.write(_joined(lines))
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise _StdoutError(f"cannot write to stdout: {_reason(error)}") from None


def write_json(value: Any, indent: int | None = None) -> None:
    """Write a value to stdout as JSON in ASCII. Raises as :func:`write` does."""
    write(*json.dumps(value, indent=indent).split("\n"))


def write_message(*lines: str) -> None:
    """Write lines to stderr, with control characters escaped. Where stderr cannot be written, nothing happens."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(_joined(lines))
        sys.stderr.flush()


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{escape(line)}\n" for line in lines)


def finish() -> None:
    """Flush both streams.

    A stream that fails is sent to the null device, for Python flushes it again at exit, and would report that.

    Raises
    ------
    OSError
        As for :func:`write`: stdout.
    """
    try:
        _flush(sys.stderr)
    except (OSError, ValueError):
        _discard(sys.stderr)
    try:
        _flush(sys.stdout)
    except BrokenPipeError:
        _discard(sys.stdout)
        raise
    except (OSError, ValueError) as error:
        _discard(sys.stdout)
        raise _StdoutError(f"cannot write to stdout: {_reason(error)}") from None


def _flush(stream: Any) -> None:
    if stream is not None and not getattr(stream, "closed", False):
        stream.flush()


def _discard(stream: Any) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
