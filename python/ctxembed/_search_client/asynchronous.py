"""The asynchronous client, on asyncio and trio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import anyio

from ctxembed._client._http.credentials import server_key_source
from ctxembed._search_client.base import BaseSearchClient
from ctxembed._search_client.contract import SearchOptions, search_batch_calls, search_call

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from os import PathLike
    from types import TracebackType

    import httpx

    from ctxembed._client._http.connections import TransportName
    from ctxembed._client._http.transport import Transport
    from ctxembed._client._policy.clock import Clock
    from ctxembed._documents import Document, Hit

__all__ = ["AsyncSearchClient"]


class AsyncSearchClient(BaseSearchClient):
    """Search the collections of a server in ``async`` code, on asyncio or trio.

    Parameters
    ----------
    url : str
        Of the server. A trailing slash or ``/v1`` makes no difference.
    api_key : str or callable, optional
        The server's key, or a callable that returns it before each attempt. Default: the environment variable
        ``CTXEMBED_SERVER_KEY``; without it none is sent. The API's key never is.
    collection : str, optional
        The collection to search where a call names none. It may be left out where the server has one.
    timeout : float or httpx.Timeout, optional
        Seconds for one attempt as a whole, or httpx's timeouts by phase. Default: 10 to connect, 120 without a byte,
        600 in total.
    deadline : float, optional
        Seconds for a request with its retries and waits.
    max_retries : int
        Attempts of a request after its first. Connection errors and timeouts are retried, 429, and other statuses
        where the server asks for it by ``Retry-After``: else with exponential backoff and full jitter.
    max_wait : float or None
        Seconds. A longer ``Retry-After`` is not waited for.
    transport : {"auto", "httpx", "aiohttp"} or object
        As for :class:`AsyncClient`.
    verify : ssl.SSLContext or path, optional
        Trusted in place of the public authorities: a context, or a file or folder of certificates.
    clock : Clock, optional
        Time, sleep and randomness. Tests pass one that does not wait.
    allow_insecure : bool
        Allow a key over plain http to another machine. Anyone on the way can read it.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it should be. The message never shows the key.

    Notes
    -----
    Any number of tasks of an event loop may share a client. Cancelling a call cancels its request.

    Examples
    --------
    >>> async def main():
    ...     async with AsyncSearchClient("http://127.0.0.1:8765") as search:
    ...         return await search.search("which bird catches fish?", 1)
    >>> asyncio.run(main())[0].document
    'heron'
    """

    _is_async = True

    def __init__(
        self,
        url: str,
        api_key: str | Callable[[], str] | None = None,
        collection: str | None = None,
        *,
        timeout: float | httpx.Timeout | None = None,
        deadline: float | None = None,
        max_retries: int = 4,
        max_wait: float | None = 60.0,
        transport: TransportName | Transport | httpx.AsyncBaseTransport | httpx.BaseTransport = "auto",
        verify: ssl.SSLContext | str | PathLike[str] | None = None,
        clock: Clock | None = None,
        allow_insecure: bool = False,
    ) -> None:
        options = {
            "timeout": timeout,
            "deadline": deadline,
            "max_retries": max_retries,
            "max_wait": max_wait,
            "transport": transport,
            "verify": verify,
            "clock": clock,
            "allow_insecure": allow_insecure,
        }
        key = server_key_source(api_key)
        del api_key  # no frame of a traceback holds it from here on
        super().__init__(url, key, collection, options)

    async def search(
        self,
        query: Any,
        k: int = 10,
        *,
        where: str | None = None,
        params: Any = (),
        hybrid: bool = False,
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
        group_by_document: bool = False,
        neighbours: int = 0,
        collection: str | None = None,
        space: str | None = None,
    ) -> list[Hit]:
        """Find the chunks nearest to a query.

        Parameters
        ----------
        query : str, ndarray or Embeddings
            A text, which the server embeds, or a vector of shape (dimensions,) or (1, dimensions), int8 or packed bits
            in uint8.
        k : int
            Chunks to find, from 1 to 10,000.
        where, params, hybrid, stage, oversample, dimensions, group_by_document, neighbours
            As in :meth:`Collection.search`.
        collection : str, optional
            The collection to search. Default: the client's.
        space : str, optional
            The space of an array, which has to be the collection's. An array needs it once the collection has been
            migrated since the server opened it.

        Returns
        -------
        list of Hit
            What :meth:`Collection.search` returns.

        Raises
        ------
        TypeError, ValueError
            An argument is not what it should be. What the server refuses, such as an unknown name in ``where``, is a
            :class:`UnprocessableEntityError`, which is a ``ValueError`` too and says what the server said.
        SpaceError
            ``query`` is :class:`Embeddings` of another space, of other dimensions, or of documents.
        CollectionError
            The server has no such collection.
        APIError
            The request failed, after all retries. :class:`NotFoundError`: it is no search server.

        Notes
        -----
        A vector is compared with what the server says of the collection, which is asked once a minute.
        """
        options = SearchOptions(k, where, params, hybrid, stage, oversample, dimensions, group_by_document, neighbours)
        name = self._name(collection)
        call = search_call(query, name, options, space)
        return await self._search(call, query, name, dimensions)

    async def search_batch(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        where: str | None = None,
        params: Any = (),
        hybrid: bool = False,
        stage: str = "exact",
        oversample: int | None = None,
        dimensions: int | None = None,
        group_by_document: bool = False,
        neighbours: int = 0,
        collection: str | None = None,
    ) -> list[list[Hit]]:
        """Find the chunks nearest to each of many texts, in one request for each 512 of them.

        Parameters
        ----------
        queries : iterable of str
            The texts.
        k, where, params, hybrid, stage, oversample, dimensions, group_by_document, neighbours, collection
            As in :meth:`search`, for each query.

        Returns
        -------
        list of list of Hit
            The hits of each query, in order.

        Raises
        ------
        TypeError, ValueError, CollectionError, APIError
            As :meth:`search` raises.
        """
        options = SearchOptions(k, where, params, hybrid, stage, oversample, dimensions, group_by_document, neighbours)
        name = self._name(collection)
        calls = search_batch_calls(queries, name, options)
        return await self._search_batch(calls, name)

    async def document(self, id: str, *, collection: str | None = None) -> Document | None:  # noqa: A002
        """Return a document with all its chunks, or None where the collection has none of that id.

        Parameters
        ----------
        id : str
            Its id.
        collection : str, optional
            Its collection. Default: the client's.

        Returns
        -------
        Document or None
            What :meth:`Collection.get` returns; empty metadata is None.

        Raises
        ------
        TypeError, ValueError, CollectionError, APIError
            As :meth:`search` raises. A ``ValueError`` too where no collection is named and the server has several.
        """
        return await self._document(id, self._name(collection))

    get = document

    async def collections(self) -> list[dict[str, Any]]:
        """Return what the server says of each of its collections: name, model, dimensions, documents, and more.

        Raises
        ------
        APIError
            The request failed, after all retries. :class:`NotFoundError`: it is no search server.
        """
        self._check_open()
        return await self._collections()

    async def aclose(self) -> None:
        """Close the connections, which fails the requests in flight. Later calls raise :class:`ClosedClientError`.

        Closing twice is no error.
        """
        if self._closed:
            return
        self._closed = self._connections.closed = True
        await self._connections.aclose()

    close = aclose

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()
