"""``ctxembed embed``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctxembed._cli.app import (
    BaseUrlOption,
    EmbedderOption,
    InsecureOption,
    LinksOption,
    TokenizerOption,
    app,
    check_options,
    load_counter,
    load_embedder,
    parse_path,
)
from ctxembed._cli.imports import import_httpx
from ctxembed._cli.job_options import (
    ConcurrencyOption,
    DimensionsOption,
    MaxCostOption,
    MaxErrorsOption,
    MaxRetriesOption,
    MaxWaitOption,
    RequestsPerMinuteOption,
    RetryFailedOption,
    SplitLongOption,
    client_options,
)
from ctxembed._cli.output import check_stdout
from ctxembed._models import DEFAULT_MODEL, EncodingFormat

__all__: list[str] = []


def _refuse_force(value: bool) -> None:
    if value:
        raise typer.BadParameter(
            "there is no --force: embed adds documents to the collection and replaces those that changed. To begin "
            "anew, name another collection"
        )


@app.command(
    help="""Embed documents into a collection, which is made if it is not there.

    INPUT: folders, globs, and files: .jsonl, .csv, .parquet, .txt, .md, .html; "-" is JSON Lines on stdin. Records have
    an id, and chunks or a text, which is cut. Other fields become metadata.

    What is stored already is not sent again, so the same command goes on where it stopped. Ctrl-C once stores what is
    in flight, twice stops at once. The exit code is 1 if documents were rejected: COLLECTION.rejects.jsonl has them."""
)
def embed(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Files, folders, globs, or -.")],
    collection: Annotated[
        Path, typer.Argument(parser=parse_path, metavar="COLLECTION", help="The collection to write, as corpus.ctx.")
    ],
    model: Annotated[
        str | None, typer.Option(help=f"The contextualized model (default: the collection's, or {DEFAULT_MODEL}).")
    ] = None,
    dimensions: DimensionsOption = None,
    encoding_format: Annotated[
        EncodingFormat | None, typer.Option(help="Signed bytes (the default), or one bit per dimension.")
    ] = None,
    id_field: Annotated[str, typer.Option(help="Field of a record with its id.")] = "id",
    chunks_field: Annotated[str, typer.Option(help="Field of a record with its list of chunks.")] = "chunks",
    text_field: Annotated[str, typer.Option(help="Field of a record with a text to cut.")] = "text",
    metadata_field: Annotated[
        list[str] | None, typer.Option(help="Field that becomes metadata; may be repeated (default: all others).")
    ] = None,
    chunk_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a chunk of a text.")] = 256,
    chunk_overlap: Annotated[int, typer.Option(min=0, help="Tokens that neighbouring chunks share.")] = 0,
    tokenizer: TokenizerOption = None,
    max_cost: MaxCostOption = None,
    max_errors: MaxErrorsOption = None,
    max_retries: MaxRetriesOption = None,
    concurrency: ConcurrencyOption = None,
    requests_per_minute: RequestsPerMinuteOption = None,
    max_wait: MaxWaitOption = 300.0,
    base_url: BaseUrlOption = None,
    embedder: EmbedderOption = None,
    *,
    allow_insecure: InsecureOption = False,
    split_long: SplitLongOption = False,
    retry_failed: RetryFailedOption = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete documents that the input no longer has, after reading all of it.")
    ] = False,
    follow_links: LinksOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, and print what would be sent and cost. Needs no key.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as JSON lines; errors are JSON on stderr.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", hidden=True, callback=_refuse_force)] = False,  # noqa: ARG001
) -> None:
    """Embed documents into a collection."""
    import_httpx()
    from ctxembed._cli.embed import Settings, run, run_dry
    from ctxembed._jobs.budget import Budget
    from ctxembed._jobs.ingest import IngestOptions
    from ctxembed._jobs.reading import ReadOptions

    local = None
    if embedder is not None:
        local = load_embedder(
            embedder,
            model,
            base_url=base_url,
            max_retries=max_retries,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            split_long=split_long,
            dry_run=dry_run,
        )
        model = local.model.name
    check_options(
        model or DEFAULT_MODEL, dimensions, encoding_format or "base64_int8", base_url, allow_insecure=allow_insecure
    )
    if dry_run:
        check_stdout()
    counter = load_counter(tokenizer)
    try:
        reading = ReadOptions(
            id_field=id_field,
            chunks_field=chunks_field,
            text_field=text_field,
            metadata_fields=tuple(metadata_field) if metadata_field else None,
            chunk_tokens=chunk_tokens,
            chunk_overlap=chunk_overlap,
            token_counter=counter,
            follow_links=follow_links,
        )
        Budget(model or DEFAULT_MODEL, max_cost)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(_in_options(str(error))) from None
    client = client_options(
        base_url,
        counter,
        allow_insecure=allow_insecure,
        max_retries=max_retries,
        concurrency=concurrency,
        requests_per_minute=requests_per_minute,
    )
    settings = Settings(
        inputs=inputs,
        collection=collection,
        model=model,
        dimensions=dimensions,
        encoding_format=encoding_format,
        reading=reading,
        options=IngestOptions(
            prune=prune,
            max_cost_usd=None if dry_run else max_cost,
            max_errors=max_errors,
            retry_failed=retry_failed,
            split_long=split_long,
            max_wait=max_wait,
        ),
        client=client,
        embedder=local,
        as_json=as_json,
    )  # fmt: skip
    (run_dry if dry_run else run)(settings)


def _in_options(message: str) -> str:
    for name in ("max_cost_usd", "id_field", "chunks_field", "text_field", "chunk_tokens", "chunk_overlap"):
        message = message.replace(name, "--" + name.removesuffix("_usd").replace("_", "-"))
    return message.replace("metadata_fields", "--metadata-field")
