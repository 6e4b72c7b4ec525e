"""Response bodies to :class:`Embeddings`: the one step between the Rust core and the result type."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ctxembed import _core
from ctxembed._embeddings import Embeddings, Usage
from ctxembed._errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat

__all__ = ["ResponseDecoder", "decode_response"]


def decode_response(
    body: bytes | bytearray | memoryview,
    *,
    shape: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    dimensions: int | None = None,
    encoding_format: EncodingFormat = "base64_int8",
    out: NDArray[np.int8] | NDArray[np.uint8] | None = None,
) -> Embeddings:
    """Decode the body of one API response, and prove it.

    Parameters
    ----------
    body : bytes
        The body of a response of either embeddings endpoint. Other buffers than ``bytes`` are copied first.
    shape : sequence of int, optional
        Chunks of each document that was asked for, checked when given.
    dimensions : int, optional
        Dimensions of a vector, checked when given; else the first vector decides.
    encoding_format : {"base64_int8", "base64_binary"}
        What was asked for.
    out : ndarray of int8 or uint8, shape (n_chunks, width), optional
        Decode into this C-contiguous array and allocate no other. After an error its contents are not specified.

    Returns
    -------
    Embeddings
        Rows in the order of both indexes, whatever order the body has. ``vectors`` is ``out`` where that is given. A
        text of the plain embeddings endpoint is a document of one chunk.

    Raises
    ------
    DecodeError
        The body is not JSON, is not a response, or does not hold each (document, chunk) exactly once with a vector of
        the right length. ``kind``, ``offset``, ``document`` and ``chunk`` say what and where. ``document`` and
        ``chunk`` are the indexes the body gives, or positions where it has not given them yet.
    ValueError
        ``out``, ``dimensions`` or ``encoding_format`` do not fit each other.

    Notes
    -----
    One pass from bytes to matrix, with the GIL released; no Python object a chunk. Nothing is allocated beyond what
    the body's own length can fill.

    Examples
    --------
    >>> body = b'{"data": [{"index": 0, "data": [{"index": 0, "embedding": "AQID"}]}], "usage": {"total_tokens": 9}}'
    >>> emb = decode_response(body, shape=[1], dimensions=3)
    >>> emb.vectors, emb.usage.total_tokens
    (array([[1, 2, 3]], dtype=int8), 9)
    """
    vectors, offsets, model, dims, usage = _core.decode_response(body, shape, dimensions, encoding_format, out)
    return Embeddings(vectors, offsets, model, dims, encoding_format, _usage(usage))


class ResponseDecoder:
    """Decode the body of one API response while it arrives.

    Parameters
    ----------
    shape, dimensions, encoding_format
        As for :func:`decode_response`.

    Notes
    -----
    Gives the same result and the same errors as :func:`decode_response` on the whole body, whatever the parts. Holds
    the vectors decoded so far and at most one token that is not whole, never the body. Each instance decodes one
    response. It may be shared between threads, but parts must come in order.

    Examples
    --------
    >>> body = b'{"data": [{"index": 0, "data": [{"index": 0, "embedding": "AQID"}]}]}'
    >>> decoder = ResponseDecoder(shape=[1])
    >>> for start in range(0, len(body), 10):
    ...     decoder.feed(body[start : start + 10])
    >>> decoder.finish().vectors
    array([[1, 2, 3]], dtype=int8)
    """

    __slots__ = ("_core", "_encoding_format")

    def __init__(
        self,
        *,
        shape: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
    ) -> None:
        self._core = _core.ResponseDecoder(shape, dimensions, encoding_format)
        self._encoding_format = encoding_format

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Decode the next part of the body, of any length.

        Raises
        ------
        DecodeError
            The body is wrong, by what has arrived; every later call raises the same.
        ValueError
            :meth:`finish` was called before.
        """
        self._core.feed(chunk)

    def finish(self) -> Embeddings:
        """Take the end of the body and return the whole result.

        Raises
        ------
        DecodeError
            The body is wrong, or not whole.
        ValueError
            :meth:`finish` was called before.
        """
        vectors, offsets, model, dims, usage = self._core.finish()
        return Embeddings(vectors, offsets, model, dims, self._encoding_format, _usage(usage))


_NO_USAGE = Usage(requests=1)


def _usage(parts: tuple[int | None, int | None, str | None] | None) -> Usage:
    if parts is None:
        return _NO_USAGE
    prompt_tokens, total_tokens, cost = parts
    return Usage(prompt_tokens, total_tokens, None if cost is None else Decimal(cost), 1)


_E = TypeVar("_E", bound=Embeddings)


def parse_response(cls: type[_E], response: object, encoding_format: EncodingFormat) -> _E:
    """Build ``cls`` from a response that another client has parsed: see :meth:`Embeddings.from_response`."""
    documents = _get(response, "data")
    if documents is None:
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
    except DecodeError as error:
        row = error.chunk or 0
        document = int(np.searchsorted(rows, row, side="right")) - 1
        raise DecodeError(error.message, error.kind, error.offset, document, row - int(rows[document])) from None
    dimensions = vectors.shape[1] * (1 if encoding_format == "base64_int8" else 8)
    return cls(vectors, rows, _get(response, "model"), dimensions, encoding_format, _parsed_usage(response))


def _get(item: object, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _in_order(items: list[Any], document: int | None) -> list[Any]:
    """Return ``items`` by their ``index``: each of ``0..n`` once, or absent from all."""
    indexes = [_get(item, "index") for item in items]
    expected = list(range(len(items)))
    if indexes == expected or not any(index is not None for index in indexes):
        return items
    if None in indexes or sorted(indexes) != expected:
        what = "document" if document is None else "chunk"
        raise DecodeError(
            f"{what} indexes must be each of 0 to {len(items) - 1} once, got {indexes}", "index", 0, document
        )
    placed = [None] * len(items)
    for index, item in zip(indexes, items, strict=True):
        placed[index] = item
    return placed


def _parsed_usage(response: object) -> Usage:
    usage = _get(response, "usage")
    if usage is None:
        return _NO_USAGE
    cost = _get(usage, "cost")
    total = None if cost is None or _get(cost, "currency") not in (None, "USD") else _get(cost, "total_cost")
    # A parsed number is a float already; its shortest spelling is what the response most likely said.
    usd = None if total is None else Decimal(str(total))
    return Usage(_get(usage, "prompt_tokens"), _get(usage, "total_tokens"), usd, 1)
