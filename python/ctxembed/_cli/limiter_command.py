"""``ctxembed limiter``: limits that the processes of a machine share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ctxembed._cli.app import app
from ctxembed._cli.errors import error_text
from ctxembed._cli.output import write

if TYPE_CHECKING:
    from ctxembed._client.limiter_address import LimiterAddress

__all__: list[str] = []


@app.command(
    help="""Run a limiter: processes that share it send at the rate of one, which it learns from the API's refusals.

    They connect with Client(limiter=ctxembed.limiter(ADDRESS, name=...)), one name for each API key; the limiter never
    sees the key. A Unix socket is for this user alone. TCP has no password: every process that reaches the port can
    take starts. The address is printed to stdout once the limiter listens. Ctrl-C or SIGTERM stops it; clients go on
    without it, carefully, and connect again when it is back."""
)
def limiter(
    listen: Annotated[
        str, typer.Option(metavar="unix:PATH|tcp:HOST:PORT", help="Where to listen; port 0: a free one.")
    ],
    requests_per_minute: Annotated[float | None, typer.Option(help="A limit of each name that is known.")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="A limit of each name that is known.")] = None,
    *,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Allow a host beyond this machine.")] = False,
) -> None:
    """Run a limiter."""
    import asyncio

    from ctxembed._client.limiter_address import parse_limiter_address
    from ctxembed._client.options import check_rate

    try:
        address = parse_limiter_address(listen, any_port=True)
        rates = (
            check_rate("--requests-per-minute", requests_per_minute),
            check_rate("--tokens-per-minute", tokens_per_minute),
        )
        if address.path is None and not allow_remote:
            _check_loopback(address.host)
    except ValueError as error:
        raise typer.BadParameter(error_text(error)) from None
    asyncio.run(_run(address, *rates))


def _check_loopback(host: str) -> None:
    import ipaddress

    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host.lower() == "localhost"
    if not local:
        raise ValueError(
            f"{host} is reached from other machines, by anyone: pass --allow-remote if the network is yours"
        )


async def _run(address: LimiterAddress, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
    import asyncio
    import signal
    import sys

    from ctxembed.distributed.limiter import LimiterService
    from ctxembed.distributed.limiter_socket import listen

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    with listen(address) as (listener, actual):
        write(str(actual))
        sys.stdout.flush()  # whoever started it waits for the line
        await LimiterService(requests_per_minute, tokens_per_minute).serve(listener, stop)
