"""Parquet: vectors as a list of int8, as one binary value of the same bytes, or as packed bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctxembed._collection.export.arrow import record_batch, schema
from ctxembed._collection.export.rows import Format
from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.export.rows import Batch, Shape
    from ctxembed._collection.export.target import Target

__all__ = ["FORMAT"]


def _write(target: Target, shape: Shape, batches: Iterator[Batch]) -> None:
    pa = require("pyarrow", "arrow", "an export to parquet")
    parquet = require("pyarrow.parquet", "arrow", "an export to parquet")
    kind = pa.list_(pa.int8(), shape.width) if shape.vectors == "int8" else pa.binary(shape.width)
    found = schema(pa, shape, kind)
    with (
        target.part().open("wb") as stream,
        # The rows of a document share id and metadata; vectors are never equal, and have no use for a dictionary.
        parquet.ParquetWriter(stream, found, compression="zstd", use_dictionary=["id", "metadata"]) as writer,
    ):
        for batch in batches:
            writer.write_batch(record_batch(pa, found, batch))


FORMAT = Format(_write, ("int8", "bytes", "bits"), (".parquet",))
