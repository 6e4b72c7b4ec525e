"""The output folder of ``ctxembed embed``.

- ``vectors.npy``: one row a chunk, int8 or packed bits, for ``numpy.load``.
- ``chunks.jsonl``: ``{"id": ..., "chunk": ..., "text": ...}`` for each row, in order.
- ``meta.json``: model, dimensions, encoding, counts, usage and failures.

The folder is written under a temporary name and renamed when it is complete, so it never exists in part.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ctxembed._cli.errors import error_code
from ctxembed._models import check_dimensions, get_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ctxembed._cli.documents import Document
    from ctxembed._models import EncodingFormat
    from ctxembed._results import Embeddings

__all__ = ["Store", "StoreError", "check_free", "load", "save"]

_VERSION = 1


class StoreError(ValueError):
    """A folder that is not an output of ``ctxembed embed``, or is damaged."""


@dataclass(frozen=True, slots=True)
class Store:
    """The content of a folder.

    Parameters
    ----------
    vectors : ndarray, shape (n, width)
        Memory-mapped from the file.
    chunks : list of dict
        ``id``, ``chunk`` and ``text`` of each row.
    model, dimensions, encoding_format
        Options of the vectors, which queries must share.
    space : str or None
        Space of the vectors; None in an output of an older version.
    """

    vectors: NDArray[np.int8] | NDArray[np.uint8]
    chunks: list[dict[str, Any]]
    model: str
    dimensions: int
    encoding_format: EncodingFormat
    space: str | None


def check_free(folder: Path, *, force: bool) -> None:
    """Raise ``FileExistsError`` if writing ``folder`` would overwrite something.

    With ``force`` it may overwrite an earlier output, but nothing else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise FileExistsError(f"{folder} exists: pass --force to replace it")
    if not (folder / "meta.json").is_file():
        raise FileExistsError(f"{folder} is not an output of ctxembed embed: it is not replaced")


def save(folder: Path, documents: Sequence[Document], emb: Embeddings, model: str) -> None:
    """Write ``folder``, replacing an earlier output."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        np.save(fresh / "vectors.npy", emb.vectors)
        with (fresh / "chunks.jsonl").open("w", encoding="utf-8") as stream:
            for document, count in zip(documents, np.diff(emb.offsets), strict=True):
                for position in range(int(count)):
                    row = {"id": document.id, "chunk": position, "text": document.chunks[position]}
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        (fresh / "meta.json").write_text(json.dumps(_meta(documents, emb, model), indent=2) + "\n", encoding="utf-8")
        fresh.chmod(0o777 & ~_umask())
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.rename(old / folder.name)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _meta(documents: Sequence[Document], emb: Embeddings, model: str) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "model": model,
        "space": emb.space,
        "dimensions": emb.dimensions,
        "encoding_format": emb.encoding_format,
        "documents": len(documents),
        "chunks": len(emb.vectors),
        "usage": {
            "requests": emb.usage.requests,
            "prompt_tokens": emb.usage.prompt_tokens,
            "total_tokens": emb.usage.total_tokens,
            # A string: most JSON parsers would read a number as a binary float.
            "cost_usd": None if emb.usage.cost_usd is None else f"{emb.usage.cost_usd:f}",
        },
        "failures": [
            {
                "id": documents[failure.document].id,
                "code": error_code(failure.error),
                "error": str(failure.error),
                "attempts": failure.attempts,
            }
            for failure in emb.failures
        ],
    }


def load(folder: Path) -> Store:
    """Read ``folder``.

    Raises
    ------
    StoreError
        The folder is not an output of ``ctxembed embed``, or its files are inconsistent. The message names the file.
    """
    path = folder / "meta.json"
    if not path.is_symlink() and not path.exists():
        raise StoreError(f"{folder} is not an output of ctxembed embed: it has no meta.json")
    model, dimensions, encoding, count, space = _meta_fields(path)
    vectors = _vectors(folder / "vectors.npy", dimensions, encoding)
    if len(vectors) != count:
        raise StoreError(f"{folder} is damaged: {len(vectors)} vectors, but meta.json says {count}")
    chunks = _chunks(folder / "chunks.jsonl")
    if len(chunks) != len(vectors):
        raise StoreError(f"{folder} is damaged: {len(vectors)} vectors, but {len(chunks)} lines in chunks.jsonl")
    return Store(vectors, chunks, model, dimensions, encoding, space)


def _meta_fields(path: Path) -> tuple[str, int, EncodingFormat, int, str | None]:
    """Return model, dimensions, encoding, number of chunks, and space."""
    meta = _parse(_content(path), str(path), {"version": int})
    if meta["version"] != _VERSION:
        raise StoreError(f"{path} has version {meta['version']!r}, this ctxembed reads {_VERSION}")
    _check_fields(meta, str(path), {"model": str, "dimensions": int, "encoding_format": str, "chunks": int})
    model, dimensions, encoding = meta["model"], meta["dimensions"], meta["encoding_format"]
    try:
        check_dimensions(get_model(model, contextualized=True), dimensions, encoding)
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    space = meta.get("space")
    if space is not None and not isinstance(space, str):
        raise StoreError(f"{path} is damaged: 'space' must be a string, got a {type(space).__name__}")
    return model, dimensions, cast("EncodingFormat", encoding), meta["chunks"], space


def _content(path: Path) -> bytes:
    """Return the bytes of a file. Anything else is refused: opening a pipe would block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StoreError(f"{path} is not a file")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None


def _parse(content: bytes, source: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return a JSON object that has fields of these types."""
    try:
        value: Any = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise StoreError(f"{source} is damaged: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{source} is damaged: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{source} is damaged: expected a JSON object, got a {type(value).__name__}")
    _check_fields(value, source, fields)
    return value


def _check_fields(value: dict[str, Any], source: str, fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        if name not in value:
            raise StoreError(f"{source} is damaged: no {name!r}")
        if type(value[name]) is not kind:
            raise StoreError(
                f"{source} is damaged: {name!r} must be {_KINDS[kind]}, got a {type(value[name]).__name__}"
            )


_KINDS: Final = {str: "a string", int: "an integer"}


def _vectors(path: Path, dimensions: int, encoding: str) -> NDArray[Any]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path} is not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header with absurd numbers
            vectors: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001  # NumPy evaluates the header: nearly any exception
        raise StoreError(f"{path} is damaged: {_first_line(str(error)) or type(error).__name__}") from None
    if not isinstance(vectors, np.memmap):
        raise StoreError(f"{path} is damaged: not a file of one array")
    dtype, width = ("int8", dimensions) if encoding == "base64_int8" else ("uint8", dimensions // 8)
    fits = vectors.dtype == dtype and vectors.ndim == 2 and vectors.shape[1] == width
    if not fits or not vectors.flags.c_contiguous:
        raise StoreError(f"{path} holds {vectors.dtype} {vectors.shape}, but meta.json says {encoding} x {dimensions}")
    if vectors.offset + vectors.nbytes != status.st_size:
        raise StoreError(f"{path} is damaged: {status.st_size} bytes, expected {vectors.offset + vectors.nbytes}")
    return vectors


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0][:200]


def _chunks(path: Path) -> list[dict[str, Any]]:
    chunks = []
    fields = {"id": str, "chunk": int, "text": str}
    for number, line in enumerate(io.BytesIO(_content(path)), start=1):
        row = _parse(line, f"{path}, line {number},", fields)
        chunks.append({name: row[name] for name in fields})
    return chunks
