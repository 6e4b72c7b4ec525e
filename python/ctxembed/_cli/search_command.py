"""``ctxembed search``."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxembed._cli.app import (
    BaseUrlOption,
    CollectionArgument,
    EmbedderOption,
    InsecureOption,
    JsonOption,
    app,
    check_options,
    load_embedder,
)
from ctxembed._cli.output import check_stdout, escape, excerpt, write, write_json
from ctxembed._models import DEFAULT_MODEL, get_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxembed._client import Client
    from ctxembed._collection.collection import Collection
    from ctxembed._documents import Hit
    from ctxembed._results import Embeddings
    from ctxembed.backends import LocalEmbedder

__all__: list[str] = []

_SHOWN_ID = 40
"""Most characters of a document's id in a table."""


@app.command(help="Find the chunks nearest to a question in a collection.")
def search(
    collection: CollectionArgument,
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
    _import_httpx()
    from ctxembed._client import Client
    from ctxembed._collection.collection import Collection

    _check_queries(query)
    check_options(DEFAULT_MODEL, None, "base64_int8", base_url, allow_insecure=allow_insecure)
    check_stdout()
    with ExitStack() as stack:
        opened = stack.enter_context(Collection.open(collection, read_only=True))
        local = None if embedder is None else load_embedder(embedder, model, base_url=base_url)
        if local is None:
            # httpx is imported anyway; aiohttp would take longer to import than it saves on one request.
            client = stack.enter_context(Client(base_url=base_url, allow_insecure=allow_insecure, transport="httpx"))
            queries = _Queries(query, opened, _query_model(opened, model), collection, client, client.base_url)
        else:
            queries = _Queries(query, opened, local.model.name, collection, local, f"--embedder {embedder}")
        for question in query:
            hits = opened.search(
                question,
                min(k, _count(opened)),
                client=queries,
                where=where,
                hybrid=hybrid,
                group_by_document=by_document,
                neighbours=neighbours,
            )
            if as_json:
                write_json({"query": question, "hits": [asdict(hit) for hit in hits]})
            else:
                _write_table(question, hits, hybrid=hybrid, whole=neighbours > 0)


def _import_httpx() -> None:
    """Import httpx without the packages that it and httpcore take along where these are installed.

    They are for httpx's own command, for HTTP/2 and for another event loop, and take longer than httpx.
    """
    hidden = [name for name in ("click", "h2", "rich", "trio") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import of it fails
    try:
        import httpcore
        import httpx

        del httpcore, httpx
    finally:
        for name in hidden:
            del sys.modules[name]


def _count(collection: Collection) -> int:
    return max(1, collection._current().chunks)  # noqa: SLF001


class _Queries:
    """Embeds all questions in one call, when the first is needed."""

    def __init__(
        self,
        queries: list[str],
        collection: Collection,
        model: str,
        path: Path,
        client: Client | LocalEmbedder,
        source: str,
    ) -> None:
        self._queries = list(dict.fromkeys(queries))
        self._collection = collection
        self._model = model
        self._path = path
        self._client = client
        self._source = source  # of vectors, in messages
        self._embeddings: Embeddings | None = None

    def embed_queries(self, queries: Sequence[str], *, dimensions: int, encoding_format: Any, **_: Any) -> Embeddings:
        from dataclasses import replace

        if self._embeddings is None:
            self._embeddings = self._embed(dimensions, encoding_format)
        found, at = self._embeddings, self._queries.index(queries[0])
        start, stop = found.offsets[at], found.offsets[at + 1]
        return replace(found, vectors=found.vectors[start:stop], offsets=found.offsets[at : at + 2] - start)

    def _embed(self, dimensions: int, encoding_format: Any) -> Embeddings:
        from ctxembed._cli.errors import query_error
        from ctxembed._errors import SpaceError
        from ctxembed._results import EmbedError

        stored = self._collection.space
        try:
            found = self._client.embed_queries(
                self._queries, model=self._model, dimensions=dimensions, encoding_format=encoding_format
            )
        except EmbedError as error:
            renamed = query_error(error, self._source)
            raise renamed from renamed.__cause__
        if stored is not None and found.space is not None and found.space != stored:
            raise SpaceError(
                f"the documents in {self._path} are of the space {stored!r}, and {self._source} embeds in the space "
                f"{found.space!r}: they cannot be compared. Use the API, server or model that embedded the documents"
            )
        return found


def _query_model(collection: Collection, model: str | None) -> str:
    """Return the model of the queries. One of another space is refused before anything is paid for."""
    if model is None:
        return collection.model
    check_options(model, None, collection.encoding_format)
    expected = get_model(collection.model).space_of(collection.dimensions)
    found = get_model(model).space_of(collection.dimensions)
    if found != expected:
        raise typer.BadParameter(
            f"the documents were embedded by {collection.model}, whose vectors (space {expected}) cannot be compared "
            f"with those of {model} (space {found})"
        )
    check_options(model, collection.dimensions, collection.encoding_format)
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
