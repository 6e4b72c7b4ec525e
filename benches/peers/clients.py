"""Who sends documents to an API: this package's clients, and the vendor's with what its users add to it.

Each takes a job and returns the vectors of its chunks, a row each in the order of the documents.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ctxembed
import numpy as np

from benches.serving import KEY, MODEL

if TYPE_CHECKING:
    from collections.abc import Coroutine


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
            "limits": ctxembed.Limits(documents=self.a_request),
            "max_concurrency": self.concurrency,
            "max_retries": self.retries,
        }


async def ours_async(job: Job) -> np.ndarray:
    async with ctxembed.AsyncClient(**job.options) as client:
        return (await client.embed(job.documents, dimensions=job.dimensions)).vectors


def ours_sync(job: Job) -> np.ndarray:
    with ctxembed.Client(**job.options) as client:
        return client.embed(job.documents, dimensions=job.dimensions).vectors


async def official_async(job: Job) -> np.ndarray:
    """As its users write it: a semaphore, base64 and one matrix; rows placed by index, as nothing promises order."""
    from perplexity import AsyncPerplexity

    async with AsyncPerplexity(api_key=KEY, base_url=job.base_url, max_retries=job.retries) as client:

        async def one(documents: list[list[str]]) -> list[np.ndarray]:
            response = await client.contextualized_embeddings.create(
                input=documents, model=MODEL, dimensions=job.dimensions
            )
            return [
                np.frombuffer(base64.b64decode(chunk.embedding), np.int8)
                for document in sorted(response.data, key=lambda entry: entry.index)
                for chunk in sorted(document.data, key=lambda entry: entry.index)
            ]

        return await gather(job, one)


async def gather(job: Job, one: Any) -> np.ndarray:
    """Send the job's requests, at most so many at once, and stack the rows of all."""
    gate = asyncio.Semaphore(job.concurrency)

    async def gated(documents: list[list[str]]) -> list[np.ndarray]:
        async with gate:
            return await one(documents)

    rows = await asyncio.gather(*[gated(documents) for documents in job.requests])
    return np.stack([row for part in rows for row in part])


def run(call: Coroutine[Any, Any, np.ndarray]) -> np.ndarray:
    """Run a coroutine in an event loop of its own."""
    return asyncio.run(call)
