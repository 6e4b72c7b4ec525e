"""The description of the endpoints in OpenAPI, with examples."""

from __future__ import annotations

from typing import Any, Final

from fastapi.responses import JSONResponse, Response

from ctxembed._server.search.search_request import SearchRequest

__all__ = ["described"]

_HIT: Final[dict[str, Any]] = {
    "document": "birds/kingfisher.md",
    "chunk": 3,
    "score": 0.0325,
    "text": "The kingfisher dives from a branch and catches small fish.",
    "metadata": {"year": 2021, "lang": "en"},
    "span": [412, 470],
    "vector_score": 0.612,
    "text_score": 7.91,
    "source": "birds/kingfisher.md",
    "passage": "The kingfisher dives from a branch and catches small fish.",
    "passage_chunks": [3, 4],
    "passage_span": [412, 470],
    "passage_offset": 0,
}

_COLLECTION: Final[dict[str, Any]] = {
    "object": "collection",
    "name": "birds",
    "model": "pplx-embed-context-v1-0.6b",
    "dimensions": 1024,
    "encoding_format": "base64_int8",
    "space": "pplx-embed-context-v1-0.6b",
    "documents": 1200,
    "chunks": 9800,
    "deleted_chunks": 0,
    "failed": 1,
    "segments": 2,
    "bytes": 13_400_000,
    "usage": {"requests": 41, "total_tokens": 2_310_000, "cost_usd": "0.0185"},
    "stores_text": True,
    "hybrid": True,
    "two_stage": True,
    "queries": "api",
    "writer": {"host": "worker-1", "pid": 4711, "since": "2026-01-05T10:00:00+00:00"},
}

_YEARS: Final[dict[str, Any]] = {
    "name": "year",
    "types": ["int"],
    "documents": 1200,
    "distinct": 35,
    "values": [{"value": 2021, "documents": 140}],
    "minimum": 1990,
    "maximum": 2024,
}

_FAILURE: Final[dict[str, Any]] = {
    "id": "birds/scan-17.pdf",
    "error": "DocumentError: document 3, chunk 0: is empty",
    "attempts": 0,
    "when": "2026-01-05T10:02:11+00:00",
}

_PROGRESS: Final = (
    'event: state\ndata: {"documents":1200,"chunks":9800,"failed":1,"requests":41,"total_tokens":2310000,'
    '"cost_usd":"0.0185","writer":null}\n\n'
)

_EXAMPLES: Final[dict[str, tuple[str, Any]]] = {
    "search": (
        "application/json",
        {
            "object": "search",
            "collection": "birds",
            "model": "pplx-embed-context-v1-0.6b",
            "hits": [_HIT],
            "timings_ms": {"embed": 12.1, "queue": 0.4, "scan": 8.9, "read": 0.8, "total": 22.4},
            "batch": 17,
        },
    ),
    "document": (
        "application/json",
        {
            "object": "document",
            "collection": "birds",
            "id": "birds/kingfisher.md",
            "source": "birds/kingfisher.md",
            "metadata": {"year": 2021, "lang": "en"},
            "chunk_count": 1,
            "first": 0,
            "chunks": [{"chunk": 0, "text": "The kingfisher dives from a branch.", "span": [0, 35]}],
            "scores": [0.612],
        },
    ),
    "collections": ("application/json", {"object": "list", "data": [_COLLECTION]}),
    "collection": ("application/json", {**_COLLECTION, "fields": [_YEARS], "sampled": False}),
    "failures": ("application/json", {"object": "list", "data": [_FAILURE], "total": 1}),
    "events": ("text/event-stream", _PROGRESS),
    "metrics": ("text/plain", "ctxembed_scan_waiting 0.0\n"),
}

_ERRORS: Final = {
    400: "The body is not JSON",
    401: "The server wants a key",
    404: "There is no such collection or document",
    413: "The body is too large",
    415: "The body is not declared to be JSON",
    422: "An argument is not what it should be: `detail` lists where and why",
    500: "What would be returned is damaged",
    501: "An extra of the server is missing",
    502: "The API failed to embed the query",
    503: "Nothing embeds the query, a queue is full, or the server is stopping",
}
_TOO_SMALL: Final = {
    "loc": ["body", "k"],
    "msg": "Input should be greater than or equal to 1",
    "type": "greater_than_equal",
}


def _failed(status: int) -> dict[str, Any]:
    error = {"error": {"message": _ERRORS[status], "type": "...", "code": status}}
    example = {"detail": [_TOO_SMALL]} if status == 422 else error
    return {"description": _ERRORS[status], "content": {"application/json": {"example": example}}}


def described(name: str, *errors: int) -> dict[str, Any]:
    """Return the arguments of a route that describe its request and responses.

    Parameters
    ----------
    name : str
        Of the endpoint.
    *errors : int
        Statuses besides 200.
    """
    media_type, example = _EXAMPLES[name]
    found: dict[str, Any] = {
        "operation_id": name,
        "response_class": JSONResponse if media_type == "application/json" else Response,
        "responses": {
            200: {"description": "Success", "content": {media_type: {"example": example}}},
            **{status: _failed(status) for status in errors},
        },
    }
    if name == "search":
        schema = SearchRequest.model_json_schema()
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        found["openapi_extra"] = {"requestBody": body}
    return found
