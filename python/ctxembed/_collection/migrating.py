"""``Collection.migrate``, and the way back."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import astuple
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctxembed._collection.cutting import is_cut_from
from ctxembed._collection.folder import sync_folder
from ctxembed._collection.generations import (
    KEPT,
    folder_of_generation,
    numbers_of_generations,
    remove_generation,
)
from ctxembed._collection.job_options import job_options
from ctxembed._collection.migration import Comparison, Migration, Target, estimate, open_new, setting, target_of
from ctxembed._collection.reader import CollectionReader
from ctxembed._collection.switching import new_responses
from ctxembed._collection.view import View
from ctxembed._documents import MigrationReport, StoredGeneration
from ctxembed._errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.store import Store
    from ctxembed._documents import IngestProgress
    from ctxembed._jobs.control import JobControl
    from ctxembed._jobs.ingest import IngestOptions
    from ctxembed._models import EncodingFormat, Model

    Signals: TypeAlias = Callable[[], AbstractContextManager[None]]

__all__ = ["Migrating"]


class Migrating(CollectionReader):
    """The part of a collection that moves it to another model."""

    def migrate(
        self,
        model: str | Model | None = None,
        client: Any = None,
        *,
        dimensions: int | None = None,
        encoding_format: EncodingFormat | None = None,
        dry_run: bool = False,
        keep_old: bool = False,
        max_cost_usd: Any = None,
        max_errors: int | None = None,
        retry_failed: bool = False,
        split_long: bool = False,
        max_wait: float = 0.0,
        progress: Callable[[IngestProgress], object] | None = None,
        queries: Mapping[str, Any] | None = None,
        judgements: Mapping[str, Any] | None = None,
        old_client: Any = None,
        accept: Callable[[Any, Any], object] | None = None,
    ) -> MigrationReport:
        """Embed all documents anew, with another model, dimensions or encoding, and then search these vectors.

        Parameters
        ----------
        model : str or Model, optional
            The contextualized model. Default: the collection's.
        client : Client or object, optional
            As in :meth:`ingest`. Without one nothing is sent: the new vectors are cut from the stored int8 vectors of
            the same model, where they have fewer dimensions or are bits. A dry run needs none, and prices embedding.
        dimensions : int, optional
            Of the vectors. Default: the model's, or the collection's where the model is the same.
        encoding_format : {"base64_int8", "base64_binary"}, optional
            Default: the collection's.
        dry_run : bool
            Whether nothing is sent: the report has requests, tokens and list price of what is missing.
        keep_old : bool
            Whether the vectors of now are kept, for :meth:`rollback`.
        max_cost_usd, max_errors, retry_failed, split_long, max_wait, progress
            As in :meth:`ingest`.
        queries, judgements : mapping, optional
            As in :func:`evaluate`, with queries that are texts: the old and the new vectors are evaluated before the
            switch, as a search without options ranks them, and the report has both results. What the queries cost is
            not part of ``max_cost_usd``.
        old_client : Client or object, optional
            Embeds the queries for the old vectors. Default: ``client``.
        accept : callable, optional
            Called with the results of the old and the new vectors. The switch is made if what it returns is true.

        Returns
        -------
        MigrationReport
            Its ``switched`` says whether searches are answered from the new vectors, else ``stopped`` says why not.

        Raises
        ------
        CollectionError
            Documents could not be embedded, another migration is under way, the collection has no texts, or is damaged.
            Searches go on as before.
        CollectionLockedError
            Another process migrates this collection, or writes to it when all vectors are there.
        APIError, SpaceError, OSError
            As :meth:`ingest` raises. What was embedded before is stored, and the same call goes on from there.
        TypeError, ValueError
            An argument is not what it should be, or the vectors are of that kind already.

        Notes
        -----
        The new vectors are stored in the folder ``generations`` of the collection, as an ingestion stores them: nothing
        that is stored is sent again, whatever ended the call before. Searches are answered from the old vectors until
        all new ones are there and were compared with their checksums. Then one transaction makes the new ones the
        collection's. Readers go over with their next :meth:`refresh`, and a search uses vectors of one model only.

        Documents that are ingested or deleted meanwhile are taken along. A collection that is open for writing keeps
        the writers of other processes out. One that is open for reading does so for the switch alone, so a nightly job
        can run while it migrates.

        Where this object was opened before the switch, an array as a query needs its ``space`` afterwards: nothing
        else tells whether the old or the new model made it.
        """
        return self._migrate(
            model,
            client,
            dimensions=dimensions,
            encoding_format=encoding_format,
            dry_run=dry_run,
            keep_old=keep_old,
            options=job_options(max_cost_usd, max_errors, max_wait, retry_failed=retry_failed, split_long=split_long),
            progress=progress,
            queries=queries,
            judgements=judgements,
            old_client=old_client,
            accept=accept,
        )

    def _migrate(
        self,
        model: str | Model | None,
        client: Any,
        *,
        dimensions: int | None,
        encoding_format: EncodingFormat | None,
        dry_run: bool,
        keep_old: bool,
        options: IngestOptions,
        progress: Callable[[IngestProgress], object] | None,
        queries: Mapping[str, Any] | None,
        judgements: Mapping[str, Any] | None,
        old_client: Any,
        accept: Callable[[Any, Any], object] | None,
        control: JobControl | None = None,
        signals: Signals | None = None,
    ) -> MigrationReport:
        self._check_open()
        for name, value in {"dry_run": dry_run, "keep_old": keep_old}.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be a bool, got {value!r:.100}")
        if (queries is None) != (judgements is None):
            raise TypeError("queries and judgements are needed together")
        if queries is not None:
            for name, query in dict(queries).items():
                if not isinstance(query, str):
                    raise TypeError(
                        f"the query {name!r:.100} must be a text, got {type(query).__name__}: a vector is of one model"
                    )
        if accept is not None and queries is None:
            raise TypeError("accept needs queries and judgements, whose results it is called with")
        from ctxembed._jobs.budget import Budget

        evaluated = None
        with contextlib.closing(self._latest()) as view:
            target = target_of(view.generation, model, dimensions, encoding_format)
            Budget(target.model, options.max_cost_usd)
            if dry_run:
                return estimate(self._folder, view, target, client, options)
            if client is not None or not is_cut_from(view.generation, *astuple(target)):
                _check_client(client)
            if queries is not None and judgements is not None:
                evaluated = partial(self._evaluated, queries, judgements)
                # Before anything is embedded: what is wrong with the judgements is found now.
                with self._kind().open(self._folder.path, read_only=True) as before:
                    old = evaluated(before, old_client or client)
            opened = open_new(self._folder, view, target, self._kind())
        with contextlib.closing(opened) as new:
            comparison = None if evaluated is None else Comparison(old, partial(evaluated, new, client), accept)
            return self._run(
                new,
                client,
                options=options,
                progress=progress,
                control=control,
                signals=signals,
                keep=keep_old,
                comparison=comparison,
            )

    def _evaluated(
        self, queries: Mapping[str, Any], judgements: Mapping[str, Any], collection: Any, client: Any
    ) -> Any:
        """Evaluate one generation as it is searched by texts."""
        evaluate = import_module("ctxembed").evaluate  # its room is above this one
        variant = "asymmetric" if collection.encoding_format == "base64_binary" else "int8"
        kept = f"{self._folder.path}.eval"
        return evaluate(collection, queries, judgements, client=client, variants=[variant], keep=kept)

    def rollback(
        self,
        client: Any = None,
        *,
        keep_new: bool = False,
        max_cost_usd: Any = None,
        progress: Callable[[IngestProgress], object] | None = None,
    ) -> MigrationReport:
        """Search the vectors again that the last ``migrate(..., keep_old=True)`` has kept.

        Parameters
        ----------
        client : Client or object, optional
            Embeds the documents that were added or changed since. Needed only if there are any.
        keep_new : bool
            Whether the vectors of now are kept, so that the next rollback leads to them.
        max_cost_usd, progress
            As in :meth:`ingest`.

        Returns
        -------
        MigrationReport

        Raises
        ------
        CollectionError
            No vectors were kept, a migration is under way, or there is no client for documents that need one.
        CollectionLockedError, APIError, SpaceError, OSError
            As :meth:`migrate` raises.

        Notes
        -----
        Documents and metadata stay as they are: only the vectors go back. It is done as a migration is, with one
        switch, and the same call goes on where it was interrupted.
        """
        return self._rollback(client, job_options(max_cost_usd, None, 0.0), progress, keep_new=keep_new)

    def _rollback(
        self,
        client: Any,
        options: IngestOptions,
        progress: Callable[[IngestProgress], object] | None,
        *,
        keep_new: bool,
        control: JobControl | None = None,
        signals: Signals | None = None,
    ) -> MigrationReport:
        self._check_open()
        if not isinstance(keep_new, bool):
            raise TypeError(f"keep_new must be a bool, got {keep_new!r:.100}")
        if client is not None:
            _check_client(client)
        own = self._kept()
        with contextlib.closing(self._kind().open(own.path)) as new:
            return self._run(
                new, client, options=options, progress=progress, control=control, signals=signals, keep=keep_new
            )

    def abandon_migration(self) -> bool:
        """Give up a migration that is under way, and delete the vectors that it has paid for.

        Returns
        -------
        bool
            Whether there was one. Its costs stay in the ledger. The vectors of a rollback that was not completed are
            kept for the next one.

        Raises
        ------
        CollectionLockedError
            A process is at it.
        """
        store = self._writing()
        own = folder_of_generation(self._folder, store.generation_number + 1)
        if not own.path.is_dir():
            return False
        if own.exists():
            with contextlib.closing(self._kind().open(own.path)) as new, contextlib.closing(self._latest()) as view:
                other = new._current()  # noqa: SLF001
                store.add_to_ledger(new_responses(view, other))
                if setting(other, KEPT):
                    own.path.rename(folder_of_generation(self._folder, other.generation.number).path)
                    sync_folder(self._folder.generations)
                    return True
        remove_generation(own)
        return True

    def delete_old(self) -> int:
        """Delete the vectors that ``migrate(..., keep_old=True)`` has kept. There is no rollback to them any more.

        Returns
        -------
        int
            How many generations there were.
        """
        number = self._writing().generation_number
        kept = [found for found in numbers_of_generations(self._folder) if found < number]
        for found in kept:
            remove_generation(folder_of_generation(self._folder, found))
        return len(kept)

    def generations(self) -> list[StoredGeneration]:
        """Return the vectors that the collection has: those that were kept, those that are searched, and those to come.

        Returns
        -------
        list of StoredGeneration
            By number.
        """
        self._check_open()
        with contextlib.closing(self._latest()) as current:
            number = current.generation.number
            found = {number: _described(number, "searched", self._folder, current)}
        for other in numbers_of_generations(self._folder):
            own = folder_of_generation(self._folder, other)
            if other == number or not own.exists():
                continue
            with contextlib.closing(View(own)) as view:
                found[other] = _described(other, "kept" if other < number else "under way", own, view)
        return [found[other] for other in sorted(found)]

    # --- parts ---

    def _kind(self) -> Any:
        return type(self)

    def _latest(self) -> View:
        """Return the last committed state, which a reader does not move on to by this."""
        return View(self._folder, immutable=self._immutable)

    def _writing(self) -> Store:
        self._check_open()
        if self._store is None:
            raise CollectionError(f"{self.path} is open for reading only")
        return self._store

    def _kept(self) -> Folder:
        """Return the folder of the generation that a rollback leads to, as the one that is filled."""
        with contextlib.closing(self._latest()) as current:
            number = current.generation.number
        own = folder_of_generation(self._folder, number + 1)
        if own.exists():
            with contextlib.closing(View(own)) as view:
                if not setting(view, KEPT):
                    raise CollectionError(
                        f"{self._folder.path}: a migration to {Target.of(view.generation)} is under way. Complete it, "
                        "or give it up (abandon_migration(), `ctxembed migrate --abandon`)"
                    )
            return own
        kept = [found for found in numbers_of_generations(self._folder) if found < number]
        if not kept:
            raise CollectionError(
                f"{self._folder.path} has kept no earlier vectors: migrate with keep_old=True (--keep-old) keeps them"
            )
        folder_of_generation(self._folder, kept[-1]).path.rename(own.path)
        sync_folder(own.path.parent)
        return own

    def _run(
        self,
        new: Any,
        client: Any,
        *,
        options: IngestOptions,
        progress: Callable[[IngestProgress], object] | None,
        control: JobControl | None,
        signals: Signals | None,
        **values: Any,
    ) -> MigrationReport:
        from ctxembed._jobs.control import JobControl, handled_signals

        control = control or JobControl()
        if signals is None:
            own = (signal.SIGINT,) if signal.getsignal(signal.SIGINT) is signal.default_int_handler else ()
            signals = partial(handled_signals, control, own)
        migration = Migration(self, new, client, options=options, control=control, progress=progress, signals=signals)
        report = migration.run(**values)
        if report.switched and self.read_only:
            self.refresh()
        return report


def _check_client(client: Any) -> None:
    from ctxembed._client.base import BaseClient
    from ctxembed._jobs.run import check_client

    if isinstance(client, BaseClient) and client._is_async:  # noqa: SLF001
        raise TypeError(
            "migrate() and rollback() need a Client, got an AsyncClient: call them in a thread with a Client"
        )
    check_client(client, is_async=False)


def _described(number: int, state: str, folder: Folder, view: View) -> StoredGeneration:
    generation = view.generation
    size = folder.size()
    if state == "searched":
        size -= sum(entry.stat().st_size for entry in folder.generations.rglob("*") if entry.is_file())
    return StoredGeneration(
        number,
        state,
        generation.model,
        generation.dimensions,
        generation.encoding_format,
        generation.space,
        view.documents,
        view.chunks,
        size,
    )
