"""Reads the rows of CSV and Parquet files."""

from __future__ import annotations

import csv
import json
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ctxembed._extras import require
from ctxembed._jobs.reading.documents import InputDocument, Rejected
from ctxembed._jobs.reading.files import BOM, MAX_RECORD, UTF16_AND_32, BytesRead, shown_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._jobs.reading.documents import ReadOptions
    from ctxembed._jobs.reading.records import Records

__all__ = ["read_csv", "read_parquet"]

_BATCH: Final = 1024  # rows of a Parquet batch
_BUFFER: Final = 1 << 20  # bytes of a column that are read at once; without it all of a row group


class _NotCsvError(ValueError):
    pass


def read_csv(
    stream: BinaryIO, name: str, records: Records, options: ReadOptions, read: BytesRead, *, delimiter: str
) -> Iterator[InputDocument | Rejected]:
    """Yield the document of each row, or why it is not one. The first row has the names of the fields.

    Empty cells of the id, the chunks, the text and the source count as absent. The chunks are a JSON list.
    """
    if csv.field_size_limit() < MAX_RECORD:
        csv.field_size_limit(MAX_RECORD)  # of the process; the default is too small for texts
    rows = csv.reader(_lines(stream, read), delimiter=delimiter, strict=True)
    try:
        header = next((row for row in rows if row), None)
    except (csv.Error, _NotCsvError) as error:
        yield Rejected(f"{name}, line {rows.line_num or 1}", _csv_reason(error))
        return
    if header is None:
        return
    repeated = {field for field in header if field and header.count(field) > 1}
    if repeated:
        yield Rejected(name, f"the header names {', '.join(map(repr, sorted(repeated)))} more than once")
        return
    own = {options.id_field, options.text_field, "source"}
    number = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            number += 1
            yield Rejected(f"{name}, row {number}", f"not CSV: {error}, at line {rows.line_num}")
            continue
        except _NotCsvError as error:
            yield Rejected(f"{name}, line {rows.line_num + 1}", str(error))
            return
        if row is None:
            return
        if not row:
            continue
        number += 1
        place = f"{name}, row {number}"
        if len(row) != len(header):
            yield Rejected(place, f"has {len(row)} fields, and the header {len(header)}, at line {rows.line_num}")
            continue
        record: dict[str, Any] = {
            field: cell or None if field in own else cell for field, cell in zip(header, row, strict=True)
        }
        record.pop("", None)  # an index without a name
        cell = record.get(options.chunks_field)
        if cell is not None:
            try:
                record[options.chunks_field] = json.loads(cell) if cell else None
            except (ValueError, RecursionError):
                yield Rejected(
                    place,
                    f"{options.chunks_field} must be a JSON list of strings, got {cell[:80]!r}",
                    record.get(options.id_field),
                )
                continue
        yield records.read(record, place, surrogates=False)


def _csv_reason(error: Exception) -> str:
    return f"not CSV: {error}" if isinstance(error, csv.Error) else str(error)


def _lines(stream: BinaryIO, read: BytesRead) -> Iterator[str]:
    """Yield the lines of a stream, which may end in any way."""
    position = 0
    while line := stream.readline(MAX_RECORD + 1):
        if position == 0:
            if line.startswith(UTF16_AND_32):
                raise _NotCsvError("UTF-16 or UTF-32 by its byte order mark, not UTF-8")
            start = len(BOM) if line.startswith(BOM) else 0
            position, line, size = start, line[start:], len(line)
        else:
            size = len(line)
        read.total += size
        if size > MAX_RECORD:
            raise _NotCsvError(f"longer than {shown_size(MAX_RECORD)}: not a document")
        if b"\0" in line:
            raise _NotCsvError(f"not text: a NUL at byte {position + line.index(0)}")
        for part in line.splitlines(keepends=True) if b"\r" in line else (line,):
            try:
                yield part.decode()
            except UnicodeDecodeError as error:
                raise _NotCsvError(f"not UTF-8 at byte {position + error.start}") from None
            position += len(part)


def read_parquet(
    stream: BinaryIO, name: str, records: Records, options: ReadOptions, read: BytesRead
) -> Iterator[InputDocument | Rejected]:
    """Yield the document of each row, or why it is not one.

    Dates and times become ISO 8601 strings, decimals strings. Bytes are refused.
    """
    pa = require("pyarrow", "arrow", "reading Parquet")
    parquet = require("pyarrow.parquet", "arrow", "reading Parquet")
    size = stream.seek(0, 2)
    stream.seek(0)
    before, number = read.total, 0
    try:
        with parquet.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER) as file:
            names = file.schema_arrow.names
            repeated = {field for field in names if names.count(field) > 1}
            if repeated:
                yield Rejected(name, f"has more than one column {', '.join(map(repr, sorted(repeated)))}")
                return
            columns = names
            if options.metadata_fields is not None:
                wanted = {
                    options.id_field,
                    options.chunks_field,
                    options.text_field,
                    "source",
                    *options.metadata_fields,
                }
                columns = [field for field in names if field in wanted]
            rows = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(_BATCH, columns=columns):
                for record in _exact_times(batch, pa).to_pylist():
                    number += 1
                    place = f"{name}, row {number}"
                    try:
                        values = {field: _json_value(value, field) for field, value in record.items()}
                    except _NoJsonError as error:
                        yield Rejected(place, str(error))
                    else:
                        yield records.read(values, place, surrogates=False)
                    read.total = before + size * number // rows
    except (pa.ArrowException, OSError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        yield Rejected(f"{name}, row {number + 1}" if number else name, f"damaged, or not Parquet: {first}")
    read.total = before + size


class _NoJsonError(TypeError):
    pass


def _exact_times(batch: Any, pa: Any) -> Any:
    """Return a batch with strings in place of timestamps in nanoseconds, which Python's datetime does not have."""
    for position, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            texts = [
                text and text.replace(" ", "T", 1) for text in batch.column(position).cast(pa.string()).to_pylist()
            ]
            batch = batch.set_column(position, column.name, pa.array(texts, pa.string()))
    return batch


def _json_value(value: Any, field: str) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_json_value(part, field) for part in value]
    if isinstance(value, dict):
        return {key: _json_value(part, field) for key, part in value.items()}
    raise _NoJsonError(f"column {field!r} has {type(value).__name__} values, which JSON does not have")
