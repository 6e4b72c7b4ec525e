"""Converts a response that another client has parsed to the fields of an ``Embeddings``."""

from __future__ import annotations

from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._costs import parse_cost
from ctxembed._errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat

    # Vectors, offsets, model, dimensions, and usage as (prompt tokens, total tokens, USD).
    Fields = tuple[NDArray[Any], NDArray[np.int64], str | None, int, tuple[int | None, int | None, Decimal | None]]

__all__ = ["parse_response"]

_SHOWN: Final = 500  # characters of an API's error, and of a list of indexes, in a message


def parse_response(response: object, encoding_format: EncodingFormat) -> Fields:
    """Return the fields of a parsed response: see :meth:`Embeddings.from_response`."""
    documents = _get(response, "data")
    if not isinstance(documents, list | tuple):
        raise TypeError(f"expected a response with data, got {_shown_error(response) or type(response).__name__}")
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


def _shown_error(response: object) -> str:
    """Return what a response says instead of ``data``; empty where it has no ``error``."""
    error = _get(response, "error")
    if error is None:
        return ""
    said = _get(error, "message")
    return "an error: " + (said if isinstance(said, str) else _shown(error))[:_SHOWN]


def _shown(value: object) -> str:
    try:
        return repr(value)[:_SHOWN]
    except (RecursionError, ValueError):  # nested too deep, or an int of too many digits
        return f"a {type(value).__name__}"


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
            f"{what} indexes must be each of 0 to {len(items) - 1} once, got {_shown(indexes)}", "index", 0, document
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
    usd = None
    if total is not None:
        if isinstance(total, bool) or not isinstance(total, Real | Decimal):
            raise DecodeError(f"usage.cost.total_cost must be a number, got {_shown(total)}", "structure", 0)
        # The client has parsed the number as a float. Its shortest spelling is most likely that of the response.
        usd = parse_cost(_spelled(total))
    return _tokens(_get(usage, "prompt_tokens")), _tokens(_get(usage, "total_tokens")), usd


def _spelled(number: Real | Decimal) -> str:
    try:
        return str(number)
    except ValueError:  # an int of too many digits
        return ""


def _tokens(value: object) -> int | None:
    """Return a number of tokens; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
        return None
    return int(value)
