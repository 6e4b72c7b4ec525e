"""How the questions of ``search`` and ``mcp`` are embedded: by the API, or by a model on this machine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from ctxembed._cli.app import check_options, load_embedder
from ctxembed._cli.errors import query_error
from ctxembed._errors import SpaceError
from ctxembed._models import DEFAULT_MODEL, get_model
from ctxembed._results import EmbedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctxembed._client import Client
    from ctxembed._collection.collection import Collection
    from ctxembed._results import Embeddings
    from ctxembed.backends import LocalEmbedder

__all__ = ["QueryEmbedder", "check_query_options", "open_embedder"]


class QueryEmbedder:
    """Embeds questions for a collection.

    Parameters
    ----------
    collection : Collection
        What they are for.
    model : str or None
        Name of the model. None: that of the collection, also after a migration.
    client : Client or LocalEmbedder
        Embeds them.
    source : str
        What the client is called in messages.
    """

    def __init__(self, collection: Collection, model: str | None, client: Client | LocalEmbedder, source: str) -> None:
        self._collection = collection
        self._model = model
        self._client = client
        self._source = source

    def embed_queries(self, queries: Sequence[str], *, model: str, dimensions: int, encoding_format: Any) -> Embeddings:
        """Return the embeddings of questions.

        Raises
        ------
        EmbedError
            Its message speaks of queries.
        SpaceError
            The documents are of another space.
        """
        stored = self._collection.space
        try:
            found = self._client.embed_queries(
                list(queries), model=self._model or model, dimensions=dimensions, encoding_format=encoding_format
            )
        except EmbedError as error:
            renamed = query_error(error, self._source)
            raise renamed from renamed.__cause__
        if stored is not None and found.space is not None and found.space != stored:
            raise SpaceError(
                f"the documents in {self._collection.path} are of the space {stored!r}, and {self._source} embeds in "
                f"the space {found.space!r}: they cannot be compared. Use the API, server or model that embedded the "
                "documents"
            )
        return found


def check_query_options(base_url: str | None, *, allow_insecure: bool) -> None:
    """Refuse a URL as an error of usage, before anything is opened."""
    check_options(DEFAULT_MODEL, None, "base64_int8", base_url, allow_insecure=allow_insecure)


@contextmanager
def open_embedder(
    collection: Collection, model: str | None, base_url: str | None, embedder: str | None, *, allow_insecure: bool
) -> Iterator[QueryEmbedder]:
    """Open what embeds the questions: the model on this machine that ``embedder`` names, or else a client."""
    if embedder is not None:
        local = load_embedder(embedder, model, base_url=base_url)
        yield QueryEmbedder(collection, local.model.name, local, f"--embedder {embedder}")
        return
    from ctxembed._client import Client

    # httpx is imported anyway; aiohttp would take longer to import than it saves on one request.
    with Client(base_url=base_url, allow_insecure=allow_insecure, transport="httpx") as client:
        yield QueryEmbedder(collection, _query_model(collection, model), client, client.base_url)


def _query_model(collection: Collection, model: str | None) -> str | None:
    """Return the model of the queries. One of another space is refused before anything is paid for."""
    if model is None:
        return None
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
