"""Makes a collection of a folder that an earlier ``ctxembed embed`` wrote. Nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed._cli.old_output import OldOutputError, load
from ctxembed._collection.collection import Collection
from ctxembed._collection.folder import folder_of
from ctxembed._documents import Document
from ctxembed._jobs.store import FailureRecord
from ctxembed._results import NO_USAGE, Embeddings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctxembed._cli.old_output import OldOutput
    from ctxembed._documents import IngestReport

__all__ = ["import_old"]


class _OldVectors:
    """Embeds documents with the vectors that they have already."""

    def __init__(self, output: OldOutput) -> None:
        self._output = output
        self._rows: dict[tuple[str, ...], int] = {}  # first row of documents that are to be embedded

    def documents(self) -> Iterator[Document]:
        for name, texts, row in self._output.documents():
            self._rows[tuple(texts)] = row
            yield Document(name, texts)

    def embed(self, documents: list[list[str]], **_: Any) -> Embeddings:
        output = self._output
        parts = []
        for chunks in documents:
            first = self._rows[tuple(chunks)]
            parts.append(output.vectors[first : first + len(chunks)])
        self._rows.clear()
        return Embeddings(
            vectors=np.concatenate(parts),
            offsets=np.cumsum([0, *map(len, documents)]),
            model=output.model,
            dimensions=output.dimensions,
            encoding_format=output.encoding_format,
            usage=NO_USAGE,
            space=output.space,
        )


def import_old(old: Path, path: Path) -> IngestReport:
    """Make a collection of an old output, or go on where an import ended.

    Raises
    ------
    OldOutputError
        ``old`` is damaged, or is none.
    CollectionError, FileExistsError
        ``path`` is something else than a new folder or a collection with the same options.
    """
    output = load(old)
    folder = folder_of(path)
    if folder.exists():
        collection = Collection.open(path)
    else:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        collection = Collection.create(
            path, model=output.model, dimensions=output.dimensions, encoding_format=output.encoding_format
        )
    with collection:
        stored = (collection.model, collection.dimensions, collection.encoding_format)
        found = (output.model, output.dimensions, output.encoding_format)
        if stored != found:
            raise OldOutputError(
                f"{old} has {_named(*found)}, and {path} has {_named(*stored)}: name another collection"
            )
        source = _OldVectors(output)
        report = collection.ingest(source.documents(), source)
        failures = [
            FailureRecord(failure["id"], None, failure["error"], failure["attempts"])
            for failure in output.failures
            if failure["id"] not in collection
        ]
        with collection._one_ingestion() as store:  # noqa: SLF001
            store.record_failures(failures, NO_USAGE)
    return report


def _named(model: str, dimensions: int, encoding_format: str) -> str:
    return f"{model}, {dimensions} dimensions, {encoding_format}"
