"""LanceDB: a folder with one table. It searches float16 and, by Hamming distance, bytes of bits; no int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ctxembed._collection.export.arrow import record_batch, schema
from ctxembed._collection.export.rows import Format
from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.export.rows import Batch, Shape
    from ctxembed._collection.export.target import Target

__all__ = ["FORMAT"]

_TABLE: Final = "chunks"


def _write(target: Target, shape: Shape, batches: Iterator[Batch]) -> None:
    lancedb = require("lancedb", "lancedb", "an export to LanceDB")
    pa = require("pyarrow", "lancedb", "an export to LanceDB")
    found = schema(pa, shape, pa.list_(pa.uint8() if shape.vectors == "bits" else pa.float16(), shape.width))
    errors: list[BaseException] = []

    def records() -> Iterator[Any]:  # LanceDB reads them in a thread of its own
        try:
            for batch in batches:
                if errors:
                    raise errors[0]  # LanceDB still reads, and must not take what it has for the whole
                yield record_batch(pa, found, batch)
        except BaseException as error:
            errors.append(error)
            raise

    try:
        reader = pa.RecordBatchReader.from_batches(found, records())
        lancedb.connect(str(target.part())).create_table(_TABLE, data=reader, schema=found)
    except BaseException as error:
        errors.append(error)  # ends the reading
        if errors[0] is not error:
            raise errors[0] from None  # an error of the collection, in place of what LanceDB makes of it
        if isinstance(error, RuntimeError):
            raise OSError(f"LanceDB cannot write {target.part()}: {error}") from error
        raise


FORMAT = Format(
    _write, ("float16", "bits"), (".lancedb",), folder=f"{_TABLE}.lance", no_int8="LanceDB cannot search int8 vectors"
)
