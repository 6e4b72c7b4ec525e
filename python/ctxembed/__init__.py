"""Contextualized embeddings: decode, search, pack, and a client that loses nothing.

The names by room:

- codec: :func:`decode_response`, :class:`ResponseDecoder`, :func:`decode_base64`, :func:`encode_base64`,
  :func:`pack_bits`, :func:`unpack_bits`, :func:`reverse_bit_order`, :func:`truncate`, :func:`normalize`,
  :class:`Embeddings`
- similarity and search: :func:`hamming`, :func:`dot`, :func:`cosine`, :func:`top_k`, :func:`merge_top_k`,
  :class:`Index`, :class:`BinaryIndex`, and what they return: :class:`Matches`, :class:`RangeMatches`, :class:`Pairs`,
  :class:`Calibration`
- packing and tokens: :func:`plan`, :func:`pack`, :func:`split_long`, :func:`chunk`,
  :class:`TokenCounter`, :func:`token_upper_bound`, :class:`Limits`, :func:`document_key`
- evaluation: :func:`evaluate`, :func:`plan_evaluation`, :func:`read_judged`, :func:`read_queries`,
  :func:`read_judgements`
- client of a search server: :class:`SearchClient`, :class:`AsyncSearchClient`
- client: :class:`Client`, :class:`AsyncClient`, :func:`limiter`, :func:`embed_batch`, :func:`aembed_batch`
- local models: ``ctxembed.backends``
- frameworks: ``ctxembed.integrations.langchain``, ``.llama_index`` and ``.haystack``
- errors: :class:`CtxembedError` is the root of the tree in ``ctxembed._errors``

Importing this package starts no thread, opens no connection and reads no environment variable but ``CTXEMBED_ISA``.
It loads what decodes and searches. Planning, collections and the client, with the HTTP stack, load when a name of
theirs is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctxembed._codec import ResponseDecoder, decode_response
from ctxembed._core import (
    BinaryIndex,
    Calibration,
    Index,
    Matches,
    Pairs,
    RangeMatches,
    __version__,
    cosine,
    decode_base64,
    dot,
    encode_base64,
    hamming,
    merge_top_k,
    normalize,
    pack_bits,
    reverse_bit_order,
    top_k,
    truncate,
    unpack_bits,
)
from ctxembed._errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ChunkOrderError,
    ClosedClientError,
    CollectionError,
    CollectionLockedError,
    CtxembedError,
    DecodeError,
    DocumentError,
    IndexFileError,
    InternalServerError,
    LimiterError,
    MissingKeyError,
    MissingShardsError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SpaceError,
    UnprocessableEntityError,
)
from ctxembed._models import EncodingFormat, InputType, Model, get_model, models, register_model
from ctxembed._results import Embeddings, EmbedError, Failure, InvalidDocumentsError, Problem, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctxembed import backends as backends
    from ctxembed._client import (
        AsyncClient,
        AsyncClientOptions,
        AsyncRawCalls,
        AsyncStream,
        Client,
        ClientOptions,
        Clock,
        Credentials,
        EmbeddingsPart,
        Journal,
        Limiter,
        LocalLimiter,
        Progress,
        RawCalls,
        RawResponse,
        RequestEvent,
        ResponseEvent,
        RetryEvent,
        SocketLimiter,
        Stream,
        Timeouts,
        Transport,
        TransportName,
        TransportRequest,
        TransportResponse,
        aembed_batch,
        embed_batch,
        limiter,
    )
    from ctxembed._collection.collection import Collection
    from ctxembed._documents import (
        CollectionStats,
        Document,
        ExportReport,
        FailedDocument,
        Hit,
        IngestProgress,
        IngestReport,
        MigrationReport,
        NearDuplicate,
        StoredGeneration,
    )
    from ctxembed._evaluation.evaluate import evaluate, plan_evaluation
    from ctxembed._evaluation.reading import JudgedCorpus, read_judged, read_judgements, read_queries
    from ctxembed._evaluation.result import Evaluation, EvaluationPlan
    from ctxembed._planning.chunking import Chunks, chunk
    from ctxembed._planning.document_key import document_key
    from ctxembed._planning.limits import Limits
    from ctxembed._planning.packing import Packing, pack
    from ctxembed._planning.plan import Plan, plan, token_upper_bound
    from ctxembed._planning.prepare import CountsTokens
    from ctxembed._planning.splitting import SplitDocuments, Window, split_long
    from ctxembed._planning.token_counter import TokenCounter
    from ctxembed._search_client import AsyncSearchClient, SearchClient

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncClientOptions",
    "AsyncRawCalls",
    "AsyncSearchClient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "BadResponseError",
    "BinaryIndex",
    "Calibration",
    "ChunkOrderError",
    "Chunks",
    "Client",
    "ClientOptions",
    "Clock",
    "ClosedClientError",
    "Collection",
    "CollectionError",
    "CollectionLockedError",
    "CollectionStats",
    "CountsTokens",
    "Credentials",
    "CtxembedError",
    "DecodeError",
    "Document",
    "DocumentError",
    "EmbedError",
    "Embeddings",
    "EmbeddingsPart",
    "EncodingFormat",
    "Evaluation",
    "EvaluationPlan",
    "ExportReport",
    "FailedDocument",
    "Failure",
    "Hit",
    "Index",
    "IndexFileError",
    "IngestProgress",
    "IngestReport",
    "InputType",
    "InternalServerError",
    "InvalidDocumentsError",
    "Journal",
    "JudgedCorpus",
    "Limiter",
    "LimiterError",
    "Limits",
    "LocalLimiter",
    "Matches",
    "MigrationReport",
    "MissingKeyError",
    "MissingShardsError",
    "Model",
    "NearDuplicate",
    "NotFoundError",
    "Packing",
    "Pairs",
    "PermissionDeniedError",
    "Plan",
    "Problem",
    "Progress",
    "RangeMatches",
    "RateLimitError",
    "RawCalls",
    "RawResponse",
    "RequestEvent",
    "ResponseDecoder",
    "ResponseEvent",
    "RetryEvent",
    "SearchClient",
    "SocketLimiter",
    "SpaceError",
    "SplitDocuments",
    "StoredGeneration",
    "Stream",
    "Timeouts",
    "TokenCounter",
    "Transport",
    "TransportName",
    "TransportRequest",
    "TransportResponse",
    "UnprocessableEntityError",
    "Usage",
    "Window",
    "__version__",
    "aembed_batch",
    "chunk",
    "cosine",
    "decode_base64",
    "decode_response",
    "document_key",
    "dot",
    "embed_batch",
    "encode_base64",
    "evaluate",
    "get_model",
    "hamming",
    "limiter",
    "merge_top_k",
    "models",
    "normalize",
    "pack",
    "pack_bits",
    "plan",
    "plan_evaluation",
    "read_judged",
    "read_judgements",
    "read_queries",
    "register_model",
    "reverse_bit_order",
    "split_long",
    "token_upper_bound",
    "top_k",
    "truncate",
    "unpack_bits",
]

_LATE = {
    "ctxembed._client": (
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
    ),
    "ctxembed._collection.collection": ("Collection",),
    "ctxembed._documents": (
        "CollectionStats",
        "Document",
        "ExportReport",
        "FailedDocument",
        "Hit",
        "IngestProgress",
        "IngestReport",
        "MigrationReport",
        "NearDuplicate",
        "StoredGeneration",
    ),
    "ctxembed._evaluation.evaluate": ("evaluate", "plan_evaluation"),
    "ctxembed._evaluation.reading": ("JudgedCorpus", "read_judged", "read_judgements", "read_queries"),
    "ctxembed._evaluation.result": ("Evaluation", "EvaluationPlan"),
    "ctxembed._planning.chunking": ("Chunks", "chunk"),
    "ctxembed._planning.document_key": ("document_key",),
    "ctxembed._planning.limits": ("Limits",),
    "ctxembed._planning.packing": ("Packing", "pack"),
    "ctxembed._planning.plan": ("Plan", "plan", "token_upper_bound"),
    "ctxembed._planning.prepare": ("CountsTokens",),
    "ctxembed._planning.splitting": ("SplitDocuments", "Window", "split_long"),
    "ctxembed._planning.token_counter": ("TokenCounter",),
    "ctxembed._search_client": ("AsyncSearchClient", "SearchClient"),
}
"""Modules that load when a name of theirs is first used, with their public names."""

_MODULES = {name: module for module, names in _LATE.items() for name in names}


def _show_as_public(names: Iterable[str]) -> None:
    """Let public objects name this package as their module: in tracebacks, reprs and pickles."""
    for name in names:
        value = globals()[name]
        if getattr(value, "__module__", "").startswith("ctxembed."):
            value.__module__ = __name__


def __getattr__(name: str) -> Any:
    """Load the module of a name when it is first used, and take over the names of all modules that this loads."""
    if name == "backends":  # ctxembed.backends.load, without an import of its own
        return import_module("ctxembed.backends")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(_MODULES[name])
    for module, names in _LATE.items():
        # Another thread may still be importing a module: it has some of the names.
        known = vars(sys.modules[module]) if module in sys.modules else {}
        found = {public: known[public] for public in names if public in known}
        globals().update(found)
        _show_as_public(found)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_show_as_public(set(__all__) - _MODULES.keys() - {"__version__"})
