"""The file of what a job could not embed: JSON Lines with place, id and reason."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import IO, Self

__all__ = ["RejectsFile", "is_rejects_file"]


class RejectsFile:
    """Rejected documents of one run. A context manager: leaving it puts the file in place of an earlier run's.

    Parameters
    ----------
    collection : Path
        The folder of the collection, as it was named.

    Raises
    ------
    OSError
        No file can be written.

    Notes
    -----
    The file stands beside the collection, as ``NAME.rejects.jsonl``; in the collection, as ``rejects.jsonl``, where the
    folder above cannot be written. While the job runs it has a hidden name. There is none where nothing was rejected.
    """

    def __init__(self, collection: Path) -> None:
        beside, inside = _paths(collection)
        try:
            self._stream, self._hidden = _create(beside)
            self.path = beside
        except OSError:
            self._stream, self._hidden = _create(inside)
            self.path = inside
        self.count = 0
        self.unnamed = 0
        """Rejected parts of the input without an id: they may stand for any number of documents."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stream:
            pass
        if self.count:
            self._hidden.replace(self.path)
        else:
            self._hidden.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def add(self, place: str | None, name: str | None, reason: str) -> dict[str, str | None]:
        """Write a line, and return what it says."""
        found = {"place": place, "id": name, "reason": reason}
        self.count += 1
        self.unnamed += name is None
        self._stream.write(json.dumps(found) + "\n")
        self._stream.flush()
        return found


def is_rejects_file(place: str, collection: Path) -> bool:
    """Return whether a place of the input is in the file that an earlier run for this collection has written."""
    if "rejects.jsonl" not in place:
        return False
    path = os.path.realpath(place.rsplit(", line ", 1)[0])
    return path in map(os.path.realpath, _paths(collection))


def _paths(collection: Path) -> tuple[Path, Path]:
    """Return the path beside a collection, and the one in it."""
    named = Path(os.path.abspath(collection))  # noqa: PTH100  # symbolic links are kept
    return named.with_name(f"{named.name}.rejects.jsonl"), named / "rejects.jsonl"


def _create(path: Path) -> tuple[IO[str], Path]:
    hidden = path.with_name(f".{path.name}.new")
    return hidden.open("w", encoding="ascii"), hidden
