"""Ingestion: documents are read, checked, embedded where they are new, and stored as responses arrive.

:class:`Ingestion` decides; it does no I/O but that of its store. The drivers in ``run`` move documents and parts
between it and a client.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ctxembed._client._policy.retry import is_transient
from ctxembed._client.dispatch import NotAdmittedError, affects_all
from ctxembed._client.endpoint import is_refusal
from ctxembed._documents import IngestProgress, IngestReport
from ctxembed._errors import DocumentError
from ctxembed._jobs.budget import Budget
from ctxembed._jobs.documents import (
    InputBatch,
    InvalidDocumentError,
    UnchangedDocument,
    check_document,
    document_of,
)
from ctxembed._jobs.entries import Entry, FoundRows, Windows
from ctxembed._jobs.store import FailureRecord, InFlight
from ctxembed._planning.document_key import DocumentKeys
from ctxembed._planning.splitting import split_long
from ctxembed._results import NO_USAGE, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from ctxembed._client.batches import Batch, Outcome
    from ctxembed._documents import Document
    from ctxembed._jobs.control import JobControl
    from ctxembed._jobs.documents import InputDocument
    from ctxembed._jobs.store import DocumentStore, NewDocument, StoredDocument
    from ctxembed._results import Embeddings, Failure

__all__ = ["IngestOptions", "Ingestion"]

_CHANGES: Final = 256
"""Documents whose metadata changed, or that failed, that are stored in one transaction."""

_OUTAGE: Final = 8
"""Requests in a row that fail in a way that may pass, before the API is taken to be down."""

_TRIES: Final = 2
"""Failures of a document, while others succeed, before it is given up."""

_LONGEST_BACKOFF: Final = 15.0
_SHORT: Final = 8_000
"""Characters of a document that is not split: a token has at least a byte, and a character at most four."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """The options of an ingestion.

    Parameters
    ----------
    prune : bool
        Whether documents that the input no longer has are deleted.
    max_cost_usd : number or None
        See :class:`~ctxembed._jobs.budget.Budget`.
    max_errors : int or None
        Failed documents after which it stops.
    retry_failed : bool
        Whether documents that failed before are sent again.
    split_long : bool
        Whether documents that are too long are embedded in windows.
    max_wait : float
        Seconds for which an API that is down is waited for.
    """

    prune: bool = False
    max_cost_usd: Any = None
    max_errors: int | None = None
    retry_failed: bool = False
    split_long: bool = False
    max_wait: float = 0.0


class Ingestion:
    """The state of one ingestion.

    Parameters
    ----------
    store : DocumentStore
        What is written to.
    options : IngestOptions
        See there.
    control : JobControl
        Stops it.
    progress : callable or None
        Called with an :class:`IngestProgress` from the thread that drives the job.
    on_failure : callable or None
        Called from the same thread with place, id and reason of each document that fails. Place and id may be None.
    """

    def __init__(
        self,
        store: DocumentStore,
        options: IngestOptions,
        control: JobControl,
        progress: Callable[[IngestProgress], object] | None = None,
        on_failure: Callable[[str | None, str | None, str], object] | None = None,
    ) -> None:
        self.store = store
        self.options = options
        self.control = control
        self.budget = Budget(store.model, options.max_cost_usd)
        self._max_errors = options.max_errors
        self._field_types = store.field_types
        self._keys = DocumentKeys(store.model, store.dimensions, store.encoding_format)
        self._progress = progress
        self._on_failure = on_failure
        self._is_whole = True  # no part of the input without an id was refused
        self._started = time.monotonic()
        self._first_number = self._next_number = store.begin()
        self._seen = bytearray(self._first_number)
        self._lock = threading.Lock()  # of what the thread that stores and the one that reads share
        self._waiting: dict[bytes, Entry] = {}  # the first of each content; the others are its twins
        self._waiting_ids: set[str] = set()
        self._failed_ids: set[str] = set()
        self._fed: dict[int, Entry] = {}
        self._positions = 0
        self._again: deque[tuple[Entry, Failure]] = deque()
        self._exhausted = False
        self._changed: list[NewDocument] = []
        self._records: list[tuple[bytes, int]] = []
        self._failures: list[FailureRecord] = []
        self._failure_usage = NO_USAGE
        self._added = self._updated = self._unchanged = self._deleted = self._failed = 0
        self._chunks = self._read = 0
        self._usage = NO_USAGE
        self._successes = 0  # requests
        self._failed_in_a_row = 0
        self._down_since: float | None = None
        self._backoff = 0.0
        self._wait = False
        self._stopped: str | None = None
        self.error: Exception | None = None
        self.token_counter: Any = None
        """Of the client, for the windows of long documents."""
        self.retries = 0
        self.requests_in_flight: Callable[[], int] = lambda: 0

    # --- reading ---

    def ends(self) -> bool:
        """Return whether no more documents are sent."""
        if self._stopped is not None or self.error is not None:
            return True
        if self.budget.reached:
            self._stopped = "max_cost_usd"
        elif self._max_errors is not None and self._failed > self._max_errors:
            self._stopped = "max_errors"
        elif self.control.stopped:
            self._stopped = "interrupted"
        else:
            return False
        return True

    def pause(self) -> float:
        """Return the seconds to wait before the next document is sent: 0 unless the API is down."""
        if not self._wait:
            return 0.0
        self._wait = False
        self._backoff = min(max(1.0, 2 * self._backoff), _LONGEST_BACKOFF)
        return self._backoff

    def take(self, value: object, entries: list[Entry]) -> None:
        """Take the next document of the input, and add to ``entries`` what is to be sent for it.

        An :class:`InvalidDocumentError` stands for a part of the input that is not a document, an
        :class:`UnchangedDocument` for one that need not be read, and an :class:`InputBatch` for its documents.

        Raises
        ------
        TypeError
            It is no document.
        ValueError
            Its id came before.
        """
        if type(value) is InputBatch:
            failed = self._failed
            for at, document in enumerate(value):
                value.at = at
                self._read += 1
                self._take_document(document, entries)
                if self._failed != failed and self.ends():
                    break
            return
        self._read += 1
        if type(value) is UnchangedDocument:
            self._check_first(value.id, value.number)
            self._seen[value.number] = 1
            self._unchanged += 1
        elif isinstance(value, InvalidDocumentError):
            self._is_whole = self._is_whole and value.id is not None
            self._refuse(value)
        else:
            self._take_document(document_of(value), entries)

    def _take_document(self, document: Document | InputDocument, entries: list[Entry]) -> None:
        """Take a document, and add to ``entries`` what is to be sent for it."""
        number = self._next_number
        self._next_number = number + 1
        try:
            new = check_document(document, number, self._keys, self._field_types)
        except InvalidDocumentError as error:
            error.place = getattr(document, "place", None)
            self._refuse(error)
            return
        name = new.id
        stored = self.store.find(name)
        if stored is not None or name in self._waiting_ids or name in self._failed_ids:
            self._check_first(name, None if stored is None else stored.number)
        if stored is not None:
            self._seen[stored.number] = 1
            new.replaces = stored
            if stored.key == new.key:
                self._keep(new, stored)
                return
        if not self.options.retry_failed and self.store.failed_key(name) == new.key:
            self._count_failure(new.place, name, "failed in an earlier run, and is not sent again until it changes")
            self._failed_ids.add(name)
            return
        own = self._windows(new) if self.options.split_long else [Entry(new, new.key, new.chunks)]
        with self._lock:
            self._waiting_ids.add(name)
            for entry in own:
                entry.twin = self._waiting.get(entry.key)
                self._waiting[entry.key] = entry
        entries += own

    def _keep(self, new: NewDocument, stored: StoredDocument) -> None:
        """Take a document whose chunks are stored."""
        if stored.details != new.details:
            self._updated += 1
            self._change(new)
            return
        self._unchanged += 1
        if new.record != stored.record and new.record is not None:
            self._records.append((new.record, stored.number))
            self._flush_if_full(self._records)

    def _check_first(self, name: str, number: int | None) -> None:
        if (
            name in self._waiting_ids
            or name in self._failed_ids
            or (number is not None and (number >= self._first_number or self._seen[number]))
        ):
            raise ValueError(f"the id {name!r} came twice in one input: the ids of documents must be unique")

    def _refuse(self, error: InvalidDocumentError) -> None:
        if error.id is None:
            self._count_failure(error.place, None, str(error))
            return
        stored = self.store.find(error.id)
        self._check_first(error.id, None if stored is None else stored.number)
        if stored is not None:
            self._seen[stored.number] = 1
        self._count_failure(error.place, error.id, str(error))
        self._failed_ids.add(error.id)
        self._record(FailureRecord(error.id, None, f"{DocumentError.__name__}: {error}", 0))

    def _count_failure(self, place: str | None, name: str | None, reason: str) -> None:
        self._failed += 1
        if self._on_failure is not None:
            self._on_failure(place, name, reason)

    def _windows(self, new: NewDocument) -> list[Entry]:
        """Return the windows of a long document, or a short one alone."""
        if sum(map(len, new.chunks)) > _SHORT:
            split = split_long([new.chunks], self.token_counter, model=self.store.model)
            if len(split.windows) > 1:
                keys = [self._keys.key(chunks) for chunks in split.documents]
                windows = Windows(keys)
                return [
                    Entry(new, key, chunks, window, windows)
                    for key, chunks, window in zip(keys, split.documents, split.windows, strict=True)
                ]
        return [Entry(new, new.key, new.chunks)]

    def feed(self, entry: Entry) -> list[str]:
        """Count an entry as the next document of the stream, and return its chunks."""
        entry.successes = self._successes
        self._fed[self._positions] = entry
        self._positions += 1
        return entry.chunks

    def key_of(self, position: int, _chunks: object = None) -> bytes:
        """Return the key of what was fed at a position of the stream."""
        return self._fed[position].key

    def again(self) -> Entry | None:
        """Return a document that is to be sent once more, or None."""
        return self._again.popleft()[0] if self._again else None

    @property
    def is_down(self) -> bool:
        """Whether the API is taken to be down."""
        return self._down_since is not None

    def new_stream(self) -> None:
        """Begin to count positions anew."""
        self._fed, self._positions = {}, 0

    def _change(self, new: NewDocument) -> None:
        self._changed.append(new)
        self._flush_if_full(self._changed)

    def _record(self, failure: FailureRecord) -> None:
        self._failures.append(failure)
        self._flush_if_full(self._failures)

    def _flush_if_full(self, gathered: Sequence[object]) -> None:
        if len(gathered) >= _CHANGES:
            self.flush()

    def flush(self) -> None:
        """Store changed metadata, records and failures."""
        changed, self._changed = self._changed, []
        if changed:
            self.store.change_details(changed)
        records, self._records = self._records, []
        if records:
            self.store.set_records(records)
        failures, self._failures = self._failures, []
        usage, self._failure_usage = self._failure_usage, NO_USAGE
        if failures or usage is not NO_USAGE:
            self.store.record_failures(failures, usage)

    # --- results ---

    def admit(self, batch: Batch) -> bool:
        """Return whether a request may start."""
        return not self.control.stopped and self.budget.admit(batch.tokens)

    def admit_batch(self) -> bool:
        """Return whether an embedder may get the next documents. It has no others meanwhile."""
        return not self.control.stopped and self.budget.admit(0)

    def settled(self, outcome: Outcome) -> None:
        """Count what a request has cost."""
        self.budget.settle(outcome.batch.tokens, outcome.usage)

    def commit(
        self,
        keys: Collection[bytes],
        rows: Iterable[NDArray[Any]],
        usage: Usage,
        space: str | None,
        matrix: NDArray[Any] | None = None,
    ) -> None:
        """Store the documents that wait for the rows of these keys, of which ``matrix`` has all in their order."""
        with self._lock:
            firsts = list(map(self._waiting.get, keys))
            waiting = len(self._waiting)
            found = None if matrix is None else FoundRows.of_matrix(firsts, matrix)
            if found is None:
                found = FoundRows.of_each(firsts, rows)
        self.store.commit(
            found.documents,
            found.vectors,
            usage=usage,
            space=space,
            windows=found.windows,
            spent_windows=found.spent,
            in_flight=InFlight(max(0, self.requests_in_flight() - 1), waiting - len(keys), 0),
        )
        documents = found.documents
        with self._lock:
            forget = self._waiting.pop
            for entry in found.entries:
                entry.is_waiting = False
                forget(entry.key, None)
            self._waiting_ids.difference_update([document.id for document in documents])
            updated = len([document for document in documents if document.replaces is not None])
            self._updated += updated
            self._added += len(documents) - updated
            self._chunks += sum([len(document.chunks) for document in documents])
        self._successes += 1
        self._failed_in_a_row, self._down_since, self._backoff, self._wait = 0, None, 0.0, False

    def handle(self, part: Embeddings, positions: Sequence[int]) -> None:
        """Take the next part of the stream: store what was not stored yet, and see what failed."""
        self._usage += part.usage
        failures = {failure.document: failure for failure in part.failures}
        unstored: dict[bytes, NDArray[Any]] = {}
        for place, entry in enumerate(map(self._fed.pop, positions)):
            failure = failures.get(positions[place]) if failures else None
            if failure is None:
                if entry.is_waiting:
                    unstored[entry.key] = part[place]
            else:
                self._handle_failure(entry, failure)
        if unstored:
            self.commit(unstored, unstored.values(), part.usage, part.space)
        if failures:
            if not unstored:  # else it was stored with the rows
                self._failure_usage += part.usage
            first = part.failures[0].error
            if self._may_pass(first):
                self._failed_in_a_row += 1
                self._note_outage(first)
        self.report_progress()

    def _may_pass(self, error: Exception) -> bool:
        return is_transient(error) and not is_refusal(error)

    def _note_outage(self, error: Exception) -> None:
        unreachable = affects_all(error)
        if not unreachable and self._failed_in_a_row < _OUTAGE:
            return
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
        if now - self._down_since < self.options.max_wait:
            self._wait = True
        elif unreachable or not self._exhausted or (self.options.max_wait and not self._others_succeeded()):
            self.error = self.error or error  # the next run sends them again
        else:  # the API responds, and the rest was embedded: these documents are at fault
            self._give_up()

    def _others_succeeded(self) -> bool:
        """Return whether requests have succeeded since each of the documents that are left failed first."""
        left = [entry for entry, _ in list(self._again)] + list(self._fed.values())  # the other thread changes both
        return all(entry.first_failure is not None and entry.first_failure < self._successes for entry in left)

    def _handle_failure(self, entry: Entry, failure: Failure) -> None:
        error = failure.error
        if isinstance(error, NotAdmittedError) or self.control.at_once:
            self._drop(entry)
        elif self._may_pass(error):
            entry.failures += self._successes > entry.successes
            if entry.first_failure is None:
                entry.first_failure = self._successes
            if entry.failures >= _TRIES:
                self._fail(entry, failure)
            else:
                self._again.append((entry, failure))
        elif affects_all(error):
            self.error = self.error or error
            self._drop(entry)
        else:
            self._fail(entry, failure)

    def _drop(self, entry: Entry) -> None:
        """Forget a document that was not embedded and has not failed."""
        entry.is_waiting = False
        with self._lock:
            self._waiting_ids.discard(entry.document.id)
            first = self._waiting.pop(entry.key, None)
            others = [] if first is None else [other for other in first.and_twins() if other is not entry]
            for other in others:
                other.twin = self._waiting.get(other.key)
                self._waiting[other.key] = other

    def _fail(self, entry: Entry, failure: Failure) -> None:
        self._drop(entry)
        if entry.windows is not None:
            if entry.windows.failed:
                return
            entry.windows.failed = True
        error = _described(failure.error)
        self._count_failure(entry.document.place, entry.document.id, error)
        self._failed_ids.add(entry.document.id)
        self._record(FailureRecord(entry.document.id, entry.document.key, error, failure.attempts))

    # --- the end ---

    def exhaust(self) -> None:
        """Record that the input was read to its end."""
        self._exhausted = True

    def sends_again(self) -> bool:
        """Return whether documents are to be sent once more, after the end of the input."""
        if self.ends():
            while self._again:
                self._drop(self._again.popleft()[0])
            return False
        if self.options.max_wait == 0 and all(entry.successes == self._successes for entry, _ in self._again):
            self._give_up()
        return bool(self._again)

    def _give_up(self) -> None:
        """Record the documents that were to be sent once more as failed."""
        failed, self._again = list(self._again), deque()
        for entry, failure in failed:
            self._fail(entry, failure)

    def end(self, *, whole: bool) -> IngestReport:
        """Store what is left, prune, and return the report.

        Parameters
        ----------
        whole : bool
            Whether the input was read to its end.
        """
        self.ends()
        self.flush()
        if (
            self.options.prune
            and whole
            and self._is_whole
            and self._stopped is None
            and self.error is None
            and self._read
        ):
            self._deleted = self.store.delete_unseen(self._seen, self._first_number)
        if not self._fed:  # else the requests in flight were cancelled, and the ledger will tell
            self.store.end()
        self.report_progress()
        return self.report()

    def report(self) -> IngestReport:
        """Return what was done so far."""
        return IngestReport(
            self._added, self._updated, self._unchanged, self._deleted, self._failed, self._usage, self._stopped
        )

    def report_progress(self) -> None:
        """Call the caller's ``progress``."""
        if self._progress is not None:
            self._progress(self.progress())

    def progress(self) -> IngestProgress:
        """Return how far it is."""
        return IngestProgress(
            documents_read=self._read,
            documents_done=self._added + self._updated + self._unchanged + self._failed,
            added=self._added,
            updated=self._updated,
            unchanged=self._unchanged,
            failed=self._failed,
            chunks=self._chunks,
            usage=self._usage,
            cost_usd=self.budget.spent,
            in_flight=self.requests_in_flight(),
            retries=self.retries,
            seconds=time.monotonic() - self._started,
            waiting_since=self._down_since,
        )


def _described(error: Exception) -> str:
    """Return class and message of an error, without a position in a list that nobody sees."""
    message = str(error)
    if isinstance(error, DocumentError):
        message = error.reason if error.chunk is None else f"chunk {error.chunk}: {error.reason}"
    return f"{type(error).__name__}: {message}"
