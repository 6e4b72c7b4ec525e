"""The arithmetic of ``docs/internet-scale.md``, from the figures in records: ``python -m benches.internet_scale``.

It prints the part of the page between its markers; ``--write`` replaces it.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed import Limits, get_model

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORDS: Final = Path(__file__).parent / "records"
PAGE: Final = Path(__file__).parent.parent / "docs" / "internet-scale.md"
BEGIN: Final = "<!-- arithmetic: begin -->\n"
END: Final = "<!-- arithmetic: end -->"

SEARCH: Final = "intel-xeon-2026-11-26.json"
LIMITER: Final = "amd-epyc-limiter-2026-11-29.json"

DOCUMENTS: Final = 1_000_000_000
CHUNKS_PER_DOCUMENT: Final = 3
TOKENS_PER_CHUNK: Final = 200
RATES: Final = (20, 100, 500)
LATENCIES: Final = (0.1, 1.0)
MODELS: Final = ("pplx-embed-context-v1-0.6b", "pplx-embed-context-v1-4b")
DAY: Final = 86_400


@cache
def _record(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / name).read_text(encoding="utf-8"))


def measured(record: str, group: str, case: str, peer: str, threads: int) -> dict[str, Any]:
    """Return one result of a record."""
    [found] = [
        result
        for result in _record(record)["results"]
        if (result["group"], result["case"], result["peer"], result["threads"]) == (group, case, peer, threads)
    ]
    return found


@dataclass(frozen=True)
class Scale:
    """The sizes of the job.

    Parameters
    ----------
    chunks, tokens : int
        Of all documents; tokens with the separators between the chunks.
    documents_per_request, requests : int
        With requests as full as the limits allow.
    """

    chunks: int
    tokens: int
    documents_per_request: int
    requests: int


def scale() -> Scale:
    """Compute the sizes from the limits of a request."""
    limits = Limits()
    tokens = CHUNKS_PER_DOCUMENT * TOKENS_PER_CHUNK + CHUNKS_PER_DOCUMENT - 1
    fitting = min(limits.documents, limits.chunks // CHUNKS_PER_DOCUMENT, limits.tokens // tokens)
    return Scale(DOCUMENTS * CHUNKS_PER_DOCUMENT, DOCUMENTS * tokens, fitting, math.ceil(DOCUMENTS / fitting))


def machines(seconds_per_million: float, latency: float) -> int:
    """Return the machines that scan all rows within a latency, if each scans its part."""
    return math.ceil(seconds_per_million * scale().chunks / 1e6 / latency)


def _table(head: list[str], rows: Iterable[list[str]], numbers: int) -> str:
    lines = [head, ["---"] * (len(head) - numbers) + ["---:"] * numbers, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _size(count: float) -> str:
    return f"{count / 1e12:,.2f} TB" if count >= 1e12 else f"{count / 1e9:,.0f} GB"


def _requests() -> str:
    found, limits = scale(), Limits()
    simulated = _simulated("shared limiter")
    used = simulated["simulated_rate_used"]
    rows = []
    for rate in RATES:
        ideal = found.requests / rate / DAY
        rows.append([f"{rate} requests a second", f"{ideal:.2f}", f"{ideal / used:.2f}"])
    per_document = found.tokens // DOCUMENTS
    client = measured(SEARCH, "client", "16 requests of 480 chunks", "ctxembed async, aiohttp", 1)
    per_chunk = client["seconds"] / (16 * 480)
    return "\n\n".join(
        [
            (
                f"A document has {CHUNKS_PER_DOCUMENT} chunks of {TOKENS_PER_CHUNK} tokens and "
                f"{CHUNKS_PER_DOCUMENT - 1} separators: {per_document} tokens. A request takes "
                f"{limits.tokens:,}, so {limits.tokens:,} / {per_document} = {found.documents_per_request} documents, "
                f"and the job {DOCUMENTS:,} / {found.documents_per_request} = {found.requests:,} requests."
            ),
            _table(["the API allows", "days", f"days at the {used:.1%} that the simulation used"], rows, 2),
            (
                f"The client takes {1e6 * per_chunk:.1f} µs of processor time a chunk (`{SEARCH}`, group `client`): "
                f"{found.chunks:,} x {1e6 * per_chunk:.1f} µs = {found.chunks * per_chunk / 3600:.1f} hours of one "
                "core. The rate limit decides how long the job takes, and not the machine."
            ),
        ]
    )


def _costs() -> str:
    found, rows = scale(), []
    for name in MODELS:
        price = get_model(name).usd_per_million_tokens
        cost = Decimal(found.tokens) / 1_000_000 * price
        rows.append([f"`{name}`", f"{found.tokens:,}", f"{price}", f"{cost:,.0f}"])
    return _table(["model", "tokens", "USD a million", "USD"], rows, 3)


def _bytes() -> str:
    found, rows = scale(), []
    built = measured(SEARCH, "stages", "1,000,000 x 1024 int8, built", "ctxembed.Index.add", 1)
    row = int(built["note"].split()[0].replace(",", ""))
    for dimensions in (256, 1024, 2560):
        int8, bits = found.chunks * dimensions, found.chunks * dimensions // 8
        rows.append([f"{dimensions:,}", _size(int8), _size(bits), _size(int8 * 4)])
    return "\n\n".join(
        [
            _table(["dimensions", "int8", "bits", "float32, for comparison"], rows, 3),
            (
                f"An `Index` of 1,024 dimensions holds {row:,} bytes a row (`{SEARCH}`, group `stages`), int8 and bits "
                f"for two stages: {found.chunks:,} x {row:,} = {_size(found.chunks * row)}."
            ),
        ]
    )


def _search() -> str:
    found = scale()
    one, many = "1,000,000 x 1024 int8, 1 query", "1,000,000 x 1024 int8, 64 queries"
    row = int(
        measured(SEARCH, "stages", "1,000,000 x 1024 int8, built", "ctxembed.Index.add", 1)["note"]
        .split()[0]
        .replace(",", "")
    )
    kinds = [
        (
            "exact, int8",
            measured(SEARCH, "stages", one, "exact", 2),
            measured(SEARCH, "stages", many, "exact", 2),
            1024,
        ),
        (
            "two stages",
            measured(SEARCH, "stages", one, "two-stage", 2),
            measured(SEARCH, "stages", many, "two-stage", 2),
            row,
        ),
        (
            "bits alone",
            measured(SEARCH, "hamming", "1,000,000 x 1024 bits, 1 query", "ctxembed.BinaryIndex", 2),
            measured(SEARCH, "hamming", "1,000,000 x 1024 bits, 256 queries", "ctxembed.BinaryIndex", 2),
            128,
        ),
    ]
    rows = []
    for name, single, batch, size in kinds:
        for latency in LATENCIES:
            count = machines(single["seconds"], latency)
            rows.append(
                [
                    name,
                    f"{1e3 * single['seconds']:.2f} ms",
                    f"{1e3 * latency:,.0f} ms",
                    f"{count:,}",
                    _size(found.chunks / count * size),
                    f"{batch['size']['queries'] / (batch['seconds'] * found.chunks / 1e6 / count):,.0f}",
                ]
            )
    head = ["search", "one query, a million rows", "latency", "machines", "memory of each", "queries a second, batched"]
    return _table(head, rows, 5)


def _simulated(peer: str) -> dict[str, Any]:
    [found] = [
        result["values"]
        for result in _record(LIMITER)["results"]
        if result["table"] == "simulated workers" and result["peer"] == peer
    ]
    return found


def _limits() -> str:
    rows = []
    for peer in ("shared limiter", "each by itself"):
        found = _simulated(peer)
        share = found["simulated_refused"] / (found["simulated_accepted"] + found["simulated_refused"])
        rows.append(
            [
                peer,
                f"{found['simulated_seconds']:,.0f}",
                f"{found['simulated_rate_used']:.1%}",
                f"{found['simulated_refused']:,}",
                f"{share:.1%}",
                f"{found['simulated_deaths']}",
            ]
        )
    simulated = _table(
        ["200 workers (simulated)", "seconds", "of the rate", "refused", "share", "workers killed"], rows, 5
    )
    rows = [
        [
            result["case"],
            result["peer"],
            f"{result['values']['ideal']:.0f}",
            f"{result['seconds']:.1f}",
            f"{result['values']['of_ideal']:.2f}",
            f"{result['values']['refusals']:,}",
        ]
        for result in _record(LIMITER)["results"]
        if result["table"].startswith("six processes")
    ]
    processes = _table(["six processes (measured)", "", "ideal s", "seconds", "of ideal", "refused"], rows, 4)
    return f"From `{LIMITER}`:\n\n{simulated}\n\n{processes}"


def arithmetic() -> str:
    """Return the part of the page between the markers."""
    parts = {
        "Requests and days": _requests(),
        "Cost": _costs(),
        "Bytes": _bytes(),
        "Machines for search": _search(),
        "One rate for many workers": _limits(),
    }
    return "\n".join(f"## {title}\n\n{text}\n" for title, text in parts.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.internet_scale")
    parser.add_argument("--write", action="store_true", help="replace the part of the page")
    if parser.parse_args().write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{arithmetic()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    else:
        print(arithmetic())


if __name__ == "__main__":
    main()
