"""``Collection.export``: a way out to other stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from ctxembed._collection.folder import Folder
    from ctxembed._collection.view import View
    from ctxembed._documents import ExportReport

__all__ = ["Exporting"]


class Exporting:
    """The part of a collection that writes its rows for other stores."""

    _folder: Folder

    def _filtered(self, where: str | None) -> View:
        raise NotImplementedError

    def export(
        self,
        target: str | PathLike[str],
        *,
        format: str | None = None,  # noqa: A002
        where: str | None = None,
        params: Any = (),
        vectors: str | None = None,
        overwrite: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> ExportReport:
        """Write all chunks with their vectors for another store.

        Parameters
        ----------
        target : str or os.PathLike
            The file to write; for LanceDB the folder.
        format : str, optional
            "parquet", "npy", "faiss", "usearch", "sqlite-vec", "lancedb" or "pgvector". Default: by the ending of the
            target: .parquet, .npy, .faiss, .usearch, .sqlite, .lancedb, .pgcopy.
        where, params
            As in :meth:`search`: only the chunks of documents that it selects are written.
        vectors : str, optional
            "int8"; "bytes" (parquet: the same as one binary value); "bits" (packed, least significant bit first, and
            the other way round for pgvector); "float16" (the int8 values; LanceDB and pgvector); "float32" (rows of
            unit length; faiss). Default: what is nearest to the collection's vectors among what the format can hold:
            int8, else bits for faiss and float16 for LanceDB and pgvector; bits of a binary collection.
        overwrite : bool
            Whether a target that exists is replaced.
        progress : callable, optional
            Called with the number of chunks written so far, for LanceDB in another thread.

        Returns
        -------
        ExportReport
            What was written. Its ``note`` says why it is not int8.

        Raises
        ------
        FileExistsError
            The target exists and ``overwrite`` is false; or it is something that no export wrote.
        ImportError
            The format needs a package that is not installed. The message names the extra.
        CollectionError
            What would be written is damaged.
        TypeError, ValueError
            An argument is not what it should be, the format cannot hold such vectors or such a text, or the
            collection has packed bits and ``vectors`` asks for values.

        Notes
        -----
        Rows come in order of ingestion, then chunks, in the columns ``id``, ``chunk``, ``text`` (null in a collection
        without text), ``metadata`` (JSON, or null) and ``vector``. npy, faiss and usearch hold vectors alone: line
        ``i`` of the file ``TARGET.jsonl`` has the other columns of row ``i``. pgvector has its statements in
        ``TARGET.sql``.

        One committed state is written, whatever a writer does meanwhile. The rows are read in batches, so memory does
        not grow with the collection, except for usearch, which builds its index in memory. The files get their names
        when all are whole and on the disk; an export that is interrupted leaves no target, and one that is killed
        files named ``.ctxembed-export-*.part`` beside it.
        """
        from ctxembed._collection.export.run import export_view

        return export_view(
            self._folder, self._filtered(where), target, format=format, where=where, params=params, vectors=vectors,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
