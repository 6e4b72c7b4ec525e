"""A short benchmark of decoding, searching and packing on this machine. Each result is checked.

It shows whether a machine and its instruction set perform as expected. ``benches/`` compares with other packages.
"""

from __future__ import annotations

import base64
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctxembed._models import EncodingFormat

__all__ = ["Result", "results"]

_K: Final = 10


class Result(NamedTuple):
    """The median time of one call, and the throughput in ``unit`` per second."""

    work: str
    seconds: float
    rate: float
    unit: str
    correct: bool


def results(budget: float) -> Iterator[Result]:
    """Run each benchmark for about ``budget`` seconds, on random vectors from a fixed seed."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(-128, 128, (100_000, 1024), dtype=np.int8)
    yield from _decoding(vectors[:480], budget)
    yield from _searching(vectors, budget)
    yield _packing(rng, budget)


def _measure(
    work: str, call: Callable[[], Any], check: Callable[[Any], bool], amount: float, unit: str, budget: float
) -> Result:
    correct = check(call())  # also the warm-up
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times))
    return Result(work, seconds, amount / seconds, unit, correct)


def _body(texts: list[str]) -> bytes:
    """Return the body of a response with one document, in the API's format."""
    chunks = ",".join(
        f'{{"object":"embedding","index":{chunk},"embedding":"{text}"}}' for chunk, text in enumerate(texts)
    )
    return f'{{"object":"list","data":[{{"object":"list","index":0,"data":[{chunks}]}}]}}'.encode()


def _decoding(vectors: np.ndarray, budget: float) -> Iterator[Result]:
    import ctxembed

    for kind, rows in (("int8", vectors), ("bits", np.packbits(vectors >= 0, axis=1, bitorder="little"))):
        body = _body([base64.b64encode(row.tobytes()).decode() for row in rows])
        encoding: EncodingFormat = "base64_int8" if kind == "int8" else "base64_binary"
        yield _measure(
            f"decode_response, {len(rows)} x 1024 {kind}",
            partial(ctxembed.decode_response, body, encoding_format=encoding),
            partial(_holds, rows),
            len(body) / 1e9,
            "GB",
            budget,
        )


def _holds(rows: np.ndarray, emb: Any) -> bool:
    return np.array_equal(emb.vectors, rows)


def _first(ids: np.ndarray, found: Any) -> bool:
    """Whether the best match of each query is the query itself."""
    return np.array_equal(found.ids[:, 0], ids)


def _searching(vectors: np.ndarray, budget: float) -> Iterator[Result]:
    import ctxembed

    bits = ctxembed.pack_bits(vectors)
    picked = np.arange(0, len(vectors), len(vectors) // 64)[:64]
    metric: Literal["hamming", "cosine"]
    for metric in ("hamming", "cosine"):
        rows = bits if metric == "hamming" else vectors
        for queries in (picked[:1], picked):
            count = len(queries)
            yield _measure(
                f"top_k by {metric}, {count} quer{'y' if count == 1 else 'ies'}, {len(rows):,} x 1024",
                partial(ctxembed.top_k, rows[queries], rows, _K, metric=metric),
                partial(_first, queries),
                count * len(rows) / 1e6,
                "M comparisons",
                budget,
            )


def _packing(rng: np.random.Generator, budget: float) -> Result:
    import ctxembed

    tokens = np.clip(rng.lognormal(6, 1, 100_000), 1, 32_000).astype(np.int64)

    def check(packing: Any) -> bool:
        placed = np.sort(np.concatenate(packing.requests))
        within = max(int(tokens[request].sum()) for request in packing.requests) <= ctxembed.Limits().tokens
        return within and np.array_equal(placed, np.arange(len(tokens)))

    return _measure(
        f"pack, {len(tokens):,} documents",
        partial(ctxembed.pack, tokens, effort=0),
        check,
        len(tokens) / 1e6,
        "M documents",
        budget,
    )
