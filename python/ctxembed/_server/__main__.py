"""``python -m ctxembed._server``: the command line that tests and benches start."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from ctxembed._errors import CtxembedError
from ctxembed._planning.limits import Limits
from ctxembed._server.config import DEFAULT_PORT, RANDOM_FAULTS, ServerConfig
from ctxembed._server.served_model import choose_model

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ctxembed._server", description="A local stand-in for the API.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 picks a free one (default %(default)s)")
    parser.add_argument("--allow-remote", action="store_true", help="allow a host that other machines can reach")
    parser.add_argument("--allowed-hosts", default="", metavar="NAME,...", help="further names of this server")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="minimum time to a response")
    parser.add_argument("--requests-per-minute", type=float, metavar="N", help="send 429 beyond this rate")
    parser.add_argument("--tokens-per-minute", type=float, metavar="N", help="send 429 beyond this rate")
    parser.add_argument("--burst", type=int, default=10, metavar="N", help="requests at once (default %(default)s)")
    parser.add_argument("--fail-rate", type=float, default=0.0, metavar="SHARE", help="of requests with a random fault")
    parser.add_argument("--fail-seed", type=int, default=0, metavar="N", help="seed of the random faults")
    parser.add_argument(
        "--fail-kinds", default=",".join(RANDOM_FAULTS), metavar="NAME,...", help="random faults (default %(default)s)"
    )
    parser.add_argument("--faults", metavar="FILE", help="a fault plan, TOML or JSON: see ctxembed._server.faults.plan")
    parser.add_argument("--cache", type=int, default=0, metavar="N", help="cache N response bodies by request body")
    parser.add_argument("--model", action="append", metavar="NAME", help="as of `ctxembed serve`")
    parser.add_argument("--collection", action="append", default=[], metavar="FOLDER", help="search a collection, too")
    parser.add_argument("--cors-origins", default="", metavar="ORIGIN,...", help="sites whose pages may search")
    parser.add_argument("--cached-queries", type=int, default=10_000, metavar="N", help="(default %(default)s)")
    parser.add_argument("--scan-queries", type=int, default=512, metavar="N", help="of one scan (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="worker threads (default %(default)s)")
    parser.add_argument("--max-queued-tokens", type=int, metavar="N", help="send 429 beyond this queue")
    parser.add_argument("--ssl-certfile", metavar="FILE", help="certificate chain, for https")
    parser.add_argument("--ssl-keyfile", metavar="FILE", help="its key")
    parser.add_argument("--max-body-bytes", type=int, default=64 * 1024 * 1024, metavar="N")
    for limit in fields(Limits):
        flag = "--limit-" + limit.name.replace("_", "-")
        parser.add_argument(flag, type=int, default=limit.default, metavar="N", help="(default %(default)s)")
    parser.add_argument("--access-log", action="store_true", help="log each request to stderr")
    parser.add_argument("--until-stdin-closes", action="store_true", help="shut down when stdin closes")
    parser.epilog = "CTXEMBED_SERVER_KEY sets the accepted key, or several by commas; without it any key is accepted."
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str or None
        None for ``sys.argv``.

    Returns
    -------
    int
        0 after a clean shutdown; 1 if the address is taken or the extra is missing. Wrong arguments raise
        ``SystemExit(2)``.
    """
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    until_stdin_closes = options.pop("until_stdin_closes")
    limits = {limit.name: options.pop("limit_" + limit.name) for limit in fields(Limits)}
    options["fail_kinds"] = tuple(kind for kind in options["fail_kinds"].split(",") if kind)
    options["allowed_hosts"] = tuple(name for name in options["allowed_hosts"].split(",") if name)
    options["cors_origins"] = tuple(origin for origin in options["cors_origins"].split(",") if origin)
    options["collections"] = tuple(options.pop("collection"))
    options["key"] = os.environ.pop("CTXEMBED_SERVER_KEY", None)
    try:
        served = choose_model(options.pop("model") or ())
        options["max_queued_tokens"] = options["max_queued_tokens"] or served.max_queued_tokens
        config = ServerConfig(limits=Limits(**limits), models=served.models, **options)
    except (TypeError, ValueError, OSError) as error:
        parser.error(str(error))
    try:
        from ctxembed._server import serve  # slow to import: only for valid arguments

        serve(config, served.embedder, notice=served.notice, until_stdin_closes=until_stdin_closes)
    except (OSError, ImportError, ValueError, CtxembedError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
