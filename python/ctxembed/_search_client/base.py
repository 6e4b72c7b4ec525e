"""What both clients share: checked options, and a call with its attempts."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio.to_thread

from ctxembed import _core
from ctxembed._client._http.connections import Connections, TransportSettings
from ctxembed._client._http.credentials import SERVER_KEY_VARIABLE
from ctxembed._client._http.transport import TransportRequest
from ctxembed._client._policy.clock import SYSTEM_CLOCK, Deadline
from ctxembed._client._policy.retry import RetryBudget, RetryPolicy, retry_after
from ctxembed._client._runtime import is_trio
from ctxembed._client.endpoint import error_body
from ctxembed._client.options import (
    check_base_url,
    check_bool,
    check_clock,
    check_headers,
    check_int,
    check_rate,
    check_seconds,
    check_timeouts,
    check_verify,
)
from ctxembed._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadResponseError,
    ClosedClientError,
    CollectionError,
    NotFoundError,
    status_error,
)
from ctxembed._search_client.contract import Call, collections_call, document_call, error_reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._client._http.body import Response
    from ctxembed._client._http.credentials import KeySource
    from ctxembed._documents import Document, Hit

__all__ = ["BaseSearchClient"]

_T = TypeVar("_T")
_LOG: Final = logging.getLogger("ctxembed")

_MAX_BODY: Final = 1 << 30  # bytes of a response: ten thousand passages of the longest chunks are less
_PARSED_IN_LOOP: Final = 1 << 18  # bytes; parsing more would block the event loop, and goes to a thread
_MAX_REASON: Final = 2000  # characters of a server's message
_KNOWN_FOR: Final = 60.0  # seconds for which a collection is taken to be of the same space
_RETRY_SHARE: Final = 0.5  # of a retry, that each call adds to what all calls share
_RETRY_RESERVE: Final = 20


class BaseSearchClient:
    """The options of both clients, and the calls that they share."""

    _is_async: bool

    def __init__(
        self, url: str, key: KeySource | Exception, collection: str | None, options: Mapping[str, Any]
    ) -> None:
        if isinstance(key, Exception):
            raise key
        if collection is not None and not isinstance(collection, str):
            raise TypeError(f"collection must be a str or None, got {collection!r:.100}")
        insecure = check_bool("allow_insecure", options["allow_insecure"])
        # Without a key there is none to read on the way.
        self._url = check_base_url(url, allow_insecure=insecure or key.is_empty, name="url")
        self._key = key
        self._collection = collection
        self._retry = RetryPolicy(
            check_int("max_retries", options["max_retries"], 0), check_seconds("max_wait", options["max_wait"])
        )
        self._budget = RetryBudget(_RETRY_SHARE, _RETRY_RESERVE)
        self._timeouts = check_timeouts(options["timeout"], None)
        self._seconds = check_rate("deadline", options["deadline"])
        self._clock = SYSTEM_CLOCK if options["clock"] is None else check_clock(options["clock"])
        # Headers of the environment are for the API.
        self._headers = check_headers(None, variable=None)
        self._connections = Connections(
            TransportSettings(
                transport=options["transport"],
                http_client=None,
                trust_env=self._url.lower().startswith("https:") or insecure,
                origin="/".join(self._url.lower().split("/")[:3]),
                verify=check_verify(options["verify"]),
            )
        )
        self._indexes: dict[str | None, tuple[_core.Index | _core.BinaryIndex, float]] = {}
        self._only: str | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """The URL of the server, without ``/v1``."""
        return self._url

    @property
    def collection(self) -> str | None:
        """The collection that is searched where a call names none."""
        return self._collection

    @property
    def transport(self) -> Any:
        """The transport that sends: ``"httpx"``, ``"aiohttp"``, or the object that was given."""
        return self._connections.settings.chosen(trio=self._is_async and is_trio())

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedClientError("this client is closed")

    def __repr__(self) -> str:
        """Show the URL and the collection, not the key."""
        if not hasattr(self, "_closed"):
            return f"{type(self).__name__}()"  # in the traceback of a constructor that failed
        collection = "" if self._collection is None else f", collection={self._collection!r}"
        return f"{type(self).__name__}({self._url!r}{collection}{', closed' if self._closed else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: it holds connections, and perhaps a key")

    def _name(self, collection: str | None) -> str | None:
        """Return the name of the collection that a call is about."""
        self._check_open()
        if collection is not None and not isinstance(collection, str):
            raise TypeError(f"collection must be a str or None, got {collection!r:.100}")
        return self._collection if collection is None else collection

    # --- calls ---

    async def _search(
        self, call: Call[list[Hit]], query: Any, collection: str | None, dimensions: int | None
    ) -> list[Hit]:
        if not isinstance(query, str):
            await self._check_vector(query, collection, dimensions)
        return await self._about(collection, call)

    async def _search_batch(self, calls: list[Call[list[list[Hit]]]], collection: str | None) -> list[list[Hit]]:
        return [hits for call in calls for hits in await self._about(collection, call)]

    async def _document(self, id: str, collection: str | None) -> Document | None:  # noqa: A002
        name = await self._served_name() if collection is None else collection
        try:
            return await self._call(document_call(name, id))
        except NotFoundError as error:
            await self._check_served(name, error)
            return None

    async def _collections(self) -> list[dict[str, Any]]:
        try:
            return await self._call(collections_call())
        except NotFoundError as error:
            message = f"{self._url} has no search endpoints, which `ctxembed serve --collection FOLDER` has"
            raise NotFoundError(message, error.status_code, error.body, error.headers) from error

    async def _about(self, collection: str | None, call: Call[_T]) -> _T:
        try:
            return await self._call(call)
        except NotFoundError as error:
            await self._check_served(collection, error)
            raise

    async def _check_served(self, collection: str | None, error: NotFoundError) -> None:
        """Raise what says more than a 404: there is no such collection, or no endpoint at all."""
        names = [each["name"] for each in await self._collections()]
        if collection is not None and collection not in names:
            self._only = None
            raise CollectionError(
                f"there is no collection {collection!r} at {self._url}: it serves {', '.join(names) or 'none'}"
            ) from error

    async def _served_name(self) -> str:
        """Return the name of the only collection of the server."""
        if self._only is None:
            names = [each["name"] for each in await self._collections()]
            if len(names) != 1:
                raise ValueError(f"{self._url} serves {', '.join(names) or 'no collection'}: pass collection=")
            self._only = names[0]
        return self._only

    async def _check_vector(self, query: Any, collection: str | None, dimensions: int | None) -> None:
        """Refuse what the collection's index refuses: a request holds bytes, without their type and their space.

        What the server says of the collection is asked once a minute, and again before anything is refused.
        """
        now = self._clock.monotonic()
        index, asked_at = self._indexes.get(collection, (None, now))
        if index is not None and now - asked_at < _KNOWN_FOR:
            with contextlib.suppress(TypeError, ValueError):
                index.search(query, 1, dimensions=dimensions)
                return
        index = await self._empty_index(collection)
        self._indexes[collection] = (index, now)
        index.search(query, 1, dimensions=dimensions)

    async def _empty_index(self, collection: str | None) -> _core.Index | _core.BinaryIndex:
        name = await self._served_name() if collection is None else collection
        found = [each for each in await self._collections() if each["name"] == name]
        if not found:
            raise CollectionError(f"there is no collection {name!r} at {self._url}")
        kind = _core.BinaryIndex if found[0]["encoding_format"] == "base64_binary" else _core.Index
        return kind(found[0]["dimensions"], space=found[0]["space"])

    # --- attempts ---

    async def _call(self, call: Call[_T]) -> _T:
        """Send a request until an attempt succeeds or none is left."""
        clock, deadline, retries = self._clock, Deadline.after(self._seconds, self._clock), 0
        self._budget.request()
        while True:
            result = await self._attempt(call, deadline)
            if not isinstance(result, Exception):
                return result
            delay = self._retry_delay(result, retries)
            if delay is None:
                raise result
            if clock.monotonic() + delay > deadline.at:
                raise deadline.error(result)
            retries += 1
            _LOG.info("attempt %d of %s failed (%s): the next in %.2f s", retries, call.path, result, delay)
            await clock.sleep(delay)

    def _retry_delay(self, error: Exception, retries: int) -> float | None:
        """Return the seconds before the next attempt; None where there is none.

        A status other than 429 is retried where the server asks for it: most are the same each time.
        """
        asked = None
        if isinstance(error, APIStatusError):
            asked = retry_after(error.headers, self._clock.wall())
            if asked is None and error.status_code != 429:
                return None
        elif not isinstance(error, APIConnectionError):
            return None
        delay = self._retry.delay(error, retries, asked, self._clock)
        return delay if delay is not None and self._budget.spend() else None

    async def _attempt(self, call: Call[_T], deadline: Deadline) -> _T | Exception:
        """Send a request once and read its response. Errors are returned, without frames."""
        credentials = self._key.get()
        request = TransportRequest(
            self._url + call.path, self._headers, call.body, credentials, self._timeouts, call.method
        )
        sent = await self._connections.send(
            request, None, _MAX_BODY, keep_body=True, remaining=deadline.remaining(self._clock)
        )
        if isinstance(sent, Exception):
            timed_out = isinstance(sent, APITimeoutError) and self._clock.monotonic() >= deadline.at
            return deadline.error(sent) if timed_out else sent
        if sent.status != 200:
            return self._status_error(sent)
        if len(sent.body) > _PARSED_IN_LOOP:
            return await anyio.to_thread.run_sync(self._read, call, sent)
        return self._read(call, sent)

    def _read(self, call: Call[_T], response: Response) -> _T | BadResponseError:
        if response.fault is not None:
            return BadResponseError(f"the server's response cannot be read: {response.fault}", response.text[:500])
        try:
            return call.read(json.loads(response.body))
        except (ValueError, RecursionError) as error:
            return BadResponseError(f"the server's response is invalid: {error}", response.text[:500])

    def _status_error(self, response: Response) -> APIStatusError:
        body = error_body(response)
        reason = error_reason(body)
        if reason is not None and len(reason) > _MAX_REASON:
            reason = reason[:_MAX_REASON] + "..."
        if response.status == 401 and self._key.is_empty:
            reason = f"{reason or 'a key is needed'} (no key was sent: pass api_key, or set {SERVER_KEY_VARIABLE})"
        return status_error(response.status, body, response.headers, reason, "the server")
