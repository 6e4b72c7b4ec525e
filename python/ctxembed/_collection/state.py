"""The rows of the catalogue that say which vectors count: settings, generations, segments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxembed._collection.catalogue import checksum, damaged
from ctxembed._collection.rows import HEADER_BYTES, Layout, Segment

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from ctxembed._collection.folder import Folder
    from ctxembed._models import EncodingFormat

__all__ = [
    "Generation",
    "read_generation",
    "read_numbering",
    "read_segments",
    "read_setting",
    "read_tail_parts",
    "write_generation",
    "write_numbering",
    "write_setting",
]


@dataclass(frozen=True, slots=True)
class Generation:
    """The vectors of all documents by one model.

    Parameters
    ----------
    number : int
        From 1.
    model : str
        Name of the model.
    dimensions : int
        Of each vector.
    encoding_format : {"base64_int8", "base64_binary"}
        int8 values, or packed bits.
    space : str or None
        Of the vectors; None before the first.
    tail : int
        Number of the tail's file.
    calibration : (int, int, float) or None
        Oversample, k and recall of the last calibration.
    """

    number: int
    model: str
    dimensions: int
    encoding_format: EncodingFormat
    space: str | None
    tail: int
    calibration: tuple[int, int, float] | None

    @property
    def layout(self) -> Layout:
        """How the vectors are stored."""
        return Layout(self.dimensions, self.encoding_format)

    def replace(self, connection: sqlite3.Connection, **changed: Any) -> Generation:
        """Store other values, and return them."""
        generation = dataclasses.replace(self, **changed)
        write_generation(connection, generation)
        return generation


def write_generation(connection: sqlite3.Connection, generation: Generation) -> None:
    """Store a generation in place of the one with its number."""
    values = (
        generation.number, generation.model, generation.dimensions, generation.encoding_format, generation.space,
        generation.tail, *(generation.calibration or (None, None, None)),
    )  # fmt: skip
    connection.execute(
        "INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, checksum(*values))
    )


def read_generation(connection: sqlite3.Connection, folder: Folder) -> Generation:
    """Return the generation that is searched."""
    row = connection.execute("SELECT * FROM generations ORDER BY number LIMIT 1").fetchone()
    if row is None or checksum(*row[:-1]) != row[-1]:
        raise damaged(folder.catalogue, "the row of its generation is missing or changed")
    number, model, dimensions, encoding_format, space, tail, *calibration, _ = row
    return Generation(
        number, model, dimensions, encoding_format, space, tail, None if calibration[0] is None else tuple(calibration)
    )


def read_segments(connection: sqlite3.Connection, folder: Folder, generation: int) -> list[Segment]:
    """Return the segments of a generation in their order."""
    segments: list[Segment] = []
    following = 0
    for row in connection.execute("SELECT * FROM segments WHERE generation = ? ORDER BY first_row", (generation,)):
        _, first, rows, file, header, found = row
        if checksum(*row[:-1]) != found or first != following or rows <= 0 or len(header) != HEADER_BYTES:
            raise damaged(
                folder.catalogue, f"the row of the segment at row {first} is changed, or one before is missing"
            )
        segments.append(Segment(first, rows, file, header))
        following += rows
    return segments


def read_tail_parts(
    connection: sqlite3.Connection, folder: Folder, generation: int, first_row: int
) -> list[tuple[int, int]]:
    """Return number of rows and checksum of each part of the tail, whose first row is ``first_row``."""
    parts: list[tuple[int, int]] = []
    following = first_row
    for row in connection.execute("SELECT * FROM tail_parts WHERE generation = ? ORDER BY first_row", (generation,)):
        _, first, rows, vectors, found = row
        if checksum(*row[:-1]) != found or first != following:
            raise damaged(folder.catalogue, f"the row of the tail's part at row {first} is changed, or one is missing")
        parts.append((rows, vectors))
        following += rows
    return parts


def read_setting(connection: sqlite3.Connection, folder: Folder, name: str, *, required: bool = False) -> Any:
    """Return a setting; None where it has no value, unless every collection has it."""
    row = connection.execute("SELECT value, checksum FROM settings WHERE name = ?", (name,)).fetchone()
    if row is None:
        if required:
            raise damaged(folder.catalogue, f"the setting {name!r} is missing")
        return None
    if checksum(name, row[0]) != row[1]:
        raise damaged(folder.catalogue, f"the setting {name!r} is changed")
    return row[0]


def write_setting(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Store a setting."""
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", (name, value, checksum(name, value)))


def read_numbering(
    connection: sqlite3.Connection, folder: Folder, generation: Generation, segments: Sequence[Segment]
) -> int:
    """Return what names the numbering of rows, which only a compaction changes.

    It is the number of the first file of vectors: a tail becomes the segment with its number. A switch of generations
    writes other files for the same rows, and says what the numbering was before.
    """
    first = segments[0].file if segments else generation.tail
    kept = read_setting(connection, folder, "numbering")
    if kept is not None:
        file, numbering = map(int, str(kept).split())
        if file == first:
            return numbering
    return first


def write_numbering(connection: sqlite3.Connection, first_file: int, numbering: int) -> None:
    """Keep a numbering of rows while ``first_file`` is their first file."""
    write_setting(connection, "numbering", f"{first_file} {numbering}")
