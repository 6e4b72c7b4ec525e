"""Documents that are with the client, and the rows that have come for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctxembed._jobs.store import NewDocument
    from ctxembed._planning.splitting import Window

__all__ = ["Entry", "FoundRows", "Windows"]


@dataclass(slots=True, eq=False)
class Entry:
    """A document, or a window of one, that is with the client.

    Parameters
    ----------
    document : NewDocument
        The document.
    key : bytes
        Of what is sent.
    chunks : list of str
        What is sent.
    window : Window or None
        The window that it is.
    windows : Windows or None
        The windows of its document.
    """

    document: NewDocument
    key: bytes
    chunks: list[str]
    window: Window | None = None
    windows: Windows | None = None
    successes: int = 0
    failures: int = 0
    first_failure: int | None = None
    """Requests that had succeeded when it failed for the first time."""
    is_waiting: bool = True
    """Whether it was neither stored nor has failed."""
    twin: Entry | None = None
    """Another of the same content, which waits for the same rows."""

    def and_twins(self) -> Iterator[Entry]:
        """Iterate over it and all others that wait for the same rows."""
        entry: Entry | None = self
        while entry is not None:
            yield entry
            entry = entry.twin


@dataclass(slots=True, eq=False)
class Windows:
    """The rows of a document's windows so far."""

    keys: list[bytes]
    rows: dict[int, NDArray[Any]] = field(default_factory=dict)
    failed: bool = False


@dataclass(slots=True)
class FoundRows:
    """What is stored in one commit.

    Parameters
    ----------
    entries : list of Entry
        Those that wait no longer.
    documents : list of NewDocument
        The documents that are complete.
    vectors : ndarray, or list of ndarray
        Their rows.
    windows : dict of bytes to ndarray
        The rows of windows whose documents are not complete.
    spent : list of bytes
        The keys of the windows of documents that are complete now.
    """

    entries: Sequence[Entry]
    documents: list[NewDocument]
    vectors: NDArray[Any] | list[NDArray[Any]]
    windows: dict[bytes, NDArray[Any]] = field(default_factory=dict)
    spent: list[bytes] = field(default_factory=list)

    @classmethod
    def of_matrix(cls, firsts: list[Entry | None], matrix: NDArray[Any]) -> Self | None:
        """Return the rows of one response; None where it is not one document for each key."""
        documents: list[NewDocument] = []
        entries: list[Entry] = []
        for entry in firsts:
            if entry is None or entry.twin is not None or entry.windows is not None:
                return None
            entries.append(entry)
            documents.append(entry.document)
        return cls(entries, documents, matrix)

    @classmethod
    def of_each(cls, firsts: Iterable[Entry | None], rows: Iterable[NDArray[Any]]) -> Self:
        """Return the rows of what waits, given those of each key."""
        entries: list[Entry] = []
        documents: list[NewDocument] = []
        vectors: list[NDArray[Any]] = []
        found = cls(entries, documents, vectors)
        for first, own in zip(firsts, rows, strict=True):
            for entry in () if first is None else first.and_twins():
                entries.append(entry)
                if entry.windows is None or entry.window is None:
                    documents.append(entry.document)
                    vectors.append(own)
                    continue
                parts = entry.windows.rows
                parts[entry.window.start] = own[entry.window.rows]
                if len(parts) == len(entry.windows.keys):
                    documents.append(entry.document)
                    vectors.append(np.concatenate([parts[start] for start in sorted(parts)]))
                    found.spent += entry.windows.keys
                else:
                    found.windows[entry.key] = own
        return found
