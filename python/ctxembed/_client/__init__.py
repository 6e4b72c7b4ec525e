"""The HTTP client: what is sent when, what comes back, and what is proven of it.

``_base`` and ``_plan`` know no I/O, ``_transport`` is the only module that knows httpx, ``_engine`` runs both clients.
"""

from __future__ import annotations

from ctxembed._client.asynchronous import AsyncClient, AsyncStream
from ctxembed._client.batches import EmbeddingsPart, Progress
from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent
from ctxembed._client.raw import RawResponse
from ctxembed._client.sync import Client, Stream

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "EmbeddingsPart",
    "Progress",
    "RawResponse",
    "RequestEvent",
    "ResponseEvent",
    "RetryEvent",
    "Stream",
]
