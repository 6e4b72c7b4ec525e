"""Chooses the format of an export, and writes one view of a collection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ctxembed._collection.export import faiss, lancedb, npy, parquet, pgvector, sqlite_vec, usearch
from ctxembed._collection.export.rows import Format, Shape, batches
from ctxembed._collection.export.target import Target
from ctxembed._documents import ExportReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctxembed._collection.export.rows import Batch
    from ctxembed._collection.folder import Folder
    from ctxembed._collection.view import View

__all__ = ["FORMATS", "check_vectors", "export_view", "format_of"]

FORMATS: Final[dict[str, Format]] = {
    "parquet": parquet.FORMAT,
    "npy": npy.FORMAT,
    "faiss": faiss.FORMAT,
    "usearch": usearch.FORMAT,
    "sqlite-vec": sqlite_vec.FORMAT,
    "lancedb": lancedb.FORMAT,
    "pgvector": pgvector.FORMAT,
}


def format_of(target: Path, name: object) -> str:
    """Return the name of a format: the given one, or that of the target's ending."""
    if name is None:
        for known, each in FORMATS.items():
            if target.suffix.lower() in each.endings:
                return known
        endings = ", ".join(ending for each in FORMATS.values() for ending in each.endings)
        raise ValueError(
            f"the ending of {str(target)!r} names no format: give one of {', '.join(FORMATS)}, or an ending of "
            f"{endings}"
        )
    if not isinstance(name, str) or name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r:.100}")
    return name


def check_vectors(name: str, vectors: object) -> None:
    """Refuse vectors that a format cannot hold."""
    form = FORMATS[name]
    if vectors is not None and vectors not in form.vectors:
        reason = f"{form.no_int8}, so " if vectors in ("int8", "bytes") and form.no_int8 else ""
        choices = " or ".join(map(repr, form.vectors))
        raise ValueError(f"{reason}vectors of the format {name} must be {choices}, got {vectors!r:.100}")


def _shape(view: View, name: str, vectors: object) -> Shape:
    """Return what is exported, of what the format can hold and the collection has."""
    check_vectors(name, vectors)
    dimensions = view.generation.dimensions
    if view.layout.is_binary:
        if vectors not in (None, "bits"):
            raise ValueError(f"the collection has packed bits and no int8 values, so vectors cannot be {vectors!r}")
        vectors = "bits"
    elif vectors is None:
        vectors = FORMATS[name].vectors[0]
    if vectors == "bits" and dimensions % 8:
        raise ValueError(f"bits need dimensions that are a multiple of 8, and the collection has {dimensions}")
    return Shape(str(vectors), dimensions, view.generation.model, view.generation.space)


def _target(folder: Folder, target: object) -> Path:
    if not isinstance(target, str | os.PathLike):
        raise TypeError(f"target must be a str or os.PathLike, got {type(target).__name__}")
    named = os.fsdecode(target)
    if not named or "\0" in named:
        raise ValueError(f"target must be a path, got {named!r:.100}")
    path = Path(os.path.realpath(named))
    if path == folder.path or path.is_relative_to(folder.path) or folder.path.is_relative_to(path):
        raise ValueError(f"the target {path} and the collection {folder.path} must not lie in one another")
    return path


def export_view(
    folder: Folder,
    view: View,
    target: object,
    *,
    format: object,  # noqa: A002
    where: str | None,
    params: object,
    vectors: object,
    overwrite: object,
    progress: Callable[[int], object] | None,
) -> ExportReport:
    """Write the rows of a view. The arguments are those of ``Collection.export``."""
    path = _target(folder, target)
    if not isinstance(overwrite, bool):
        raise TypeError(f"overwrite must be a bool, got {overwrite!r:.100}")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be callable, got {progress!r:.100}")
    name = format_of(path, format)
    form, shape = FORMATS[name], _shape(view, name, vectors)
    files = Target(path, form.companions, folder=form.folder, overwrite=overwrite)
    written = 0

    def counted() -> Iterator[Batch]:
        nonlocal written
        for batch in batches(folder, view, shape, where, params):
            yield batch
            written += len(batch)
            if progress is not None:
                progress(written)

    with files:
        form.write(files, shape, counted())
    note = form.no_int8 if not view.layout.is_binary else None
    return ExportReport(name, shape.vectors, written, files.files, note)
