"""Who sends documents to an API: this package's clients, and the vendor's with what its users add to it.

Each opens a client for a job and gives the call that does it, which returns the vectors of the job's chunks, a row
each in the order of the documents: one matrix, or where each request is sent as it is, one a request.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import ctxembed
import httpx
import numpy as np
from ctxembed._client._http import lines as _lines

from benches.serving import KEY, MODEL

PATH: Final = "/v1/contextualizedembeddings"

_HEADERS: Final = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
_NO_LIMITS: Final = httpx.Limits(max_connections=None)


@dataclass(frozen=True, eq=False)
class Job:
    """Requests of so many documents each, at most so many at once."""

    base_url: str
    documents: list[list[str]] = field(repr=False)
    a_request: int
    concurrency: int
    dimensions: int
    retries: int = 2

    @property
    def requests(self) -> list[list[list[str]]]:
        """The documents of each request."""
        return [self.documents[i : i + self.a_request] for i in range(0, len(self.documents), self.a_request)]

    @property
    def options(self) -> dict[str, Any]:
        """What this package's clients are made with."""
        return {
            "api_key": KEY,
            "base_url": self.base_url,
            # So many documents fill a request, whatever they are estimated to cost.
            "limits": ctxembed.Limits(documents=self.a_request, tokens=2**30),
            "max_concurrency": self.concurrency,
            "max_retries": self.retries,
        }


Session = AbstractAsyncContextManager[Callable[[], Awaitable[Any]]]
"""A client that is open, and gives the call that does the job."""


@asynccontextmanager
async def ours_async(job: Job) -> AsyncIterator[Any]:
    """Over aiohttp, which is picked up where its extra is installed."""
    async with ctxembed.AsyncClient(**job.options) as client:

        async def call() -> np.ndarray:
            return (await client.embed(job.documents, dimensions=job.dimensions)).vectors

        yield call


@asynccontextmanager
async def ours_create(job: Job) -> AsyncIterator[Any]:
    """Each request given as it is, as to the vendor's package: nothing is planned and no tokens are estimated."""
    async with ctxembed.AsyncClient(**job.options) as client:

        async def one(documents: list[list[str]]) -> list[np.ndarray]:
            return [(await client.create(documents, dimensions=job.dimensions)).vectors]

        yield partial(gather, job, one, job.requests)


@asynccontextmanager
async def over_httpx(session: Session) -> AsyncIterator[Any]:
    """As where the extra is not installed: what sends is chosen at the first request."""
    async with session as call:
        installed, _lines._AIOHTTP = _lines._AIOHTTP, False  # noqa: SLF001
        try:
            await call()
        finally:
            _lines._AIOHTTP = installed  # noqa: SLF001
        yield call


def ours_httpx(job: Job) -> Session:
    return over_httpx(ours_async(job))


def ours_create_httpx(job: Job) -> Session:
    return over_httpx(ours_create(job))


@contextmanager
def ours_sync(job: Job) -> Iterator[Callable[[], np.ndarray]]:
    with ctxembed.Client(**job.options) as client:
        yield lambda: client.embed(job.documents, dimensions=job.dimensions).vectors


@contextmanager
def ours_create_sync(job: Job) -> Iterator[Callable[[], list[np.ndarray]]]:
    """Each request given as it is, by as many threads as there may be requests at once."""
    with ctxembed.Client(**job.options) as client, ThreadPoolExecutor(job.concurrency) as threads:

        def one(documents: list[list[str]]) -> np.ndarray:
            return client.create(documents, dimensions=job.dimensions).vectors

        yield lambda: list(threads.map(one, job.requests))


@asynccontextmanager
async def official_async(job: Job, http_client: httpx.AsyncClient | None = None) -> AsyncIterator[Any]:
    """As its users write it: so many at once, base64 and a matrix; rows placed by index, as nothing promises order."""
    from perplexity import AsyncPerplexity

    options: dict[str, Any] = {"api_key": KEY, "base_url": job.base_url, "max_retries": job.retries}
    async with AsyncPerplexity(**options, http_client=http_client) as client:

        async def one(documents: list[list[str]]) -> list[np.ndarray]:
            response = await client.contextualized_embeddings.create(
                input=documents, model=MODEL, dimensions=job.dimensions
            )
            rows = [
                np.frombuffer(base64.b64decode(chunk.embedding), np.int8)
                for document in sorted(response.data, key=lambda entry: entry.index)
                for chunk in sorted(document.data, key=lambda entry: entry.index)
            ]
            return [np.stack(rows)]

        yield partial(gather, job, one, job.requests)


@asynccontextmanager
async def official_joined(job: Job) -> AsyncIterator[Any]:
    """One matrix of all requests."""
    async with official_async(job) as call:

        async def joined() -> np.ndarray:
            return np.concatenate(await call())

        yield joined


def official_aiohttp(job: Job) -> Session:
    from perplexity import DefaultAioHttpClient

    return official_async(job, DefaultAioHttpClient())


def _bodies(job: Job) -> list[bytes]:
    """Write the requests beforehand: what is left is the transport's own work."""
    options = {"model": MODEL, "dimensions": job.dimensions}
    return [json.dumps({"input": documents, **options}, separators=(",", ":")).encode() for documents in job.requests]


@asynccontextmanager
async def raw_httpx(job: Job) -> AsyncIterator[Any]:
    """The bytes of each answer, which nobody decodes, for bytes that nobody writes."""
    async with httpx.AsyncClient(limits=_NO_LIMITS, headers=_HEADERS) as client:

        async def one(body: bytes) -> list[int]:
            return [len((await client.post(job.base_url + PATH, content=body)).content)]

        yield partial(gather, job, one, _bodies(job))


@asynccontextmanager
async def raw_aiohttp(job: Job) -> AsyncIterator[Any]:
    """The bytes of each answer, which nobody decodes, for bytes that nobody writes."""
    import aiohttp

    async with aiohttp.ClientSession(headers=_HEADERS) as client:

        async def one(body: bytes) -> list[int]:
            async with client.post(job.base_url + PATH, data=body) as response:
                return [len(await response.read())]

        yield partial(gather, job, one, _bodies(job))


async def gather(job: Job, one: Any, requests: list[Any]) -> list[Any]:
    """Send requests, at most so many at once, and join what each brings."""
    parts: list[Any] = [None] * len(requests)
    left = iter(enumerate(requests))

    async def work() -> None:
        for place, request in left:
            parts[place] = await one(request)

    await asyncio.gather(*[work() for _ in range(job.concurrency)])
    return [row for part in parts for row in part]


def run(session: Session) -> Any:
    """Open a client, do the job once, and close it."""

    async def main() -> Any:
        async with session as call:
            return await call()

    return asyncio.run(main())


def kept(session: Session) -> Callable[[], Any]:
    """Open a client for as long as this process lives, and return the job."""
    runner, stack = asyncio.Runner(), AsyncExitStack()
    call = runner.run(stack.enter_async_context(session))
    found: list[Any] = []

    async def once() -> None:
        # Not returned: restoring signal handlers, asyncio prints what a task returned, matrices included.
        found[:] = [await call()]

    def job() -> Any:
        runner.run(once())
        return found.pop()

    def close() -> None:
        runner.run(stack.aclose())
        runner.close()

    atexit.register(close)
    return job
