"""faiss: a flat index of packed bits or of float32 rows of unit length, and a file that names its rows.

faiss would hold the whole index in memory to write it, so its file is written here, row by row. Before that, the same
code writes an index of one row, which has to be what the installed faiss writes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._collection.export import names
from ctxembed._collection.export.rows import Format
from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.export.rows import Batch, Shape
    from ctxembed._collection.export.target import Target

__all__ = ["FORMAT"]

_UNUSED: Final = 1 << 20
"""Two fields of a float index that faiss reads and ignores."""


def _header(shape: Shape, rows: int) -> bytes:
    """Return what stands before the rows: kind, dimensions, rows, whether it is trained, metric, size of the data."""
    if shape.vectors == "bits":
        return struct.pack(
            "<4siiq?iQ", b"IBxF", shape.dimensions, shape.width, rows, True, 1, rows * shape.width
        )  # metric 1 is the default, which a binary index does not use
    inner_product = 0
    return struct.pack(
        "<4siqqq?iQ", b"IxFI", shape.dimensions, rows, _UNUSED, _UNUSED, True, inner_product, rows * shape.width
    )


def _check_layout(faiss: Any, shape: Shape) -> None:
    row = np.arange(shape.width).astype(shape.dtype)[None]
    if shape.vectors == "bits":
        index = faiss.IndexBinaryFlat(shape.dimensions)
        index.add(row)
        expected = faiss.serialize_index_binary(index)
    else:
        index = faiss.IndexFlatIP(shape.dimensions)
        index.add(row)
        expected = faiss.serialize_index(index)
    if _header(shape, 1) + row.tobytes() != expected.tobytes():
        raise ImportError(f"faiss {faiss.__version__} writes its files in a way that this ctxembed does not know")


def _write(target: Target, shape: Shape, batches: Iterator[Batch]) -> None:
    _check_layout(require("faiss", "faiss", "an export to faiss"), shape)
    rows = 0
    with target.part().open("wb") as stream:
        stream.write(_header(shape, rows))
        for batch in names.with_names(target.part(names.ENDING), batches):
            stream.write(batch.vectors.data)
            rows += len(batch)
        stream.seek(0)
        stream.write(_header(shape, rows))


FORMAT = Format(
    _write,
    ("bits", "float32"),
    (".faiss",),
    (names.ENDING,),
    no_int8="faiss has no index that ranks int8 values by cosine",
)
