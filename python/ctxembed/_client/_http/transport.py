"""HTTP, with ``_lines`` alone in naming httpx. One POST in, a :class:`Reply` or a connection error out.

What goes wrong is returned, not raised: a traceback through here would hold frames that know the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import httpx

from ctxembed._client._http.lines import Line, Once, Streamed, as_httpx
from ctxembed._client._policy.concurrency import running
from ctxembed._errors import APIConnectionError, APITimeoutError, ClosedClientError, DecodeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from ctxembed._client._http.credentials import Secret
    from ctxembed._client._http.lines import Answer, Connecting
    from ctxembed._codec import ResponseDecoder
    from ctxembed._results import Embeddings

__all__ = ["Outgoing", "Pool", "Reply", "Timeouts", "check_http_client", "unreachable"]

_DEFAULT_TIMEOUT: Final = httpx.Timeout(120.0, connect=10.0)
_DEFAULT_TOTAL: Final = 600.0
_ERROR_BODY: Final = 64 * 1024  # bytes of an error's body that are read
_KEPT: Final = 16 * 1024  # bytes from the start and from the end of a 200's body that are kept
_WITHHELD: Final = frozenset({"set-cookie"})  # a session's secret is nothing for an exception's ``headers``

_INHERITED: Final[list[object]] = []
"""What a forked child has of its parent's connections: kept and never touched, for they are the parent's."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an attempt may take: httpx's four phases, and all of it together."""

    phases: httpx.Timeout
    total: float | None

    @classmethod
    def of(cls, value: object, total: float | None) -> Timeouts:
        """Read the ``timeout`` argument (None, seconds, or an ``httpx.Timeout``) and the ``total_timeout``."""
        if value is None:
            return cls(_DEFAULT_TIMEOUT, _DEFAULT_TOTAL if total is None else total)
        if isinstance(value, httpx.Timeout):
            return cls(value, total)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"timeout must be seconds, an httpx.Timeout or None, got {value!r}")
        if not 0 < value < float("inf"):
            raise ValueError(f"timeout must be a finite number of seconds above 0, got {value!r}")
        return cls(httpx.Timeout(value), float(value) if total is None else total)


@dataclass(slots=True)
class Reply:
    """What came back.

    Parameters
    ----------
    status : int
        HTTP status.
    headers : dict of str to str
        Names in lower case, cookies left out.
    kept : tuple of bytes
        What is kept of the body: see :attr:`body`.
    fault : str or None
        Why the body is not all there, where it is not.
    decoded : Embeddings, DecodeError or None
        What a 200 held. It was decoded while it arrived, so that the body is never held as a whole.
    """

    status: int
    headers: dict[str, str]
    kept: tuple[bytes | bytearray, ...]
    fault: str | None = None
    decoded: Embeddings | DecodeError | None = None

    @property
    def body(self) -> bytes:
        """Decompressed: of an error the start, of a 200 the start and the end, or all where it was to be kept."""
        return b"".join(self.kept)


@dataclass(slots=True)
class Outgoing:
    """One request.

    Parameters
    ----------
    url, headers, body
        Without the key.
    secret : Secret
        The key.
    timeouts : Timeouts
        How long it may take.
    limit : int
        Bytes that a good answer can have.
    decoder : ResponseDecoder
        Takes the body of a 200.
    keep : bool
        Whether the body of a 200 is kept as a whole.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    secret: Secret
    timeouts: Timeouts
    limit: int
    decoder: ResponseDecoder
    keep: bool = False


class _Bearer(httpx.Auth):
    """Sets the header when the request leaves; ``httpx.Headers`` masks it in its repr."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._secret.header()
        yield request


class _Body:
    """Takes a body up to a limit, whatever it was compressed with: decodes that of a 200, collects that of an error."""

    def __init__(self, status: int, coding: str, outgoing: Outgoing) -> None:
        self._decoder = outgoing.decoder if status == 200 else None
        self._limit = min(outgoing.limit, _ERROR_BODY) if self._decoder is None else outgoing.limit
        self._decoded: DecodeError | None = None
        self._start = self._end = b""  # of a 200
        self._whole = bytearray() if outgoing.keep or self._decoder is None else None
        self._size = 0
        self.fault: str | None = None
        coding = coding.strip().lower()
        self._inflate: Any = None
        if coding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib by its header
        elif coding not in ("", "identity"):
            self.fault = f"its content-encoding is {coding!r}, which was not asked for"

    def add(self, piece: bytes) -> bool:
        """Take a piece; False where no more is wanted."""
        if self.fault is not None or self._size > self._limit:
            return False
        if self._inflate is not None:
            try:
                # One byte beyond the limit is enough to know; a bomb is never unpacked further than that.
                piece = self._inflate.decompress(piece, self._limit - self._size + 1)
            except zlib.error as error:
                self.fault = f"it is labelled as compressed and is not ({error})"
                return False
        self._size += len(piece)
        if self._size > self._limit and self._decoder is not None:
            self.fault = f"it is larger than the {self._limit} bytes that the answer can need"
            return False
        self._keep(piece)
        return self._size <= self._limit

    def _keep(self, piece: bytes) -> None:
        if self._decoder is not None and self._decoded is None:
            try:
                self._decoder.feed(piece)
            except DecodeError as error:
                self._decoded = error.with_traceback(None)
        if self._whole is not None:
            self._whole += piece
            return
        # The start shows what came instead of vectors; ``usage``, which was paid all the same, stands there or last.
        room = _KEPT - len(self._start)
        if room > 0:
            self._start += piece[:room]
        if (rest := len(piece) - max(room, 0)) > 0:
            self._end = piece[-_KEPT:] if rest >= _KEPT else (self._end + piece[-rest:])[-_KEPT:]

    def add_plain(self, content: bytes) -> None:
        """Take the whole body, not compressed any more."""
        self._inflate = self.fault = None
        self.add(content)

    def end(self) -> tuple[tuple[bytes | bytearray, ...], Embeddings | DecodeError | None]:
        """Return what is kept of the body, in pieces, and what a 200 held."""
        if self.fault is None and self._inflate is not None and not self._inflate.eof and self._size <= self._limit:
            self.fault = "its compressed body ends early"
        decoded: Embeddings | DecodeError | None = self._decoded
        if self._decoder is not None and self.fault is None and decoded is None:
            try:
                decoded = self._decoder.finish()
            except DecodeError as error:
                decoded = error.with_traceback(None)
        if self._whole is None:
            return (self._start, self._end), decoded
        if self._decoder is None:
            del self._whole[self._limit :]
        return (self._whole,), decoded


def _plain_copy(error: BaseException) -> BaseException:
    """Copy an error's type and text only: the original holds the request, and its frames hold the header."""
    try:
        if isinstance(error, OSError):
            return type(error)(*(argument for argument in error.args if isinstance(argument, str | int)))
        return type(error)(str(error))
    except Exception:  # noqa: BLE001  # a type with a constructor of its own
        return Exception(f"{type(error).__name__}: {error}")


def _innermost(error: BaseException) -> BaseException | None:
    """Find the operating system's error at the bottom of a chain, if there is one."""
    seen: set[int] = set()
    found: BaseException | None = None
    queue: list[BaseException | None] = [error]
    while queue:
        at = queue.pop(0)
        if at is None or id(at) in seen:
            continue
        seen.add(id(at))
        if isinstance(at, OSError):
            found = at
        if isinstance(at, BaseExceptionGroup):
            queue.extend(at.exceptions)
        queue += [at.__cause__, at.__context__]
    return found


def _translate(error: Exception, secret: Secret) -> APIConnectionError:
    """Turn an error of httpx into ours, with a cause that leads to nothing but text."""
    below = _innermost(error)
    text = str(error) or (str(below) if below is not None else "")
    said = type(error).__name__ + (f": {text}" if text else "")
    if below is not None and str(below) not in said:
        said += f" ({below})"
    said = secret.redact_text(said)
    if isinstance(error, httpx.TimeoutException):
        ours: APIConnectionError = APITimeoutError(f"no answer in time: {said}")
    else:
        ours = APIConnectionError(f"no answer: {said}")
    cause = _plain_copy(error)
    if below is not None and below is not error:
        cause.__cause__ = _plain_copy(below)
    ours.__cause__ = cause
    return ours


def unreachable(error: BaseException) -> bool:
    """Say whether no connection came about at all, so that no other request will fare better."""
    return isinstance(error, APIConnectionError) and isinstance(
        error.__cause__, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.ProxyError
    )


def check_http_client(client: object, kind: str) -> None:
    """Refuse an injected client of the wrong kind (``"sync"`` or ``"async"``)."""
    wanted = httpx.Client if kind == "sync" else httpx.AsyncClient
    if client is not None and not isinstance(client, wanted):
        raise TypeError(f"http_client must be an httpx.{wanted.__name__} or None, got {type(client).__name__}")


class Pool:
    """The connections of a client and of its copies.

    Parameters
    ----------
    injected : httpx.AsyncClient, httpx.Client or None
        The caller's, which is never closed here; None makes one at the first request.
    connecting : Connecting
        How to make one.
    """

    def __init__(self, injected: Any, connecting: Connecting) -> None:
        self.injected = injected
        self.connecting = connecting
        self.closed = False
        self._client: Line | httpx.AsyncClient | None = None
        self._closer: AsyncGenerator[None] | None = None
        self._token: object = None
        self._pid = os.getpid()

    async def _own(self) -> Line | httpx.AsyncClient:
        if self.closed:
            raise ClosedClientError("the client was closed during the call")
        token = running()
        if self._client is None or token != self._token:
            # Connections belong to their event loop: those of another one cannot even be closed from here.
            before = self._client
            if os.getpid() != self._pid:
                _INHERITED.append((before, self._closer))
            self._token, self._pid = token, os.getpid()
            client = self._client = self.connecting.open()
            self._closer = _closer(client)
            if isinstance(before, Line):
                await before.abandon()
            return client
        return self._client

    async def release(self) -> None:
        """Close the connections, unless they are the caller's or another event loop's."""
        client, closer = self._client, self._closer
        self._client = self._closer = None
        if running() != self._token:
            if isinstance(client, Line):
                await client.abandon()
        elif client is not None:
            await client.aclose()
            if closer is not None:
                await closer.aclose()

    async def post(self, outgoing: Outgoing, left: float | None = None) -> Reply | APIConnectionError:
        """Send one request and read its answer, within ``left`` seconds where there is such an end."""
        outcome: Reply | APIConnectionError | None = None
        total = min((seconds for seconds in (outgoing.timeouts.total, left) if seconds is not None), default=None)
        with anyio.move_on_after(total):
            if isinstance(self.injected, httpx.Client):
                # A blocked read cannot be interrupted: a cancelled call leaves its thread to end by itself. The gate
                # has limited how many there are, so each brings a limiter of its own.
                outcome = await anyio.to_thread.run_sync(
                    _exchange, self.injected, outgoing, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                )
            else:
                outcome = await _aexchange(self.injected if self.injected is not None else await self._own(), outgoing)
        if outcome is None:
            return APITimeoutError(f"no whole answer within {total:g} seconds")
        return outcome


def _closer(client: Line | httpx.AsyncClient) -> AsyncGenerator[None] | None:
    """Let the event loop close the connections when it ends, for who forgets to.

    asyncio ends the asynchronous generators that it knows when it shuts down, as ``asyncio.run`` makes it do. trio
    does so too, and complains.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None

    async def closing() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await client.aclose()

    generator = closing()
    with contextlib.suppress(StopIteration):
        anext(generator).__await__().send(None)  # up to the yield, where nothing is waited for
    return generator


def _request(client: httpx.AsyncClient | httpx.Client, outgoing: Outgoing) -> httpx.Request:
    return client.build_request(
        "POST",
        outgoing.url,
        content=outgoing.body,
        headers=dict(outgoing.headers),
        timeout=outgoing.timeouts.phases,
    )


def _reply(status: int, headers: Mapping[str, str], collected: _Body, secret: Secret) -> Reply:
    shown = {name: secret.redact_text(value) for name, value in headers.items() if name not in _WITHHELD}
    kept, decoded = collected.end()
    return Reply(status, shown, kept, collected.fault, decoded)


async def _asend(client: Line | httpx.AsyncClient, outgoing: Outgoing) -> Answer:
    if isinstance(client, Line):
        phases = outgoing.timeouts.phases
        return await client.post(outgoing.url, outgoing.headers, outgoing.body, outgoing.secret, phases)
    request, auth = _request(client, outgoing), _Bearer(outgoing.secret)
    request.stream = Once(outgoing.body)
    response = await client.send(request, auth=auth, stream=True, follow_redirects=False)
    headers = dict(response.headers.items())
    if not response.is_stream_consumed:
        return Streamed(response.status_code, headers, response.aiter_raw(), response.aclose)
    # A transport or hook of the caller's has read and unpacked it.
    headers.pop("content-encoding", None)
    return Streamed(response.status_code, headers, Once(await response.aread()), response.aclose)


async def _aexchange(client: Line | httpx.AsyncClient, outgoing: Outgoing) -> Reply | APIConnectionError:
    try:
        answer = await _asend(client, outgoing)
        try:
            collected = _Body(answer.status, answer.headers.get("content-encoding", ""), outgoing)
            await answer.read(collected.add)
        finally:
            await answer.aclose()
        return _reply(answer.status, answer.headers, collected, outgoing.secret)
    except Exception as error:
        known = as_httpx(error)
        if known is None:
            raise
        return _translate(known, outgoing.secret)


def _exchange(client: httpx.Client, outgoing: Outgoing) -> Reply | APIConnectionError:
    try:
        request, auth = _request(client, outgoing), _Bearer(outgoing.secret)
        response = client.send(request, auth=auth, stream=True, follow_redirects=False)
        try:
            collected = _Body(response.status_code, response.headers.get("content-encoding", ""), outgoing)
            if response.is_stream_consumed:  # a transport or hook of the caller's has read and unpacked it
                collected.add_plain(response.read())
            else:
                for piece in response.iter_raw():
                    if not collected.add(piece):
                        break
        finally:
            response.close()
        return _reply(response.status_code, response.headers, collected, outgoing.secret)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        return _translate(error, outgoing.secret)
