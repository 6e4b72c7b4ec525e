"""``ctxembed plan``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ctxembed._cli.app import JsonOption, LinksOption, TokenizerOption, app, check_options, load_counter
from ctxembed._cli.errors import IncompleteError
from ctxembed._cli.output import check_stdout, write, write_json, write_message
from ctxembed._errors import DocumentError
from ctxembed._models import DEFAULT_MODEL, EncodingFormat

if TYPE_CHECKING:
    from ctxembed._jobs.reading import InputDocument, ReadOptions, Rejected, Skipped

__all__: list[str] = []


@app.command(
    help="""Show requests, tokens, cost and problems of a first run. Nothing is sent.

    INPUT is what `ctxembed embed` reads. The exit code is 1 if there are problems."""
)
def plan(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="As for `ctxembed embed`.")],
    model: Annotated[str, typer.Option(help="The contextualized model.")] = DEFAULT_MODEL,
    dimensions: Annotated[int | None, typer.Option(help="Dimensions of the vectors (default: the model's).")] = None,
    encoding_format: Annotated[
        EncodingFormat, typer.Option(help="Signed bytes, or one bit per dimension.")
    ] = "base64_int8",
    rpm: Annotated[float | None, typer.Option(help="Requests per minute, to show how long they take.")] = None,
    tokenizer: TokenizerOption = None,
    *,
    follow_links: LinksOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show requests, tokens, cost and problems."""
    from ctxembed._jobs.reading import ReadOptions
    from ctxembed._planning.plan import plan as make_plan

    if rpm is not None and not 0 < rpm < float("inf"):
        raise typer.BadParameter(f"--rpm must be finite and above 0, got {rpm:g}")
    check_options(model, dimensions, encoding_format)
    check_stdout()
    counter = load_counter(tokenizer)
    documents, rejected, skipped = _read(inputs, ReadOptions(token_counter=counter, follow_links=follow_links))
    if not documents:
        raise IncompleteError(f"{', '.join(inputs)}: no documents (the first of {len(rejected):,}: {rejected[0]})", 1)
    if not as_json:
        for message in ([str(skipped)] if skipped else []) + [f"error: {item}" for item in rejected]:
            write_message(message)
    planned = make_plan(
        [document.chunks for document in documents],
        model=model,
        dimensions=dimensions,
        encoding_format=encoding_format,
        token_counter=counter,
        requests_per_minute=rpm,
    )
    if as_json:
        shown = planned.to_dict()
        for problem in shown["problems"]:
            problem["id"] = documents[problem["document"]].id
            problem["code"] = DocumentError.code
        if skipped:
            shown["skipped"] = skipped.to_dict()
        if rejected:
            shown["rejected"] = [{"place": item.place, "id": item.id, "reason": item.reason} for item in rejected]
        write_json(shown, indent=2)
    else:
        write(*str(planned).split("\n"))
        for found in planned.problems:
            document = documents[found.document]
            chunk = "" if found.chunk is None else f", chunk {found.chunk}"
            write_message(f"error: {document.place}: document {document.id!r}{chunk}: {found.reason}")
    if planned.problems or rejected:
        raise typer.Exit(1)


def _read(inputs: list[str], options: ReadOptions) -> tuple[list[InputDocument], list[Rejected], Skipped]:
    """Return all documents, what is none, and what was left out."""
    from ctxembed._jobs.reading import InputDocument, Rejected, open_inputs

    documents: list[InputDocument] = []
    rejected: list[Rejected] = []
    places: dict[str, str] = {}
    with open_inputs(inputs, options, getattr(sys.stdin, "buffer", None)) as items:
        for item in items:
            if isinstance(item, Rejected):
                rejected.append(item)
            elif isinstance(item, InputDocument):
                first = places.setdefault(item.id, item.place)
                if first is not item.place:
                    raise ValueError(f"{item.place}: id {item.id!r} was used before, at {first}")
                documents.append(item)
    if not documents and not rejected:
        note = f"; {items.skipped}" if items.skipped else ""
        raise ValueError(f"{', '.join(inputs)}: no documents{note}")
    return documents, rejected, items.skipped
