"""The command line: data on stdout, everything else on stderr; exit code 0, 1 (failed) or 2 (usage)."""

from __future__ import annotations

import json
import os
import sys
from itertools import takewhile
from typing import Any

from ctxembed._cli.errors import error_json
from ctxembed._errors import CtxembedError, MissingKeyError

__all__ = ["run"]

_INTERRUPTED = 130  # typer's exit code for Ctrl-C


def run() -> None:
    """Run the command in ``sys.argv``, and exit.

    An expected error is one line on stderr, or a JSON object with ``--json``. A traceback is a bug.
    """
    import typer

    from ctxembed._cli.commands import app

    usage_error: Any = typer.BadParameter.__mro__[1]  # some versions of typer bring their own click
    as_json = "--json" in takewhile(lambda argument: argument != "--", sys.argv[1:])
    code: Any
    try:
        code = app(standalone_mode=not as_json)  # in standalone mode typer prints usage errors itself
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone. Without this, Python reports another error when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except MissingKeyError as error:
        message = "no API key: set PERPLEXITY_API_KEY or PPLX_API_KEY (neither is set, or both are empty)"
        code = _report(error, message, as_json=as_json)
    except (CtxembedError, OSError, ValueError, ImportError) as error:
        # The message names a Python argument, which is an option here.
        message = str(error).replace("allow_insecure=True", "--allow-insecure")
        code = _report(error, message, as_json=as_json)
    except usage_error as error:
        _report(error, error.format_message(), as_json=True)
        code = error.exit_code
    if code == _INTERRUPTED:
        code = _report(KeyboardInterrupt(), "interrupted", as_json=as_json)
    sys.exit(code)


def _report(error: BaseException, message: str, *, as_json: bool) -> int:
    print(json.dumps(error_json(error, message)) if as_json else f"error: {message}", file=sys.stderr)
    return 1
