"""``ctxembed search``."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxembed._cli.app import BaseUrlOption, EmbedderOption, InsecureOption, JsonOption, app, parse_path
from ctxembed._cli.errors import error_text, request_error
from ctxembed._cli.imports import import_httpx
from ctxembed._cli.output import check_stdout, escape, excerpt, write, write_json
from ctxembed._cli.queries import QueryEmbedder, check_query_options, open_embedder
from ctxembed._errors import APIConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ctxembed._collection.collection import Collection
    from ctxembed._documents import Hit
    from ctxembed._results import Embeddings

__all__: list[str] = []

_SHOWN_ID = 40
"""Most characters of a document's id in a table."""


def _parse_source(value: str) -> Path | str:
    """Return the URL of a server, or the path of a collection."""
    return value if value.lower().startswith(("http://", "https://")) else parse_path(value)


@app.command(
    help="Find the chunks nearest to a question in a collection, or on a server: `ctxembed serve --collection`."
)
def search(
    collection: Annotated[
        Any,
        typer.Argument(
            parser=_parse_source,
            metavar="COLLECTION",
            help="A collection that `ctxembed embed` made, or the URL of a server.",
        ),
    ],
    query: Annotated[list[str], typer.Argument(help="One or more questions.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Hits per question.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="An SQL expression over id, source and metadata: \"year >= 2020 AND lang = 'en'\"."),
    ] = None,
    neighbours: Annotated[int, typer.Option(min=0, help="Chunks that are shown with a hit, on each side of it.")] = 0,
    by_document: Annotated[bool, typer.Option("--by-document", help="Rank documents by their best chunk.")] = False,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Search the words of the question too, and fuse both rankings.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--collection", metavar="NAME", help="The collection of a server that serves several."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Embeds the questions (default: the model of the documents).")
    ] = None,
    base_url: BaseUrlOption = None,
    embedder: EmbedderOption = None,
    *,
    allow_insecure: InsecureOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the chunks nearest to a question."""
    import_httpx()
    _check_queries(query)
    check_query_options(base_url, allow_insecure=allow_insecure)
    check_stdout()
    options = {"where": where, "hybrid": hybrid, "group_by_document": by_document, "neighbours": neighbours}
    if isinstance(collection, str):
        _refuse(
            {"--model": model, "--base-url": base_url, "--embedder": embedder}, "a server embeds the questions itself"
        )
        found: Iterable[list[Hit]] = _search_server(collection, name, query, k, options, allow_insecure=allow_insecure)
    else:
        _refuse({"--collection": name}, "a folder is one collection")
        found = _search_folder(collection, query, k, options, model, base_url, embedder, allow_insecure=allow_insecure)
    for question, hits in zip(query, found, strict=True):
        if as_json:
            write_json({"query": question, "hits": [asdict(hit) for hit in hits]})
        else:
            _write_table(question, hits, hybrid=hybrid, whole=neighbours > 0)


def _refuse(options: dict[str, str | None], reason: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"{option} has no place here: {reason}")


def _search_folder(
    path: Path,
    queries: list[str],
    k: int,
    options: dict[str, Any],
    model: str | None,
    base_url: str | None,
    embedder: str | None,
    *,
    allow_insecure: bool,
) -> Iterator[list[Hit]]:
    """Yield the hits of each question."""
    from ctxembed._collection.collection import Collection

    with (
        Collection.open(path, read_only=True) as collection,
        open_embedder(collection, model, base_url, embedder, allow_insecure=allow_insecure) as source,
    ):
        client = _AllAtOnce(queries, source)
        for question in queries:
            yield collection.search(question, min(k, _count(collection)), client=client, **options)


def _search_server(
    url: str, name: str | None, queries: list[str], k: int, options: dict[str, Any], *, allow_insecure: bool
) -> list[list[Hit]]:
    """Return the hits of each question."""
    from ctxembed._search_client import SearchClient

    try:
        client = SearchClient(url, None, name, max_retries=1, transport="httpx", allow_insecure=allow_insecure)
    except ValueError as error:
        raise typer.BadParameter(error_text(error)) from None
    with client:
        try:
            return client.search_batch(queries, k, **options)
        except APIConnectionError as error:
            raise type(error)(request_error(error, client.url)) from error.__cause__


def _count(collection: Collection) -> int:
    return max(1, collection._current().chunks)  # noqa: SLF001


class _AllAtOnce:
    """Embeds all questions in one call, when the first is needed."""

    def __init__(self, queries: list[str], embedder: QueryEmbedder) -> None:
        self._queries = list(dict.fromkeys(queries))
        self._embedder = embedder
        self._embeddings: Embeddings | None = None

    def embed_queries(self, queries: Sequence[str], **options: Any) -> Embeddings:
        if self._embeddings is None:
            self._embeddings = self._embedder.embed_queries(self._queries, **options)
        found, at = self._embeddings, self._queries.index(queries[0])
        start, stop = found.offsets[at], found.offsets[at + 1]
        return replace(found, vectors=found.vectors[start:stop], offsets=found.offsets[at : at + 2] - start)


def _check_queries(queries: list[str]) -> None:
    for number, query in enumerate(queries, start=1):
        named = "the query" if len(queries) == 1 else f"query {number}"
        if not query:
            raise typer.BadParameter(f"{named} is empty")
        try:
            query.encode()
        except UnicodeEncodeError:  # an argument that is not UTF-8 has lone surrogates in Python
            raise typer.BadParameter(f"{named} is not UTF-8: {query!r}") from None


def _write_table(question: str, hits: list[Hit], *, hybrid: bool, whole: bool) -> None:
    """Write a line for each hit: scores, document and chunk, and the text around the words of the question.

    With ``whole``, the passage stands below the line.
    """
    write(question)
    names = [f"{escape(hit.document)[:_SHOWN_ID]}[{hit.chunk}]" for hit in hits]
    width = max(map(len, names), default=0)
    scores = [_scores(hit) if hybrid else f"{hit.score:7.4f}" for hit in hits]
    room = max(20, shutil.get_terminal_size((120, 24)).columns - width - 6 - max(map(len, scores), default=0))
    if hybrid and hits:
        write(f"  {'ranks':>7}  {'cosine':>7}  {'BM25':>7}")
    for hit, name, score in zip(hits, names, scores, strict=True):
        text = "" if hit.text is None or whole else excerpt(hit.text, question, room)
        write(f"  {score}  {name:<{width}}  {text}".rstrip())
        if whole and hit.passage is not None:
            write(*(f"    {line}".rstrip() for line in hit.passage.split("\n")), "")


def _scores(hit: Hit) -> str:
    """Return the scores of a hybrid search. The first, of the ranks in both others, is no similarity."""
    return f"{hit.score:7.5f}  {hit.vector_score:7.4f}  {hit.text_score:7.3f}"
