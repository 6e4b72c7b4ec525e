"""npy: one array of vectors, and a file that names its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed._collection.export import names
from ctxembed._collection.export.rows import Format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.export.rows import Batch, Shape
    from ctxembed._collection.export.target import Target

__all__ = ["FORMAT"]


def _write(target: Target, shape: Shape, batches: Iterator[Batch]) -> None:
    def write_header(stream: Any, rows: int) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(shape.dtype),
            "fortran_order": False,
            "shape": (rows, shape.width),
        }
        np.lib.format.write_array_header_1_0(stream, header)

    rows = 0
    with target.part().open("wb") as stream:
        write_header(stream, rows)
        start = stream.tell()
        for batch in names.with_names(target.part(names.ENDING), batches):
            stream.write(batch.vectors.data)
            rows += len(batch)
        # numpy pads the header so that another number of rows fits in.
        stream.seek(0)
        write_header(stream, rows)
        if stream.tell() != start:
            raise ImportError(f"numpy {np.__version__} writes headers of other lengths for 0 and {rows} rows")


FORMAT = Format(_write, ("int8", "bits"), (".npy",), (names.ENDING,))
