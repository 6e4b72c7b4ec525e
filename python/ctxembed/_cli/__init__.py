"""The command line: data on stdout, everything else on stderr; exit code 0, 1 (failed), 2 (usage) or 130 (Ctrl-C)."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import sys
from importlib import import_module
from itertools import takewhile
from typing import Any, Final

from ctxembed._cli.errors import IncompleteError, error_json, error_text
from ctxembed._cli.output import finish, open_streams, write_message

__all__ = ["run"]

_ALONE: Final = frozenset({"embed", "eval", "export", "mcp", "plan", "search"})
"""Commands with a module of their own: others are not imported for them, nor are their options read."""

_INTERRUPTED = 128 + signal.SIGINT


def run() -> None:
    """Run the command in ``sys.argv``, and exit.

    An expected error is one line on stderr, or a JSON object with ``--json``. A traceback is a bug.
    """
    as_json = "--json" in takewhile(lambda argument: argument != "--", sys.argv[1:])
    open_streams()
    try:
        code = _run(as_json=as_json)
    except KeyboardInterrupt as interrupt:
        _on_interrupt(signal.SIG_IGN)  # until it is reported
        _report(interrupt, as_json=as_json)
        code = _INTERRUPTED
    # Ctrl-C while the process ends is no traceback either. At its very end the interpreter restores the default, which
    # would end the process by the signal.
    _on_interrupt(lambda *_: os._exit(code))
    atexit.register(_on_interrupt, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # reported before
        finish()
    gc.freeze()  # else the interpreter looks for cycles among all objects before it ends, for 45 ms after a search
    sys.exit(code)


def _run(*, as_json: bool) -> int:
    """Run the command and return its exit code."""
    try:
        code = _command(as_json=as_json)
        finish()
    except BrokenPipeError:  # the reader (head, less) has gone
        return 1
    except SystemExit as end:  # typer's, where it met a broken pipe before us
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if not _is_expected(error):
            raise
        _report(error, as_json=as_json)
        return error.exit_code if isinstance(error, IncompleteError) else 1
    return code


def _command(*, as_json: bool) -> int:
    import typer

    from ctxembed._cli.app import app

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    import_module(f"ctxembed._cli.{name}_command" if name in _ALONE else "ctxembed._cli.commands")
    usage_error: Any = typer.BadParameter.__mro__[1]  # some versions of typer bring their own click
    try:
        # Not in standalone mode, in which typer prints usage errors itself, unescaped.
        code: int = app(prog_name="ctxembed", standalone_mode=False) or 0
    except usage_error as error:
        if as_json:
            write_message(json.dumps(error_json(error, error.format_message())))
        else:
            write_message(*_usage(error))
        code = error.exit_code
    if code == _INTERRUPTED:  # typer's exit code for Ctrl-C
        raise KeyboardInterrupt
    return code


def _usage(error: Any) -> list[str]:
    """Return the lines of a usage error."""
    message: str = error.format_message()
    if error.ctx is None:
        return [f"Error: {message}"]
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        return message.split("\n")
    hint = f"Try '{error.ctx.command_path} --help' for help."
    return [*error.ctx.get_usage().split("\n"), hint, "", f"Error: {message}"]


def _is_expected(error: BaseException) -> bool:
    from ctxembed._errors import CtxembedError

    return isinstance(error, (CtxembedError, IncompleteError, OSError, ValueError, KeyError, ImportError, MemoryError))


def _report(error: BaseException, *, as_json: bool) -> None:
    message = error_text(error)
    write_message(json.dumps(error_json(error, message)) if as_json else f"error: {message}")


def _on_interrupt(handler: Any) -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, handler)
