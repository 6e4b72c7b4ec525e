"""pgvector: a file for PostgreSQL's binary COPY, and the statements that load it.

The form of the file is described at https://www.postgresql.org/docs/current/sql-copy.html, that of a value by the
``recv`` function of its type. Bits of a ``bit(n)`` are stored most significant first, the other way round than here.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

from ctxembed import _core
from ctxembed._collection.export.rows import COLUMNS, Format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.export.rows import Batch, Shape
    from ctxembed._collection.export.target import Target

__all__ = ["FORMAT"]

_STATEMENTS: Final = ".sql"
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_JSONB_VERSION: Final = b"\x01"

_SQL: Final = """\
-- Vectors of {model}, for pgvector 0.7 or newer. The last statement reads the file beside this one, for example so:
-- cat TARGET.sql TARGET | psql --set ON_ERROR_STOP=1 --file - DATABASE
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE chunks (id text NOT NULL, chunk integer NOT NULL, text text, metadata jsonb, vector {type} NOT NULL);
COPY chunks ({columns}) FROM STDIN WITH (FORMAT binary);
"""


def _write(target: Target, shape: Shape, batches: Iterator[Batch]) -> None:
    is_bits = shape.vectors == "bits"
    kind = f"bit({shape.dimensions})" if is_bits else f"halfvec({shape.dimensions})"
    statements = _SQL.format(model=shape.model, type=kind, columns=", ".join(COLUMNS))
    target.part(_STATEMENTS).write_text(statements, encoding="utf-8")
    # A bit string begins with its length in bits, a halfvec with its dimensions and a field that has to be 0.
    head = struct.pack(">i", shape.dimensions) if is_bits else struct.pack(">hh", shape.dimensions, 0)
    with target.part().open("wb") as stream:
        stream.write(_SIGNATURE)
        for batch in batches:
            stream.write(b"".join(_rows(batch, head, is_bits=is_bits)))
        stream.write(_END)


def _rows(batch: Batch, head: bytes, *, is_bits: bool) -> Iterator[bytes]:
    vectors = _core.reverse_bit_order(batch.vectors) if is_bits else batch.vectors.astype(">f2")
    count = struct.pack(">h", len(COLUMNS))
    columns = zip(batch.ids, batch.chunks, batch.texts, batch.metadata, vectors, strict=True)
    for name, chunk, text, metadata, vector in columns:
        _check(name, chunk, text, metadata)
        yield count
        yield _value(name.encode())
        yield _value(struct.pack(">i", chunk))
        yield _NULL if text is None else _value(text.encode())
        yield _NULL if metadata is None else _value(_JSONB_VERSION + metadata.encode())
        yield _value(head + vector.tobytes())


def _value(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


def _check(name: str, chunk: int, text: str | None, metadata: str | None) -> None:
    """Refuse what PostgreSQL would refuse, in the middle of a COPY."""
    where = "id" if "\0" in name else "text" if text is not None and "\0" in text else None
    if where is None and metadata is not None and "\\u0000" in metadata and _has_null(json.loads(metadata)):
        where = "metadata"
    if where is not None:
        raise ValueError(
            f"the {where} of the document {name!r:.100}, chunk {chunk}, holds a null character, which PostgreSQL "
            "cannot store"
        )


def _has_null(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_null(name) or _has_null(content) for name, content in value.items())
    return isinstance(value, list) and any(map(_has_null, value))


FORMAT = Format(
    _write, ("float16", "bits"), (".pgcopy",), (_STATEMENTS,), no_int8="pgvector has no type of int8 values"
)
