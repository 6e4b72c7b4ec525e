"""The FastAPI application: the API's two endpoints, and the server's own for tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from ctxembed._core import __version__
from ctxembed._results import InvalidDocumentsError
from ctxembed._server import contract
from ctxembed._server.access import SEARCH_PATH, SEARCHING, AccessControl
from ctxembed._server.clock import Clock, DisconnectedError, wait_for_disconnect
from ctxembed._server.config import is_loopback
from ctxembed._server.contract import (
    Contract,
    CountTokens,
    EmbeddingRequest,
    InvalidRequestError,
    NotJsonError,
)
from ctxembed._server.embedding import response_body
from ctxembed._server.faults.fault import NO_FAULT, Fault, fault_label, parse_fault
from ctxembed._server.faults.plan import FaultPlan, FaultSchedule, PlanLimits, load_plan, parse_plan
from ctxembed._server.faults.response import RECORD, FaultyResponse
from ctxembed._server.pass_queue import Entry, PassQueue, QueueClosedError, QueueFullError
from ctxembed._server.rate_limiter import RateLimiter, retry_after_seconds
from ctxembed._server.requests import (
    CLOSES,
    JSON,
    LOADING,
    ErrorResponse,
    discard_body,
    has_key,
    is_json,
    read_body,
    unavailable,
)
from ctxembed._server.stats import RequestRecord, Stats
from ctxembed._server.tokens import load_token_counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ctxembed._backends.embedder import Embedder
    from ctxembed._server.config import ServerConfig
    from ctxembed._server.metrics import Metrics
    from ctxembed._server.search.service import SearchService

__all__ = ["create_app"]

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

logger = logging.getLogger("ctxembed.server")

DOCUMENTS_PATH: Final = "/v1/contextualizedembeddings"
TEXTS_PATH: Final = "/v1/embeddings"
_PATHS: Final = frozenset({DOCUMENTS_PATH, TEXTS_PATH, SEARCH_PATH, "/healthz", "/stats", "/faults"})
_HTML: Final = "text/html"

_BYTES_PER_TOKEN: Final = 4  # of a body; only until its tokens are counted
_MAX_PLAN: Final = 1 << 20  # bytes of a fault plan
_SPACE: Final = "x-ctxembed-space"

_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|^ +| +$")

_PAYLOADS: Final = {
    "html": (_HTML, b"<html><head><title>Welcome</title></head><body>Sign in to continue</body></html>\n"),
    "empty": (JSON, b""),
    "garbage": (JSON, b'{"object":"list","data":[{"object":"list","index":0,"data":[{"obj\x00\xff\xfe not json'),
}
"""Content type and body of each ``payload`` fault."""


class _Middleware:
    """Adds ``x-request-id`` to every response, counts requests, and turns exceptions into a 500."""

    def __init__(self, app: ASGIApp, stats: Stats, clock: Clock, metrics: Metrics | None) -> None:
        self._app = app
        self._stats = stats
        self._clock = clock
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in _PATHS else "other"  # a client invents any number of them
        record = RequestRecord(f"{random.getrandbits(128):032x}", path, at=self._clock.monotonic())
        scope[RECORD] = record
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.request_id.encode())]
            await send(message)

        counted = scope["path"].startswith("/v1/") and not scope["path"].startswith(SEARCHING)
        if counted:
            self._stats.begin()
        try:
            await self._app(scope, receive, send_with_id)
        except (ClientDisconnect, DisconnectedError):
            record.status = "disconnected"
        except Exception:
            logger.exception("request %s failed", record.request_id)
            if started:
                raise
            body = contract.error_body(500)
            await Response(body, 500, media_type=JSON)(scope, receive, send_with_id)
        finally:
            if counted:
                self._stats.end(record)
            if self._metrics is not None:
                route = getattr(scope.get("route"), "path", record.path)
                self._metrics.request(route, record.status, self._clock.monotonic() - record.at)


class _App(FastAPI):
    """An application whose searches go past its routing, which took longer than to search for many callers at once."""

    shortcut: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_search = scope["type"] == "http" and scope["path"] == SEARCH_PATH and scope["method"] == "POST"
        app = self.shortcut if is_search and self.shortcut is not None else super().__call__
        await app(scope, receive, send)


class _Service:
    """State of the endpoints: configuration, faults, limits, queue, worker threads, cached responses."""

    def __init__(self, config: ServerConfig, embedder: Embedder | None, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.stats = Stats(clock)
        at_once = 1 if config.models is None else config.threads
        self.queue = PassQueue(at_once, config.max_queued_tokens)
        self.faults = FaultSchedule(config.fail_rate, config.fail_seed, config.fail_kinds)
        self.stopping = asyncio.Event()
        self._results: set[asyncio.Future[Any]] = set()
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="parse")
        self._embedder = embedder
        self.search: SearchService | None = None
        self._cache: OrderedDict[bytes, tuple[bytes, dict[str, str], tuple[int, int, int]]] = OrderedDict()
        self.keys = tuple(key.encode() for key in config.keys)
        self.set_plan(FaultPlan() if config.faults is None else load_plan(config.faults))

    def set_plan(self, plan: FaultPlan) -> None:
        """Replace the fault plan.

        Raises
        ------
        ValueError
            The plan's tokenizer cannot be used.
        """
        config, limits = self.config, plan.limits or PlanLimits()
        self._counter = None if limits.tokenizer is None else load_token_counter(limits.tokenizer)
        self._limits = replace(config.limits, **limits.sizes)
        self._rate_limiter = RateLimiter(
            limits.requests_per_minute or config.requests_per_minute,
            limits.tokens_per_minute or config.tokens_per_minute,
            burst=limits.burst or config.burst,
            style=limits.retry_after or "seconds",
            headers=bool(limits.ratelimit_headers),
            clock=self.clock,
        )
        self.faults.set_plan(plan)

    @property
    def embedder(self) -> Embedder | None:
        """The embedder; None while it loads."""
        return self._embedder

    def open_collections(self, metrics: Metrics) -> SearchService:
        """Open the collections of the configuration. They are closed when the application ends."""
        from ctxembed._server.search.served_collection import open_collections
        from ctxembed._server.search.service import SearchService

        collections = open_collections(self.config.collections)
        self.search = SearchService(self.config, collections, lambda: self._embedder, self.queue, metrics)
        return self.search

    def use(self, embedder: Embedder) -> None:
        """Serve an embedder that was loaded meanwhile."""
        self._embedder = embedder

    def stop(self) -> None:
        """End all pauses, and the requests that have not started; of a server that searches only the pauses."""
        self.stopping.set()
        if self.search is None:
            self.queue.close()

    def end(self) -> None:
        """End all requests in the queue with a 503. The process still waits for the pass that runs."""
        self.queue.close()
        for result in self._results:
            result.cancel()

    def _contract(self, embedder: Embedder) -> Contract:
        count_tokens: CountTokens = self._counter or embedder.count_tokens
        if self.config.models is not None:
            return Contract(self.config.models, self._limits, count_tokens)
        return Contract((embedder.model,), self._limits, count_tokens, both_endpoints=True)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        if self.search is not None:
            self.search.start()
        try:
            yield
        finally:
            self.stop()
            self.queue.close()
            if self.search is not None:
                await self.search.close()
            self._threads.shutdown()
            self.queue.join()

    async def respond(self, request: Request, *, nested: bool) -> Response:
        """Return the response to an API request, with its fault if it meets one."""
        arrived = self.clock.monotonic()
        try:
            header = request.headers.get("x-fault") if _is_local(request) else None
            fault = self.faults.next_fault(request.url.path) if header is None else parse_fault(json.loads(header))
        except ValueError as error:
            problem = {"loc": ["header", "x-fault"], "msg": str(error), "type": "value_error"}
            return Response(contract.error_body(422, problems=[problem]), 422, media_type=JSON)
        record: RequestRecord = request.scope[RECORD]
        if fault != NO_FAULT:
            record.fault = fault_label(fault)
        status, headers, media_type = 200, dict[str, str](), JSON
        try:
            body, headers = await self._embed(request, fault, nested=nested)
        except ErrorResponse as error:
            status, body, headers, media_type = error.status, error.body, error.headers, error.media_type
        if status == 200 and fault.payload is not None:
            media_type, body = _PAYLOADS[fault.payload]
        seconds = self.config.latency + fault.delay - (self.clock.monotonic() - arrived)
        await self.clock.pause(seconds, self.stopping, request.receive)
        if status == 200 and not fault.hides_usage:
            record.reported = record.tokens
        headers = {**self._rate_limiter.headers(), **headers}
        if CLOSES in request.scope:
            headers["connection"] = "close"
        return FaultyResponse(
            body,
            status_code=status,
            headers=headers,
            media_type=media_type,
            fault=fault,
            stopping=self.stopping,
            clock=self.clock,
        )

    async def _embed(self, request: Request, fault: Fault, *, nested: bool) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of a 200, or raise another response."""
        status = fault.status
        if status is None and not has_key(request, self.keys, required=True):
            status = 401
        embedder = self._embedder
        if status is not None or embedder is None:
            await discard_body(request, 0, self.config.max_body_bytes)
            raise self._error_response(status) if status is not None else unavailable("The model is loading")
        body = await read_body(request, self.config.max_body_bytes)
        self._admit("requests", 1)
        if not is_json(request):
            problem = {"loc": ["header", "content-type"], "msg": f"Input should be '{JSON}'", "type": "literal_error"}
            raise ErrorResponse(422, contract.error_body(422, problems=[problem]))

        record: RequestRecord = request.scope[RECORD]
        cache_key = b""
        if self.config.cache and fault == NO_FAULT and not self._rate_limiter.limits("tokens"):
            cache_key = hashlib.blake2b(body, person=b"nested" if nested else b"flat").digest()
            if cache_key in self._cache:
                self._cache.move_to_end(cache_key)
                content, headers, (record.documents, record.chunks, record.tokens) = self._cache[cache_key]
                return content, headers
        entry = self._enter(body)
        try:
            parsed = await self._parse(body, self._contract(embedder), nested=nested)
            self._admit("tokens", parsed.tokens)
            self.queue.resize(entry, parsed.tokens)
            record.documents, record.chunks, record.tokens = len(parsed.documents), parsed.chunks, parsed.tokens
            content = await self._run(request, entry, partial(response_body, parsed, embedder, fault))
        finally:
            self.queue.leave(entry)
        headers = {_SPACE: _header_value(embedder.space(parsed.model.name, parsed.dimensions))}
        if cache_key:
            self._cache[cache_key] = content, headers, (record.documents, record.chunks, record.tokens)
            while len(self._cache) > self.config.cache:
                self._cache.popitem(last=False)
        return content, headers

    def _admit(self, kind: str, amount: float) -> None:
        headers = self._rate_limiter.admit(kind, amount)
        if headers is not None:
            raise ErrorResponse(429, contract.error_body(429), headers)

    @staticmethod
    def _error_response(status: int) -> ErrorResponse:
        if status == 401:
            return ErrorResponse(401, contract.unauthorized_page(), media_type=_HTML)
        return ErrorResponse(status, contract.error_body(status))

    def _enter(self, body: bytes) -> Entry:
        """Admit a request to the queue before its tokens are counted, which takes time."""
        try:
            return self.queue.enter(max(1, min(len(body) // _BYTES_PER_TOKEN, self._limits.tokens)))
        except QueueFullError as error:
            body = contract.error_body(429, "The queue of this server is full")
            raise ErrorResponse(429, body, {"retry-after": retry_after_seconds(error.wait)}) from None

    async def _run(self, request: Request, entry: Entry, work: Callable[[Callable[[], None]], _Result]) -> _Result:
        """Run a request in the queue while its client waits.

        Raises
        ------
        DisconnectedError
            The client disconnected.
        """
        try:
            result = asyncio.wrap_future(self.queue.run(entry, work))
            self._results.add(result)
            gone = asyncio.ensure_future(wait_for_disconnect(request.receive))
            try:
                await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
                if not result.done():
                    raise DisconnectedError
                if result.cancelled():
                    raise QueueClosedError
                return result.result()
            finally:
                self._results.discard(result)
                result.cancel()  # nobody retrieves what it raises at its next check
                gone.cancel()
                await asyncio.wait((gone,))
        except QueueClosedError:
            raise unavailable("The server is stopping") from None
        except InvalidDocumentsError as error:
            problems = contract.refused(error, nested=request.url.path == DOCUMENTS_PATH)
            raise ErrorResponse(422, contract.error_body(422, problems=problems)) from None

    async def _parse(self, body: bytes, contract_: Contract, *, nested: bool) -> EmbeddingRequest:
        try:
            return await self._in_thread(contract.parse_request, body, contract_, nested=nested)
        except NotJsonError as error:
            raise ErrorResponse(400, contract.error_body(400, str(error))) from None
        except InvalidRequestError as error:
            raise ErrorResponse(422, contract.error_body(422, problems=error.problems)) from None

    async def _in_thread(
        self, function: Callable[_Params, _Result], *args: _Params.args, **options: _Params.kwargs
    ) -> _Result:
        call = partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _header_value(text: str) -> str:
    """Return a text as the Latin-1 form of its UTF-8 bytes. What no header can hold is percent-encoded."""
    fitting = _UNFIT.sub(lambda match: quote(match[0], safe="", errors="surrogatepass"), text)
    return fitting.encode().decode("latin-1")


def _is_local(request: Request) -> bool:
    """Whether the client is on this machine. Other clients may not set faults."""
    return request.client is not None and is_loopback(request.client.host)


def create_app(config: ServerConfig, embedder: Embedder | None, *, clock: Clock | None = None) -> FastAPI:
    """Create the application.

    Parameters
    ----------
    config : ServerConfig
        Configuration. ``host``, ``port`` and ``access_log`` are used by :func:`serve` only.
    embedder : Embedder or None
        Computes the vectors and counts the tokens of ``config.models``. None: requests get a 503 until
        ``app.state.use(embedder)`` is called.
    clock : Clock or None
        Replaces the system's clock in tests.

    Raises
    ------
    FileNotFoundError, CollectionError, OSError, ValueError
        A collection of ``config`` cannot be opened, or two have one name.

    Returns
    -------
    FastAPI
        ``POST /v1/contextualizedembeddings`` and ``POST /v1/embeddings``, whose responses name the space of the
        vectors in ``x-ctxembed-space``. The server's own endpoints need no key:
        ``GET /healthz``; ``GET /stats``, ``DELETE /stats`` to reset; ``GET /faults``, ``POST /faults`` with a plan
        (:mod:`ctxembed._server.faults.plan`), ``DELETE /faults``, which only clients on this machine may change.
        With ``config.collections`` those of :mod:`ctxembed._server.search`, ``GET /metrics``, and the page at ``/``.
        Call ``app.state.stop()`` before the server shuts down: it ends all pauses, and requests that have not started;
        then ``app.state.end()`` when those that run should end, too.

    Notes
    -----
    Faults that break the connection need :func:`serve`; elsewhere the response is a 501. So does the end of a search
    whose client disconnects; elsewhere it goes on.
    """
    clock = clock or Clock()
    service = _Service(config, embedder, clock)
    metrics = None
    if config.collections:
        from ctxembed._server.metrics import Metrics

        metrics = Metrics()
        service.open_collections(metrics)
    # No documentation pages and no redirects: the API returns 404 for these paths.
    app = _App(
        lifespan=service.lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if config.collections else None,
        redirect_slashes=False,
        title="ctxembed",
        summary="Search in collections of contextualized embeddings.",
        version=__version__,
    )
    app.state.stop = service.stop
    app.state.end = service.end
    app.state.use = service.use
    layers: list[tuple[Callable[..., ASGIApp], dict[str, Any]]] = [
        (_Middleware, {"stats": service.stats, "clock": clock, "metrics": metrics}),
        (AccessControl, {"config": config}),
    ]
    if config.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        allowed = {"allow_methods": ("GET", "POST"), "allow_headers": ("authorization", "content-type")}
        layers.append((CORSMiddleware, {"allow_origins": config.cors_origins, **allowed}))
    for layer, options in reversed(layers):
        app.add_middleware(layer, **options)
    if service.search is not None:
        from ctxembed._server.page import page_routes
        from ctxembed._server.search.routes import SearchEndpoints, search_router

        endpoints = SearchEndpoints(service.search, service.keys)
        app.include_router(search_router(endpoints, service.stopping))
        app.router.routes += page_routes()
        shortcut: ASGIApp = endpoints.search_app
        for layer, options in reversed(layers):
            shortcut = layer(shortcut, **options)
        app.shortcut = shortcut

    @app.post(DOCUMENTS_PATH, include_in_schema=False)
    async def contextualized_embeddings(request: Request) -> Response:
        return await service.respond(request, nested=True)

    @app.post(TEXTS_PATH, include_in_schema=False)
    async def embeddings(request: Request) -> Response:
        return await service.respond(request, nested=False)

    @app.get("/healthz")
    async def healthz() -> Response:
        named = {} if service.search is None else {"collections": list(service.search.collections)}
        if service.embedder is not None:
            return JSONResponse({"status": "ok", **named})
        return JSONResponse({"status": "loading", **named}, 503, LOADING)

    @app.get("/stats", include_in_schema=False)
    async def stats() -> Response:
        return JSONResponse({**service.stats.to_json(), "queue": service.queue.state()})

    @app.delete("/stats", include_in_schema=False)
    async def clear_stats() -> Response:
        service.stats.clear()
        return Response(status_code=204)

    @app.get("/faults", include_in_schema=False)
    async def faults() -> Response:
        return JSONResponse(service.faults.remaining_steps)

    @app.post("/faults", include_in_schema=False)
    async def set_faults(request: Request) -> Response:
        if not _is_local(request):
            return Response(contract.error_body(403, "Faults can be set from this machine only"), 403, media_type=JSON)
        if not is_json(request):  # a page of another site can send any other without asking
            return Response(contract.error_body(415, f"The content type must be {JSON}"), 415, media_type=JSON)
        try:
            body = await read_body(request, _MAX_PLAN)
        except ErrorResponse as error:
            return Response(error.body, error.status, {"connection": "close"}, error.media_type)
        try:
            plan = parse_plan(json.loads(body))
            service.set_plan(plan)
        except (ValueError, RecursionError) as error:
            return Response(contract.error_body(422, str(error)), 422, media_type=JSON)
        return JSONResponse({"steps": len(plan.steps)})

    @app.delete("/faults", include_in_schema=False)
    async def clear_faults(request: Request) -> Response:
        if not _is_local(request):
            return Response(contract.error_body(403, "Faults can be set from this machine only"), 403, media_type=JSON)
        service.set_plan(FaultPlan())
        return Response(status_code=204)

    return app
