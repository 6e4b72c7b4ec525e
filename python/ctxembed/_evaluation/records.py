"""Records and lines of files, each with its place for messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Places", "Record", "read_lines", "read_records"]


class Places:
    """Where each thing of a file was read.

    Parameters
    ----------
    source : str
        The file or folder, for what has no place of its own.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._places: dict[object, str] = {}

    def add(self, key: object, place: str, what: str) -> None:
        """Note a place.

        Raises
        ------
        ValueError
            The key has one already.
        """
        first = self._places.setdefault(key, place)
        if first is not place:
            raise ValueError(f"{place}: {what} a second time, the first is at {first}")

    def place_of(self, key: object) -> str:
        """Return where something was read: the source where that is not known."""
        found = self._places.get(key)
        if found is None:  # a query of which only the judgements have places
            found = next((place for each, place in self._places.items() if _is_part(each, key)), self._source)
        return found


def _is_part(each: object, key: object) -> bool:
    return isinstance(each, tuple) and each[0] == key


@dataclass(frozen=True)
class Record:
    """A record of a file.

    Parameters
    ----------
    place : str
        File and line, or row.
    number : int
        Of the line, or row, from 1.
    fields : dict
        Its fields.
    """

    place: str
    number: int
    fields: dict[str, Any]

    def first(self, names: Sequence[str]) -> Any:
        """Return the value of the first field of some names that there is; None for none."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def id_of(self, names: Sequence[str]) -> str | None:
        """Return an id, a text or a whole number, in the first field of some names that there is.

        Raises
        ------
        ValueError
            It is neither, or empty.
        """
        value = self.first(names)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is None or (isinstance(value, str) and value):
            return value
        name = next(name for name in names if self.fields.get(name) is not None)
        raise self.error(f"{name} must be a text or a whole number, got {value!r:.60}")

    def error(self, reason: str) -> ValueError:
        """Return an error at this place."""
        return ValueError(f"{self.place}: {reason}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank.

    Raises
    ------
    ValueError
        A line is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8 at byte {error.start} of the line") from None
            if text.strip():
                yield number, text.rstrip("\r\n")


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file of JSON Lines or Parquet.

    Raises
    ------
    ValueError
        The file is neither, or a line is not a JSON object.
    """
    if path.suffix.lower() == ".parquet":
        yield from _rows(path)
        return
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        raise ValueError(f"{path}: expected a file of JSON Lines (.jsonl) or Parquet (.parquet)")
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON: {error.msg} at column {error.pos + 1}") from None
        except (RecursionError, ValueError):
            raise ValueError(f"{place}: not JSON: nested too deep, or a number with too many digits") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{place}: expected a JSON object, got {line[:60]!r}")  # noqa: TRY004  # of a file
        yield Record(place, number, fields)


def _rows(path: Path) -> Iterator[Record]:
    parquet = require("pyarrow.parquet", "arrow", "reading Parquet")
    arrow = require("pyarrow", "arrow", "reading Parquet")
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    whole = {
                        name: int(value) if isinstance(value, float) and value.is_integer() else value
                        for name, value in fields.items()
                    }
                    yield Record(f"{path}, row {number}", number, whole)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
        raise ValueError(f"{path}: not Parquet: {error}") from None
