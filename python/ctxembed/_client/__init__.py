"""The HTTP client. :meth:`Client.embed` is explained by six files, read in this order.

1. ``sync.py``: the call itself. ``asynchronous.py`` is its twin, and ``base.py`` holds their options.
2. ``_planning/prepare.py``: documents are checked, counted and packed into requests.
3. ``batches.py``: the planned requests as batches, and the matrix that is assembled from their outcomes.
4. ``dispatch.py``: a limited number of batches is in flight at once, and a refused batch is split.
5. ``attempts.py``: one request is sent, retried and hedged until it succeeds or fails.
6. ``endpoint.py``: the body of a request, and the checks of its response.

``_policy`` decides when attempts start and how often they are repeated; ``_http`` moves the bytes.
"""

from __future__ import annotations

from ctxembed._client._http.connections import TransportName
from ctxembed._client._http.credentials import Credentials
from ctxembed._client._http.transport import Timeouts, Transport, TransportRequest, TransportResponse
from ctxembed._client._policy.clock import Clock
from ctxembed._client.async_stream import AsyncStream
from ctxembed._client.asynchronous import AsyncClient
from ctxembed._client.batches import EmbeddingsPart
from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent
from ctxembed._client.journal import Journal
from ctxembed._client.limiters import Limiter, LocalLimiter, SocketLimiter, limiter
from ctxembed._client.options import AsyncClientOptions, ClientOptions
from ctxembed._client.progress import Progress
from ctxembed._client.raw import AsyncRawCalls, RawCalls, RawResponse
from ctxembed._client.record_batch import aembed_batch, embed_batch
from ctxembed._client.sync import Client
from ctxembed._client.sync_stream import Stream

__all__ = [
    "AsyncClient",
    "AsyncClientOptions",
    "AsyncRawCalls",
    "AsyncStream",
    "Client",
    "ClientOptions",
    "Clock",
    "Credentials",
    "EmbeddingsPart",
    "Journal",
    "Limiter",
    "LocalLimiter",
    "Progress",
    "RawCalls",
    "RawResponse",
    "RequestEvent",
    "ResponseEvent",
    "RetryEvent",
    "SocketLimiter",
    "Stream",
    "Timeouts",
    "Transport",
    "TransportName",
    "TransportRequest",
    "TransportResponse",
    "aembed_batch",
    "embed_batch",
    "limiter",
]
