"""Commands on a collection: ``show``, ``verify``, ``compact``, ``delete``, ``failures``, ``snapshot``, ``sql`` ..."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxembed._cli.app import CollectionArgument, JsonOption, app, parse_path
from ctxembed._cli.output import check_stdout, escape, write, write_json, write_message
from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ctxembed._documents import CollectionStats, Document, StoredGeneration
    from ctxembed._results import Usage

__all__: list[str] = []

_ROWS_AT_ONCE = 1000
"""Rows of a table that are read before the widths of its columns are fixed."""


def _open(path: Path, *, read_only: bool) -> Any:
    from ctxembed._collection.collection import Collection

    collection = Collection.open(path, read_only=read_only)
    if not read_only and collection.read_only:
        collection.close()
        raise OSError(30, "the collection is on a read-only file system", str(path))
    return collection


@app.command(help="Show the size and the cost of a collection, or one document with its chunks.")
def show(
    collection: CollectionArgument,
    document: Annotated[str | None, typer.Argument(metavar="[ID]", help="Id of a document.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show the size of a collection, or a document."""
    check_stdout()
    with _open(collection, read_only=True) as opened:
        if document is None:
            stats, others = opened.stats(), [one for one in opened.generations() if one.state != "searched"]
            if as_json:
                fields = {
                    "usage": _usage_json(stats.usage),
                    "path": opened.path,
                    "generations": list(map(asdict, others)),
                }
                write_json({**asdict(stats), **fields}, indent=2)
            else:
                write(*_stats_text(opened.path, stats), *map(_generation_text, others))
            return
        found = opened.get(document)
        if found is None:
            raise KeyError(f"there is no document {document!r} in {collection}")
        if as_json:
            write_json({**asdict(found), "metadata": found.metadata or {}}, indent=2)
        else:
            write(*_document_text(found))


def _stats_text(path: str, stats: CollectionStats) -> list[str]:
    usage = stats.usage
    lines = [
        f"{path}: {plural(stats.documents, 'document')}, {plural(stats.chunks, 'chunk')}",
        f"model: {stats.model}, {stats.dimensions} dimensions, {stats.encoding_format}",
        f"space: {stats.space or 'not known before the first vectors'}",
        f"size: {stats.bytes / 1e6:,.1f} MB, {plural(stats.segments, 'segment')}",
        f"deleted chunks: {stats.deleted_chunks:,}",
        f"failed documents: {stats.failed:,}",
        f"responses: {usage.requests:,}, {usage.total_tokens or 0:,} tokens, {_cost(usage)}",
    ]
    wasted = usage.discarded
    if wasted is not None:
        lines.append(f"paid for nothing: {wasted.requests:,}, {wasted.total_tokens or 0:,} tokens, {_cost(wasted)}")
    if usage.unreported:
        lines.append(f"requests without a response, which may have been charged: {usage.unreported:,}")
    return lines


def _generation_text(generation: StoredGeneration) -> str:
    return (
        f"{generation.state}: {generation.model}, {generation.dimensions} dimensions, {generation.encoding_format}, "
        f"{plural(generation.documents, 'document')}, {generation.bytes / 1e6:,.1f} MB"
    )


def _document_text(document: Document) -> list[str]:
    import json

    lines = [f"{document.id}: {plural(len(document.chunks), 'chunk')}"]
    if document.source is not None:
        lines.append(f"source: {document.source}")
    lines += [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in (document.metadata or {}).items()]
    for number, text in enumerate(document.chunks):
        span = "" if document.spans is None else f" ({document.spans[number][0]} to {document.spans[number][1]})"
        lines += ["", f"[{number}]{span}", *text.split("\n")]
    return lines


def _cost(usage: Usage) -> str:
    return "no cost reported" if usage.cost_usd is None else f"USD {usage.cost_usd:f}"


def _usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "requests": usage.requests,
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.total_tokens,
        "cost_usd": None if usage.cost_usd is None else f"{usage.cost_usd:f}",
        "unreported": usage.unreported,
        "discarded": None if usage.discarded is None else _usage_json(usage.discarded),
    }


@app.command(help="Compare all checksums of a collection, and print each damage. The exit code is 1 if there is any.")
def verify(collection: CollectionArgument, *, as_json: JsonOption = False) -> None:
    """Compare all checksums of a collection."""
    check_stdout()
    with _open(collection, read_only=True) as opened:
        problems = opened.verify()
        count = len(opened)
    if as_json:
        write_json({"documents": count, "problems": problems})
    elif problems:
        write(*problems)
    else:
        write(f"{plural(count, 'document')}: all is as it was written")
    if problems:
        raise typer.Exit(1)


@app.command(help="Rewrite a collection without deleted and replaced chunks. It needs as much room again.")
def compact(collection: CollectionArgument, *, as_json: JsonOption = False) -> None:
    """Rewrite a collection without deleted and replaced chunks."""
    with _open(collection, read_only=False) as opened:
        removed = opened.compact()
        size = opened.stats().bytes
    if as_json:
        write_json({"removed_chunks": removed, "bytes": size})
    else:
        write(f"{plural(removed, 'chunk')} removed, {size / 1e6:,.1f} MB left")


@app.command(help="Delete documents of a collection. The exit code is 1 if an id is not there; the others are deleted.")
def delete(
    collection: CollectionArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of documents.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Delete documents of a collection."""
    with _open(collection, read_only=False) as opened:
        unknown = [name for name in dict.fromkeys(ids) if name not in opened]
        failed = {failure.id for failure in opened.failures()} if unknown else set()
        unknown = [name for name in unknown if name not in failed]
        deleted = opened.delete([name for name in ids if name not in unknown])
    if as_json:
        write_json({"deleted": deleted, "unknown": unknown})
    else:
        write(f"{plural(deleted, 'document')} deleted")
    if unknown:
        if not as_json:
            write_message(f"error: not in {collection}: {', '.join(map(repr, unknown))}")
        raise typer.Exit(1)


@app.command(help="List the documents that could not be embedded. `embed --retry-failed` sends them again.")
def failures(collection: CollectionArgument, *, as_json: JsonOption = False) -> None:
    """List the documents that could not be embedded."""
    check_stdout()
    with _open(collection, read_only=True) as opened:
        found = opened.failures()
    if as_json:
        write_json([{**asdict(failure), "when": failure.when.isoformat(timespec="seconds")} for failure in found])
        return
    for failure in found:
        when = failure.when.isoformat(sep=" ", timespec="seconds")
        write(f"{failure.id}: {failure.error} ({plural(failure.attempts, 'request')}, {when})")


@app.command(
    help="""Copy a collection to a folder that does not exist, also while a job writes to it.

    The copy is whole: all its checksums are compared before it has its name. Vectors share the room of the collection's
    where the file system can."""
)
def snapshot(
    collection: CollectionArgument,
    target: Annotated[Path, typer.Argument(parser=parse_path, metavar="TARGET", help="The folder to make.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Copy a collection."""
    with _open(collection, read_only=True) as opened:
        opened.snapshot(target)
    if as_json:
        write_json({"collection": str(collection), "snapshot": str(target)})
    else:
        write(f"{target}: a copy of {collection}, all checksums compared")


@app.command(help="Run a SELECT on the catalogue of a collection, which changes nothing.")
def sql(
    collection: CollectionArgument,
    statement: Annotated[
        str, typer.Argument(help="One SELECT. Tables: documents, chunks, failures, responses, segments, ...")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Run a SELECT on the catalogue of a collection."""
    from ctxembed._collection.sql import run_sql

    check_stdout()
    with _open(collection, read_only=True) as opened:
        columns, rows = run_sql(opened, statement)
        if as_json:
            for row in rows:
                write_json(dict(zip(columns, map(_json_value, row), strict=True)))
        else:
            _write_rows(columns, rows)


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value if not isinstance(value, float) or abs(value) < float("inf") else repr(value)


def _write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table whose columns are as wide as the first rows need."""
    from itertools import islice

    most = max(8, shutil.get_terminal_size((120, 24)).columns // max(1, len(columns)))
    remaining = iter(rows)
    widths: list[int] = []
    shown = [[escape(name) for name in columns]]
    while True:
        shown += [[_cell(value, most) for value in row] for row in islice(remaining, _ROWS_AT_ONCE)]
        if not widths:
            widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        if not shown:
            return
        for row in shown:
            write("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        shown = []


def _cell(value: Any, most: int) -> str:
    text = "NULL" if value is None else value.hex() if isinstance(value, bytes) else escape(str(value))
    return text if len(text) <= most else text[: most - 3] + "..."


@app.command(
    "import",
    help="""Make a collection of a folder that an earlier `ctxembed embed` wrote. Nothing is sent or paid for.

    The folder stays as it is. If it is interrupted, the same command goes on.""",
)
def import_command(
    old: Annotated[
        Path,
        typer.Argument(parser=parse_path, metavar="OLD", help="A folder with vectors.npy, chunks.jsonl, meta.json."),
    ],
    collection: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="COLLECTION", help="The collection to make.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a collection of an old output."""
    from ctxembed._cli.errors import IncompleteError
    from ctxembed._cli.import_old import import_old

    report = import_old(old, collection)
    if as_json:
        counts = {name: getattr(report, name) for name in ("added", "updated", "unchanged", "failed")}
        write_json({**counts, "collection": str(collection)})
    else:
        write_message(f"{collection}: {plural(report.added, 'document')} added, {report.unchanged:,} unchanged")
    if report.stopped is not None:
        raise IncompleteError("interrupted: the same command goes on", 130)
    if report.failed:
        raise IncompleteError(f"{plural(report.failed, 'document')} of {old} cannot be in a collection", 1)
