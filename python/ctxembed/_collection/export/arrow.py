"""Rows as Arrow batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxembed._collection.export.rows import COLUMNS

if TYPE_CHECKING:
    from ctxembed._collection.export.rows import Batch, Shape

__all__ = ["record_batch", "schema"]


def schema(pa: Any, shape: Shape, vector: Any) -> Any:
    """Return the schema of all columns, for a type of vectors. Its metadata says which model made them."""
    types = (pa.string(), pa.int32(), pa.string(), pa.string(), vector)
    required = {"id", "chunk", "vector"}
    fields = [
        pa.field(name, kind, nullable=name not in required) for name, kind in zip(COLUMNS, types, strict=True)
    ]  # fmt: skip
    about = {"ctxembed.model": shape.model, "ctxembed.space": shape.space, "ctxembed.vectors": shape.vectors}
    return pa.schema(fields, metadata={name: value for name, value in about.items() if value is not None})


def record_batch(pa: Any, found: Any, batch: Batch) -> Any:
    """Return the rows of a batch in a schema. The vectors are not copied."""
    kind = found.field("vector").type
    if pa.types.is_fixed_size_binary(kind):
        vectors = pa.FixedSizeBinaryArray.from_buffers(kind, len(batch), [None, pa.py_buffer(batch.vectors)])
    else:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.reshape(-1)), type=kind)
    columns = (batch.ids, batch.chunks, batch.texts, batch.metadata)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, found, strict=False)]
    return pa.record_batch([*arrays, vectors], schema=found)
