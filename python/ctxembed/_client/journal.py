"""The journal of a client: rows that are known are not requested, and rows that arrive are stored.

One lock a journal keeps its calls apart, whichever clients and threads share it.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

import anyio
import anyio.to_thread
import numpy as np

from ctxembed._client.batches import attach_partial, batches_of
from ctxembed._planning.document_key import DocumentKeys
from ctxembed._planning.prepare import pack_documents

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctxembed._client.batches import Outcome, PlannedCall
    from ctxembed._client.endpoint import RequestTemplate
    from ctxembed._planning.limits import Limits
    from ctxembed._planning.prepare import PreparedDocuments
    from ctxembed._results import Embeddings, Usage

__all__ = [
    "ClientJournal",
    "Journal",
    "JournalWriter",
    "ResponseJournal",
    "ResponseRows",
    "plan_missing",
    "run_in_thread",
]

_T = TypeVar("_T")


class Journal(Protocol):
    """Keeps the rows of documents, so that none is paid for twice: the ``journal`` of a client.

    Clients call it from any thread, but never twice at once, also where several share it. The key of a document is that
    of :func:`document_key`; its rows are an array of shape (chunks, width), int8 or uint8.
    """

    def get(self, keys: list[bytes], /) -> Mapping[bytes, NDArray[Any]]:
        """Return the rows of those documents that are known."""

    def put(self, rows: dict[bytes, NDArray[Any]], usage: Usage, /) -> object:
        """Store the rows of one response. The arrays are read-only and may be kept."""


class ResponseRows(dict[bytes, "NDArray[Any]"]):
    """The rows of one response by key, with the space of its vectors."""

    space: str | None = None

    @classmethod
    def of(cls, keys: list[bytes], found: Embeddings) -> Self:
        """Return the rows of documents that have these keys."""
        rows = cls(zip(keys, found, strict=True))
        rows.space = found.space
        return rows


class ResponseJournal:
    """A journal that takes a response in one piece, in place of ``put``."""

    def put_response(self, keys: list[bytes], found: Embeddings, usage: Usage, /) -> object:
        """Store the rows of one response, whose documents have these keys."""
        raise NotImplementedError


class _Shared:
    """A journal with its lock."""

    def __init__(self, journal: Any) -> None:
        self.journal = journal
        self.lock = threading.Lock()


_SHARED: Final[weakref.WeakValueDictionary[int, _Shared]] = weakref.WeakValueDictionary()
"""By the id of the journal, which an entry keeps alive. A journal need not be hashable."""

_SHARED_LOCK: Final = threading.RLock()  # reentrant: a collection while it is held may create a client


def _renew_locks() -> None:
    for shared in list(_SHARED.values()):
        shared.lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a thread of the parent, which the child does not have, may hold a lock
    os.register_at_fork(after_in_child=_renew_locks)


class ClientJournal:
    """The journal of a client and of its copies.

    Parameters
    ----------
    journal : Journal
        The caller's object.
    """

    def __init__(self, journal: Any) -> None:
        with _SHARED_LOCK:
            shared = _SHARED.get(id(journal))
            if shared is None:
                _SHARED[id(journal)] = shared = _Shared(journal)
        self._shared = shared
        self._count_lock = threading.Lock()
        self._unfinished = 0

    def is_storing(self) -> bool:
        """Return whether rows of a response are not stored yet."""
        return self._unfinished > 0

    def count_unfinished(self, change: int) -> None:
        """Count the calls of ``put`` that are to come or under way."""
        with self._count_lock:
            self._unfinished += change

    def get(self, template: RequestTemplate, chunks: dict[bytes, int]) -> dict[bytes, NDArray[Any]]:
        """Ask for documents, given as the chunks of each key, and check the rows.

        Raises
        ------
        TypeError, ValueError
            The journal returns no mapping, or rows of another shape or dtype.
        """
        if not chunks:
            return {}
        with self._shared.lock:
            found = self._shared.journal.get([*chunks])
        if not isinstance(found, Mapping):
            raise TypeError(f"journal.get() must return a mapping of keys to rows, got {type(found).__name__}")
        known: dict[bytes, NDArray[Any]] = {}
        if not found:
            return known
        for key, count in chunks.items():
            if key in found:
                rows, shape = np.asarray(found[key]), (count, template.width)
                if rows.shape != shape or rows.dtype != template.dtype:
                    raise ValueError(
                        f"journal.get() returned rows of shape {rows.shape} and dtype {rows.dtype} for the key "
                        f"{key.hex()}: expected shape {shape} and dtype {np.dtype(template.dtype)}"
                    )
                known[key] = rows
        return known

    def put(self, keys: list[bytes], found: Embeddings, usage: Usage) -> None:
        """Store the rows of one response."""
        journal = self._shared.journal
        if isinstance(journal, ResponseJournal):
            with self._shared.lock:
                journal.put_response(keys, found, usage)
            return
        rows = ResponseRows.of(keys, found)
        with self._shared.lock:
            journal.put(rows, usage)


class JournalWriter:
    """Stores the outcomes of one call, in a worker thread.

    Parameters
    ----------
    journal : ClientJournal
        The journal.
    """

    def __init__(self, journal: ClientJournal) -> None:
        self._journal = journal
        self._limiter: anyio.CapacityLimiter | None = None  # created in the event loop

    async def store(self, outcome: Outcome) -> BaseException | None:
        """Store the rows of a successful outcome, also where the call is cancelled; return the error of ``put``."""
        found, keys = outcome.embeddings, outcome.batch.keys
        if found is None or not keys:
            return None
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)  # more threads would only wait for the journal's lock
        matrix = found.vectors.view()
        matrix.flags.writeable = False  # and so are its slices
        stored = replace(found, vectors=matrix)
        error: BaseException | None = None

        def put() -> None:
            nonlocal error
            try:
                self._journal.put(keys, stored, outcome.usage)
            except BaseException as raised:  # noqa: BLE001  # ends the call, in the event loop's thread
                error = raised

        self._journal.count_unfinished(1)
        try:
            with anyio.CancelScope(shield=True):
                await run_in_thread(put, self._limiter)
        finally:
            self._journal.count_unfinished(-1)
        return error


async def run_in_thread(function: Callable[[], _T], limiter: anyio.CapacityLimiter | None = None) -> _T:
    """Call ``function`` in a worker thread, or in this one where no thread can be started."""
    if sys.is_finalizing():  # a thread could be started and would never run
        return function()
    started = False

    def run() -> _T:
        nonlocal started
        started = True
        return function()

    try:
        return await anyio.to_thread.run_sync(run, limiter=limiter)
    except RuntimeError:
        if started:
            raise
        return function()


def plan_missing(
    planned: PlannedCall, prepared: PreparedDocuments, journal: ClientJournal, limits: Limits
) -> PlannedCall:
    """Ask the journal for all documents, and pack those that it does not know.

    Documents of equal content are sent once. An exception of the journal has a ``.partial`` without rows.
    """
    template, documents = planned.template, prepared.documents
    with attach_partial(planned.assembly()):
        keys = DocumentKeys(template.model, template.dimensions, template.encoding_format)
        firsts: dict[bytes, int] = {}
        copies: dict[int, list[int]] = {}
        for position in np.flatnonzero(prepared.sendable).tolist():
            first = firsts.setdefault(keys.key(documents[position]), position)
            if first != position:
                copies.setdefault(first, []).append(position)
        known = journal.get(template, {key: len(documents[first]) for key, first in firsts.items()})
        missing = {first: key for key, first in firsts.items() if key not in known}
        wanted = np.zeros(len(documents), np.bool_)
        wanted[[*missing]] = True
        return replace(
            planned,
            batches=batches_of(pack_documents(prepared, limits, wanted), missing),
            copies=copies,
            known={firsts[key]: rows for key, rows in known.items()},
        )
