"""LlamaIndex: an embedding model that embeds nodes in the context of their document.

Needs the extra ``llama-index``. ``docs/llama-index.md`` shows it in a pipeline and in an index.
"""

from __future__ import annotations

import base64
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import numpy as np

from ctxembed._client.base import BaseClient
from ctxembed._extras import require
from ctxembed.integrations._embedding import TextEmbedder, lists_of, model_of
from ctxembed.integrations._grouping import Names, Place

require("llama_index.core", "llama-index", "ctxembed.integrations.llama_index")

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.ingestion import IngestionCache
from llama_index.core.schema import BaseNode, Document, MetadataMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctxembed._results import Usage

__all__ = ["ContextualEmbedder"]

_NAMES: Final = Names("node", "ref_doc_id", "start_char_idx")
_TEXTS: Final = Names("text", "document", "place")
_COLLECTION: Final = "ctxembed"
"""The part of a cache that holds vectors by the key of their document."""


class ContextualEmbedder(BaseEmbedding):
    """Embed nodes in the context of their document, and queries.

    A transformation for pipelines, and the ``embed_model`` of an index over nodes that it has embedded.

    Parameters
    ----------
    client : Client, AsyncClient or object, optional
        What embeds. Default: ``Client()``, with the key of the environment, made when it is first used.
    model : str, optional
        Name of a model. Default: that of a local embedder, else the default of :class:`ctxembed.Client`.
    dimensions : int, optional
        Of the vectors. Default: the model's.
    isolated : bool
        Whether a node or text without a document is embedded as a document of its own. Default: it is refused, unless
        the model uses no context.
    metadata_mode : MetadataMode
        What of a node is embedded. Default: as LlamaIndex does, its text behind the metadata that
        ``excluded_embed_metadata_keys`` does not exclude.
    max_gap : int, optional
        Characters that may lie between two nodes which are ordered by ``start_char_idx``, as splitters leave out white
        space. Default: an eighth of the median length of the document's nodes, but at least 4 and at most 100.
    cache : IngestionCache or None, optional
        Keeps the vectors of each document by :func:`ctxembed.document_key`, so that no document is paid for twice. Give
        it and the pipeline the same one to store it with the pipeline. Default: a new one, in memory. None: nothing is
        kept. A client with a ``journal`` uses that instead; a local embedder keeps nothing.
    **options
        Fields of ``BaseEmbedding``, except ``embeddings_cache``: it finds vectors by their text alone.

    Notes
    -----
    Nodes are grouped by ``ref_doc_id``. Their order is that of their links (previous and next) where these connect them
    all, else that of ``start_char_idx``. Pass all nodes of a document at once: a link to a node that is not there, a
    gap and two nodes at one place are refused. A ``Document`` is a document as it is.

    The cache of a pipeline finds the output of a transformation by the joined text of all nodes, which does not tell
    their documents or where one chunk ends. It therefore never serves the vectors of this transformation: each run has
    a new key there.

    A copy for another process (``num_workers``) can be made of an embedder without ``client`` only.
    """

    dimensions: int | None = Field(default=None, description="Dimensions of the vectors; None: the model's.")
    isolated: bool = Field(default=False, description="Whether texts without a document are embedded.")
    metadata_mode: MetadataMode = Field(default=MetadataMode.EMBED, description="What of a node is embedded.")
    max_gap: int | None = Field(default=None, description="Characters that may lie between two nodes.")
    _client: Any = PrivateAttr(default=None)
    _embedder: TextEmbedder | None = PrivateAttr(default=None)
    _journal: Any = PrivateAttr(default=None)

    def __init__(
        self,
        client: Any = None,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        isolated: bool = False,
        metadata_mode: MetadataMode = MetadataMode.EMBED,
        max_gap: int | None = None,
        cache: IngestionCache | EllipsisType | None = ...,
        **options: Any,
    ) -> None:
        if options.get("embeddings_cache") is not None:
            raise ValueError(
                "embeddings_cache finds vectors by their text alone, but that of a chunk depends on its document: "
                "use cache="
            )
        named = options.pop("model_name", None) if model is None else model
        options.pop("run", None)  # of to_dict
        fields: dict[str, Any] = {
            "dimensions": dimensions,
            "isolated": isolated,
            "max_gap": max_gap,
            "metadata_mode": metadata_mode,
        }
        super().__init__(model_name=model_of(client, named).name, **fields, **options)
        self._client = client
        kept = IngestionCache() if isinstance(cache, EllipsisType) else cache
        self._journal = None if kept is None else _CacheJournal(kept)
        if client is not None:
            self._embedder = self._made(client)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class, for LlamaIndex."""
        return "ContextualEmbedder"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return what ``from_dict`` takes: all but the client and the cache.

        No two calls return the same, since the cache of a pipeline makes its key of this: see the notes of the class.
        """
        data: dict[str, Any] = super().to_dict(**kwargs)
        return {**data, "run": uuid4().hex}

    def __reduce__(self) -> Any:
        if self._client is not None:
            raise TypeError(
                "cannot pickle a ContextualEmbedder that was given a client: without one, each process makes a "
                "Client() with the key of the environment"
            )
        return _loaded, (type(self), self.to_dict())

    # --- nodes ---

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:  # noqa: ARG002
        """Set ``embedding`` of all nodes.

        Parameters
        ----------
        nodes : sequence of BaseNode
            All nodes of their documents, in any order.
        **kwargs
            Options that a pipeline hands to all its transformations.

        Returns
        -------
        sequence of BaseNode
            ``nodes``. Their embeddings are lists of floats with the values of the int8 vectors.

        Raises
        ------
        ChunkOrderError
            A node of a document is missing, two stand at one place, or their order is not known. Nothing was sent.
        ValueError
            A node has no document or no text.
        APIError, EmbedError
            As for :meth:`ctxembed.Client.embed`.
        """
        rows, _ = self._ready().embed(*self._inputs(nodes), _NAMES, max_gap=self.max_gap)
        return _embedded(nodes, rows)

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:  # noqa: ARG002
        """Set ``embedding`` of all nodes as a call does, without blocking the event loop."""
        rows, _ = await self._ready().aembed(*self._inputs(nodes), _NAMES, max_gap=self.max_gap)
        return _embedded(nodes, rows)

    def _inputs(self, nodes: Sequence[BaseNode]) -> tuple[list[str], list[Place]]:
        return [node.get_content(metadata_mode=self.metadata_mode) for node in nodes], list(map(_place, nodes))

    # --- queries, and texts without a document ---

    def _get_query_embedding(self, query: str) -> list[float]:
        return lists_of(self._ready().embed_queries([query]).vectors)[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return lists_of((await self._ready().aembed_queries([query])).vectors)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._ready().embed(texts, self._alone(texts), _TEXTS)[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return (await self._ready().aembed(texts, self._alone(texts), _TEXTS))[0]

    def _alone(self, texts: list[str]) -> list[Place]:
        if self._ready().model.contextualized and not self.isolated:
            raise ValueError(
                f"{self.model_name} embeds chunks in the context of their document, and LlamaIndex gives texts without "
                f"it here: let ContextualEmbedder embed the nodes, as a transformation, or pass isolated=True to embed "
                f"each text as a document of its own"
            )
        return [Place(None)] * len(texts)

    # --- the client ---

    def _ready(self) -> TextEmbedder:
        if self._embedder is None:
            from ctxembed._client import Client

            self._embedder = self._made(Client())
        return self._embedder

    def _made(self, client: Any) -> TextEmbedder:
        if self._journal is not None and isinstance(client, BaseClient) and client._options["journal"] is None:  # noqa: SLF001
            self._journal.place = client.base_url
            copy: Any = client
            client = copy.with_options(journal=self._journal)
        return TextEmbedder.of(client, self.model_name, self.dimensions, isolated=self.isolated)


def _loaded(cls: type[ContextualEmbedder], data: dict[str, Any]) -> ContextualEmbedder:
    made: ContextualEmbedder = cls.from_dict(data)
    return made


class _CacheJournal:
    """The journal of a client, in a cache of LlamaIndex. It implements :class:`ctxembed.Journal`.

    Parameters
    ----------
    cache : IngestionCache
        Where rows are kept, as base64 of int8.
    """

    def __init__(self, cache: IngestionCache) -> None:
        self._store = cache.cache
        self.place = ""
        """The API that the vectors come from: another one may serve other vectors under the same name."""

    def get(self, keys: list[bytes]) -> dict[bytes, NDArray[Any]]:
        """Return the rows of the documents that are known."""
        found = {key: self._store.get(self._name(key), collection=_COLLECTION) for key in keys}
        return {
            key: np.frombuffer(base64.b64decode(value["rows"]), np.int8).reshape(value["chunks"], -1)
            for key, value in found.items()
            if value is not None
        }

    def put(self, rows: dict[bytes, NDArray[Any]], usage: Usage) -> None:  # noqa: ARG002
        """Keep the rows of one response."""
        for key, vectors in rows.items():
            value = {"chunks": len(vectors), "rows": base64.b64encode(vectors.tobytes()).decode()}
            self._store.put(self._name(key), value, collection=_COLLECTION)

    def _name(self, key: bytes) -> str:
        return f"{self.place} {key.hex()}"


def _place(node: BaseNode) -> Place:
    """Return where a node stands."""
    source = node.ref_doc_id
    if source is None:
        return Place(node.node_id if isinstance(node, Document) else None, id=node.node_id)
    start, stop = getattr(node, "start_char_idx", None), getattr(node, "end_char_idx", None)
    if start is not None and stop is None:
        stop = start + len(node.get_content(metadata_mode=MetadataMode.NONE))
    before, after = node.prev_node, node.next_node
    return Place(
        source,
        start,
        stop,
        id=node.node_id,
        previous=None if before is None else before.node_id,
        next=None if after is None else after.node_id,
    )


def _embedded(nodes: Sequence[BaseNode], rows: list[list[float]]) -> Sequence[BaseNode]:
    for node, row in zip(nodes, rows, strict=True):
        node.embedding = row
    return nodes
