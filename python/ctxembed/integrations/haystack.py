"""Haystack: components that embed documents in the context of their source, and queries.

Needs the extra ``haystack``. ``docs/haystack.md`` shows both in pipelines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ctxembed._extras import require
from ctxembed._models import DEFAULT_MODEL
from ctxembed.integrations._embedding import TextEmbedder, lists_of
from ctxembed.integrations._grouping import Names, Place

require("haystack", "haystack", "ctxembed.integrations.haystack")

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret, deserialize_secrets_inplace

if TYPE_CHECKING:
    from ctxembed._client import AsyncClient, Client
    from ctxembed._results import Embeddings, Usage

__all__ = ["CtxembedDocumentEmbedder", "CtxembedTextEmbedder"]

_NAMES = Names("document", "meta['source_id']", "meta['split_id']")


class _Embedder:
    """The options of both components, their clients, and how they are saved."""

    model: str
    dimensions: int | None
    base_url: str | None
    api_key: Secret
    client_options: dict[str, Any]
    isolated: bool = False
    _client: Client | None = None
    _async_client: AsyncClient | None = None

    def warm_up(self) -> None:
        """Create the client. A run does it too."""
        if self._client is None:
            from ctxembed._client import Client

            self._client = Client(**self._client_arguments())

    async def warm_up_async(self) -> None:
        """Create the client of :meth:`run_async`, which does it too."""
        if self._async_client is None:
            from ctxembed._client import AsyncClient

            self._async_client = AsyncClient(**self._client_arguments())

    def close(self) -> None:
        """Close the connections. A later run opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def close_async(self) -> None:
        """Close the connections of :meth:`run_async`. A later run opens new ones."""
        client, self._async_client = self._async_client, None
        if client is not None:
            await client.aclose()

    def _client_arguments(self) -> dict[str, Any]:
        # The secret is resolved when a request is sent, so that no frame and no copy of the options holds the key.
        return {"api_key": self.api_key.resolve_value, "base_url": self.base_url, **self.client_options}

    def _embedder(self, client: Any) -> TextEmbedder:
        return TextEmbedder.of(client, self.model, self.dimensions, isolated=self.isolated)

    def _meta(self, usage: Usage) -> dict[str, Any]:
        tokens = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}
        return {"model": self.model, "usage": tokens}

    def _saved(self, **further: Any) -> dict[str, Any]:
        saved: dict[str, Any] = default_to_dict(
            self,
            model=self.model,
            dimensions=self.dimensions,
            base_url=self.base_url,
            api_key=self.api_key.to_dict(),
            client_options=self.client_options,
            **further,
        )
        return saved


def _check(model: str, dimensions: int | None) -> None:
    from ctxembed._models import check_dimensions, get_model

    check_dimensions(get_model(model), dimensions, "base64_int8")


def _loaded(cls: type[Any], data: dict[str, Any]) -> Any:
    deserialize_secrets_inplace(data["init_parameters"], keys=["api_key"])
    return default_from_dict(cls, data)


@component
class CtxembedDocumentEmbedder(_Embedder):
    """Embed documents that a splitter has made, each in the context of all splits of its source.

    Parameters
    ----------
    model : str
        Name of a model.
    dimensions : int, optional
        Of the vectors. Default: the model's.
    base_url : str, optional
        As for :class:`ctxembed.Client`.
    api_key : Secret
        The key. Default: the environment variable ``PERPLEXITY_API_KEY``.
    isolated : bool
        Whether a document without ``meta["source_id"]`` is embedded as a whole document. Default: it is refused, unless
        the model uses no context.
    meta_fields_to_embed : list of str, optional
        Fields of ``meta`` that are put before the content.
    embedding_separator : str
        Put between these and the content.
    client_options : dict, optional
        Further options of :class:`ctxembed.Client`, as ``{"max_retries": 3}``.

    Notes
    -----
    Documents are grouped by ``meta["source_id"]`` and ordered by ``meta["split_id"]``, which count from 0 in every
    splitter of Haystack. Pass all splits of a source in one run: a part of it would be embedded as another document.
    The last splits of a source are the only ones that can be missing without being missed.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        base_url: str | None = None,
        api_key: Secret = Secret.from_env_var("PERPLEXITY_API_KEY"),  # noqa: B008  # immutable, as in all of Haystack
        isolated: bool = False,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        client_options: dict[str, Any] | None = None,
    ) -> None:
        _check(model, dimensions)
        self.model = model
        self.dimensions = dimensions
        self.base_url = base_url
        self.api_key = api_key
        self.isolated = isolated
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.client_options = client_options or {}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Parameters
        ----------
        documents : list of Document
            All splits of their sources, in any order.

        Returns
        -------
        dict
            ``documents``: copies with ``embedding`` set, in the order of the input; the values are those of the int8
            vectors. ``meta``: the model and the tokens.

        Raises
        ------
        ChunkOrderError
            A split is missing, or two of a source have one ``split_id``. Nothing was sent.
        TypeError, ValueError
            A document has no text, no source, or no ``split_id`` that is an int.
        APIError, EmbedError
            As for :meth:`ctxembed.Client.embed`.
        """
        texts, places = self._inputs(documents)
        self.warm_up()
        rows, usage = self._embedder(self._client).embed(texts, places, _NAMES, max_gap=0)
        return self._outputs(documents, rows, usage)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents as :meth:`run` does, without blocking the event loop."""
        texts, places = self._inputs(documents)
        await self.warm_up_async()
        rows, usage = await self._embedder(self._async_client).aembed(texts, places, _NAMES, max_gap=0)
        return self._outputs(documents, rows, usage)

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` takes. The key is not in it, only the name of its environment variable."""
        return self._saved(
            isolated=self.isolated,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CtxembedDocumentEmbedder:
        """Return the component that :meth:`to_dict` describes."""
        loaded: CtxembedDocumentEmbedder = _loaded(cls, data)
        return loaded

    def _inputs(self, documents: list[Document]) -> tuple[list[str], list[Place]]:
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError(
                "CtxembedDocumentEmbedder embeds a list of Documents: CtxembedTextEmbedder embeds a query, a str"
            )
        return [self._text(document) for document in documents], [
            _place(position, document) for position, document in enumerate(documents)
        ]

    def _text(self, document: Document) -> str:
        content = document.content or ""
        if not content:
            return ""  # refused, whatever its metadata
        fields = (document.meta.get(name) for name in self.meta_fields_to_embed)
        return self.embedding_separator.join([*(str(field) for field in fields if field is not None), content])

    def _outputs(self, documents: list[Document], rows: list[list[float]], usage: Usage) -> dict[str, Any]:
        embedded = [replace(document, embedding=row) for document, row in zip(documents, rows, strict=True)]
        return {"documents": embedded, "meta": self._meta(usage)}


def _place(position: int, document: Document) -> Place:
    source, split = document.meta.get("source_id"), document.meta.get("split_id")
    if source is None and split is None:
        return Place(None)
    if not isinstance(source, str) or not source:
        raise TypeError(f"document {position}: meta['source_id'] must be a non-empty str, got {source!r:.100}")
    if isinstance(split, bool) or not isinstance(split, int | None):
        raise TypeError(f"document {position} of {source!r}: meta['split_id'] must be an int, got {split!r:.100}")
    return Place(source, split, None if split is None else split + 1, id=document.id)


@component
class CtxembedTextEmbedder(_Embedder):
    """Embed a query, to search among what :class:`CtxembedDocumentEmbedder` has embedded.

    Parameters
    ----------
    model, dimensions, base_url, api_key, client_options
        As for :class:`CtxembedDocumentEmbedder`.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        base_url: str | None = None,
        api_key: Secret = Secret.from_env_var("PERPLEXITY_API_KEY"),  # noqa: B008  # immutable, as in all of Haystack
        client_options: dict[str, Any] | None = None,
    ) -> None:
        _check(model, dimensions)
        self.model = model
        self.dimensions = dimensions
        self.base_url = base_url
        self.api_key = api_key
        self.client_options = client_options or {}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Embed a query.

        Parameters
        ----------
        text : str
            The query.

        Returns
        -------
        dict
            ``embedding``: the values of the int8 vector. ``meta``: the model and the tokens.

        Raises
        ------
        TypeError
            ``text`` is no str.
        APIError, EmbedError
            As for :meth:`ctxembed.Client.embed_queries`.
        """
        _check_query(text)
        self.warm_up()
        return self._output(self._embedder(self._client).embed_queries([text]))

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Embed a query as :meth:`run` does, without blocking the event loop."""
        _check_query(text)
        await self.warm_up_async()
        return self._output(await self._embedder(self._async_client).aembed_queries([text]))

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` takes. The key is not in it, only the name of its environment variable."""
        return self._saved()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CtxembedTextEmbedder:
        """Return the component that :meth:`to_dict` describes."""
        loaded: CtxembedTextEmbedder = _loaded(cls, data)
        return loaded

    def _output(self, found: Embeddings) -> dict[str, Any]:
        (row,) = lists_of(found.vectors)
        return {"embedding": row, "meta": self._meta(found.usage)}


def _check_query(text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(
            f"CtxembedTextEmbedder embeds a str, got {type(text).__name__}: CtxembedDocumentEmbedder embeds Documents"
        )
