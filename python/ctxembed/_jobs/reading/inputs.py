"""Reads all inputs of a job, one document at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final, Self, TypeAlias

from ctxembed._jobs.documents import InputBatch
from ctxembed._jobs.reading.documents import InputDocument, ReadOptions, Rejected
from ctxembed._jobs.reading.files import BOM, BytesRead, open_file
from ctxembed._jobs.reading.folder import Skipped, reason_of
from ctxembed._jobs.reading.json_lines import read_json_array, read_json_lines
from ctxembed._jobs.reading.known import KnownRecords
from ctxembed._jobs.reading.records import Records
from ctxembed._jobs.reading.sources import File, Folder, Stdin, find_sources, size_of
from ctxembed._jobs.reading.tables import read_csv, read_parquet
from ctxembed._jobs.reading.texts import read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from types import TracebackType

    from ctxembed._jobs.documents import UnchangedDocument

    Item: TypeAlias = InputDocument | UnchangedDocument | Rejected

__all__ = ["Inputs", "open_inputs"]

_TOGETHER: Final = 64
"""Documents of a batch."""

_BYTES: Final = 1 << 18
"""Bytes of a batch, beyond which it gets no more."""


class Inputs:
    """An iterator of :class:`InputDocument` and :class:`Rejected`, in the order of the inputs.

    It holds a few records, or one batch of a Parquet file. Closing it closes the file that is open. A record with a
    text raises an ImportError where the extra ``chunk`` is missing.

    Attributes
    ----------
    skipped : Skipped
        What was left out so far.
    total_bytes : int or None
        Size of all files when they were found; None with a pipe or stdin.
    """

    def __init__(self, sources: list[File | Folder | Stdin], options: ReadOptions, skipped: Skipped) -> None:
        self.skipped = skipped
        self.total_bytes = size_of(sources, follow_links=options.follow_links)
        self._options = options
        self._records = Records(options)
        self._known = KnownRecords(options)
        self._together = _TOGETHER
        self._read = BytesRead()
        self._last: Item | InputBatch | None = None
        self._items = self._read_all(sources)
        self._one_by_one = self._flattened()

    @property
    def bytes_read(self) -> int:
        """Bytes that were read so far."""
        return self._read.total

    def skip_known(self, find: Callable[[bytes], tuple[int, str] | None], *, any_known: bool = True) -> None:
        """Yield an :class:`UnchangedDocument` for what ``find`` knows, in place of reading it.

        Parameters
        ----------
        find : callable
            Returns number and id of the next stored document, if it has the given ``record``. Called in the order of
            the input.
        any_known : bool
            Whether it may know any. Documents come one by one then: what ``find`` knows next depends on what was taken.
        """
        self._known.use(find)
        self._together = 1 if any_known else _TOGETHER

    @property
    def position(self) -> str | None:
        """Where the last item was read: its place."""
        return self._last.place if self._last is not None else None

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return next(self._one_by_one)

    def _flattened(self) -> Generator[Item, None, None]:
        for item in self.batches():
            if isinstance(item, InputBatch):
                for at, document in enumerate(item):
                    item.at = at
                    yield document
            else:
                yield item

    def batches(self) -> Iterator[Item | InputBatch]:
        """Iterate over the same, some documents at once where the input has them in one piece."""
        for item in self._items:
            self._last = item
            yield item

    def close(self) -> None:
        """Close the file that is open. Nothing is read after that."""
        self._one_by_one.close()
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_all(self, sources: list[File | Folder | Stdin]) -> Generator[Item | InputBatch, None, None]:
        for source in sources:
            if isinstance(source, Stdin):
                yield from self._read_stream(source.stream, "stdin", "json-lines", pipe=True)
            elif isinstance(source, File):
                yield from self._read_file(source)
            else:
                yield from self._read_folder(source)

    def _read_folder(self, folder: Folder) -> Iterator[Item | InputBatch]:
        try:
            for file in folder.files(self.skipped, follow_links=self._options.follow_links):
                if isinstance(file, Rejected):
                    yield file
                else:
                    yield from self._read_file(file)
        except OSError as error:  # the folder itself, since it was found
            yield Rejected(str(folder.path), reason_of(error, folder.path))

    def _read_file(self, file: File) -> Iterator[Item | InputBatch]:
        if file.kind in {"text", "markdown", "html"}:
            document = read_document(
                file.path, file.id, file.kind, self._options, self._read, known=self._known, pipe=file.pipe
            )
            if document is None:
                self.skipped.empty += 1
            else:
                yield document
            return
        name = str(file.path)
        try:
            stream = open_file(file.path, pipe=file.pipe)
        except OSError as error:
            yield Rejected(name, reason_of(error, file.path))
        except ValueError as error:
            yield Rejected(name, str(error))
        else:
            with stream:
                yield from self._read_stream(stream, name, file.kind, pipe=file.pipe)

    def _read_stream(self, stream: BinaryIO, name: str, kind: str, *, pipe: bool) -> Iterator[Item | InputBatch]:
        try:
            if kind == "parquet":
                yield from read_parquet(stream, name, self._records, self._options, self._read)
            elif kind in {"csv", "tsv"}:
                delimiter = "\t" if kind == "tsv" else ","
                yield from read_csv(stream, name, self._records, self._options, self._read, delimiter=delimiter)
            elif kind == "json" and _begins_with_bracket(stream):
                yield from read_json_array(stream, name, self._records, self._read)
            else:
                lines = read_json_lines(stream, name, self._records, self._known, self._read)
                # Of a pipe the next line may come late.
                yield from lines if pipe else _in_batches(lines, self._read, self._together)
        except OSError as error:
            yield Rejected(name, error.strerror or str(error))


def _in_batches(items: Iterator[Item], read: BytesRead, most: int) -> Iterator[Item | InputBatch]:
    """Yield documents that follow each other together, as long as they are few and small."""
    batch, end = InputBatch(), read.total + _BYTES
    try:
        for item in items:
            if type(item) is InputDocument:
                batch.append(item)
                if len(batch) < most and read.total < end:
                    continue
            if batch:
                yield batch
            if type(item) is not InputDocument:
                yield item
            batch, end = InputBatch(), read.total + _BYTES
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _begins_with_bracket(stream: BinaryIO) -> bool:
    peek = getattr(stream, "peek", None)
    return peek is not None and peek(1).removeprefix(BOM).lstrip().startswith(b"[")


def open_inputs(sources: Sequence[str], options: ReadOptions, stdin: BinaryIO | None = None) -> Inputs:
    """Check all inputs of a job, and return an iterator of their documents.

    Parameters
    ----------
    sources : sequence of str
        Files, folders, patterns (where there is no such file), and ``-`` for JSON Lines on stdin. A file's kind
        follows from its suffix; one of another suffix is text.
    options : ReadOptions
        How they are read.
    stdin : binary file, optional
        What ``-`` reads.

    Returns
    -------
    Inputs

    Raises
    ------
    ImportError
        A package that a kind of file needs is not installed. The message names the extra.
    OSError
        An input is not there, or cannot be read.
    ValueError
        An input is neither a file, a folder nor a pipe, a pattern matches no file, stdin is named twice or closed, or
        there are no inputs.

    Notes
    -----
    Folders are walked once here, for their size, and again while they are read.
    """
    skipped = Skipped()
    return Inputs(find_sources(sources, stdin, skipped), options, skipped)
