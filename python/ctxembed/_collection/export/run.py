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

__all__ = ["FORMATS", "export_view", "format_of"]

FORMATS: Final[dict[str, Format]] = {
    "parquet": parquet.FORMAT,
    "npy": npy.FORMAT,
    "faiss": faiss.FORMAT,
    "usearch": usearch.FORMAT,
    "sqlite-vec": sqlite_vec.FORMAT,
    "lancedb": lancedb.FORMAT,
    "pgvector": pgvector.FORMAT,
}
_VECTORS: Final = ("int8", "bytes", "bits", "float16", "float32")


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


def _shape(view: View, name: str, vectors: object) -> Shape:
    """Return what is exported, of what the format can hold and the collection has."""
    form, generation = FORMATS[name], view.generation
    is_binary = view.layout.is_binary
    if vectors is None:
        vectors = "bits" if is_binary else form.vectors[0]
    if vectors not in form.vectors:
        reason = f"{form.no_int8}, and " if vectors in ("int8", "bytes") and form.no_int8 else ""
        known = "" if vectors in _VECTORS else f", got {vectors!r:.100}"
        raise ValueError(f"{reason}{name} takes vectors={' or '.join(map(repr, form.vectors))}{known}")
    if is_binary and vectors != "bits":
        raise ValueError(f"the collection holds packed bits and no int8 values, so vectors={vectors!r} cannot be made")
    if vectors == "bits" and generation.dimensions % 8:
        raise ValueError(
            f"bits need dimensions that are a multiple of 8, and the collection has {generation.dimensions}"
        )
    return Shape(str(vectors), generation.dimensions, generation.model, generation.space)


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
