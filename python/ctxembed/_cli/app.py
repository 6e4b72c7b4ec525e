"""The application, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ctxembed._cli.errors import error_text
from ctxembed._cli.output import write
from ctxembed._models import EncodingFormat, check_dimensions, get_model

if TYPE_CHECKING:
    from ctxembed._planning.token_counter import TokenCounter
    from ctxembed.backends import LocalEmbedder

__all__ = [
    "BaseUrlOption",
    "CollectionArgument",
    "EmbedderOption",
    "InsecureOption",
    "JsonOption",
    "LinksOption",
    "TokenizerOption",
    "app",
    "check_options",
    "load_counter",
    "load_embedder",
    "parse_path",
]

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


def parse_path(value: str) -> Path:
    """Return a path. An empty argument, as of an unset variable of the shell, would be the current folder."""
    if not value:
        raise typer.BadParameter("the path is empty")
    return Path(value)


CollectionArgument = Annotated[
    Path, typer.Argument(parser=parse_path, metavar="COLLECTION", help="A collection that `ctxembed embed` made.")
]
BaseUrlOption = Annotated[str | None, typer.Option(help="URL of the API (default: PERPLEXITY_BASE_URL).")]
InsecureOption = Annotated[bool, typer.Option("--allow-insecure", help="Allow plain http to other machines.")]
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="A model on this machine in place of the API: demo, a folder, or an id of Hugging Face."
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="The model's tokenizer.json, to count tokens exactly."),
]
LinksOption = Annotated[bool, typer.Option("--follow-links", help="Read symbolic links that lead out of a folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; errors are JSON on stderr.")]


def check_options(
    model: str,
    dimensions: int | None,
    encoding_format: EncodingFormat,
    base_url: str | None = None,
    *,
    allow_insecure: bool = True,
) -> int:
    """Refuse an option as an error of usage, before anything is read, and return the dimensions."""
    try:
        width = check_dimensions(get_model(model, contextualized=True), dimensions, encoding_format)
        if base_url is not None:
            from ctxembed._client.options import check_base_url

            check_base_url(base_url, allow_insecure=allow_insecure)
    except ValueError as error:
        raise typer.BadParameter(error_text(error)) from None
    return width


def load_counter(tokenizer: Path | None) -> TokenCounter | None:
    """Return the counter of a tokenizer.json."""
    if tokenizer is None:
        return None
    from ctxembed._planning.token_counter import TokenCounter

    return TokenCounter.from_file(tokenizer)


def load_embedder(name: str, model: str | None, **unused: object) -> LocalEmbedder:
    """Return a model on this machine. Refuse the name of another, and options that only requests have."""
    from ctxembed import backends

    for option, value in unused.items():
        if value not in (None, False):
            shown = option.replace("_", "-")
            raise typer.BadParameter(f"--{shown} is for requests to an API, and --embedder {name} sends none")
    try:
        embedder = backends.demo() if name == "demo" else backends.load(name)
    except ValueError as error:
        raise typer.BadParameter(error_text(error)) from None
    if model not in (None, embedder.model.name):
        raise typer.BadParameter(f"--embedder {name} is the model {embedder.model.name}, got --model {model}")
    return embedder
