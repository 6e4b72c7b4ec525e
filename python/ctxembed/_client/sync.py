"""The client for ordinary code: the same engine, in an event loop of its own in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from ctxembed._client._http.credentials import key_source
from ctxembed._client._policy.retry import DEFAULT_MAX_WAIT
from ctxembed._client.background import End, LoopThread, Task, serve
from ctxembed._client.base import BaseClient
from ctxembed._client.dispatch import Job
from ctxembed._client.options import DEFAULT_MAX_CONCURRENCY, DEFAULT_MAX_RETRIES, DEFAULT_RETRY_BUDGET, OPTIONS
from ctxembed._client.planned import finish, keeping, one
from ctxembed._client.progress import Meter, watcher
from ctxembed._client.raw import RawCalls
from ctxembed._errors import ClosedClientError
from ctxembed._models import DEFAULT_MODEL, DEFAULT_TEXT_MODEL, Limits
from ctxembed._planning.prepare import documents_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
    from os import PathLike
    from types import TracebackType

    import httpx
    from numpy.typing import ArrayLike

    from ctxembed._client._policy.retry import Deadline
    from ctxembed._client.batches import Batch, EmbeddingsPart, Outcome, Progress
    from ctxembed._client.dispatch import Engine
    from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent
    from ctxembed._client.planned import Plan
    from ctxembed._client.stream import StreamState
    from ctxembed._models import EncodingFormat
    from ctxembed._planning.prepare import CountsTokens
    from ctxembed._results import Embeddings

__all__ = ["Client", "Stream"]


class Client(BaseClient):
    """Embeds documents, and loses nothing that was paid for.

    Parameters
    ----------
    api_key : str or callable, optional
        The key, or a callable without arguments that returns it: it is asked before each attempt, and once more
        after a 401. Else the environment's ``PERPLEXITY_API_KEY``, else its ``PPLX_API_KEY``.
    base_url : str, optional
        Else the environment's ``PERPLEXITY_BASE_URL``, else ``https://api.perplexity.ai``. A trailing slash or
        ``/v1`` makes no difference.
    timeout : float or httpx.Timeout, optional
        Seconds that an attempt may take, all of it; or httpx's phases. Default: 10 to connect, 120 without a byte,
        600 in all.
    total_timeout : float, optional
        Seconds that an attempt may take in all, whatever ``timeout`` says.
    deadline : float, optional
        Seconds that a call may take with all its requests, retries and waits; each call can say otherwise. What has
        not landed by then fails with an :class:`APITimeoutError`.
    max_retries : int
        Attempts of a request after its first. Connection errors, timeouts, 408, 409, 429, 5xx and a 200 that does not
        prove itself are retried, after ``Retry-After`` where the API sends one, else with exponential backoff and
        full jitter.
    max_wait : float or None
        Seconds: a ``Retry-After`` beyond this is not waited for, and nothing more is sent. None waits any time.
    retry_budget : float or None
        Retries that each request adds to those that all requests of the client may take together, which are 20 at
        first (or twice ``max_concurrency``). When they are spent a failure is final, and a job against an API that is
        down ends. None lifts it.
    hedge : float or bool, optional
        Share of the requests that may be sent twice because they are slow: the first good answer counts, both may
        have to be paid for. True is 0.05. Default: none.
    max_concurrency : int
        Requests in flight at most, over all calls of the client. Fewer at first, and while the API answers 429 or
        503.
    requests_per_minute, tokens_per_minute : float, optional
        Caps that the caller knows of. A second's worth may start at once; beyond that requests are spaced. Clients of
        one key and host that name the same cap share it.
    limits : Limits
        What a request may hold.
    token_counter : TokenCounter or callable, optional
        Counts tokens: a :class:`TokenCounter`, or a callable from a list of str to counts. Default: an estimate with
        a margin, which narrows with what the responses say they counted.
    default_headers : mapping of str to str, optional
        Sent with every request.
    http_client : httpx.Client, optional
        Sends the requests, in threads, in place of a client of our own. It is never closed here.
    http2 : bool
        Offer HTTP/2 (extra ``http2``). One HTTP/1.1 connection a request in flight takes less time.
    proxy : str, optional
        A proxy's URL. Else the environment's ``HTTPS_PROXY`` and its like.
    verify : ssl.SSLContext or path, optional
        What to trust in place of the public authorities: a context, or a file or folder of certificates.
    on_request, on_response, on_retry : callable, optional
        Told about each attempt with a :class:`RequestEvent`, :class:`ResponseEvent` or :class:`RetryEvent`, in the
        thread that sends. What one raises is logged and changes nothing.
    allow_insecure : bool
        Permit plain http to a host that is not this machine. The key is readable to everyone in between.

    Raises
    ------
    MissingKeyError
        No key was given, and none is in the environment. It is a ``ValueError``.
    TypeError, ValueError
        An argument is not what it should be. The message never shows the key.

    Notes
    -----
    Any number of threads may call one client. Requests run in an event loop in a daemon thread that starts with the
    first call and ends with :meth:`close`, with the client's garbage collection, or with the interpreter; so calls
    work inside a running event loop (a notebook) too. Ctrl-C cancels the requests of the call, and what had landed
    is the ``KeyboardInterrupt``'s ``.partial``. After ``fork()`` the
    child makes a thread and connections of its own. A client cannot be pickled.

    Retries and failures are logged to ``logging.getLogger("ctxembed")``, with their facts in ``record.ctxembed``,
    without key and texts. Where aiohttp is installed (extra ``aiohttp``) it sends, since it takes less time; not so
    with ``http2`` or a proxy. ``docs/failures.md`` says what becomes of each failure.

    Examples
    --------
    >>> with Client() as client:
    ...     emb = client.embed([["First chunk.", "Second chunk."], ["Another document."]])
    >>> emb[0].shape
    (2, 1024)
    """

    _kind = "sync"

    def __init__(
        self,
        api_key: str | Callable[[], str] | None = None,
        *,
        base_url: str | None = None,
        timeout: float | httpx.Timeout | None = None,
        total_timeout: float | None = None,
        deadline: float | None = None,
        max_retries: int = DEFAULT_MAX_RETRIES,
        max_wait: float | None = DEFAULT_MAX_WAIT,
        retry_budget: float | None = DEFAULT_RETRY_BUDGET,
        hedge: float | bool | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: httpx.Client | None = None,
        http2: bool = False,
        proxy: str | None = None,
        verify: ssl.SSLContext | str | PathLike[str] | None = None,
        on_request: Callable[[RequestEvent], Any] | None = None,
        on_response: Callable[[ResponseEvent], Any] | None = None,
        on_retry: Callable[[RetryEvent], Any] | None = None,
        allow_insecure: bool = False,
    ) -> None:
        key = key_source(api_key)
        del api_key  # from here on no frame of a traceback holds it
        if isinstance(key, Exception):
            raise key
        # Every argument by its name; the key is none of them any more.
        options = {name: value for name, value in locals().items() if name in OPTIONS}
        super().__init__(options, key, None)
        self._thread = LoopThread(self._engine.pool)

    def _share(self, origin: Self) -> None:
        shared = self._engine.pool is origin._engine.pool
        self._thread = origin._thread if shared else LoopThread(self._engine.pool)

    def embed(
        self,
        documents: Iterable[Iterable[str]],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        on_error: str = "raise",
        progress: bool | Callable[[Progress], object] | None = None,
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed documents of chunks, in as few requests as the limits allow.

        Parameters
        ----------
        documents : iterable of iterables of str
            Chunks of each document in source order, of any number and length.
        model : str
            A contextualized model.
        dimensions : int, optional
            From 128 to the model's; default the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 vectors, or one bit a dimension.
        on_error : {"raise", "return"}
            Raise :class:`EmbedError` when a document has no vectors, or return what there is.
        progress : callable or True, optional
            Called in this thread with a :class:`Progress` after each request; True draws a bar on stderr where that
            is a terminal. What it raises cancels the call and is raised here.
        deadline : float, optional
            Seconds that this call may take; else the client's.

        Returns
        -------
        Embeddings
            One matrix in input order, whatever order responses land in. With ``on_error="return"`` its ``failures``
            tell which documents own no row, and why.

        Raises
        ------
        InvalidDocumentsError
            ``on_error="raise"`` and there are documents that the API would refuse: nothing was sent.
        EmbedError
            ``on_error="raise"`` and documents failed. Its ``partial`` holds all the others, its ``__cause__`` is the
            first failure's error.
        TypeError, ValueError
            An argument is not what it should be.

        Notes
        -----
        Documents are checked, counted and packed before anything is sent. A refused request (400, 413, 422) is split
        by documents until what is refused stands alone, so that a document never fails its neighbours. An error that
        every request would meet (401, 403, 404, no connection) keeps the rest from being sent.
        """
        until = self._until(deadline)
        plan = self._plan_embed(documents, model, dimensions, encoding_format, on_error)
        return self._embed(plan, on_error, progress, until)

    def embed_queries(
        self,
        queries: Iterable[str],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed queries for a search among documents that the same model embedded.

        Parameters
        ----------
        queries : list of str
            Each travels as a document of one chunk.
        model, dimensions, encoding_format, deadline
            As for :meth:`embed`, and the same as the documents'.

        Returns
        -------
        Embeddings
            ``vectors`` has one row a query, in order.

        Raises
        ------
        TypeError
            ``queries`` is a single string, or holds what is none.
        EmbedError, ValueError
            As for :meth:`embed` with ``on_error="raise"``.
        """
        until = self._until(deadline)
        return self._embed(self._plan_queries(queries, model, dimensions, encoding_format), "raise", None, until)

    def embed_texts(
        self,
        texts: Iterable[str],
        *,
        model: str = DEFAULT_TEXT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed independent texts with a model that knows no context (``POST /v1/embeddings``).

        Parameters
        ----------
        texts : list of str
            In as few requests as the limits allow.
        model : str
            A model that is not contextualized. Its vectors must not be mixed with a contextualized model's.
        dimensions, encoding_format, deadline
            As for :meth:`embed`.

        Returns
        -------
        Embeddings
            ``vectors`` has one row a text, in order.

        Raises
        ------
        TypeError
            ``texts`` is a single string, or holds what is none.
        EmbedError, ValueError
            As for :meth:`embed` with ``on_error="raise"``.
        """
        until = self._until(deadline)
        return self._embed(self._plan_texts(texts, model, dimensions, encoding_format), "raise", None, until)

    def create(
        self,
        input: Iterable[Iterable[str]],  # noqa: A002  # the API's word
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Send exactly one request, as the API has it.

        Parameters
        ----------
        input : iterable of iterables of str
            Chunks of each document.
        model, dimensions, encoding_format, deadline
            As for :meth:`embed`.

        Returns
        -------
        Embeddings
            Proven, as everything here.

        Raises
        ------
        APIError
            What the last attempt ended with, as it is.
        ValueError
            ``input`` is more than one request may hold, or the API would refuse it.
        """
        return one(self._create(input, model, dimensions, encoding_format, deadline))

    @property
    def with_raw_response(self) -> RawCalls:
        """``client.with_raw_response.create(...)`` returns a :class:`RawResponse`: headers, body and vectors."""
        return RawCalls(self)

    def stream(
        self,
        documents: Iterable[Iterable[str]],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        on_error: str = "raise",
        ordered: bool = False,
        progress: bool | Callable[[Progress], object] | None = None,
        deadline: float | None = None,
        flush_after: float | None = None,
    ) -> Stream:
        """Embed documents as they come, in bounded memory.

        Parameters
        ----------
        documents : iterable of iterables of str
            Of any length, also endless. It is read in this thread, while the next part is waited for, and never
            further ahead than ``max_concurrency + 4`` requests' worth.
        model, dimensions, encoding_format
            As for :meth:`embed`.
        on_error : {"raise", "return"}
            With ``"return"`` failures come inside the parts, by position in the input, and the stream goes on. With
            ``"raise"`` the first failure lets nothing more be sent; what is under way is still handed out, and then
            :class:`EmbedError` is raised.
        ordered : bool
            Whether parts come in input order, each a run of the input. Else as requests land.
        progress : callable or True, optional
            As for :meth:`embed`, called before a part is handed out.
        deadline : float, optional
            Seconds from now to the end. When they are over nothing more is read, what is under way is handed out or
            fails, and :class:`APITimeoutError` is raised.
        flush_after : float, optional
            Seconds after which documents are sent that a slow source has left waiting for a full request, at the
            latest when it gives its next document (an :class:`AsyncClient` need not wait for that). Default: they
            wait.

        Returns
        -------
        Stream
            An iterator of :class:`EmbeddingsPart`. Leaving the loop, ``close()``, or leaving its ``with`` block
            cancels what is in flight.

        Raises
        ------
        TypeError, ValueError
            An argument is not what it should be.

        Notes
        -----
        What ``documents`` itself raises is raised when what it had given before was embedded and handed out.
        """
        state, closing = self._stream_state(
            model,
            dimensions,
            encoding_format,
            on_error=on_error,
            ordered=ordered,
            progress=progress,
            flush_after=flush_after,
        )
        try:
            source = documents_of("documents", documents)
            return Stream(self._thread, self._engine, state, source, closing=closing, deadline=self._until(deadline))
        except BaseException:
            closing()
            raise

    def close(self) -> None:
        """Cancel what is in flight and close the connections.

        Calls after it, and calls that it cancelled, raise :class:`ClosedClientError`. Closing twice is no error.
        """
        if self._closed:
            return
        self._closed = True
        if self._owns_pool:
            self._engine.pool.closed = True
            self._thread.stop()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _create(
        self,
        documents: Any,
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        deadline: float | None,
        *,
        keep: bool = False,
    ) -> Outcome:
        until = self._until(deadline)
        call, batch = self._plan_one(documents, model, dimensions, encoding_format)
        landed: list[Outcome] = []

        async def send(_: object) -> None:
            landed.append(await self._engine.one(call, batch, until, keep=keep))

        self._call(send, None)
        return landed[0]

    def _embed(
        self, plan: Plan, on_error: str, progress: bool | Callable[[Progress], object] | None, until: Deadline
    ) -> Embeddings:
        assembly = plan.assembly()
        with watcher(progress) as watch:

            def work(tell: Callable[[Progress], object]) -> Coroutine[Any, Any, None]:
                meter = Meter(plan, assembly, tell if watch is not None else None, self._engine.clock)
                return self._engine.run(Job(plan.call, meter.take, until), plan.batches)

            with keeping(assembly):
                self._call(work, watch)
        return finish(assembly, on_error)

    def _call(
        self,
        work: Callable[[Callable[[Progress], object]], Coroutine[Any, Any, None]],
        watch: Callable[[Progress], object] | None,
    ) -> None:
        """Run ``work`` in the loop and wait here, where Ctrl-C arrives and where progress is told."""
        events: SimpleQueue[Progress | End] = SimpleQueue()
        task = self._thread.spawn(lambda: work(events.put), events)
        try:
            while not isinstance(event := events.get(), End):
                if watch is not None:
                    watch(event)
        except BaseException:
            task.cancel()
            raise
        event.check()


class Stream:
    """The parts of :meth:`Client.stream`: an iterator, and a context manager that closes it."""

    def __init__(
        self,
        thread: LoopThread,
        engine: Engine,
        state: StreamState,
        source: Iterator[Iterable[str]],
        *,
        closing: Callable[[], object],
        deadline: Deadline,
    ) -> None:
        self._thread = thread
        self._engine = engine
        self._state = state
        self._source = source
        self._closing = closing
        self._events: SimpleQueue[Outcome | End] = SimpleQueue()
        self._job = Job(state.call, self._events.put, deadline)
        self._inbox: asyncio.Queue[Batch] = asyncio.Queue()
        self._task: Task | None = None
        self._closed = False

    def __iter__(self) -> Iterator[EmbeddingsPart]:
        return self

    def __next__(self) -> EmbeddingsPart:
        """Return the next part as it lands."""
        try:
            part = self._advance()
        except BaseException:
            self.close()
            raise
        if part is None:
            failure = None if self._closed else self._state.error()
            self.close()
            raise StopIteration if failure is None else failure
        return part

    def _advance(self) -> EmbeddingsPart | None:
        state = self._state
        if self._task is not None and self._task.is_lost():
            raise RuntimeError("a stream does not survive fork(): its requests are the parent's")
        while not self._closed:
            self._take_landed(wait=False)
            part = state.next_part()
            if part is not None:
                return part
            if state.wants and self._job.deadline.left(self._engine.clock) == 0:
                state.stop(self._job.deadline.missed(None))
            if state.wants:
                try:
                    state.feed(next(self._source))
                except StopIteration:
                    state.exhaust()
                except Exception as error:  # noqa: BLE001  # the source's: raised when what is under way landed
                    state.exhaust(error)
                self._send(state.launch())
                continue
            self._send(state.launch())
            if state.over:
                break
            if state.waits:
                self._take_landed(wait=True)
        return None

    def _send(self, batches: list[Batch]) -> None:
        if not batches:
            return
        if self._task is None:
            # Nothing here names self: the task must not keep a stream alive that nobody reads.
            engine, job, inbox = self._engine, self._job, self._inbox
            self._task = self._thread.spawn(lambda: serve(engine, job, inbox), self._events)
        if not self._state.raises:
            self._job.fatal = None  # an outage may have ended: each new request finds out
        for batch in batches:
            self._thread.soon(self._inbox.put_nowait, batch)

    def _take_landed(self, *, wait: bool) -> None:
        """Take everything that has landed, and wait for something first if asked to."""
        with contextlib.suppress(Empty):
            while True:
                event = self._events.get(block=wait)
                wait = False
                if isinstance(event, End):
                    event.check()
                    raise ClosedClientError("the client was closed")
                self._state.land(event)

    def close(self) -> None:
        """Cancel what is in flight and wait until it is gone."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._task is not None:
                self._task.cancel()
        finally:
            self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()
