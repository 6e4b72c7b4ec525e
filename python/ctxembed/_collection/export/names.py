"""The file that names the rows, for formats that hold vectors alone: JSON Lines, line ``i`` for row ``i``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctxembed._collection.export.rows import Batch

__all__ = ["ENDING", "with_names"]

ENDING: Final = ".jsonl"


def with_names(path: Path, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches, and write the names of their rows."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for batch in batches:
            for name, chunk, text, metadata in zip(batch.ids, batch.chunks, batch.texts, batch.metadata, strict=True):
                # The metadata is JSON already.
                stream.write(
                    f'{{"id": {json.dumps(name)}, "chunk": {chunk}, "text": {json.dumps(text)}, '
                    f'"metadata": {metadata or "null"}}}\n'
                )
            yield batch
