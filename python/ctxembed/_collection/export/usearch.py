"""usearch: an index of int8 by cosine or of bits by Hamming distance, and a file that names its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctxembed._collection.export import names
from ctxembed._collection.export.rows import Format
from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.export.rows import Batch, Shape
    from ctxembed._collection.export.target import Target

__all__ = ["FORMAT"]


def _write(target: Target, shape: Shape, batches: Iterator[Batch]) -> None:
    usearch = require("usearch.index", "usearch", "an export to usearch")
    metric, dtype = ("hamming", "b1") if shape.vectors == "bits" else ("cos", "i8")
    # usearch builds its graph in memory, and has no other way.
    index = usearch.Index(ndim=shape.dimensions, metric=metric, dtype=dtype)
    for batch in names.with_names(target.part(names.ENDING), batches):
        index.add(np.arange(len(index), len(index) + len(batch), dtype=np.uint64), batch.vectors)
    try:
        index.save(str(target.part()))
    except RuntimeError as error:
        raise OSError(f"usearch cannot write {target.part()}: {error}") from error


FORMAT = Format(_write, ("int8", "bits"), (".usearch",), (names.ENDING,))
