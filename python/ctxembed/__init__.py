"""Contextualized embeddings: decode, search, pack, and a client that loses nothing.

The names by room:

- codec: :func:`decode_response`, :class:`ResponseDecoder`, :func:`decode_base64`, :func:`encode_base64`,
  :func:`pack_bits`, :func:`unpack_bits`, :func:`reverse_bit_order`, :func:`truncate`, :func:`normalize`,
  :class:`Embeddings`
- similarity and search: :func:`hamming`, :func:`dot`, :func:`cosine`, :func:`top_k`, :class:`Index`,
  :class:`BinaryIndex`, and what they return: :class:`Matches`, :class:`RangeMatches`, :class:`Pairs`,
  :class:`Calibration`
- packing and tokens: :func:`plan`, :func:`pack`, :func:`split_long`, :class:`TokenCounter`,
  :func:`token_upper_bound`, :class:`Limits`
- client: :class:`Client`, :class:`AsyncClient`
- errors: :class:`CtxembedError` is the root of the tree in ``ctxembed._errors``

Importing this package starts no thread, opens no connection and reads no variable but ``CTXEMBED_ISA``; the HTTP
stack loads when a client is first named.
"""

from __future__ import annotations

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
    ClosedClientError,
    CtxembedError,
    DecodeError,
    DocumentError,
    EmbedError,
    IndexFileError,
    InternalServerError,
    InvalidDocumentsError,
    MissingKeyError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)
from ctxembed._models import Limits, Model, get_model, models, register_model
from ctxembed._planning.packing import Packing, pack
from ctxembed._planning.plan import Plan, Problem, plan, token_upper_bound
from ctxembed._planning.splitting import SplitDocuments, Window, split_long
from ctxembed._planning.token_counter import TokenCounter
from ctxembed._results import Embeddings, Failure, Usage

if TYPE_CHECKING:
    from ctxembed._client import (
        AsyncClient,
        Client,
        EmbeddingsPart,
        Progress,
        RawResponse,
        RequestEvent,
        ResponseEvent,
        RetryEvent,
    )

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "BadResponseError",
    "BinaryIndex",
    "Calibration",
    "Client",
    "ClosedClientError",
    "CtxembedError",
    "DecodeError",
    "DocumentError",
    "EmbedError",
    "Embeddings",
    "EmbeddingsPart",
    "Failure",
    "Index",
    "IndexFileError",
    "InternalServerError",
    "InvalidDocumentsError",
    "Limits",
    "Matches",
    "MissingKeyError",
    "Model",
    "NotFoundError",
    "Packing",
    "Pairs",
    "PermissionDeniedError",
    "Plan",
    "Problem",
    "Progress",
    "RangeMatches",
    "RateLimitError",
    "RawResponse",
    "RequestEvent",
    "ResponseDecoder",
    "ResponseEvent",
    "RetryEvent",
    "SplitDocuments",
    "TokenCounter",
    "UnprocessableEntityError",
    "Usage",
    "Window",
    "__version__",
    "cosine",
    "decode_base64",
    "decode_response",
    "dot",
    "encode_base64",
    "get_model",
    "hamming",
    "models",
    "normalize",
    "pack",
    "pack_bits",
    "plan",
    "register_model",
    "reverse_bit_order",
    "split_long",
    "token_upper_bound",
    "top_k",
    "truncate",
    "unpack_bits",
]

_CLIENT = frozenset(
    {
        "AsyncClient",
        "Client",
        "EmbeddingsPart",
        "Progress",
        "RawResponse",
        "RequestEvent",
        "ResponseEvent",
        "RetryEvent",
    }
)


def __getattr__(name: str) -> Any:
    """Load the client, and the HTTP stack with it, when it is first named."""
    if name not in _CLIENT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ctxembed import _client

    value = getattr(_client, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
