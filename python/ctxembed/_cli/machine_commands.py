"""Commands about this machine: ``info``, ``serve``, ``bench``, ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ctxembed._cli.app import JsonOption, app
from ctxembed._cli.output import check_stdout, write, write_json

__all__: list[str] = []


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
    help="""Run a server with the API's contract, limits and errors: a model on this machine, or a stand-in for one.
    With --collection it searches, too.

    Without --model the vectors are those of the stand-in, which knows words but no meaning. With it, they are those of
    a model with open weights, which is loaded while the server already listens: /healthz and requests for embeddings
    get a 503 until then.

    With --collection, GET / is a page, and POST /v1/search finds chunks; jobs may write to the collection meanwhile.
    Questions are embedded by --model where it is that of the collection, else by the API of PERPLEXITY_API_KEY.

    If CTXEMBED_SERVER_KEY is set, only that key is accepted; commas separate several. The URL is printed to stdout.
    Ctrl-C stops the server."""
)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 picks a free one, which is printed.")] = 8765,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="stand-in|demo|PATH|ID",
            help="stand-in (default); demo: a small model (extra demo); a folder, or ORGANISATION/NAME[@REVISION] of "
            "the Hugging Face hub (extra onnx). The name of a model of the API: the stand-in of that one, repeatable.",
        ),
    ] = None,
    collection: Annotated[
        list[Path] | None,
        typer.Option(help="Search this collection, with a page at /; may be repeated."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where a local model runs: auto, cpu, cuda.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads of the model (default: all CPUs; of the stand-in: 2).")
    ] = None,
    max_document_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of a local model's pass (default: its context; on a CPU at most 2048, which bounds memory).",
        ),
    ] = None,
    long_documents: Annotated[
        Literal["windows", "refuse"] | None,
        typer.Option(help="What a local model does with longer documents: several passes (default), or a 422."),
    ] = None,
    max_queued_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Send 429 while so many tokens wait or run (default: 480000 with a local model). An empty queue "
            "admits any request.",
        ),
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
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may search (https://example.com, or * for all); may be repeated."),
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate chain (PEM): serve https.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its key (PEM), unless it is in the same file.")] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request to stderr.")] = False,
) -> None:
    """Run a local server."""
    import os
    import sys

    from ctxembed._server import ServerConfig
    from ctxembed._server import serve as run_server
    from ctxembed._server.faults.plan import load_plan
    from ctxembed._server.served_model import choose_model

    try:
        served = choose_model(
            model or (),
            device=device,
            threads=threads,
            max_document_tokens=max_document_tokens,
            long_documents=long_documents,
        )
        if faults is not None:
            load_plan(faults)
        config = ServerConfig(
            models=served.models,
            host=host,
            port=port,
            key=os.environ.get("CTXEMBED_SERVER_KEY") or None,
            latency=latency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            fail_rate=fail_rate,
            faults=faults,
            threads=threads or 2,
            max_queued_tokens=max_queued_tokens or served.max_queued_tokens,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            allow_remote=allow_remote,
            allowed_hosts=tuple(allowed_host or ()),
            collections=tuple(collection or ()),
            cors_origins=tuple(cors_origin or ()),
            access_log=access_log,
        )
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    if sys.stdout is None:  # a daemon's
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # until the process ends
    run_server(config, served.embedder, notice=served.notice)


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


@app.command(
    help="Embed this Python's documentation on a local server, be killed half way, go on, search: no key, no network."
)
def demo() -> None:
    """Run the demo."""
    from ctxembed._cli.demo import run

    run()
