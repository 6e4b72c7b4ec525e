"""The command line: data on stdout, everything else on stderr; exit code 0, 1 (failed) or 2 (usage)."""

from __future__ import annotations

import os
import sys

from ctxembed._errors import CtxembedError, MissingKeyError

__all__ = ["run"]

_INTERRUPTED = 130  # the shells' code for SIGINT


def run() -> None:
    """Run the command that ``sys.argv`` names, and exit.

    Expected failures become one line on stderr; a traceback is a bug.
    """
    from ctxembed._cli.commands import app

    try:
        app()
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            _fail("interrupted")
        raise
    except KeyboardInterrupt:
        _fail("interrupted")
    except BrokenPipeError:
        # The reader (head, less) has gone. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MissingKeyError:
        _fail("no API key: set PERPLEXITY_API_KEY or PPLX_API_KEY (neither is set, or both are empty)")
    except (CtxembedError, OSError, ValueError, ImportError) as error:
        # What the package calls by its argument is an option here.
        _fail(str(error).replace("allow_insecure=True", "--allow-insecure"))


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
