"""The FastAPI application: the API's two endpoints, and the server's own for tests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import uuid
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

from ctxembed._results import InvalidDocumentsError
from ctxembed._server import contract
from ctxembed._server.access import AccessControl
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
from ctxembed._server.stats import RequestRecord, Stats
from ctxembed._server.tokens import load_token_counter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ctxembed._backends.embedder import Embedder
    from ctxembed._server.config import ServerConfig

__all__ = ["create_app"]

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

logger = logging.getLogger("ctxembed.server")

DOCUMENTS_PATH: Final = "/v1/contextualizedembeddings"
TEXTS_PATH: Final = "/v1/embeddings"
_PATHS: Final = frozenset({DOCUMENTS_PATH, TEXTS_PATH, "/healthz", "/stats", "/faults"})
_JSON: Final = "application/json"
_HTML: Final = "text/html"

_BODY_TIMEOUT: Final = 60.0  # seconds without a byte of a body
_DISCARD_TIMEOUT: Final = 30.0  # seconds for a body that is not used
_LOADING: Final = {"retry-after": "5"}  # how long a model takes to load is not known
_BYTES_PER_TOKEN: Final = 4  # of a body; only until its tokens are counted
_MAX_PLAN: Final = 1 << 20  # bytes of a fault plan
_SPACE: Final = "x-ctxembed-space"
_CLOSES: Final = "ctxembed.closes"  # in the scope of a request whose body was not read to its end

_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|^ +| +$")

_PAYLOADS: Final = {
    "html": (_HTML, b"<html><head><title>Welcome</title></head><body>Sign in to continue</body></html>\n"),
    "empty": (_JSON, b""),
    "garbage": (_JSON, b'{"object":"list","data":[{"object":"list","index":0,"data":[{"obj\x00\xff\xfe not json'),
}
"""Content type and body of each ``payload`` fault."""


class _ErrorResponse(Exception):  # noqa: N818  # a response, not an error
    """Ends the handling of a request with a status other than 200."""

    def __init__(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, media_type: str = _JSON
    ) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or {}
        self.media_type = media_type


class _Middleware:
    """Adds ``x-request-id`` to every response, counts API requests, and turns exceptions into a 500."""

    def __init__(self, app: ASGIApp, stats: Stats, clock: Clock) -> None:
        self._app = app
        self._stats = stats
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in _PATHS else "other"  # a client invents any number of them
        record = RequestRecord(uuid.uuid4().hex, path, at=self._clock.monotonic())
        scope[RECORD] = record
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                record.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = record.request_id
            await send(message)

        counted = scope["path"].startswith("/v1/")
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
            await Response(body, 500, media_type=_JSON)(scope, receive, send_with_id)
        finally:
            if counted:
                self._stats.end(record)


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
        self._cache: OrderedDict[bytes, tuple[bytes, dict[str, str], tuple[int, int, int]]] = OrderedDict()
        self._keys = tuple(key.encode() for key in config.keys)
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
    def is_ready(self) -> bool:
        """Whether there is an embedder."""
        return self._embedder is not None

    def use(self, embedder: Embedder) -> None:
        """Serve an embedder that was loaded meanwhile."""
        self._embedder = embedder

    def stop(self) -> None:
        """End all pauses, and the requests that have not started."""
        self.stopping.set()
        self.queue.close()

    def end(self) -> None:
        """End all requests in the queue with a 503. The process still waits for the pass that runs."""
        for result in self._results:
            result.cancel()

    def _contract(self, embedder: Embedder) -> Contract:
        count_tokens: CountTokens = self._counter or embedder.count_tokens
        if self.config.models is not None:
            return Contract(self.config.models, self._limits, count_tokens)
        return Contract((embedder.model,), self._limits, count_tokens, both_endpoints=True)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.stop()
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
            return Response(contract.error_body(422, problems=[problem]), 422, media_type=_JSON)
        record: RequestRecord = request.scope[RECORD]
        if fault != NO_FAULT:
            record.fault = fault_label(fault)
        status, headers, media_type = 200, dict[str, str](), _JSON
        try:
            body, headers = await self._embed(request, fault, nested=nested)
        except _ErrorResponse as error:
            status, body, headers, media_type = error.status, error.body, error.headers, error.media_type
        if status == 200 and fault.payload is not None:
            media_type, body = _PAYLOADS[fault.payload]
        seconds = self.config.latency + fault.delay - (self.clock.monotonic() - arrived)
        await self.clock.pause(seconds, self.stopping, request.receive)
        if status == 200 and not fault.hides_usage:
            record.reported = record.tokens
        headers = {**self._rate_limiter.headers(), **headers}
        if _CLOSES in request.scope:
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
        if status is None and not self._is_authorized(request):
            status = 401
        embedder = self._embedder
        if status is not None or embedder is None:
            await self._discard(request, aiter(request.stream()))
            raise self._error_response(status) if status is not None else _unavailable("The model is loading")
        body = await self.read(request, self.config.max_body_bytes)
        self._admit("requests", 1)
        if not _is_json(request):
            problem = {"loc": ["header", "content-type"], "msg": f"Input should be '{_JSON}'", "type": "literal_error"}
            raise _ErrorResponse(422, contract.error_body(422, problems=[problem]))

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

    async def read(self, request: Request, limit: int) -> bytes:
        """Return a body of at most ``limit`` bytes, or raise a 408 or a 413."""
        pieces: list[bytes] = []
        size = 0
        body = aiter(request.stream())
        while size <= limit:
            try:
                async with asyncio.timeout(_BODY_TIMEOUT):
                    piece = await anext(body, b"")
            except TimeoutError:
                raise _ErrorResponse(408, contract.error_body(408), {"connection": "close"}) from None
            if not piece:
                return b"".join(pieces)
            size += len(piece)
            pieces.append(piece)
        pieces.clear()
        await self._discard(request, body, size)
        raise _ErrorResponse(413, contract.error_body(413))

    async def _discard(self, request: Request, body: AsyncIterator[bytes], size: int = 0) -> None:
        """Read the rest of a body without keeping it: many clients read the response when they have sent all.

        What is left after a limit of bytes and time is not read, and the connection is closed.
        """
        try:
            async with asyncio.timeout(_DISCARD_TIMEOUT):
                async for piece in body:
                    size += len(piece)
                    if size > 2 * self.config.max_body_bytes:
                        break
                else:
                    return
        except TimeoutError:
            pass
        request.scope[_CLOSES] = True

    def _is_authorized(self, request: Request) -> bool:
        given = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token:
            return False
        # All are compared, so that the time does not tell which of them is near.
        accepted = [hmac.compare_digest(token, key) for key in self._keys]
        return not accepted or any(accepted)

    def _admit(self, kind: str, amount: float) -> None:
        headers = self._rate_limiter.admit(kind, amount)
        if headers is not None:
            raise _ErrorResponse(429, contract.error_body(429), headers)

    @staticmethod
    def _error_response(status: int) -> _ErrorResponse:
        if status == 401:
            return _ErrorResponse(401, contract.unauthorized_page(), media_type=_HTML)
        return _ErrorResponse(status, contract.error_body(status))

    def _enter(self, body: bytes) -> Entry:
        """Admit a request to the queue before its tokens are counted, which takes time."""
        try:
            return self.queue.enter(max(1, min(len(body) // _BYTES_PER_TOKEN, self._limits.tokens)))
        except QueueFullError as error:
            body = contract.error_body(429, "The queue of this server is full")
            raise _ErrorResponse(429, body, {"retry-after": retry_after_seconds(error.wait)}) from None

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
            raise _unavailable("The server is stopping") from None
        except InvalidDocumentsError as error:
            problems = contract.refused(error, nested=request.url.path == DOCUMENTS_PATH)
            raise _ErrorResponse(422, contract.error_body(422, problems=problems)) from None

    async def _parse(self, body: bytes, contract_: Contract, *, nested: bool) -> EmbeddingRequest:
        try:
            return await self._in_thread(contract.parse_request, body, contract_, nested=nested)
        except NotJsonError as error:
            raise _ErrorResponse(400, contract.error_body(400, str(error))) from None
        except InvalidRequestError as error:
            raise _ErrorResponse(422, contract.error_body(422, problems=error.problems)) from None

    async def _in_thread(
        self, function: Callable[_Params, _Result], *args: _Params.args, **options: _Params.kwargs
    ) -> _Result:
        call = partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _unavailable(message: str) -> _ErrorResponse:
    return _ErrorResponse(503, contract.error_body(503, message), _LOADING)


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == _JSON


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

    Returns
    -------
    FastAPI
        ``POST /v1/contextualizedembeddings`` and ``POST /v1/embeddings``, whose responses name the space of the
        vectors in ``x-ctxembed-space``. The server's own endpoints need no key:
        ``GET /healthz``; ``GET /stats``, ``DELETE /stats`` to reset; ``GET /faults``, ``POST /faults`` with a plan
        (:mod:`ctxembed._server.faults.plan`), ``DELETE /faults``, which only clients on this machine may change.
        Call ``app.state.stop()`` before the server shuts down: it ends all pauses, and requests that have not started;
        then ``app.state.end()`` when those that run should end, too.

    Notes
    -----
    Faults that break the connection need :func:`serve`; elsewhere the response is a 501.
    """
    clock = clock or Clock()
    service = _Service(config, embedder, clock)
    # No documentation pages and no redirects: the API returns 404 for these paths.
    app = FastAPI(lifespan=service.lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.stop = service.stop
    app.state.end = service.end
    app.state.use = service.use
    app.add_middleware(AccessControl, config=config)
    app.add_middleware(_Middleware, stats=service.stats, clock=clock)

    @app.post(DOCUMENTS_PATH)
    async def contextualized_embeddings(request: Request) -> Response:
        return await service.respond(request, nested=True)

    @app.post(TEXTS_PATH)
    async def embeddings(request: Request) -> Response:
        return await service.respond(request, nested=False)

    @app.get("/healthz")
    async def healthz() -> Response:
        if service.is_ready:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "loading"}, 503, _LOADING)

    @app.get("/stats")
    async def stats() -> Response:
        return JSONResponse({**service.stats.to_json(), "queue": service.queue.state()})

    @app.delete("/stats")
    async def clear_stats() -> Response:
        service.stats.clear()
        return Response(status_code=204)

    @app.get("/faults")
    async def faults() -> Response:
        return JSONResponse(service.faults.remaining_steps)

    @app.post("/faults")
    async def set_faults(request: Request) -> Response:
        if not _is_local(request):
            return Response(contract.error_body(403, "Faults can be set from this machine only"), 403, media_type=_JSON)
        if not _is_json(request):  # a page of another site can send any other without asking
            return Response(contract.error_body(415, f"The content type must be {_JSON}"), 415, media_type=_JSON)
        try:
            body = await service.read(request, _MAX_PLAN)
        except _ErrorResponse as error:
            return Response(error.body, error.status, {"connection": "close"}, error.media_type)
        try:
            plan = parse_plan(json.loads(body))
            service.set_plan(plan)
        except (ValueError, RecursionError) as error:
            return Response(contract.error_body(422, str(error)), 422, media_type=_JSON)
        return JSONResponse({"steps": len(plan.steps)})

    @app.delete("/faults")
    async def clear_faults(request: Request) -> Response:
        if not _is_local(request):
            return Response(contract.error_body(403, "Faults can be set from this machine only"), 403, media_type=_JSON)
        service.set_plan(FaultPlan())
        return Response(status_code=204)

    return app
