"""``ctxembed eval``."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ctxembed._cli.app import (
    BaseUrlOption,
    CollectionArgument,
    EmbedderOption,
    InsecureOption,
    JsonOption,
    TokenizerOption,
    app,
    check_options,
    load_counter,
    load_embedder,
    parse_path,
)
from ctxembed._cli.errors import IncompleteError
from ctxembed._cli.job_options import check_amount, client_options
from ctxembed._cli.output import check_stdout, write, write_json, write_message
from ctxembed._models import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._collection.collection import Collection
    from ctxembed._evaluation.reading import JudgedCorpus
    from ctxembed._evaluation.result import Evaluation

__all__: list[str] = []

_STOPPED: Final = {"interrupted": ("interrupted", 130), "max_cost_usd": ("--max-cost is reached", 1)}


@app.command(
    "eval",
    help="""Measure the quality of search in a collection, on queries that are judged.

    The queries are embedded once; the table has int8 vectors, bits, prefixes, two stages and words. --isolated embeds
    each chunk alone as well, and says what context is worth. What was paid for is kept in COLLECTION.eval, so the same
    command goes on where it stopped.""",
)
def evaluate(
    collection: CollectionArgument,
    queries: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="FILE", help="JSON Lines or Parquet with an id and a text."),
    ] = None,
    judgements: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="FILE", help="Lines of query, document and grade (BEIR, TREC), or JSON."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="FOLDER", help="A folder of BEIR or ConTEB in place of both files."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which judgements of a folder.")] = "test",
    k: Annotated[
        list[int] | None, typer.Option("-k", min=1, help="Cut; may be repeated (default: 1, 10, 100).")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="int8, bits, asymmetric, two-stage:4, int8@256, hybrid; may be repeated (default: a grid)."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Rank by document or chunk (default: what is judged).")] = None,
    model: Annotated[
        str | None, typer.Option(help=f"Of a collection that --ingest makes (default: {DEFAULT_MODEL}).")
    ] = None,
    chunk_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a chunk, for --ingest.")] = 256,
    keep: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="FOLDER", help="Keep paid vectors here.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Draws for the intervals.")] = 2000,
    max_cost: Annotated[
        float | None,
        typer.Option(callback=check_amount, help="USD. Nothing is sent for what would cost more; see --dry-run."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="FILE", help="Write the table as Markdown.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="FILE", help="Write quality against bytes as SVG.")
    ] = None,
    tokenizer: TokenizerOption = None,
    base_url: BaseUrlOption = None,
    embedder: EmbedderOption = None,
    *,
    isolated: Annotated[bool, typer.Option("--isolated", help="Embed each chunk alone too, and compare.")] = False,
    ingest: Annotated[bool, typer.Option("--ingest", help="Embed the documents of --data first.")] = False,
    chunk_ids: Annotated[bool, typer.Option("--chunk-ids", help="Judged ids are DOCUMENT_CHUNK.")] = False,
    skip_unjudged: Annotated[
        bool, typer.Option("--skip-unjudged", help="Leave out queries without a judgement.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count judged documents that are not there as never found.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the price. Needs no key.")
    ] = False,
    allow_insecure: InsecureOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of --markdown and --plot.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the quality of search."""
    check_options(model or DEFAULT_MODEL, None, "base64_int8", base_url, allow_insecure=allow_insecure)
    _check_inputs(queries, judgements, data, ingest=ingest, chunk_ids=chunk_ids)
    if by not in (None, "document", "chunk"):
        raise typer.BadParameter(f"--by must be document or chunk, got {by}")
    check_stdout()
    targets = {target: name for name, target in (("--markdown", markdown), ("--plot", plot)) if target is not None}
    for target, name in targets.items():
        if not overwrite and target.exists():
            raise FileExistsError(17, f"the file of {name} exists: --overwrite replaces it", str(target))
    counter = load_counter(tokenizer)
    judged = _read(queries, judgements, data, split, chunk_tokens, counter, chunk_ids=chunk_ids)
    options: dict[str, Any] = {
        "k": tuple(k or (1, 10, 100)),
        "variants": variant,
        "arms": ("context", "isolated") if isolated else ("context",),
        "by": by,
        "skip_unjudged": skip_unjudged,
        "allow_missing": allow_missing,
        "keep": keep,
    }
    with contextlib.ExitStack() as stack:
        client: Any
        if embedder is not None:
            client = load_embedder(embedder, model, base_url=base_url, tokenizer=tokenizer)
        else:
            from ctxembed._client import Client

            given = client_options(base_url, counter, allow_insecure=allow_insecure, needs_key=not dry_run)
            client = stack.enter_context(Client(**given))
        if dry_run:
            _write_price(collection, judged, client, model, options, ingest=ingest, as_json=as_json)
            return
        left = None if max_cost is None else Decimal(str(max_cost))
        if ingest:
            spent = _ingest(collection, judged, client, model, max_cost=left)
            left = None if left is None else max(Decimal(0), left - spent)
        options |= {"seed": seed, "resamples": resamples, "max_cost_usd": left}
        result = _evaluate(collection, judged, client, options)
    _write_files(result, markdown, plot)
    if as_json:
        write_json(result.to_dict(), indent=1)
    else:
        _write_table(result)


def _check_inputs(
    queries: Path | None, judgements: Path | None, data: Path | None, *, ingest: bool, chunk_ids: bool
) -> None:
    if data is None and (queries is None or judgements is None):
        raise typer.BadParameter("expected --queries and --judgements, or --data with a folder of both")
    if data is not None and (queries is not None or judgements is not None or chunk_ids):
        raise typer.BadParameter(
            "--data has queries and judgements: --queries, --judgements and --chunk-ids have no place"
        )
    if ingest and data is None:
        raise typer.BadParameter("--ingest embeds the documents of --data, which is not given")


def _read(
    queries: Path | None,
    judgements: Path | None,
    data: Path | None,
    split: str,
    chunk_tokens: int,
    counter: Any,
    *,
    chunk_ids: bool,
) -> JudgedCorpus:
    from ctxembed._evaluation.reading import JudgedCorpus, read_judged, read_judgements, read_queries

    if data is not None:
        return read_judged(data, split=split, chunk_tokens=chunk_tokens, token_counter=counter)
    assert queries is not None  # noqa: S101  # _check_inputs
    assert judgements is not None  # noqa: S101
    return JudgedCorpus((), read_queries(queries), read_judgements(judgements, split=split, chunk_ids=chunk_ids))


def _evaluate(path: Path, judged: JudgedCorpus, client: Any, options: dict[str, Any]) -> Evaluation:
    from ctxembed._collection.collection import Collection
    from ctxembed._evaluation.evaluate import evaluate

    with Collection.open(path, read_only=True) as opened:
        return evaluate(opened, judged.queries, judged.judgements, client=client, **options)


# --- documents ---


def _ingest(path: Path, judged: JudgedCorpus, client: Any, model: str | None, *, max_cost: Decimal | None) -> Decimal:
    """Embed the documents that the collection does not have, and return what that has cost."""
    from ctxembed._models import get_model

    with _writable(path, client, model) as collection:
        report = collection.ingest(judged.documents, client, max_cost_usd=max_cost)
        cost = report.usage.cost_usd or get_model(collection.model).cost(report.usage.total_tokens or 0)
    if report.stopped is not None:
        reason, code = _STOPPED[report.stopped]
        raise IncompleteError(f"{path}: {reason}. The same command goes on from there", code)
    changed = f"{report.added:,} documents added, {report.updated:,} changed, {report.unchanged:,} unchanged"
    write_message(f"{path}: {changed}, {report.failed:,} failed")
    return cost or Decimal(0)


@contextlib.contextmanager
def _writable(path: Path, client: Any, model: str | None) -> Iterator[Collection]:
    from ctxembed._collection.collection import Collection
    from ctxembed._collection.folder import folder_of

    exists = folder_of(path).exists()
    with Collection.open(path) if exists else Collection.create(path, model=_model(client, model)) as opened:
        yield opened


def _model(client: Any, model: str | None) -> str:
    own = getattr(client, "model", None)
    return model or (DEFAULT_MODEL if own is None else own.name)


# --- output ---


def _write_price(
    path: Path,
    judged: JudgedCorpus,
    client: Any,
    model: str | None,
    options: dict[str, Any],
    *,
    ingest: bool,
    as_json: bool,
) -> None:
    """Print what would be sent and cost."""
    from ctxembed._collection.collection import Collection
    from ctxembed._collection.folder import folder_of
    from ctxembed._evaluation.evaluate import plan_documents, plan_evaluation

    if ingest and not folder_of(path).exists():
        planned = plan_documents(judged, client, _model(client, model), options["arms"])
    else:
        with Collection.open(path, read_only=True) as opened:
            planned = plan_evaluation(opened, judged.queries, judged.judgements, client=client, **options)
    if as_json:
        write_json(planned.to_dict(), indent=1)
    else:
        write(*str(planned).split("\n"))


def _write_table(result: Evaluation) -> None:
    """Print the table by rich, as wide as it is: a pipe has no width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head, rows = result.columns()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(head):
        table.add_column(Text(name), justify="left" if place < len(head) - 8 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    write(result.summary)
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if console.is_terminal:
        console.print(table, crop=False)
    else:
        with console.capture() as captured:
            console.print(table, width=10_000, crop=False)
        write(*(line.rstrip() for line in captured.get().splitlines()))
    write(*result.sentences, *result.notes)


def _write_files(result: Evaluation, markdown: Path | None, plot: Path | None) -> None:
    if markdown is not None:
        _replace(markdown, result.to_markdown())
    if plot is not None:
        _replace(plot, result.plot())


def _replace(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
