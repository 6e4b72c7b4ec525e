"""The HTTP client: what is sent when, what comes back, and what is proven of it.

``_base`` and ``_plan`` know no I/O, ``_transport`` is the only module that knows httpx, ``_engine`` runs both clients.
"""

from __future__ import annotations

from ctxembed._client._async import AsyncClient, AsyncStream
from ctxembed._client._parts import EmbeddingsPart, Progress
from ctxembed._client._raw import RawResponse
from ctxembed._client._sync import Client, Stream
from ctxembed._client._watch import RequestEvent, ResponseEvent, RetryEvent

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
