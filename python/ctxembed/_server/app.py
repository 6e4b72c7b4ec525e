"""The FastAPI application: two endpoints of the API, and a few of its own for tests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

from ctxembed._server import contract
from ctxembed._server.config import is_loopback
from ctxembed._server.contract import EmbeddingRequest, NotJsonError, RefusedError
from ctxembed._server.faults import NO_FAULT, Fault, label_of, parse_fault
from ctxembed._server.limiter import Limiter
from ctxembed._server.plan import FaultPlan, FaultSource, PlanLimits, load_plan, parse_plan
from ctxembed._server.rows import respond
from ctxembed._server.stats import Exchange, Stats
from ctxembed._server.tokens import load_counter
from ctxembed._server.wire import EXCHANGE, FaultyResponse, GoneError, pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ctxembed._server.config import ServerConfig

__all__ = ["create_app"]

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

logger = logging.getLogger("ctxembed.server")

DOCUMENTS_PATH: Final = "/v1/contextualizedembeddings"
TEXTS_PATH: Final = "/v1/embeddings"
_JSON: Final = "application/json"
_HTML: Final = "text/html"

_GARBAGE: Final = b'{"object":"list","data":[{"object":"list","index":0,"data":[{"obj\x00\xff\xfe not json'


class _TooLargeError(Exception):
    """The request's body is larger than the server takes: 413."""


class _Refusal(Exception):  # noqa: N818  # an early answer, not an error
    """An answer other than 200."""

    def __init__(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, media_type: str = _JSON
    ) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or {}
        self.media_type = media_type


class _Middleware:
    """Gives every response its ``x-request-id``, counts the API's requests, and turns a bug into a 500."""

    def __init__(self, app: ASGIApp, stats: Stats) -> None:
        self._app = app
        self._stats = stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(request_id=uuid.uuid4().hex, path=scope["path"])
        scope[EXCHANGE] = exchange
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                exchange.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = exchange.request_id
            await send(message)

        counted = exchange.path.startswith("/v1/")
        if counted:
            self._stats.begin()
        try:
            await self._app(scope, receive, send_with_id)
        except (ClientDisconnect, GoneError):
            exchange.status = "disconnected"
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            if started:
                raise
            body = contract.error_body(500)
            await Response(body, 500, media_type=_JSON)(scope, receive, send_with_id)
        finally:
            if counted:
                self._stats.end(exchange)


class _Service:
    """What the endpoints share: config, faults, limits, worker threads, answers kept."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.stats = Stats()
        self.faults = FaultSource(config.fail_rate, config.fail_seed, config.fail_kinds)
        self.stopping = asyncio.Event()
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="embed")
        self._kept: OrderedDict[bytes, tuple[bytes, tuple[int, int, int]]] = OrderedDict()
        self._key = None if config.key is None else config.key.encode()
        self.set_plan(FaultPlan() if config.faults is None else load_plan(config.faults))

    def set_plan(self, plan: FaultPlan) -> None:
        """Start a plan.

        Raises
        ------
        ValueError
            Its tokenizer cannot be used.
        """
        config, limits = self.config, plan.limits or PlanLimits()
        counter = config.token_counter
        if limits.tokenizer is not None:
            counter = load_counter(limits.tokenizer)
        self._contract = replace(config, limits=replace(config.limits, **limits.sizes), token_counter=counter)
        self._limiter = Limiter(
            limits.requests_per_minute or config.requests_per_minute,
            limits.tokens_per_minute or config.tokens_per_minute,
            burst=limits.burst or config.burst,
            style=limits.retry_after or "seconds",
            headers=bool(limits.ratelimit_headers),
        )
        self.faults.set_plan(plan)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.stopping.set()
            self._threads.shutdown()

    async def answer(self, request: Request, *, nested: bool) -> Response:
        """Answer one request to the API, with all that may go wrong."""
        arrived = time.monotonic()
        try:
            header = request.headers.get("x-fault") if _is_local(request) else None
            fault = self.faults.deal(request.url.path) if header is None else parse_fault(json.loads(header))
        except ValueError as error:
            problem = {"loc": ["header", "x-fault"], "msg": str(error), "type": "value_error"}
            return Response(contract.error_body(422, problems=[problem]), 422, media_type=_JSON)
        exchange: Exchange = request.scope[EXCHANGE]
        if fault != NO_FAULT:
            exchange.fault = label_of(fault)
        status, headers, media_type = 200, dict[str, str](), _JSON
        try:
            body = await self._embed(request, fault, nested=nested)
        except _Refusal as refusal:
            status, body, headers, media_type = refusal.status, refusal.body, refusal.headers, refusal.media_type
        if status == 200 and fault.payload is not None:
            html = b"<html><head><title>Welcome</title></head><body>Sign in to continue</body></html>\n"
            body = {"html": html, "empty": b"", "garbage": _GARBAGE}[fault.payload]
            media_type = _HTML if fault.payload == "html" else _JSON
        wait = self.config.latency + fault.delay - (time.monotonic() - arrived)
        await pause(wait, self.stopping, request.receive)
        if status == 200 and not fault.hides_usage:
            exchange.reported = exchange.tokens
        headers = {**self._limiter.headers(), **headers}
        return FaultyResponse(
            body, status_code=status, headers=headers, media_type=media_type, fault=fault, stopping=self.stopping
        )

    async def _embed(self, request: Request, fault: Fault, *, nested: bool) -> bytes:
        """Return the body of a 200, or raise another answer."""
        try:
            body = await self._read(request)
        except _TooLargeError:
            raise _Refusal(413, contract.error_body(413), {"connection": "close"}) from None
        if fault.status is not None:
            raise self._refusal(fault.status)
        self._authorize(request)
        self._admit("requests", 1)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            problem = {"loc": ["header", "content-type"], "msg": f"Input should be '{_JSON}'", "type": "literal_error"}
            raise _Refusal(422, contract.error_body(422, problems=[problem]))

        exchange: Exchange = request.scope[EXCHANGE]
        identity = b""
        if self.config.cache and fault == NO_FAULT and not self._limiter.limits("tokens"):
            identity = hashlib.blake2b(body, person=b"nested" if nested else b"flat").digest()
            if identity in self._kept:
                self._kept.move_to_end(identity)
                kept, (exchange.documents, exchange.chunks, exchange.tokens) = self._kept[identity]
                return kept
        parsed = await self._parse(body, nested=nested)
        self._admit("tokens", parsed.tokens)
        exchange.documents, exchange.chunks, exchange.tokens = len(parsed.documents), parsed.chunks, parsed.tokens
        answer = await self._in_thread(respond, parsed, fault)
        if identity:
            self._kept[identity] = answer, (exchange.documents, exchange.chunks, exchange.tokens)
            while len(self._kept) > self.config.cache:
                self._kept.popitem(last=False)
        return answer

    async def _read(self, request: Request) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > self.config.max_body_bytes:
                raise _TooLargeError
            pieces.append(piece)
        return b"".join(pieces)

    def _authorize(self, request: Request) -> None:
        given = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        token = token.strip()
        accepted = scheme.lower() == b"bearer" and bool(token)
        if accepted and self._key is not None:
            accepted = hmac.compare_digest(token, self._key)
        if not accepted:
            raise self._refusal(401)

    def _admit(self, kind: str, amount: float) -> None:
        refusal = self._limiter.admit(kind, amount, time.monotonic(), time.time())
        if refusal is not None:
            raise _Refusal(429, contract.error_body(429), refusal)

    @staticmethod
    def _refusal(status: int) -> _Refusal:
        if status == 401:
            return _Refusal(401, contract.unauthorized_page(), media_type=_HTML)
        return _Refusal(status, contract.error_body(status))

    async def _parse(self, body: bytes, *, nested: bool) -> EmbeddingRequest:
        try:
            return await self._in_thread(contract.parse_request, body, self._contract, nested=nested)
        except NotJsonError as error:
            raise _Refusal(400, contract.error_body(400, str(error))) from None
        except RefusedError as error:
            raise _Refusal(422, contract.error_body(422, problems=error.problems)) from None

    async def _in_thread(
        self, function: Callable[_Given, _Result], *args: _Given.args, **options: _Given.kwargs
    ) -> _Result:
        call = partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _is_local(request: Request) -> bool:
    """Whether the client is on this machine: others set no faults."""
    return request.client is not None and is_loopback(request.client.host)


def create_app(config: ServerConfig) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    config : ServerConfig
        How it behaves. ``host``, ``port`` and ``access_log`` are :func:`serve`'s matter.

    Returns
    -------
    FastAPI
        ``POST /v1/contextualizedembeddings`` and ``POST /v1/embeddings``; and of the server's own, without a key:
        ``GET /healthz``; ``GET /stats``, ``DELETE /stats`` to count anew; ``GET /faults``, ``POST /faults`` with a
        plan (:mod:`ctxembed._server.plan`), ``DELETE /faults``, for clients on this machine only.
        ``app.state.stopping`` is an event to set when the server is about to end, so that answers do not wait any
        longer.

    Notes
    -----
    Faults that break the connection need :func:`serve`; elsewhere they are answered with 501.
    """
    service = _Service(config)
    # No pages about itself: the API has none at these paths, and 404 is 404.
    app = FastAPI(lifespan=service.lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.stopping = service.stopping
    app.add_middleware(_Middleware, stats=service.stats)

    @app.post(DOCUMENTS_PATH)
    async def contextualized_embeddings(request: Request) -> Response:
        return await service.answer(request, nested=True)

    @app.post(TEXTS_PATH)
    async def embeddings(request: Request) -> Response:
        return await service.answer(request, nested=False)

    @app.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/stats")
    async def stats() -> Response:
        return JSONResponse(service.stats.to_json())

    @app.delete("/stats")
    async def clear_stats() -> Response:
        service.stats.clear()
        return Response(status_code=204)

    @app.get("/faults")
    async def faults() -> Response:
        return JSONResponse(service.faults.left)

    @app.post("/faults")
    async def set_faults(request: Request) -> Response:
        if not _is_local(request):
            return Response(contract.error_body(403, "Faults are set from this machine only"), 403, media_type=_JSON)
        try:
            plan = parse_plan(json.loads(await request.body()))
            service.set_plan(plan)
        except ValueError as error:
            return Response(contract.error_body(422, str(error)), 422, media_type=_JSON)
        return JSONResponse({"steps": len(plan.steps)})

    @app.delete("/faults")
    async def clear_faults(request: Request) -> Response:
        if not _is_local(request):
            return Response(contract.error_body(403, "Faults are set from this machine only"), 403, media_type=_JSON)
        service.set_plan(FaultPlan())
        return Response(status_code=204)

    return app
