"""The endpoints of a server that searches."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from ctxembed._server.access import SEARCH_PATH
from ctxembed._server.clock import DisconnectedError
from ctxembed._server.metrics import MEDIA_TYPE
from ctxembed._server.protocols import CONNECTION
from ctxembed._server.requests import (
    CLOSES,
    JSON,
    ErrorResponse,
    discard_body,
    has_key,
    is_json,
    read_body,
)
from ctxembed._server.search.errors import response_to
from ctxembed._server.search.openapi import described
from ctxembed._server.search.search_request import parse_search
from ctxembed._server.search.service import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from typing import TypeVar

    from starlette.types import Receive, Scope, Send

    from ctxembed._server.search.served_collection import ServedCollection
    from ctxembed._server.search.service import SearchService

    _Result = TypeVar("_Result")

__all__ = ["SearchEndpoints", "search_router"]

_MAX_BODY: Final = 4 << 20  # bytes
_INLINE: Final = 1 << 16  # bytes of a body that is parsed in the event loop
_MAX_QUERY: Final = 16_384  # characters in a URL
_KEEP_ALIVE: Final = 15.0  # seconds after which an event stream says that it is still there
_MAX_FAILURES: Final = 1_000


class SearchEndpoints:
    """How requests about collections get their responses.

    Parameters
    ----------
    service : SearchService
        The collections.
    keys : sequence of bytes
        Bearer tokens of which requests need one; empty where they need none.
    """

    def __init__(self, service: SearchService, keys: Sequence[bytes]) -> None:
        self.service = service
        self._keys = keys

    async def respond(self, request: Request, work: Callable[[bytes], Coroutine[Any, Any, Response]]) -> Response:
        """Do the work of a request, which gets the body, while its client waits."""
        try:
            if not has_key(request, self._keys, required=False):
                await discard_body(request, 0, _MAX_BODY)
                raise ErrorResponse.of(
                    401, "This server wants a key: Authorization: Bearer KEY", {"www-authenticate": "Bearer"}
                )
            body = b"" if request.method == "GET" else await read_body(request, _MAX_BODY)
            return await _while_connected(request, work(body))
        except (ClientDisconnect, DisconnectedError):
            raise
        except Exception as error:  # noqa: BLE001  # what is not known is raised again
            found = response_to(error, self.service.collections.values())
            headers = {**found.headers, "connection": "close"} if CLOSES in request.scope else found.headers
            return Response(found.body, found.status, headers, found.media_type)

    async def search(self, request: Request) -> Response:
        """Find the chunks nearest to a text or a vector."""
        service = self.service

        async def work(body: bytes) -> Response:
            if not is_json(request):
                raise ErrorResponse.of(415, f"The content type must be {JSON}")
            given = parse_search(body) if len(body) <= _INLINE else await service.in_thread(parse_search, body)
            return Response(await service.search(given), media_type=JSON)

        return await self.respond(request, work)

    async def search_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the same as an ASGI application."""
        response = await self.search(Request(scope, receive))
        await response(scope, receive, send)


def search_router(endpoints: SearchEndpoints, stopping: asyncio.Event) -> APIRouter:
    """Create the routes.

    Parameters
    ----------
    endpoints : SearchEndpoints
        The endpoints.
    stopping : asyncio.Event
        Ends the event streams.
    """
    router = APIRouter()
    service, respond = endpoints.service, endpoints.respond
    errors = (400, 401, 404, 413, 415, 422, 500, 501, 502, 503)
    router.post(SEARCH_PATH, **described("search", *errors))(endpoints.search)

    @router.get("/v1/documents/{collection}", include_in_schema=False)
    @router.get("/v1/documents/{collection}/{id:path}", **described("document", 401, 404, 422, 500, 502, 503))
    async def document(
        request: Request,
        collection: str,
        id: str,  # noqa: A002
        *,
        first: int = Query(0, ge=0, description="The first chunk."),
        limit: int | None = Query(None, ge=0, description="Most chunks. Default: all."),
        query: str | None = Query(
            None, min_length=1, max_length=_MAX_QUERY, description="Adds the score of each chunk for this text."
        ),
    ) -> Response:
        """Return a document, or a part of its chunks. Its id may be a parameter, too: no path can end in ``..``."""

        async def work(_: bytes) -> Response:
            served = service.collection(collection)
            found = await service.document(served, id, Window(first, limit), query)
            if found is None:
                raise ErrorResponse.of(404, f"There is no document {id!r:.200} in {served.name}")
            return Response(found, media_type=JSON)

        return await respond(request, work)

    @router.get("/v1/collections", **described("collections", 401))
    async def collections(request: Request) -> Response:
        """List the collections."""

        async def work(_: bytes) -> Response:
            data = [await service.describe(served) for served in service.collections.values()]
            return JSONResponse({"object": "list", "data": data})

        return await respond(request, work)

    @router.get("/v1/collections/{name}", **described("collection", 401, 404))
    async def collection(request: Request, name: str) -> Response:
        """Return a collection, with its metadata fields and their values."""

        async def work(_: bytes) -> Response:
            return JSONResponse(await service.describe(service.collection(name), with_fields=True))

        return await respond(request, work)

    @router.get("/v1/collections/{name}/failures", **described("failures", 401, 404, 422))
    async def failures(
        request: Request, name: str, limit: int = Query(100, ge=0, le=_MAX_FAILURES, description="Most of them.")
    ) -> Response:
        """Return the documents that could not be embedded, by id."""

        async def work(_: bytes) -> Response:
            found = await service.in_thread(service.collection(name).failures, slow=True)
            data = [
                {"id": one.id, "error": one.error, "attempts": one.attempts, "when": one.when.isoformat()}
                for one in found[:limit]
            ]
            return JSONResponse({"object": "list", "data": data, "total": len(found)})

        return await respond(request, work)

    @router.get("/v1/collections/{name}/events", **described("events", 401, 404))
    async def events(request: Request, name: str) -> Response:
        """Stream the state of a collection whenever it changes (server-sent events)."""

        async def work(_: bytes) -> Response:
            stream = _events(service, service.collection(name), stopping)
            return StreamingResponse(stream, headers={"cache-control": "no-store"}, media_type="text/event-stream")

        return await respond(request, work)

    @router.get("/metrics", **described("metrics"))
    async def metrics() -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(service.metrics.to_text(), media_type=MEDIA_TYPE)

    return router


async def _while_connected(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Do work, and cancel it if the client disconnects.

    Raises
    ------
    DisconnectedError
        It did.
    """
    connection = request.scope.get("extensions", {}).get(CONNECTION)
    task, lost = asyncio.current_task(), False
    if connection is None or task is None:  # of another server
        return await work

    # No task of its own waits for it: that would take a tenth of the time of a search.
    def cancel() -> None:
        nonlocal lost
        lost = True
        task.cancel()

    connection.on_lost = cancel
    try:
        return await work
    except asyncio.CancelledError:
        if lost and task.uncancel() == 0:
            raise DisconnectedError from None
        raise
    finally:
        connection.on_lost = None


async def _events(service: SearchService, served: ServedCollection, stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield the state of a collection, at once and whenever it has changed."""
    last: dict[str, Any] | None = None
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        while not stopping.is_set():
            changed = asyncio.ensure_future(served.changed.wait())
            state = await service.in_thread(served.progress, slow=True)
            if state != last:
                last = state
                yield b"event: state\ndata: " + json.dumps(state, separators=(",", ":")).encode() + b"\n\n"
            done, _ = await asyncio.wait((changed, stopped), timeout=_KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if not done:
                yield b":\n\n"
    finally:
        stopped.cancel()
