"""Reads the folder that ``ctxembed embed`` wrote before it wrote collections, for ``ctxembed import``.

- ``vectors.npy``: one row a chunk, int8 or packed bits, for ``numpy.load``.
- ``chunks.jsonl``: ``{"id": ..., "chunk": ..., "text": ...}`` for each row, in order.
- ``meta.json``: model, dimensions, encoding, counts, usage and failures.
"""

from __future__ import annotations

import json
import stat
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ctxembed._models import check_dimensions, get_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat

__all__ = ["OldOutput", "OldOutputError", "is_old_output", "load"]

_VERSION = 1


class OldOutputError(ValueError):
    """A folder that is not an old output of ``ctxembed embed``, or is damaged."""


@dataclass(frozen=True, slots=True)
class OldOutput:
    """The content of a folder.

    Parameters
    ----------
    folder : Path
        The folder.
    vectors : ndarray, shape (n, width)
        Memory-mapped from the file.
    model, dimensions, encoding_format
        Options of the vectors.
    space : str or None
        Space of the vectors; None in an output of an older version.
    failures : list of dict
        ``id``, ``error`` and ``attempts`` of each document without vectors.
    """

    folder: Path
    vectors: NDArray[np.int8] | NDArray[np.uint8]
    model: str
    dimensions: int
    encoding_format: EncodingFormat
    space: str | None
    failures: list[dict[str, Any]]

    def documents(self) -> Iterator[tuple[str, list[str], int]]:
        """Yield id, chunks and first row of each document.

        Raises
        ------
        OldOutputError
            The rows of chunks.jsonl are not those of documents. The message names the line.
        """
        path = self.folder / "chunks.jsonl"
        name, texts, row = "", [""], -1
        for number, (found, chunk, text) in enumerate(_chunks(path)):
            if chunk == 0:
                if row >= 0:
                    yield name, texts, row
                name, texts, row = found, [text], number
            elif found == name and chunk == len(texts) and row >= 0:
                texts.append(text)
            else:
                raise OldOutputError(
                    f"{path}, line {number + 1}, is damaged: chunk {chunk} of {found!r} has no place here"
                )
        if row >= 0:
            yield name, texts, row


def is_old_output(folder: Path) -> bool:
    """Return whether a folder looks like an old output."""
    return (folder / "vectors.npy").is_file() and (folder / "meta.json").is_file()


def load(folder: Path) -> OldOutput:
    """Read ``folder``, and check all of it.

    Raises
    ------
    OldOutputError
        The folder is not an old output of ``ctxembed embed``, or its files do not fit. The message names the file.
    """
    path = folder / "meta.json"
    if not path.is_symlink() and not path.exists():
        raise OldOutputError(f"{folder} is not an old output of ctxembed embed: it has no meta.json")
    output, count = _read_meta(folder)
    if len(output.vectors) != count:
        raise OldOutputError(f"{folder} is damaged: {len(output.vectors)} vectors, but meta.json says {count}")
    ids: set[str] = set()
    rows = 0
    for name, texts, _ in output.documents():
        if name in ids:
            raise OldOutputError(f"{folder / 'chunks.jsonl'} is damaged: the document {name!r} comes twice")
        ids.add(name)
        rows += len(texts)
    if rows != count:
        raise OldOutputError(f"{folder} is damaged: {count} vectors, but {rows} lines in chunks.jsonl")
    return output


def _read_meta(folder: Path) -> tuple[OldOutput, int]:
    """Return what meta.json and vectors.npy hold, and the number of chunks."""
    path = folder / "meta.json"
    meta = _parse(_content(path), str(path), {"version": int})
    if meta["version"] != _VERSION:
        raise OldOutputError(f"{path} has version {meta['version']!r}, this ctxembed reads {_VERSION}")
    _check_fields(meta, str(path), {"model": str, "dimensions": int, "encoding_format": str, "chunks": int})
    model, dimensions, encoding = meta["model"], meta["dimensions"], meta["encoding_format"]
    try:
        check_dimensions(get_model(model, contextualized=True), dimensions, encoding)
    except ValueError as error:
        raise OldOutputError(f"{path} is damaged: {error}") from None
    space, failures = meta.get("space"), meta.get("failures", [])
    if space is not None and not isinstance(space, str):
        raise OldOutputError(f"{path} is damaged: 'space' must be a string, got a {type(space).__name__}")
    if not isinstance(failures, list) or not all(isinstance(failure, dict) for failure in failures):
        raise OldOutputError(f"{path} is damaged: 'failures' must be a list of objects")
    for failure in failures:
        _check_fields(failure, str(path), {"id": str, "error": str, "attempts": int})
    vectors = _vectors(folder / "vectors.npy", dimensions, encoding)
    return OldOutput(folder, vectors, model, dimensions, cast("EncodingFormat", encoding), space, failures), meta[
        "chunks"
    ]


def _content(path: Path) -> bytes:
    """Return the bytes of a file. Anything else is refused: opening a pipe would block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OldOutputError(f"{path} is not a file")
        return path.read_bytes()
    except OSError as error:
        raise OldOutputError(f"{path} cannot be read: {error.strerror or error}") from None


def _parse(content: bytes, source: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return a JSON object that has fields of these types."""
    try:
        value: Any = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise OldOutputError(f"{source} is damaged: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise OldOutputError(f"{source} is damaged: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise OldOutputError(f"{source} is damaged: expected a JSON object, got a {type(value).__name__}")
    _check_fields(value, source, fields)
    return value


def _check_fields(value: dict[str, Any], source: str, fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        if name not in value:
            raise OldOutputError(f"{source} is damaged: no {name!r}")
        if type(value[name]) is not kind:
            raise OldOutputError(
                f"{source} is damaged: {name!r} must be {_KINDS[kind]}, got a {type(value[name]).__name__}"
            )


_KINDS: Final = {str: "a string", int: "an integer"}


def _vectors(path: Path, dimensions: int, encoding: str) -> NDArray[Any]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OldOutputError(f"{path} is not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header with absurd numbers
            vectors: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise OldOutputError(f"{path} cannot be read: {error.strerror or error}") from None
    except OldOutputError:
        raise
    except Exception as error:  # noqa: BLE001  # NumPy evaluates the header: nearly any exception
        raise OldOutputError(f"{path} is damaged: {_first_line(str(error)) or type(error).__name__}") from None
    if not isinstance(vectors, np.memmap):
        if isinstance(vectors, np.lib.npyio.NpzFile):
            vectors.close()
        raise OldOutputError(f"{path} is damaged: not a file of one array")
    dtype, width = ("int8", dimensions) if encoding == "base64_int8" else ("uint8", dimensions // 8)
    fits = vectors.dtype == dtype and vectors.ndim == 2 and vectors.shape[1] == width
    if not fits or not vectors.flags.c_contiguous:
        raise OldOutputError(
            f"{path} holds {vectors.dtype} {vectors.shape}, but meta.json says {encoding} x {dimensions}"
        )
    if vectors.offset + vectors.nbytes != status.st_size:
        raise OldOutputError(f"{path} is damaged: {status.st_size} bytes, expected {vectors.offset + vectors.nbytes}")
    return vectors


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0][:200]


def _chunks(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yield id, chunk and text of each line."""
    fields = {"id": str, "chunk": int, "text": str}
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise OldOutputError(f"{path} is not a file")
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                row = _parse(line, f"{path}, line {number},", fields)
                yield row["id"], row["chunk"], row["text"]
    except OSError as error:
        raise OldOutputError(f"{path} cannot be read: {error.strerror or error}") from None
