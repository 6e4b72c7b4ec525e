"""API clients: those of this package, and the vendor's with the code that its users write around it.

Each opens a client for a job and yields the call that runs it. The call returns the vectors of the job's chunks in
input order: one matrix, or one matrix per request if the requests are not packed.
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

from benches.serving import KEY, MODEL

PATH: Final = "/v1/contextualizedembeddings"

_HEADERS: Final = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
_NO_LIMITS: Final = httpx.Limits(max_connections=None)


@dataclass(frozen=True, eq=False)
class Job:
    """Documents to embed in requests of a fixed number of documents."""

    base_url: str
    documents: list[list[str]] = field(repr=False)
    documents_per_request: int
    concurrency: int
    dimensions: int
    retries: int = 2

    @property
    def requests(self) -> list[list[list[str]]]:
        """The documents of each request."""
        size = self.documents_per_request
        return [self.documents[i : i + size] for i in range(0, len(self.documents), size)]

    @property
    def options(self) -> dict[str, Any]:
        """The options of this package's clients."""
        return {
            "api_key": KEY,
            "base_url": self.base_url,
            # Only the number of documents limits a request, not their estimated tokens.
            "limits": ctxembed.Limits(documents=self.documents_per_request, tokens=2**30),
            "max_concurrency": self.concurrency,
            "max_retries": self.retries,
        }


Session = AbstractAsyncContextManager[Callable[[], Awaitable[Any]]]
"""Opens a client and yields the call that runs the job."""


@asynccontextmanager
async def ours_async(job: Job, transport: str = "aiohttp") -> AsyncIterator[Any]:
    """Plan and embed."""
    async with ctxembed.AsyncClient(**job.options, transport=transport) as client:

        async def call() -> np.ndarray:
            return (await client.embed(job.documents, dimensions=job.dimensions)).vectors

        yield call


@asynccontextmanager
async def ours_create(job: Job, transport: str = "aiohttp") -> AsyncIterator[Any]:
    """Call ``create`` for each request, which plans nothing and estimates no tokens, like the vendor's package."""
    async with ctxembed.AsyncClient(**job.options, transport=transport) as client:

        async def one(documents: list[list[str]]) -> list[np.ndarray]:
            return [(await client.create(documents, dimensions=job.dimensions)).vectors]

        yield partial(gather, job, one, job.requests)


def ours_httpx(job: Job) -> Session:
    return ours_async(job, "httpx")


def ours_create_httpx(job: Job) -> Session:
    return ours_create(job, "httpx")


@contextmanager
def ours_sync(job: Job) -> Iterator[Callable[[], np.ndarray]]:
    with ctxembed.Client(**job.options) as client:
        yield lambda: client.embed(job.documents, dimensions=job.dimensions).vectors


@contextmanager
def ours_create_sync(job: Job) -> Iterator[Callable[[], list[np.ndarray]]]:
    """Call ``create`` for each request from as many threads as the concurrency allows."""
    with ctxembed.Client(**job.options) as client, ThreadPoolExecutor(job.concurrency) as threads:

        def one(documents: list[list[str]]) -> np.ndarray:
            return client.create(documents, dimensions=job.dimensions).vectors

        yield lambda: list(threads.map(one, job.requests))


@asynccontextmanager
async def official_async(job: Job, http_client: httpx.AsyncClient | None = None) -> AsyncIterator[Any]:
    """Send requests concurrently, decode base64 and stack the rows, sorted by index because no order is promised."""
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
    """Join the requests to one matrix."""
    async with official_async(job) as call:

        async def joined() -> np.ndarray:
            return np.concatenate(await call())

        yield joined


def official_aiohttp(job: Job) -> Session:
    from perplexity import DefaultAioHttpClient

    return official_async(job, DefaultAioHttpClient())


def _bodies(job: Job) -> list[bytes]:
    """Return the request bodies, written beforehand so that only the transport is measured."""
    options = {"model": MODEL, "dimensions": job.dimensions}
    return [json.dumps({"input": documents, **options}, separators=(",", ":")).encode() for documents in job.requests]


@asynccontextmanager
async def raw_httpx(job: Job) -> AsyncIterator[Any]:
    """Send prepared bodies and return the length of each response body."""
    async with httpx.AsyncClient(limits=_NO_LIMITS, headers=_HEADERS) as client:

        async def one(body: bytes) -> list[int]:
            return [len((await client.post(job.base_url + PATH, content=body)).content)]

        yield partial(gather, job, one, _bodies(job))


@asynccontextmanager
async def raw_aiohttp(job: Job) -> AsyncIterator[Any]:
    """Send prepared bodies and return the length of each response body."""
    import aiohttp

    async with aiohttp.ClientSession(headers=_HEADERS) as client:

        async def one(body: bytes) -> list[int]:
            async with client.post(job.base_url + PATH, data=body) as response:
                return [len(await response.read())]

        yield partial(gather, job, one, _bodies(job))


async def gather(job: Job, one: Any, requests: list[Any]) -> list[Any]:
    """Send requests with the concurrency of the job, and join their results in order."""
    parts: list[Any] = [None] * len(requests)
    left = iter(enumerate(requests))

    async def work() -> None:
        for place, request in left:
            parts[place] = await one(request)

    await asyncio.gather(*[work() for _ in range(job.concurrency)])
    return [row for part in parts for row in part]


def run(session: Session) -> Any:
    """Open a client, run the job once, and close the client."""

    async def main() -> Any:
        async with session as call:
            return await call()

    return asyncio.run(main())


def kept(session: Session) -> Callable[[], Any]:
    """Open a client until the process exits, and return the call that runs the job."""
    runner, stack = asyncio.Runner(), AsyncExitStack()
    call = runner.run(stack.enter_async_context(session))
    found: list[Any] = []

    async def once() -> None:
        # The task returns None: asyncio would print its result, a matrix, when it restores signal handlers.
        found[:] = [await call()]

    def job() -> Any:
        runner.run(once())
        return found.pop()

    def close() -> None:
        runner.run(stack.aclose())
        runner.close()

    atexit.register(close)
    return job
