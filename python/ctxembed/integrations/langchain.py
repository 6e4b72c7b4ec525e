"""LangChain: a vector store over a collection, and embeddings.

Needs the extra ``langchain``. ``docs/langchain.md`` shows both, and how a corpus is kept up to date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import numpy as np

from ctxembed import _core
from ctxembed._collection.collection import Collection
from ctxembed._errors import CollectionError
from ctxembed._extras import require
from ctxembed._models import as_int
from ctxembed.integrations._embedding import TextEmbedder, int8_of, is_async, lists_of
from ctxembed.integrations._grouping import Names, Place
from ctxembed.integrations._stored_chunks import Changes, Chunk, check_report, chunk_at, default_id, shared_state

require("langchain_core", "langchain", "ctxembed.integrations.langchain")

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ctxembed._collection.searching import Found
    from ctxembed._documents import Hit, IngestReport

__all__ = ["CtxembedEmbeddings", "CtxembedVectorStore"]

_TEXTS: Final = Names("text", "document", "place")


class CtxembedEmbeddings(Embeddings):
    """Embed queries, and documents of one chunk.

    Parameters
    ----------
    client : Client, AsyncClient or object
        What embeds. A plain client runs in a worker thread where a call is async; an :class:`AsyncClient` has async
        calls only.
    model : str, optional
        Name of a model. Default: that of a local embedder, else the default of :class:`ctxembed.Client`.
    dimensions : int, optional
        Of the vectors. Default: the model's.
    isolated : bool
        Whether each text of :meth:`embed_documents` is embedded as a document of its own. Default: a contextualized
        model refuses texts, since LangChain hands them over without their documents. :class:`CtxembedVectorStore` does
        not.

    Notes
    -----
    Vectors are lists of floats with the values of the int8 vectors. A model without context embeds documents and
    queries alike.
    """

    def __init__(
        self, client: Any, *, model: str | None = None, dimensions: int | None = None, isolated: bool = False
    ) -> None:
        self._embedder = TextEmbedder.of(client, model, dimensions, isolated=isolated)

    @property
    def client(self) -> Any:
        """What embeds."""
        return self._embedder.client

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._embedder.model.name

    @property
    def dimensions(self) -> int | None:
        """Of the vectors; None for the model's."""
        return self._embedder.dimensions

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, each as a document of its own.

        Raises
        ------
        ValueError
            The model is contextualized, and ``isolated`` is false.
        APIError, EmbedError
            As for :meth:`ctxembed.Client.embed`.
        """
        return self._embedder.embed(texts, self._alone(texts), _TEXTS)[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts as :meth:`embed_documents` does, without blocking the event loop."""
        return (await self._embedder.aembed(texts, self._alone(texts), _TEXTS))[0]

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        Raises
        ------
        APIError, EmbedError
            As for :meth:`ctxembed.Client.embed_queries`.
        """
        return lists_of(self._embedder.embed_queries([text]).vectors)[0]

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query as :meth:`embed_query` does, without blocking the event loop."""
        return lists_of((await self._embedder.aembed_queries([text])).vectors)[0]

    def _alone(self, texts: list[str]) -> list[Place]:
        if self._embedder.model.contextualized and not self._embedder.isolated:
            raise ValueError(
                f"{self.model} embeds chunks in the context of their document, and LangChain gives texts without it "
                f"here: use CtxembedVectorStore, or pass isolated=True to embed each text as a document of its own"
            )
        return [Place(None)] * len(texts)


class CtxembedVectorStore(VectorStore):
    """A vector store over a collection, which embeds chunks in the context of their document.

    Parameters
    ----------
    collection : Collection
        Where chunks are stored, with their text. The store never closes it.
    client : Client, AsyncClient or object
        What embeds. A plain client runs in a worker thread where a call is async; an :class:`AsyncClient` has async
        calls only.
    isolated : bool
        Whether a LangChain document without ``metadata["source"]`` is a document of its own, as in all of LangChain.
        False refuses it.
    max_gap : int, optional
        Characters that may lie between two chunks of a document, as splitters leave out white space. Default: an eighth
        of the median length of its chunks, but at least 4 and at most 100.

    Notes
    -----
    Chunks of one ``metadata["source"]`` are one document, ordered by ``metadata["start_index"]``, which splitters set
    with ``add_start_index=True``. The source is the id of the document in the collection. A gap and two chunks at one
    place are refused, and so is a chunk without a place beside others. That the last chunks of a document are missing
    cannot be seen: pass all chunks of a document in one call.

    Where the collection moves to another model, the store goes along: queries are embedded by the model of the vectors
    that are searched. The client has to have both models.

    Ids of chunks are those of LangChain; a chunk without one is named by its source and place, and a text without
    source by a random id. Metadata is JSON. Fields that all chunks of a document share can be filtered by ``where=``.
    """

    def __init__(
        self, collection: Collection, client: Any, *, isolated: bool = True, max_gap: int | None = None
    ) -> None:
        if not isinstance(collection, Collection):
            raise TypeError(f"collection must be a Collection, got {type(collection).__name__}")
        if not collection.store_text:
            raise CollectionError(
                f"{collection.path} was created with store_text=False: a vector store returns texts, and embeds a "
                f"document whole when one of its chunks changes"
            )
        if max_gap is not None and as_int("max_gap", max_gap) < 0:
            raise ValueError(f"max_gap must be at least 0, got {max_gap}")
        if not isinstance(isolated, bool):
            raise TypeError(f"isolated must be a bool, got {isolated!r:.100}")
        self.collection = collection
        self._client = client
        self._embeddings = self._embeddings_now()
        self._isolated = isolated
        self._max_gap = max_gap
        self._state = shared_state(collection)

    @property
    def embeddings(self) -> CtxembedEmbeddings:
        """What embeds queries: by the model that the collection has now, which a migration changes."""
        if (self._embeddings.model, self._embeddings.dimensions) != (self.collection.model, self.collection.dimensions):
            self._embeddings = self._embeddings_now()
        return self._embeddings

    def _embeddings_now(self) -> CtxembedEmbeddings:
        return CtxembedEmbeddings(self._client, model=self.collection.model, dimensions=self.collection.dimensions)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        collection: Collection | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store over a collection, and add texts to it.

        Parameters
        ----------
        texts, metadatas, ids
            As for ``add_texts``.
        embedding : CtxembedEmbeddings
            Its client embeds the texts.
        collection : Collection
            Where they are stored.
        **kwargs
            Options of the store.
        """
        store = cls._made(embedding, collection, kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        collection: Collection | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store as :meth:`from_texts` does, without blocking the event loop."""
        store = cls._made(embedding, collection, kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def _made(cls, embedding: Embeddings, collection: Collection | None, options: dict[str, Any]) -> Self:
        if not isinstance(embedding, CtxembedEmbeddings):
            raise TypeError(f"embedding must be CtxembedEmbeddings, got {type(embedding).__name__}")
        if collection is None:
            raise TypeError("collection must be given: a ctxembed.Collection, in which the texts are stored")
        return cls(collection, embedding.client, **options)

    # --- writing ---

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Add chunks, or put them in the place of those with the same id, or the same source and place.

        Parameters
        ----------
        documents : list of Document
            Chunks, in any order.
        **kwargs
            ``ids``: a list of str or None, which goes before ``Document.id``. ``whole=True``: the chunks are all of
            their documents, and what else is stored of these goes. ``batch_size`` changes nothing.

        Returns
        -------
        list of str
            The id of each chunk.

        Raises
        ------
        ChunkOrderError
            A document would lack a chunk, or have two at one place. Nothing was sent.
        EmbedError
            Documents failed; the others are stored.
        TypeError, ValueError
            A chunk is not what it should be.
        APIError, CollectionError
            As for :meth:`ctxembed.Collection.ingest`.

        Notes
        -----
        A document of which chunks were added before is embedded anew as a whole, since a changed chunk changes the
        vectors of all others. Stored chunks whose text is another where new ones overlap them are taken to be of an
        older version, and go. With ``whole=True`` nothing of an older version stays.
        """
        if is_async(self._client):
            raise TypeError("add_documents() needs a Client, got an AsyncClient: use aadd_documents()")
        with self._state.lock:
            changes, ids = self._added(documents, kwargs)
            self._store(changes)
        return ids

    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Add chunks as :meth:`add_documents` does, without blocking the event loop."""
        if not is_async(self._client):
            found: list[str] = await run_in_executor(None, self.add_documents, documents, **kwargs)
            return found
        async with self._state.held():
            added: tuple[Changes, list[str]] = await run_in_executor(None, self._added, documents, kwargs)
            await self._astore(added[0])
        return added[1]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:  # noqa: ARG002
        """Delete chunks. What is left of their documents is embedded anew.

        Parameters
        ----------
        ids : list of str, optional
            Ids of chunks. Unknown ones are ignored. Default: all that there are.
        **kwargs
            Ignored.

        Returns
        -------
        bool
            True.
        """
        if is_async(self._client):
            raise TypeError("delete() needs a Client, got an AsyncClient: use adelete()")
        with self._state.lock:
            self._store(self._removed(ids))
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete chunks as :meth:`delete` does, without blocking the event loop."""
        if not is_async(self._client):
            found: bool | None = await run_in_executor(None, self.delete, ids, **kwargs)
            return found
        async with self._state.held():
            await self._astore(await run_in_executor(None, self._removed, ids))
        return True

    def ingest(self, documents: Iterable[Document], **options: Any) -> IngestReport:
        """Bring the collection to the state of a corpus: all chunks of all its documents, in any order.

        Parameters
        ----------
        documents : iterable of Document
            The chunks.
        **options
            Of :meth:`ctxembed.Collection.ingest`, as ``prune=True`` to delete documents that the corpus no longer has,
            ``max_cost_usd`` and ``progress``.

        Returns
        -------
        IngestReport
            Documents that failed are counted in it, and listed by ``collection.failures()``.

        Raises
        ------
        ChunkOrderError, TypeError, ValueError, APIError, CollectionError
            As for :meth:`add_documents`.

        Notes
        -----
        Unchanged documents cost nothing. LangChain's ``index()`` hands over batches of chunks that may end inside a
        document, each of which would be embedded anew as a whole.
        """
        with self._state.lock:
            changes = self._corpus(documents)
            report = self.collection.ingest(changes.documents, self._client, **options)
            self._state.remember(changes.documents)
        return report

    async def aingest(self, documents: Iterable[Document], **options: Any) -> IngestReport:
        """Bring the collection to the state of a corpus as :meth:`ingest` does, with an :class:`AsyncClient`."""
        async with self._state.held():
            changes = await run_in_executor(None, self._corpus, documents)
            report = await self.collection.aingest(changes.documents, self._client, **options)
            self._state.remember(changes.documents)
        return report

    def _corpus(self, documents: Iterable[Document]) -> Changes:
        changes, _ = self._added(list(documents), {"whole": True})
        return changes

    def _added(self, documents: Sequence[Document], kwargs: dict[str, Any]) -> tuple[Changes, list[str]]:
        unknown = set(kwargs) - {"ids", "whole", "batch_size"}
        if unknown:
            raise TypeError(f"add_documents() takes ids, whole and batch_size, got {', '.join(sorted(unknown))}")
        names = kwargs.get("ids")
        if names is not None and len(names) != len(documents):
            raise ValueError(f"ids must have one entry per document: {len(names)} ids, {len(documents)} documents")
        changes = Changes(self.collection, self._state)
        ids = []
        for position, document in enumerate(documents):
            given = document.id if names is None or names[position] is None else names[position]
            chunk, source = self._chunk(position, document, given)
            changes.add(chunk, source, is_given=given is not None)
            ids.append(chunk.id)
        changes.settle(whole=bool(kwargs.get("whole")), max_gap=self._max_gap)
        return changes, ids

    def _chunk(self, position: int, document: Document, name: str | None) -> tuple[Chunk, str | None]:
        """Return a LangChain document as a chunk, and its source."""
        metadata = document.metadata
        source, start = metadata.get("source"), metadata.get("start_index")
        if source is None:
            if start is not None:
                raise ValueError(f"document {position} has a start_index and no source: set metadata['source']")
            if not self._isolated:
                raise ValueError(
                    f"document {position} has no metadata['source'], and {self.collection.model} embeds chunks in the "
                    f"context of their document: set it, or make the store with isolated=True"
                )
        elif not isinstance(source, str) or not source:
            raise TypeError(f"document {position}: metadata['source'] must be a non-empty str, got {source!r:.100}")
        if start is not None:
            start = as_int(f"document {position} of {source!r}: metadata['start_index']", start)
        if name is None:
            name = str(uuid4()) if source is None else default_id(source, start)
        if not isinstance(name, str) or not name:
            raise TypeError(f"document {position}: an id must be a non-empty str, got {name!r:.100}")
        if not document.page_content:
            raise ValueError(f"document {position} ({name!r}) has no text")
        return Chunk(name, document.page_content, dict(metadata), start), source

    def _removed(self, ids: list[str] | None) -> Changes:
        changes = Changes(self.collection, self._state)
        if ids is None:
            changes.emptied.extend(document.id for document in self.collection.documents())
        else:
            changes.remove(ids)
            changes.settle()
        return changes

    def _store(self, changes: Changes) -> None:
        if changes.documents:
            report = self.collection.ingest(changes.documents, self._client, retry_failed=True)
            check_report(self.collection, changes.documents, report)
        self._finish(changes)

    async def _astore(self, changes: Changes) -> None:
        if changes.documents:
            report = await self.collection.aingest(changes.documents, self._client, retry_failed=True)
            check_report(self.collection, changes.documents, report)
        self._finish(changes)

    def _finish(self, changes: Changes) -> None:
        self._state.remember(changes.documents)
        if changes.emptied:
            self.collection.delete(changes.emptied)

    # --- reading ---

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return chunks, in the order of their ids. Unknown ones are left out."""
        changes = Changes(self.collection, self._state)
        return [_document(changes.chunk(name, owner)) for name, owner in changes.find(ids).items()]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the chunks nearest to a query.

        Parameters
        ----------
        query : str
            The query.
        k : int
            Chunks to find.
        **kwargs
            ``filter``: a dict of metadata fields that chunks must have, and that all chunks of their document share.
            Options of :meth:`ctxembed.Collection.search`: ``where``, ``params``, ``hybrid``, ``stage``, ``oversample``,
            ``dimensions``, ``group_by_document``; for a vector ``space``.

        Returns
        -------
        list of Document
            Best first.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the chunks nearest to a query, without blocking the event loop."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return the chunks nearest to a query with their scores: cosines, higher for nearer ones.

        Parameters
        ----------
        query, k, **kwargs
            As for :meth:`similarity_search`.
        """
        return _scored(self.collection.search(query, k, client=self._client, **_search_options(kwargs)))

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the chunks nearest to a query with their scores, without blocking the event loop."""
        if not is_async(self._client):
            found: list[tuple[Document, float]] = await run_in_executor(
                None, self.similarity_search_with_score, query, k, **kwargs
            )
            return found
        return _scored(await self.collection.asearch(query, k, client=self._client, **_search_options(kwargs)))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the chunks nearest to a vector that :class:`CtxembedEmbeddings` made.

        Parameters
        ----------
        embedding : list of float
            The values of an int8 vector.
        k, **kwargs
            As for :meth:`similarity_search`.

        Raises
        ------
        ValueError
            A value is no int8.
        SpaceError
            The collection was migrated since it was opened: the vector may be of the model before. Pass ``space`` with
            ``collection.space``, or open the collection again.
        """
        hits = self.collection.search(int8_of(embedding), k, **_search_options(kwargs))
        return [document for document, _ in _scored(hits)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return chunks that are near a query and far from each other.

        Parameters
        ----------
        query : str
            The query.
        k : int
            Chunks to return.
        fetch_k : int
            Nearest chunks to choose from.
        lambda_mult : float
            1 for the nearest, 0 for the most different.
        **kwargs
            As for :meth:`similarity_search`.
        """
        found = self.collection._search(query, fetch_k, client=self._client, **_search_options(kwargs))  # noqa: SLF001
        return _diverse(found, k, lambda_mult)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return chunks that are near a query and far from each other, without blocking the event loop."""
        diverse: list[Document]
        if is_async(self._client):
            options = _search_options(kwargs)
            found = await self.collection._asearch(query, fetch_k, client=self._client, **options)  # noqa: SLF001
            diverse = await run_in_executor(None, _diverse, found, k, lambda_mult)
        else:
            search = self.max_marginal_relevance_search
            diverse = await run_in_executor(None, search, query, k, fetch_k, lambda_mult, **kwargs)
        return diverse

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return chunks near a vector and far from each other, as :meth:`max_marginal_relevance_search` does."""
        found = self.collection._search(int8_of(embedding), fetch_k, **_search_options(kwargs))  # noqa: SLF001
        return _diverse(found, k, lambda_mult)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: min(max(score, 0.0), 1.0)


def _document(chunk: Chunk) -> Document:
    return Document(id=chunk.id, page_content=chunk.text, metadata=chunk.metadata)


def _document_at(hit: Hit) -> Document:
    return _document(chunk_at(hit.document, hit.source, hit.metadata, position=hit.chunk, text=hit.text, span=hit.span))


def _scored(hits: list[Hit]) -> list[tuple[Document, float]]:
    return [(_document_at(hit), hit.score) for hit in hits]


def _diverse(found: Found, k: int, lambda_mult: float) -> list[Document]:
    """Return hits that are near the query and far from each other."""
    if not found.hits:
        return []
    rows = found.vectors()
    if found.view.layout.is_binary:
        rows = np.stack([_core.unpack_bits(row, dimensions=found.view.generation.dimensions) for row in rows])
    query = np.asarray(getattr(found.vector, "vectors", found.vector), np.float32).reshape(-1)
    chosen = maximal_marginal_relevance(query, lists_of(rows), lambda_mult, k)
    return [_document_at(found.hits[position]) for position in chosen]


def _search_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a search, with a filter as an expression."""
    options = dict(kwargs)
    fields = options.pop("filter", None)
    if not fields:
        return options
    if not isinstance(fields, dict):
        raise TypeError(f"filter must be a dict of metadata fields, got {type(fields).__name__}: see where=")
    if "where" in options:
        raise TypeError("filter and where exclude each other")
    for name, value in fields.items():
        if not isinstance(value, str | int | float | None):
            raise TypeError(f"filter[{name!r}] must be a str, number, bool or None, got {value!r:.100}: see where=")
    names = (str(name).replace('"', '""') for name in fields)
    options["where"] = " AND ".join(f'"{name}" IS ?' for name in names)
    options["params"] = tuple(fields.values())
    return options
