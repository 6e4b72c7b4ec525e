"""``ctxembed export``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ctxembed._cli.app import CollectionArgument, JsonOption, app, parse_path
from ctxembed._cli.output import check_stdout, write, write_json, write_message
from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from collections.abc import Callable

__all__: list[str] = []

_EVERY: Final = 10.0
"""Seconds between two lines of progress."""


@app.command(
    help="""Write the chunks of a collection with their vectors for another store.

    The target appears when it is whole. Beside a target of npy, faiss and usearch stands TARGET.jsonl, which names its
    rows, and beside one of pgvector TARGET.sql, which loads it.""",
)
def export(
    collection: CollectionArgument,
    target: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="TARGET", help="The file to write; for LanceDB the folder.")
    ],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="parquet, npy, faiss, usearch, sqlite-vec, lancedb or pgvector (default: by the target's ending).",
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(help="int8, bytes, bits, float16 or float32 (default: int8, or what the format holds instead)."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="An SQL expression over id, source and metadata: \"year >= 2020 AND lang = 'en'\"."),
    ] = None,
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target if it exists.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the chunks of a collection for another store."""
    from ctxembed._collection.collection import Collection
    from ctxembed._collection.export.run import check_vectors, format_of

    check_stdout()
    try:
        check_vectors(name := format_of(target, format_name), vectors)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with Collection.open(collection, read_only=True) as opened:
        report = opened.export(
            target, format=name, where=where, vectors=vectors, overwrite=overwrite,
            progress=None if as_json else _progress(target),
        )  # fmt: skip
    if as_json:
        write_json(asdict(report))
        return
    note = "" if report.note is None else f" ({report.note})"
    write(f"{', '.join(report.files)}: {plural(report.chunks, 'chunk')}, vectors as {report.vectors}{note}")


def _progress(target: Path) -> Callable[[int], None]:
    """Return a function that writes a line now and then."""
    last = time.monotonic()

    def show(chunks: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            write_message(f"{target}: {plural(chunks, 'chunk')} so far")

    return show
