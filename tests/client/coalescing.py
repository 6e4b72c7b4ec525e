"""Calls that are made at once, and what they have to get: shared by the tests of shared requests."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import anyio
import ctxembed
import numpy as np
from ctxembed._client import AsyncClient, Client
from ctxembed._results import NO_USAGE

from .conftest import KEY, FakeClock, vector_of

MINUTE = 60.0


class WindowClock(FakeClock):
    """A clock that waits for the window alone."""

    async def sleep(self, seconds):
        await (anyio.sleep(seconds) if seconds == MINUTE else super().sleep(seconds))


class Calls:
    """Makes calls of one client at once, in threads or tasks, and returns their results or exceptions in order."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, calls, _with=(), **options):
        """Make ``calls``, each a method, its argument and its options; ``_with``: what the client of each changes."""
        options = {"api_key": KEY, "coalesce": MINUTE, **options}
        if self.kind == "sync":
            with Client(**options) as client, ThreadPoolExecutor(len(calls)) as pool:
                changes = _with or [{}] * len(calls)
                clients = [client.with_options(**changed) if changed else client for changed in changes]

                def call(client, method, argument, more):
                    try:
                        return getattr(client, method)(argument, **more)
                    except BaseException as error:  # noqa: BLE001  # a result
                        return error

                running = [pool.submit(call, own, *one) for own, one in zip(clients, calls, strict=True)]
                return [future.result() for future in running]
        results = [None] * len(calls)

        async def main():
            async with AsyncClient(**options) as client, anyio.create_task_group() as group:

                async def call(place):
                    method, argument, more = calls[place]
                    caller = client.with_options(**_with[place]) if _with and _with[place] else client
                    try:
                        results[place] = await getattr(caller, method)(argument, **more)
                    except Exception as error:  # noqa: BLE001  # a result
                        results[place] = error

                for place in range(len(calls)):
                    group.start_soon(call, place)

        anyio.run(main, backend=self.kind)
        return results


def flat_body(texts, model):
    data = [
        {"index": place, "embedding": base64.b64encode(vector_of(text).tobytes()).decode()}
        for place, text in enumerate(texts)
    ]
    tokens = sum(map(len, texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "cost": {"total_cost": tokens * 1e-9}}
    return json.dumps({"data": data, "model": model, "usage": usage}).encode()


def limit(documents):
    return ctxembed.Limits(documents=documents)


def queries(count, length=1):
    return [("embed_queries", [f"query {i}, {'x' * (i % 7)} {j}" for j in range(length)], {}) for i in range(count)]


def assert_rows(result, texts):
    assert isinstance(result, ctxembed.Embeddings), result
    np.testing.assert_array_equal(result.vectors, np.stack([vector_of(text) for text in texts]))


def usage_of(result):
    return result.partial.usage if isinstance(result, ctxembed.EmbedError) else result.usage


def total_usage(results):
    return sum((usage_of(result) for result in results), NO_USAGE)


def reported(requests):
    """Return the tokens and the cost that the scripted server reported for requests that it accepted."""
    tokens = [sum(len(text) for chunks in request["input"] for text in chunks) for request in requests]
    return sum(tokens), sum((Decimal(repr(count * 1e-9)) for count in tokens), Decimal(0))
