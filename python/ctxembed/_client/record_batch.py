"""Embedding of Arrow record batches: one row a document, what every engine's adapter calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._client.base import BaseClient
from ctxembed._costs import divide_cost, divide_int
from ctxembed._errors import CtxembedError, MissingKeyError
from ctxembed._extras import require
from ctxembed._models import DEFAULT_MODEL, Model, check_dimensions, get_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from ctxembed._client.sync import Client
    from ctxembed._models import EncodingFormat
    from ctxembed._results import Embeddings, Usage

__all__ = ["COLUMNS", "aembed_batch", "embed_batch"]

COLUMNS: Final = ("vectors", "tokens", "cost_usd", "error")
"""The columns that are added."""


def embed_batch(
    record_batch: pa.RecordBatch,
    client: Client | Any,
    *,
    id: str | None = "id",  # noqa: A002
    chunks: str = "chunks",
    model: str | None = None,
    dimensions: int | None = None,
    encoding_format: EncodingFormat = "base64_int8",
) -> pa.RecordBatch:
    """Embed the documents of an Arrow record batch, one a row, and add their vectors.

    A row that cannot be embedded gets an error in place of vectors, and the others are embedded all the same.

    Parameters
    ----------
    record_batch : pyarrow.RecordBatch
        Rows with a list of str, the chunks of a document in their order.
    client : Client
        Or whatever has ``embed(documents, *, model, dimensions, encoding_format, on_error) -> Embeddings``.
    id : str or None, default "id"
        Column of the documents' ids. A row without one is an error of that row. None: there is no such column.
    chunks : str, default "chunks"
        Column of the chunks.
    model : str, optional
        Name of a registered model. Default: the client's default, or the embedder's own.
    dimensions : int, optional
        Dimensions of the vectors. Default: the model's.
    encoding_format : {"base64_int8", "base64_binary"}
        int8 vectors, or packed bits.

    Returns
    -------
    pyarrow.RecordBatch
        The same rows and columns, in order, and these:

        - ``vectors``: a list of one vector a chunk, fixed-size lists of int8, or of uint8 for bits; null where there is
          an error,
        - ``tokens`` (int64) and ``cost_usd`` (float64): the row's share of what its request was reported to use; 0
          where nothing was sent, as for documents that the client's journal has; null where nothing was reported,
        - ``error`` (string): why there are no vectors; null where there are.

    Raises
    ------
    TypeError
        ``record_batch`` is no record batch, or the chunks are no column of lists of str.
    ValueError
        A column is missing or there already, or an option does not fit the model.
    MissingKeyError
        No API key was given, and the environment has none.
    ImportError
        pyarrow is not installed: ``pip install 'ctxembed[arrow]'``.

    Notes
    -----
    The reported usage of a request is divided among its documents by the bytes of their text; tokens add up exactly.
    Where the whole call fails, as without a network or with a wrong key, every row has the error. What the client's
    journal or another embedder raises is raised.

    Examples
    --------
    >>> import pyarrow as pa
    >>> batch = pa.record_batch({"id": ["a", "b"], "chunks": [["The heron stood.", "It caught a fish."], []]})
    >>> with ctxembed.Client() as client:  # doctest: +SKIP
    ...     ctxembed.embed_batch(batch, client).column("error").to_pylist()
    [None, 'DocumentError: the document has no chunks']
    """
    call = _Call(record_batch, client, (id, chunks), model, dimensions, encoding_format)
    if isinstance(client, BaseClient) and client._is_async:  # noqa: SLF001
        raise TypeError("embed_batch() needs a Client, got an AsyncClient: use aembed_batch()")
    try:
        if call.documents and call.streams:
            with client.stream(call.documents, **call.options) as stream:
                for part in stream:
                    call.add(part, part.documents)
        elif call.documents:
            call.add(client.embed(call.documents, **call.options), np.arange(len(call.documents)))
    except MissingKeyError:
        raise
    except CtxembedError as error:  # the call as a whole: every row has it
        call.fail(error)
    return call.result()


async def aembed_batch(
    record_batch: pa.RecordBatch,
    client: Any,
    *,
    id: str | None = "id",  # noqa: A002
    chunks: str = "chunks",
    model: str | None = None,
    dimensions: int | None = None,
    encoding_format: EncodingFormat = "base64_int8",
) -> pa.RecordBatch:
    """Embed the documents of an Arrow record batch with an :class:`AsyncClient`, and add their vectors.

    Parameters, result and exceptions are those of :func:`embed_batch`. Several batches may be under way at once: the
    requests of one client share its limits.
    """
    call = _Call(record_batch, client, (id, chunks), model, dimensions, encoding_format)
    if isinstance(client, BaseClient) and not client._is_async:  # noqa: SLF001
        raise TypeError("aembed_batch() needs an AsyncClient, got a Client: use embed_batch()")
    try:
        if call.documents and call.streams:
            async with client.stream(call.documents, **call.options) as stream:
                async for part in stream:
                    call.add(part, part.documents)
        elif call.documents:
            found = client.embed(call.documents, **call.options)
            call.add(await found if hasattr(found, "__await__") else found, np.arange(len(call.documents)))
    except MissingKeyError:
        raise
    except CtxembedError as error:  # the call as a whole: every row has it
        call.fail(error)
    return call.result()


class _Call:
    """One call: the documents to send, and what came back for them."""

    def __init__(  # noqa: PLR0917
        self,
        record_batch: Any,
        client: Any,
        columns: tuple[str | None, str],
        model: str | None,
        dimensions: int | None,
        encoding_format: EncodingFormat,
    ) -> None:
        self._pa = pa = require("pyarrow", "arrow", "ctxembed.embed_batch")
        if not isinstance(record_batch, pa.RecordBatch):
            hint = ": pass table.combine_chunks().to_batches()" if isinstance(record_batch, pa.Table) else ""
            raise TypeError(f"record_batch must be a pyarrow.RecordBatch, got {type(record_batch).__name__}{hint}")
        self._batch = record_batch
        names, (id_column, chunks_column) = record_batch.schema.names, columns
        for column in (chunks_column, *([] if id_column is None else [id_column])):
            if column not in names:
                raise ValueError(f"record_batch has no column {column!r}: it has {', '.join(map(repr, names))}")
        if there := [column for column in COLUMNS if column in names]:
            raise ValueError(f"record_batch already has a column {there[0]!r}: rename it, since the vectors add one")
        lists = record_batch.column(chunks_column)
        if not _holds_texts(pa, lists.type):
            raise TypeError(f"column {chunks_column!r} must hold lists of str, got {lists.type}")
        if not callable(getattr(client, "embed", None)):
            raise TypeError(f"client must be a Client or have embed(documents, ...), got {type(client).__name__}")
        self.streams = isinstance(client, BaseClient)
        own = getattr(client, "model", None)
        known = own if model is None and isinstance(own, Model) else get_model(model or DEFAULT_MODEL)
        dims = check_dimensions(known, dimensions, encoding_format)
        self._binary = encoding_format == "base64_binary"
        self._width = dims // 8 if self._binary else dims
        self.options: dict[str, Any] = {
            "model": known.name,
            "dimensions": dimensions,
            "encoding_format": encoding_format,
            "on_error": "return",
        }
        count = record_batch.num_rows
        self._vectors: list[NDArray[Any] | None] = [None] * count
        self._tokens: list[int | None] = [0] * count
        self._costs: list[float | None] = [0.0] * count
        self._errors: list[str | None] = [None] * count
        ids = [True] * count if id_column is None else record_batch.column(id_column).is_valid().to_pylist()
        self.documents: list[list[str]] = []
        self._rows: list[int] = []
        self._sizes: list[int] = []
        for row, document in enumerate(lists.to_pylist()):
            problem = _problem_of(document) if ids[row] else f"the column {id_column!r} is null"
            if problem is not None:
                self._errors[row] = f"DocumentError: {problem}"
                continue
            self.documents.append(document)
            self._rows.append(row)
            self._sizes.append(sum(len(chunk.encode(errors="replace")) for chunk in document))

    def add(self, found: Embeddings, positions: Any) -> None:
        """Take over the embeddings of some documents, given by their positions."""
        places = [int(position) for position in positions]
        for place, vectors in zip(places, found, strict=True):
            self._vectors[self._rows[place]] = vectors
        for failure in found.failures:
            self._errors[self._rows[failure.document]] = _text_of(failure.error)
        self._share(found.usage, places)

    def _share(self, usage: Usage, places: list[int]) -> None:
        """Divide the usage of a request among its documents."""
        if not (usage.requests or usage.unreported) or not places:
            return
        weights = [self._sizes[place] for place in places]
        none = [None] * len(places)
        tokens = none if usage.total_tokens is None else divide_int(usage.total_tokens, weights)
        costs = none if usage.cost_usd is None else divide_cost(usage.cost_usd, weights)
        for place, share, cost in zip(places, tokens, costs, strict=True):
            self._tokens[self._rows[place]] = share
            self._costs[self._rows[place]] = None if cost is None else float(cost)

    def fail(self, error: Exception) -> None:
        """Give the error to every document that has no vectors yet."""
        for row in self._rows:
            if self._vectors[row] is None and self._errors[row] is None:
                self._errors[row] = _text_of(error)
                self._tokens[row] = self._costs[row] = None  # what was sent for it is not known

    def result(self) -> pa.RecordBatch:
        """Return the batch with the new columns."""
        pa, batch = self._pa, self._batch
        empty = np.empty((0, self._width), np.uint8 if self._binary else np.int8)
        rows = [empty if vectors is None else vectors for vectors in self._vectors]
        missing = np.array([not len(vectors) for vectors in rows], dtype=np.bool_)
        for row in np.flatnonzero(missing).tolist():
            self._errors[row] = self._errors[row] or "CtxembedError: no vectors were returned"
        matrix = np.concatenate([empty, *rows])
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
        values = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), self._width)
        mask = pa.array(missing, type=pa.bool_())
        vectors = pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), values, mask=mask)
        columns = (
            vectors,
            pa.array(self._tokens, type=pa.int64()),
            pa.array(self._costs, type=pa.float64()),
            pa.array(self._errors, type=pa.string()),
        )
        fields = [pa.field(name, column.type) for name, column in zip(COLUMNS, columns, strict=True)]
        schema = pa.schema([*batch.schema, *fields], metadata=batch.schema.metadata)
        return pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)


def _holds_texts(pa: Any, kind: Any) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if pa.types.is_null(kind):
        return True
    if not (lists or pa.types.is_list_view(kind)):
        return False
    value = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(check(value) for check in texts)


def _problem_of(document: Sequence[str | None] | None) -> str | None:
    """Return why a row is no document; what a document may hold is the client's to check."""
    if document is None:
        return "the chunks are null"
    if not document:
        return "the document has no chunks"
    if None in document:
        return f"chunk {document.index(None)} is null"
    return None


def _text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
