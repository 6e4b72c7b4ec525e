"""Write ``docs/reference.md``: every public name with its kind and the first line of its docstring.

    python -m tests.reference

A new name goes into one of the ``ROOMS``; ``tests/test_reference.py`` compares them with ``ctxembed.__all__``.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin, is_typeddict

import ctxembed

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEAD = """# Reference

All public names, importable from `ctxembed`. `help(ctxembed.NAME)` prints the full documentation of one.
`ctxembed.backends` has `load`, `demo` and `LocalEmbedder`: [local-models.md](local-models.md).

<!-- Written by `python -m tests.reference` from the docstrings. -->
"""
ROOMS = {
    "Client": (
        "Client",
        "AsyncClient",
        "ClientOptions",
        "AsyncClientOptions",
        "Stream",
        "AsyncStream",
        "EmbeddingsPart",
        "RawCalls",
        "AsyncRawCalls",
        "RawResponse",
        "Progress",
        "Journal",
        "limiter",
        "SocketLimiter",
        "LocalLimiter",
        "Limiter",
        "RequestEvent",
        "ResponseEvent",
        "RetryEvent",
        "embed_batch",
        "aembed_batch",
    ),
    "Search server": ("SearchClient", "AsyncSearchClient"),
    "Transport": (
        "Transport",
        "TransportName",
        "TransportRequest",
        "TransportResponse",
        "Timeouts",
        "Credentials",
        "Clock",
    ),
    "Results": ("Embeddings", "Usage", "Failure"),
    "Models and limits": ("Model", "models", "get_model", "register_model", "EncodingFormat", "InputType", "Limits"),
    "Planning": (
        "document_key",
        "plan",
        "Plan",
        "Problem",
        "pack",
        "Packing",
        "split_long",
        "SplitDocuments",
        "Window",
        "chunk",
        "Chunks",
        "TokenCounter",
        "CountsTokens",
        "token_upper_bound",
    ),
    "Codec": (
        "decode_response",
        "ResponseDecoder",
        "decode_base64",
        "encode_base64",
        "pack_bits",
        "unpack_bits",
        "reverse_bit_order",
        "truncate",
        "normalize",
    ),
    "Similarity and search": (
        "hamming",
        "dot",
        "cosine",
        "top_k",
        "merge_top_k",
        "Index",
        "BinaryIndex",
        "Matches",
        "RangeMatches",
        "Pairs",
        "Calibration",
    ),
    "Collections": (
        "Collection",
        "Document",
        "Hit",
        "IngestReport",
        "IngestProgress",
        "ExportReport",
        "FailedDocument",
        "MigrationReport",
        "NearDuplicate",
        "StoredGeneration",
        "CollectionStats",
    ),
    "Evaluation": (
        "evaluate",
        "plan_evaluation",
        "Evaluation",
        "EvaluationPlan",
        "read_judged",
        "read_queries",
        "read_judgements",
        "JudgedCorpus",
    ),
    "Errors": (
        "CtxembedError",
        "APIError",
        "APIConnectionError",
        "APITimeoutError",
        "APIStatusError",
        "BadRequestError",
        "AuthenticationError",
        "PermissionDeniedError",
        "NotFoundError",
        "UnprocessableEntityError",
        "RateLimitError",
        "InternalServerError",
        "BadResponseError",
        "ChunkOrderError",
        "EmbedError",
        "DocumentError",
        "InvalidDocumentsError",
        "DecodeError",
        "IndexFileError",
        "SpaceError",
        "CollectionError",
        "CollectionLockedError",
        "LimiterError",
        "MissingKeyError",
        "MissingShardsError",
        "ClosedClientError",
    ),
    "Package": ("__version__",),
}
WITHOUT_DOCSTRING = {"__version__": "The version of the package."}


def kind(value: Any) -> str:
    """Return what sort of object a name stands for."""
    if inspect.isclass(value):
        if issubclass(value, BaseException):
            return "exception"
        if is_typeddict(value):
            return "typed dictionary"
        return "protocol" if getattr(value, "_is_protocol", False) else "class"
    if inspect.isroutine(value):
        return "function"
    return "type" if get_origin(value) else type(value).__name__


def summary(name: str, value: Any) -> str:
    """Return the first line of the docstring in Markdown; of a type, its alternatives."""
    if name in WITHOUT_DOCSTRING:
        return WITHOUT_DOCSTRING[name]
    if get_origin(value):
        return "One of " + ", ".join(f"`{each!r}`" for each in get_args(value)) + "."
    first = (inspect.getdoc(value) or "").partition("\n")[0]
    return re.sub(r":\w+:(`[\w.]+`)", r"\1", first.replace("``", "`")).replace("|", r"\|")


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for room, names in ROOMS.items():
        rows = [f"| `{name}` | {kind(value)} | {summary(name, value)} |" for name, value in values(names)]
        parts.append("\n".join([f"## {room}\n", "| name | kind | |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def values(names: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, getattr(ctxembed, name)) for name in names]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
