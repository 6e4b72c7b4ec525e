"""A migration: the documents of a collection are embedded anew beside it, and then it switches to the new vectors.

The new generation is a collection of its own, without texts, which the ordinary job of an ingestion fills. So what
is true of a job is true of a migration: each response is on disk before anything else happens, and the same call goes
on where one before ended.
"""

from __future__ import annotations

import contextlib
from dataclasses import astuple, dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from ctxembed._collection.cutting import cut_stored, is_cut_from
from ctxembed._collection.generations import (
    MATCHES,
    fingerprint,
    folder_of_generation,
    make_room,
    remove_leftovers,
)
from ctxembed._collection.lock import WriterLock
from ctxembed._collection.store import Store
from ctxembed._collection.switching import switch
from ctxembed._collection.view import View
from ctxembed._costs import add_costs
from ctxembed._documents import Document, MigrationReport
from ctxembed._errors import CollectionError, CollectionLockedError
from ctxembed._models import check_dimensions, get_model
from ctxembed._results import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.state import Generation
    from ctxembed._documents import IngestProgress
    from ctxembed._jobs.control import JobControl
    from ctxembed._jobs.ingest import IngestOptions
    from ctxembed._models import EncodingFormat
    from ctxembed._results import Usage

__all__ = ["Comparison", "Migration", "Target", "estimate", "open_new", "target_of"]

_PASSES: Final = 3
"""Passes over the documents while writers may change them. A last one keeps them out."""

_SHOWN: Final = 3
"""Documents that an error names."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the vectors become.

    Parameters
    ----------
    model : str
        Name of the model.
    dimensions : int
        Of each vector.
    encoding_format : {"base64_int8", "base64_binary"}
        int8 values, or packed bits.
    """

    model: str
    dimensions: int
    encoding_format: EncodingFormat

    @classmethod
    def of(cls, generation: Generation) -> Target:
        """Return what a generation is."""
        return cls(generation.model, generation.dimensions, generation.encoding_format)

    def __str__(self) -> str:
        """Return it for a message."""
        return f"{self.model} with {self.dimensions} dimensions as {self.encoding_format}"

    def report(self, **values: Any) -> MigrationReport:
        """Return a report about it."""
        return MigrationReport(self.model, self.dimensions, self.encoding_format, **values)


def target_of(
    generation: Generation, model: Any, dimensions: int | None, encoding_format: EncodingFormat | None
) -> Target:
    """Return what a migration leads to.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it should be, or the collection has such vectors.
    """
    name = generation.model if model is None else getattr(model, "name", model)
    known = get_model(name, contextualized=True)
    form = generation.encoding_format if encoding_format is None else encoding_format
    if dimensions is None and known.name == generation.model:
        dimensions = generation.dimensions
    target = Target(known.name, check_dimensions(known, dimensions, form), form)
    if target == Target.of(generation):
        raise ValueError(f"the vectors are of {target}: there is nothing to migrate")
    return target


def open_new(folder: Folder, view: View, target: Target, kind: Any) -> Any:
    """Open the generation that a migration fills, or create it.

    Raises
    ------
    CollectionError
        Another migration is under way, or the collection has no texts.
    CollectionLockedError
        Another process is at it.
    """
    own = folder_of_generation(folder, view.generation.number + 1)
    if not own.exists():
        if not view.store_text and view.documents:
            raise CollectionError(
                f"{folder.path} was created with store_text=False: it has no texts to embed anew. Make a new "
                "collection from the documents"
            )
        make_room(folder, view.generation.number + 1)
        return kind.create(
            own.path,
            model=target.model,
            dimensions=target.dimensions,
            encoding_format=target.encoding_format,
            store_text=False,
        )
    new = kind.open(own.path)
    found = Target.of(new._current().generation)  # noqa: SLF001
    if found != target:
        count = len(new)
        new.close()
        raise CollectionError(
            f"{folder.path}: a migration to {found} is under way, with {count:,} documents, and this is one to "
            f"{target}. Go on with that one, or give it up (abandon_migration(), `ctxembed migrate --abandon`)"
        )
    return new


def setting(view: View, name: str) -> Any:
    """Return a setting of another collection, which is made again where it is damaged."""
    found = view.query("SELECT value FROM settings WHERE name = ?", (name,))
    return found[0][0] if found else None


def estimate(folder: Folder, view: View, target: Target, client: Any, options: IngestOptions) -> MigrationReport:
    """Return what a migration would send and cost."""
    from ctxembed._client import Client
    from ctxembed._client.base import BaseClient
    from ctxembed._collection.dry_store import DryStore
    from ctxembed._jobs.dry_run import dry_run

    if client is not None and not isinstance(client, BaseClient):
        raise TypeError(f"a dry run needs a Client, whose limits it knows, or none, got {type(client).__name__}")
    with contextlib.ExitStack() as stack:
        own = folder_of_generation(folder, view.generation.number + 1)
        stored = None
        if own.exists():
            stored = stack.enter_context(contextlib.closing(View(own)))
            if Target.of(stored.generation) != target:
                raise CollectionError(
                    f"{folder.path}: a migration to {Target.of(stored.generation)} is under way, and this is one to "
                    f"{target}"
                )
        store = DryStore(stored, target.model, target.dimensions, target.encoding_format)
        sender = client or stack.enter_context(Client(api_key="unused"))
        found = dry_run(store, _documents(view), sender, replace(options, max_cost_usd=None, prune=False))
    return target.report(
        switched=False,
        embedded=found.sent,
        unchanged=found.unchanged,
        stopped="dry run",
        requests=found.requests,
        tokens=found.tokens,
        cost_usd=found.cost_usd,
    )


def _documents(view: View) -> Iterator[Document]:
    """Yield ids and chunks: what vectors depend on."""
    for values in view.all_documents():
        document = view.document(values)
        yield Document(document.id, document.chunks)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared before the switch.

    Parameters
    ----------
    old : Evaluation
        Of the old generation.
    evaluate_new : callable
        Returns that of the new one.
    accept : callable or None
        Called with both. The switch is made if the result is true.
    """

    old: Any
    evaluate_new: Callable[[], Any]
    accept: Callable[[Any, Any], object] | None


class Migration:
    """One call that fills a generation and switches to it.

    Parameters
    ----------
    collection : Collection
        The collection, open for writing or for reading.
    new : Collection
        The generation.
    client : Client or object or None
        Embeds what is missing. None: nothing may be missing.
    options : IngestOptions
        Of the job.
    control : JobControl
        Stops it.
    progress : callable or None
        Called with an :class:`IngestProgress`.
    signals : callable
        Returns a context in which signals stop the job.
    """

    def __init__(
        self,
        collection: Any,
        new: Any,
        client: Any,
        *,
        options: IngestOptions,
        control: JobControl,
        progress: Callable[[IngestProgress], object] | None,
        signals: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._collection = collection
        self._folder = collection._folder  # noqa: SLF001
        self._new = new
        self._client = client
        self._options = replace(options, prune=True)
        self._control = control
        self._progress = progress
        self._signals = signals
        self.target = Target.of(new._current().generation)  # noqa: SLF001
        self._embedded = self._unchanged = 0
        self._usage = NO_USAGE
        self._spent = Decimal(0)
        self._compared: tuple[Any, Any] | None = None

    def run(self, *, keep: bool, comparison: Comparison | None = None) -> MigrationReport:
        """Fill the generation and switch to it.

        Parameters
        ----------
        keep : bool
            Whether the vectors of now are kept.
        comparison : Comparison or None
            What is compared before.
        """
        for _ in range(_PASSES):
            with contextlib.closing(View(self._folder)) as view:
                if self._has_all(view):
                    break
                stopped = self._fill(view)
            if stopped is not None:
                return self._report(stopped)
        if comparison is not None:
            self._compared = comparison.old, comparison.evaluate_new()
            if comparison.accept is not None and not comparison.accept(*self._compared):
                return self._report("not accepted")
        with self._writer() as store, contextlib.closing(View(self._folder)) as view:
            if not self._has_all(view):
                stopped = self._fill(view)
                if stopped is not None:
                    return self._report(stopped)
            self._switch(store, view, keep=keep)
        return replace(self._report(None), switched=True)

    def _report(self, stopped: str | None) -> MigrationReport:
        return self.target.report(
            switched=False,
            embedded=self._embedded,
            unchanged=self._unchanged,
            usage=self._usage,
            stopped=stopped,
            requests=self._usage.requests,
            tokens=self._usage.total_tokens or 0,
            cost_usd=self._usage.cost_usd,
            comparison=self._compared,
        )

    def _has_all(self, view: View) -> bool:
        """Return whether the generation has the vectors of a state: then its texts need not be read again."""
        new = self._new._current()  # noqa: SLF001
        return bool(new.documents == view.documents and setting(new, MATCHES) == _fingerprint(view))

    def _fill(self, view: View) -> str | None:
        """Embed the documents that are missing, delete those that are gone, and return why it ended early."""
        if self._client is None and is_cut_from(view.generation, *astuple(self.target)):
            self._unchanged = cut_stored(self._new._writing(), view)  # noqa: SLF001
            self._set_matches(view)
            return None
        client = _NoClient(self._folder) if self._client is None else self._client
        options = self._options
        if options.max_cost_usd is not None:
            left = Decimal(str(options.max_cost_usd)) - self._spent
            options = replace(options, max_cost_usd=max(Decimal(0), left))
        failed: dict[str, str] = {}

        def note(_: str | None, name: str | None, reason: str) -> None:
            failed[str(name)] = reason

        with self._signals():
            report = self._new._ingest(  # noqa: SLF001
                _documents(view), client, options, self._control, self._progress, on_failure=note
            )
        self._embedded += report.added + report.updated
        self._unchanged = report.unchanged
        self._usage += report.usage
        self._spent = add_costs(self._spent, _cost(self.target, report.usage))
        if failed:
            raise CollectionError(self._about(failed))
        if report.stopped is not None or self._control.stopped:
            return report.stopped or "interrupted"
        if not view.documents:  # nothing is pruned where the input was empty
            self._new.delete([document.id for document in self._new.documents()])
        self._set_matches(view)
        return None

    def _set_matches(self, view: View) -> None:
        self._new._writing().set_setting(MATCHES, _fingerprint(view))  # noqa: SLF001

    def _about(self, failed: dict[str, str]) -> str:
        """Return the message for documents that could not be embedded."""
        reasons = failed | {found.id: found.error for found in self._new.failures() if found.id in failed}
        shown = "; ".join(f"{name!r:.100}: {reason}" for name, reason in list(reasons.items())[:_SHOWN])
        more = f"; and {len(failed) - _SHOWN:,} more" if len(failed) > _SHOWN else ""
        return (
            f"{self._folder.path}: {len(failed):,} documents have no vectors of {self.target}, so there was no switch: "
            f"{shown}{more}. Searches go on as before, and what is embedded stays. Change or delete these documents, "
            "or pass retry_failed=True or split_long=True, and migrate again"
        )

    @contextlib.contextmanager
    def _writer(self) -> Iterator[Store]:
        """Keep other writers out: the threads of this process by waiting for them, other processes by the lock."""
        if self._collection._store is not None:  # noqa: SLF001
            with self._collection._ingesting:  # noqa: SLF001
                yield self._collection._writing()  # noqa: SLF001
            return
        try:
            lock = WriterLock(self._folder.lock)
        except CollectionLockedError as error:
            error.add_note("All vectors are there: the same call switches to them once the other process has ended")
            raise
        try:
            with contextlib.closing(Store(self._folder)) as store:
                yield store
        finally:
            lock.release()

    def _switch(self, store: Store, view: View, *, keep: bool) -> None:
        new = self._new
        if view.rows and not view.chunks:
            store.compact(view)
            with contextlib.closing(View(self._folder)) as compacted:
                self._switch(store, compacted, keep=keep)
            return
        switch(store, self._folder, view, new._current(), keep=keep)  # noqa: SLF001
        new.close()
        remove_leftovers(self._folder, view.generation.number + 1)


def _fingerprint(view: View) -> str:
    return fingerprint((values[1], values[2]) for values in view.all_documents())


def _cost(target: Target, usage: Usage) -> Decimal:
    """Return the cost of requests: as reported, else at list price, as a budget counts it."""
    return usage.cost_usd or get_model(target.model).cost(usage.total_tokens or 0) or Decimal(0)


class _NoClient:
    """Stands for a client where all vectors should be there."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def embed(self, documents: list[list[str]], **_: Any) -> Any:
        """Refuse."""
        raise CollectionError(
            f"{self._folder.path}: documents were added or changed since ({len(documents):,} or more), and the "
            "generation has no vectors of them: pass a client to embed them"
        )
