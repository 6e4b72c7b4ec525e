"""``ctxembed mcp``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from ctxembed._cli.app import BaseUrlOption, EmbedderOption, InsecureOption, app, parse_path
from ctxembed._cli.output import check_stdout, write_message
from ctxembed._cli.queries import check_query_options, open_embedder

__all__: list[str] = []


@app.command(
    help="""Offer a collection to an assistant, as tools of the Model Context Protocol on stdin and stdout.

    The assistant starts this command. Its tools are search, which embeds a question as `ctxembed search` does, and
    get_document, which reads a document a part at a time. Nothing is written. Needs the extra mcp."""
)
def mcp(
    collection: Annotated[
        Path,
        typer.Option(
            parser=parse_path, metavar="COLLECTION", help="A collection that `ctxembed embed` made.", show_default=False
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Embeds the questions (default: the model of the documents).")
    ] = None,
    base_url: BaseUrlOption = None,
    embedder: EmbedderOption = None,
    *,
    allow_insecure: InsecureOption = False,
) -> None:
    """Offer a collection to an assistant."""
    from ctxembed._collection.collection import Collection
    from ctxembed._extras import require

    check_query_options(base_url, allow_insecure=allow_insecure)
    require("mcp", "mcp", "ctxembed mcp")
    check_stdout()
    from ctxembed._mcp.server import create_server, serve
    from ctxembed._mcp.tools import CollectionTools

    with (
        Collection.open(collection, read_only=True) as opened,
        open_embedder(opened, model, base_url, embedder, allow_insecure=allow_insecure) as source,
    ):

        def interrupt(*_: Any) -> None:
            # A thread waits for a line on stdin, and nothing else could end it. Nothing was written.
            opened.close()
            write_message("error: interrupted")
            os._exit(128 + signal.SIGINT)

        signal.signal(signal.SIGINT, interrupt)
        serve(create_server(CollectionTools(opened, source), collection.name.removesuffix(".ctx")))
