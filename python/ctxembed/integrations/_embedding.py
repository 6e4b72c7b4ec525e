"""What the adapters share: chunks and queries become lists of floats, by a client of either kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import numpy as np

from ctxembed._client.base import BaseClient
from ctxembed._models import DEFAULT_MODEL, Model, check_dimensions, get_model
from ctxembed._results import NO_USAGE, Usage
from ctxembed.integrations._grouping import Names, Place, group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctxembed._results import Embeddings

__all__ = ["TextEmbedder", "int8_of", "is_async", "lists_of", "model_of"]


def is_async(client: object) -> bool:
    """Return whether a client is an :class:`AsyncClient`."""
    return isinstance(client, BaseClient) and client._is_async  # noqa: SLF001


def lists_of(rows: Any) -> list[list[float]]:
    """Return int8 rows as lists of floats of the same values."""
    lists: list[list[float]] = np.asarray(rows).astype(np.float64).tolist()
    return lists


def int8_of(embedding: list[float]) -> NDArray[np.int8]:
    """Return a list of floats as the int8 vector of the same values.

    Raises
    ------
    ValueError
        A value is no int8.
    """
    given = np.asarray(embedding, np.float64)
    with np.errstate(invalid="ignore"):
        row = given.astype(np.int8)
    wrong = np.flatnonzero(row != given)
    if wrong.size:
        raise ValueError(
            f"an embedding must have the values of an int8 vector, as CtxembedEmbeddings returns it: value {wrong[0]} "
            f"is {float(given[wrong[0]])}"
        )
    return row


def model_of(client: object, name: str | None) -> Model:
    """Return the model with a name. Without one it is that of a local embedder, or the default.

    Raises
    ------
    TypeError, ValueError
        There is no such model.
    """
    own = getattr(client, "model", None)
    if isinstance(own, Model) and name in (None, own.name):
        return own
    return get_model(DEFAULT_MODEL if name is None else name)


@dataclass(frozen=True, slots=True)
class TextEmbedder:
    """Embeds for a framework.

    Parameters
    ----------
    client : Client, AsyncClient or object
        What embeds. Its ``embed_texts`` is used for a model without context.
    model : Model
        The model.
    dimensions : int or None
        Of the vectors; None for the model's.
    isolated : bool
        Whether a text without a document is embedded as a document of its own.
    """

    client: Any
    model: Model
    dimensions: int | None
    isolated: bool = False

    @classmethod
    def of(cls, client: Any, model: str | None, dimensions: int | None, *, isolated: bool) -> TextEmbedder:
        """Check the arguments of an adapter.

        Raises
        ------
        TypeError, ValueError
            One of them is not what it should be.
        """
        if not isinstance(isolated, bool):
            raise TypeError(f"isolated must be a bool, got {isolated!r:.100}")
        if not callable(getattr(client, "embed", None)) or not callable(getattr(client, "embed_queries", None)):
            raise TypeError(
                f"client must be a Client, or have embed(documents, ...) and embed_queries(queries, ...), got "
                f"{type(client).__name__}"
            )
        known = model_of(client, model)
        check_dimensions(known, dimensions, "base64_int8")
        return cls(client, known, dimensions, isolated)

    def embed(
        self, texts: Sequence[str], places: Sequence[Place], names: Names, *, max_gap: int | None = None
    ) -> tuple[list[list[float]], Usage]:
        """Embed chunks, each in the context of its document.

        Parameters
        ----------
        texts : sequence of str
            The chunks, in any order.
        places : sequence of Place
            Where each of them stands.
        names, max_gap
            See :func:`~ctxembed.integrations._grouping.group`.

        Returns
        -------
        list of list of float, Usage
            The vector of each text, in the order of the texts.

        Raises
        ------
        ChunkOrderError, ValueError
            As for :func:`group`.
        Exception
            What the client raises.
        """
        if not texts:
            return [], NO_USAGE
        self._check_plain()
        order, call = self._embed_call(texts, places, names, max_gap)
        return self._in_order(call(), order)

    async def aembed(
        self, texts: Sequence[str], places: Sequence[Place], names: Names, *, max_gap: int | None = None
    ) -> tuple[list[list[float]], Usage]:
        """Embed chunks as :meth:`embed` does, without blocking the event loop."""
        if not texts:
            return [], NO_USAGE
        order, call = self._embed_call(texts, places, names, max_gap)
        return self._in_order(await self._awaited(call), order)

    def embed_queries(self, queries: Sequence[str]) -> Embeddings:
        """Embed queries, in the space of the documents."""
        self._check_plain()
        found: Embeddings = self._queries_call(queries)()
        return found

    async def aembed_queries(self, queries: Sequence[str]) -> Embeddings:
        """Embed queries as :meth:`embed_queries` does, without blocking the event loop."""
        found: Embeddings = await self._awaited(self._queries_call(queries))
        return found

    def _check_plain(self) -> None:
        if is_async(self.client):
            raise TypeError("a plain call needs a Client, got an AsyncClient: use the async call")

    def _embed_call(
        self, texts: Sequence[str], places: Sequence[Place], names: Names, max_gap: int | None
    ) -> tuple[list[int], Callable[[], Any]]:
        """Return the positions of the texts in the order in which they are sent, and the call that sends them."""
        if not self.model.contextualized:
            return list(range(len(texts))), partial(self.client.embed_texts, list(texts), **self._options())
        groups = group(places, names, isolated=self.isolated, max_gap=max_gap, model=self.model.name)
        for found in groups:
            for member in found.members:
                if not texts[member]:
                    of_document = "" if found.document is None else f" of document {found.document!r}"
                    raise ValueError(f"{names.chunk} {member}{of_document} has no text")
        documents = [[texts[member] for member in found.members] for found in groups]
        order = [member for found in groups for member in found.members]
        return order, partial(self.client.embed, documents, **self._options(), on_error="raise")

    def _queries_call(self, queries: Sequence[str]) -> Callable[[], Any]:
        embed = self.client.embed_queries if self.model.contextualized else self.client.embed_texts
        return partial(embed, list(queries), **self._options())

    def _options(self) -> dict[str, Any]:
        return {"model": self.model.name, "dimensions": self.dimensions, "encoding_format": "base64_int8"}

    async def _awaited(self, call: Callable[[], Any]) -> Any:
        """Make a call of a client of either kind: a plain one in a worker thread."""
        if is_async(self.client):
            return await call()
        found = await anyio.to_thread.run_sync(call)
        return await found if hasattr(found, "__await__") else found

    @staticmethod
    def _in_order(found: Embeddings, order: list[int]) -> tuple[list[list[float]], Usage]:
        rows: list[list[float]] = [[]] * len(order)
        for position, row in zip(order, lists_of(found.vectors), strict=True):
            rows[position] = row
        return rows, found.usage
