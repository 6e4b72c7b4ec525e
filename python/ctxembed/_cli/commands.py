"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from ctxembed._cli.errors import error_text
from ctxembed._cli.output import check_stdout, write, write_json, write_message
from ctxembed._errors import DocumentError
from ctxembed._models import DEFAULT_MODEL, EncodingFormat, check_dimensions, get_model, models
from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from ctxembed._cli.documents import Document
    from ctxembed._cli.store import Store
    from ctxembed._client import Client
    from ctxembed._planning.token_counter import TokenCounter
    from ctxembed._results import Embeddings

_INTERRUPTED: Final = 130
_HELP: Final = (
    "Contextualized embeddings: plan, embed, search. The API key is read from PERPLEXITY_API_KEY or PPLX_API_KEY."
)

app = typer.Typer(
    name="ctxembed",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(value: bool) -> None:
    if value:
        from ctxembed import __version__

        write(f"ctxembed {__version__}")
        raise typer.Exit


# Help texts are arguments: docstrings are absent under ``python -OO``.
@app.callback(help=_HELP)
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _path(value: str) -> Path:
    """Return a path. An empty argument, as of an unset variable of the shell, would be the current folder."""
    if not value:
        raise typer.BadParameter("the path is empty")
    return Path(value)


Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help='JSON Lines with one {"id": ..., "chunks": [...]} per line ("-" for stdin), or a folder of .txt, .md, '
        ".mdx and .rst files, whose paragraphs are the chunks.",
    ),
]
ModelOption = Annotated[str, typer.Option(help="The contextualized model.")]
DimensionsOption = Annotated[int | None, typer.Option(help="Dimensions of the vectors (default: the model's).")]
EncodingOption = Annotated[EncodingFormat, typer.Option(help="Signed bytes, or one bit per dimension.")]
BaseUrlOption = Annotated[str | None, typer.Option(help="URL of the API (default: PERPLEXITY_BASE_URL).")]
InsecureOption = Annotated[bool, typer.Option("--allow-insecure", help="Allow plain http to other machines.")]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="The model's tokenizer.json, to count tokens exactly."),
]
LinksOption = Annotated[bool, typer.Option("--follow-links", help="Read symbolic links that lead out of the folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; errors are JSON on stderr.")]


@app.command(
    help="""Embed documents and write the vectors to a folder.

    If documents fail, or you press Ctrl-C, everything else is still written: the exit code is 1 or 130, and meta.json
    lists the missing documents."""
)
def embed(
    source: Input,
    output: Annotated[
        Path,
        typer.Argument(parser=_path, metavar="OUTPUT", help="Folder to write: vectors.npy, chunks.jsonl, meta.json."),
    ],
    model: ModelOption = DEFAULT_MODEL,
    dimensions: DimensionsOption = None,
    encoding_format: EncodingOption = "base64_int8",
    base_url: BaseUrlOption = None,
    tokenizer: TokenizerOption = None,
    *,
    allow_insecure: InsecureOption = False,
    follow_links: LinksOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
) -> None:
    """Embed documents and write the vectors to a folder."""
    from ctxembed._cli.documents import read
    from ctxembed._cli.errors import IncompleteError, request_error
    from ctxembed._cli.store import check_free, save
    from ctxembed._client import Client
    from ctxembed._planning.plan import plan as make_plan

    _check_options(model, dimensions, encoding_format, base_url, allow_insecure=allow_insecure)
    check_free(output, force=force)
    documents, skipped = read(source, follow_links=follow_links)
    if skipped:
        write_message(str(skipped))
    counter = _counter(tokenizer)
    # Report all invalid documents before the first request is charged.
    planned = make_plan(
        [document.chunks for document in documents],
        model=model,
        dimensions=dimensions,
        encoding_format=encoding_format,
        token_counter=counter,
    )
    if planned.problems:
        _report_problems(documents, planned.problems)
        raise typer.Exit(1)
    with Client(base_url=base_url, allow_insecure=allow_insecure, token_counter=counter) as client:
        emb, interrupted = _embed(client, documents, model, dimensions, encoding_format)
        url = client.base_url
    missing = len(emb.failures)
    if len(documents) == missing:
        if interrupted:
            raise KeyboardInterrupt
        raise IncompleteError(f"nothing was embedded: {request_error(emb.failures[0].error, url)}", 1)
    save(output, documents, emb, model)
    cost = "no cost reported" if emb.usage.cost_usd is None else f"USD {emb.usage.cost_usd:f}"
    write_message(
        f"{plural(len(emb.vectors), 'vector')} of {plural(len(documents) - missing, 'document')} in {output} "
        f"({plural(emb.usage.requests, 'request')}, {emb.usage.total_tokens} tokens, {cost})"
    )
    if missing:
        first = emb.failures[0]
        named = f"{documents[first.document].id}: {request_error(first.error, url)}"
        reason = "interrupted" if interrupted else f"the first: {named}"
        raise IncompleteError(
            f"{plural(missing, 'document')} without vectors ({reason})", _INTERRUPTED if interrupted else 1
        )


def _embed(
    client: Client,
    documents: list[Document],
    model: str,
    dimensions: int | None,
    encoding_format: EncodingFormat,
) -> tuple[Embeddings, bool]:
    """Return the embeddings, and whether Ctrl-C ended the call. The missing documents are failures."""
    try:
        emb = client.embed(
            [document.chunks for document in documents],
            model=model,
            dimensions=dimensions,
            encoding_format=encoding_format,
            on_error="return",
            progress=True,
        )
    except KeyboardInterrupt as interrupt:
        partial: Embeddings | None = getattr(interrupt, "partial", None)  # absent before the first request
        if partial is None:
            raise
        return partial, True
    return emb, False


def _check_options(
    model: str,
    dimensions: int | None,
    encoding_format: str,
    base_url: str | None = None,
    *,
    allow_insecure: bool = True,
) -> None:
    """Refuse an option as an error of usage, before anything is read."""
    try:
        check_dimensions(get_model(model, contextualized=True), dimensions, encoding_format)
        if base_url is not None:
            from ctxembed._client.options import check_base_url

            check_base_url(base_url, allow_insecure=allow_insecure)
    except ValueError as error:
        raise typer.BadParameter(error_text(error)) from None


def _counter(tokenizer: Path | None) -> TokenCounter | None:
    if tokenizer is None:
        return None
    from ctxembed._planning.token_counter import TokenCounter

    return TokenCounter.from_file(tokenizer)


@app.command(
    help="Show requests, tokens, cost and problems. Nothing is sent. The exit code is 1 if there are problems."
)
def plan(
    source: Input,
    model: ModelOption = DEFAULT_MODEL,
    dimensions: DimensionsOption = None,
    encoding_format: EncodingOption = "base64_int8",
    rpm: Annotated[float | None, typer.Option(help="Requests per minute, to show how long they take.")] = None,
    tokenizer: TokenizerOption = None,
    *,
    follow_links: LinksOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show requests, tokens, cost and problems."""
    from ctxembed._cli.documents import read
    from ctxembed._planning.plan import plan as make_plan

    if rpm is not None and not 0 < rpm < float("inf"):
        raise typer.BadParameter(f"--rpm must be finite and above 0, got {rpm:g}")
    _check_options(model, dimensions, encoding_format)
    check_stdout()
    documents, skipped = read(source, follow_links=follow_links)
    if skipped and not as_json:
        write_message(str(skipped))
    planned = make_plan(
        [document.chunks for document in documents],
        model=model,
        dimensions=dimensions,
        encoding_format=encoding_format,
        token_counter=_counter(tokenizer),
        requests_per_minute=rpm,
    )
    if as_json:
        shown = planned.to_dict()
        for problem in shown["problems"]:
            problem["id"] = documents[problem["document"]].id
            problem["code"] = DocumentError.code
        if skipped:
            shown["skipped"] = skipped.to_dict()
        write_json(shown, indent=2)
    else:
        write(*str(planned).split("\n"))
    if planned.problems:
        if not as_json:
            _report_problems(documents, planned.problems)
        raise typer.Exit(1)


@app.command(help="Find the chunks nearest to a question, by cosine, or by Hamming distance for binary vectors.")
def search(
    folder: Annotated[
        Path, typer.Argument(parser=_path, metavar="FOLDER", help="A folder that `ctxembed embed` wrote.")
    ],
    query: Annotated[list[str], typer.Argument(help="One or more questions.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Hits per question.")] = 10,
    model: Annotated[
        str | None, typer.Option(help="Embeds the questions (default: the model of the documents).")
    ] = None,
    base_url: BaseUrlOption = None,
    *,
    allow_insecure: InsecureOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the chunks nearest to a question."""
    from ctxembed import top_k
    from ctxembed._cli.documents import first_line
    from ctxembed._cli.errors import query_error
    from ctxembed._cli.store import load
    from ctxembed._client import Client
    from ctxembed._errors import SpaceError
    from ctxembed._results import EmbedError

    _check_queries(query)
    _check_options(DEFAULT_MODEL, None, "base64_int8", base_url, allow_insecure=allow_insecure)
    check_stdout()
    store = load(folder)
    model = _query_model(store, model)
    with Client(base_url=base_url, allow_insecure=allow_insecure) as client:
        try:
            queries = client.embed_queries(
                query, model=model, dimensions=store.dimensions, encoding_format=store.encoding_format
            )
        except EmbedError as error:
            renamed = query_error(error, client.base_url)
            raise renamed from renamed.__cause__
    if store.space is not None and queries.space != store.space:
        raise SpaceError(
            f"the documents in {folder} are of the space {store.space!r}, and {client.base_url} embeds in the space "
            f"{queries.space!r}: they cannot be compared. Use the API or server that embedded the documents"
        )
    metric: Literal["cosine", "hamming"] = "cosine" if store.encoding_format == "base64_int8" else "hamming"
    matches = top_k(queries.vectors, store.vectors, min(k, len(store.vectors)), metric=metric)
    for question, ids, scores in zip(query, matches.ids.tolist(), matches.scores.tolist(), strict=True):
        if as_json:
            hits = [{**store.chunks[row], metric: score} for row, score in zip(ids, scores, strict=True)]
            write_json({"query": question, "hits": hits})
            continue
        write(question)
        for row, score in zip(ids, scores, strict=True):
            chunk = store.chunks[row]
            shown = f"{score:.4f}" if metric == "cosine" else f"{score:6d}"
            write(f"  {shown}  {chunk['id']}[{chunk['chunk']}]  {first_line(chunk['text'])}")


def _query_model(store: Store, model: str | None) -> str:
    """Return the model of the queries. One of another space is refused before anything is paid for."""
    if model is None:
        return store.model
    _check_options(model, None, store.encoding_format)
    expected = get_model(store.model).space_of(store.dimensions)
    found = get_model(model).space_of(store.dimensions)
    if found != expected:
        raise typer.BadParameter(
            f"the documents were embedded by {store.model}, whose vectors (space {expected}) cannot be compared with "
            f"those of {model} (space {found})"
        )
    _check_options(model, store.dimensions, store.encoding_format)
    return model


def _check_queries(queries: list[str]) -> None:
    for number, query in enumerate(queries, start=1):
        named = "the query" if len(queries) == 1 else f"query {number}"
        if not query:
            raise typer.BadParameter(f"{named} is empty")
        try:
            query.encode()
        except UnicodeEncodeError:  # an argument that is not UTF-8 has lone surrogates in Python
            raise typer.BadParameter(f"{named} is not UTF-8: {query!r}") from None


@app.command(help="Print versions, and the instruction set of each kernel.")
def info(*, as_json: JsonOption = False) -> None:
    """Print versions, and the instruction set of each kernel."""
    facts = _facts()
    if as_json:
        write_json(facts, indent=2)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            write(f"{name}:")
            for key, part in value.items():
                write(f"  {key}: {'not installed' if part is None else part}")
        else:
            write(f"{name}: {value}")


def _facts() -> dict[str, Any]:
    import os
    import platform
    from importlib import metadata

    from ctxembed import _core

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "ctxembed": _core.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "paths": dict(_core.isa_paths()),
        "CTXEMBED_ISA": os.environ.get("CTXEMBED_ISA") or "not set",
        "packages": {name: version(name) for name in ("numpy", "httpx", "anyio", "fastapi", "uvicorn", "pyarrow")},
    }


@app.command(
    help="""Run a local server with the API's contract, limits and errors, and lexical vectors instead of a model's.

    If CTXEMBED_SERVER_KEY is set, only that key is accepted. The URL is printed to stdout. Ctrl-C stops the server."""
)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 picks a free one, which is printed.")] = 8765,
    model: Annotated[
        list[str] | None, typer.Option(help="Serve this model only; may be repeated (default: all models).")
    ] = None,
    latency: Annotated[float, typer.Option(help="Minimum seconds from a request to its response.")] = 0.0,
    requests_per_minute: Annotated[float | None, typer.Option(help="Send 429 beyond this rate.")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="Send 429 beyond this rate.")] = None,
    fail_rate: Annotated[float, typer.Option(help="Share of requests, 0 to 1, with a random fault.")] = 0.0,
    faults: Annotated[
        Path | None, typer.Option(help="A fault plan, TOML or JSON: see ctxembed._server.faults.plan.")
    ] = None,
    *,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Allow a host beyond this machine.")] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A further name of this server; may be repeated.")
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request to stderr.")] = False,
) -> None:
    """Run a local server."""
    import os
    import sys

    from ctxembed._backends.hashed import NOTICE, HashedEmbedder
    from ctxembed._server import ServerConfig
    from ctxembed._server import serve as run_server
    from ctxembed._server.faults.plan import load_plan

    try:
        if faults is not None:
            load_plan(faults)
        config = ServerConfig(
            models=tuple(map(get_model, model)) if model else models(),
            host=host,
            port=port,
            key=os.environ.get("CTXEMBED_SERVER_KEY") or None,
            latency=latency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            fail_rate=fail_rate,
            faults=faults,
            allow_remote=allow_remote,
            allowed_hosts=tuple(allowed_host or ()),
            access_log=access_log,
        )
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    if sys.stdout is None:  # a daemon's
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # until the process ends
    run_server(config, HashedEmbedder(config.models), notice=NOTICE)


@app.command(
    help="""Measure decoding, search and packing on this machine, and check each result.

    No network. CTXEMBED_ISA lowers the instruction set. The exit code is 1 if a result is wrong."""
)
def bench(
    seconds: Annotated[float, typer.Option(min=0.01, max=60, help="Time for each benchmark.")] = 0.5,
    *,
    as_json: JsonOption = False,
) -> None:
    """Measure each kernel."""
    from ctxembed._cli.bench import results

    check_stdout()
    paths = _facts()["paths"]
    measured = []
    if not as_json:
        write("paths: " + ", ".join(f"{kernel} {path}" for kernel, path in paths.items()))
    for result in results(seconds):
        measured.append(result)
        if not as_json:
            wrong = "" if result.correct else "  WRONG"
            write(f"{result.work:<44}{result.seconds * 1e3:>10.3f} ms{result.rate:>12,.1f} {result.unit}/s{wrong}")
    if as_json:
        write_json({"paths": paths, "results": [result._asdict() for result in measured]})
    if not all(result.correct for result in measured):
        raise typer.Exit(1)


@app.command(help="Embed and search this interpreter's own documentation on a local server: no key, no network.")
def demo() -> None:
    """Run the demo."""
    from ctxembed._cli.demo import run

    run()


def _report_problems(documents: list[Document], problems: Any) -> None:
    for problem in problems:
        document = documents[problem.document]
        chunk = "" if problem.chunk is None else f", chunk {problem.chunk}"
        _print_error(f"{document.source}: document {document.id!r}{chunk}: {problem.reason}")


def _print_error(message: str) -> None:
    write_message(f"error: {message}")
