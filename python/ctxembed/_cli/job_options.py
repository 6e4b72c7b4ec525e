"""The options of commands that run a job, and the client that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ctxembed._planning.token_counter import TokenCounter

__all__ = [
    "ConcurrencyOption",
    "DimensionsOption",
    "MaxCostOption",
    "MaxErrorsOption",
    "MaxRetriesOption",
    "MaxWaitOption",
    "RequestsPerMinuteOption",
    "RetryFailedOption",
    "SplitLongOption",
    "check_amount",
    "client_options",
]


def _check_rate(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"must be finite and above 0, got {value:g}")
    return value


def check_amount(value: float | None) -> float | None:
    """Refuse what is no amount of money or time."""
    if value is not None and not 0 <= value < float("inf"):
        raise typer.BadParameter(f"must be finite and at least 0, got {value:g}")
    return value


DimensionsOption = Annotated[int | None, typer.Option(help="Dimensions of the vectors (default: the model's).")]
MaxCostOption = Annotated[
    float | None, typer.Option(callback=check_amount, help="USD. No request starts once they are spent.")
]
MaxErrorsOption = Annotated[
    int | None, typer.Option(min=0, help="Stop after more rejected documents than this (default: never).")
]
MaxRetriesOption = Annotated[int | None, typer.Option(min=0, help="Retries of a request.")]
ConcurrencyOption = Annotated[int | None, typer.Option(min=1, help="Most requests in flight.")]
RequestsPerMinuteOption = Annotated[float | None, typer.Option(callback=_check_rate, help="Send no more than this.")]
MaxWaitOption = Annotated[float, typer.Option(callback=check_amount, help="Seconds to wait for an API that is down.")]
SplitLongOption = Annotated[bool, typer.Option("--split-long", help="Embed documents that are too long in windows.")]
RetryFailedOption = Annotated[
    bool, typer.Option("--retry-failed", help="Send documents again that failed in an earlier run.")
]


def client_options(
    base_url: str | None,
    counter: TokenCounter | None = None,
    *,
    allow_insecure: bool,
    max_retries: int | None = None,
    concurrency: int | None = None,
    requests_per_minute: float | None = None,
    needs_key: bool = True,
) -> dict[str, Any]:
    """Return the options of a client, without those that were not given."""
    options = {
        "api_key": None if needs_key else "unused",
        "base_url": base_url,
        "allow_insecure": allow_insecure,
        "token_counter": counter,
        "max_retries": max_retries,
        "max_concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
    }
    return {name: value for name, value in options.items() if value is not None}
