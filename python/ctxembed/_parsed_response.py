"""Converts a response that another client has parsed to the fields of an ``Embeddings``."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed import _core
from ctxembed._errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat

    # Vectors, offsets, model, dimensions, and usage as (prompt tokens, total tokens, USD).
    Fields = tuple[NDArray[Any], NDArray[np.int64], str | None, int, tuple[int | None, int | None, Decimal | None]]

__all__ = ["parse_response"]


def parse_response(response: object, encoding_format: EncodingFormat) -> Fields:
    """Return the fields of a parsed response: see :meth:`Embeddings.from_response`."""
    documents = _get(response, "data")
    if not isinstance(documents, list | tuple):
        raise TypeError(f"expected a response with data, got {type(response).__name__}")
    texts: list[str] = []
    offsets = [0]
    for position, document in enumerate(_in_order(list(documents), None)):
        chunks = _get(document, "data")
        chunks = [document] if chunks is None else _in_order(list(chunks), position)
        texts += [_get(chunk, "embedding") for chunk in chunks]
        offsets.append(len(texts))
    rows = np.array(offsets, dtype=np.int64)
    try:
        vectors = _core.decode_base64(texts, encoding_format=encoding_format)
    except TypeError:
        row = next(row for row, text in enumerate(texts) if not isinstance(text, str))
        what = f"an embedding must be a base64 string, got {type(texts[row]).__name__}"
        raise DecodeError(what, "structure", 0, *_position_of(rows, row)) from None
    except DecodeError as error:
        row = error.chunk or 0
        raise DecodeError(error.message, error.kind, error.offset, *_position_of(rows, row)) from None
    dimensions = vectors.shape[1] * (1 if encoding_format == "base64_int8" else 8)
    return vectors, rows, _get(response, "model"), dimensions, _usage(response)


def _position_of(offsets: NDArray[np.int64], row: int) -> tuple[int, int]:
    """Return the document and the chunk of a row."""
    document = int(np.searchsorted(offsets, row, side="right")) - 1
    return document, row - int(offsets[document])


def _get(item: object, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _in_order(items: list[Any], document: int | None) -> list[Any]:
    """Return ``items`` in the order of their ``index``, which each of them or none must have."""
    indexes = [_get(item, "index") for item in items]
    expected = list(range(len(items)))
    if indexes == expected or not any(index is not None for index in indexes):
        return items
    if set(map(type, indexes)) != {int} or sorted(indexes) != expected:
        what = "document" if document is None else "chunk"
        raise DecodeError(
            f"{what} indexes must be each of 0 to {len(items) - 1} once, got {indexes}", "index", 0, document
        )
    ordered = [None] * len(items)
    for index, item in zip(indexes, items, strict=True):
        ordered[index] = item
    return ordered


def _usage(response: object) -> tuple[int | None, int | None, Decimal | None]:
    usage = _get(response, "usage")
    if usage is None:
        return None, None, None
    cost = _get(usage, "cost")
    total = None if cost is None or _get(cost, "currency") not in (None, "USD") else _get(cost, "total_cost")
    # The client has parsed the number as a float. Its shortest spelling is most likely that of the response.
    try:
        usd = None if total is None else Decimal(str(total))
    except InvalidOperation:
        raise DecodeError(f"usage.cost.total_cost must be a number, got {total!r}", "structure", 0) from None
    return _get(usage, "prompt_tokens"), _get(usage, "total_tokens"), usd
