"""The synchronous client: its requests are sent by an event loop in a background thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack

from ctxembed._client._http.credentials import key_source
from ctxembed._client.background import BackgroundLoop, TaskEnd, TaskEvents
from ctxembed._client.base import BaseClient
from ctxembed._client.batches import attach_partial, result_or_error, single_result
from ctxembed._client.dispatch import Job
from ctxembed._client.options import ClientOptions, hide_secrets, show_options
from ctxembed._client.progress import ProgressMeter, progress_callback
from ctxembed._client.raw import RawCalls
from ctxembed._client.sync_stream import Stream
from ctxembed._models import DEFAULT_MODEL, DEFAULT_TEXT_MODEL
from ctxembed._planning.prepare import documents_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from types import EllipsisType, TracebackType

    from ctxembed._client._policy.clock import Deadline
    from ctxembed._client.batches import Batch, Outcome, PlannedCall
    from ctxembed._client.progress import Progress
    from ctxembed._models import EncodingFormat, InputType
    from ctxembed._results import Embeddings

__all__ = ["Client"]


class Client(BaseClient):
    """Embed documents, and lose nothing that was paid for.

    Parameters
    ----------
    api_key : str or callable, optional
        The key, or a callable that returns it: called before each attempt, and once more after a 401. Default: the
        environment variable ``PERPLEXITY_API_KEY``, else ``PPLX_API_KEY``.
    base_url : str, optional
        Default: the environment variable ``PERPLEXITY_BASE_URL``, else ``https://api.perplexity.ai``. A trailing slash
        or ``/v1`` makes no difference.
    timeout : float or httpx.Timeout, optional
        Seconds for one attempt as a whole, or httpx's timeouts by phase. Default: 10 to connect, 120 without a byte,
        600 in total.
    total_timeout : float, optional
        Seconds for one attempt as a whole, whatever ``timeout`` says.
    deadline : float, optional
        Seconds for a call with all its requests, retries and waits; each call can override it. Documents without
        vectors by then fail with :class:`APITimeoutError`.
    max_retries : int
        Attempts of a request after its first. Connection errors, timeouts, 408, 409, 429, 5xx and an invalid 200
        are retried: after the response's ``Retry-After``, else with exponential backoff and full jitter.
    max_wait : float or None
        Seconds. A longer ``Retry-After`` is not waited for, and nothing more is sent. None waits any time.
    retry_budget : float or None
        Retries that each request adds to a budget which all requests of the client share. It starts with 20, or twice
        ``max_concurrency``. Once it is spent a failure is final, so that a job ends when the API is down. None: no
        budget.
    hedge : float or bool, optional
        Share of the requests that may be sent a second time because they are slow. The first success counts; both may
        be charged. True means 0.05. Default: none.
    max_concurrency : int
        Requests in flight at most, over all calls of the client. Fewer at first, and while the API is overloaded.
    requests_per_minute, tokens_per_minute : float, optional
        Rate limits that you know of. One second's worth may start at once; beyond it requests are spaced. Clients of
        one key and host that give the same limit share it.
    coalesce : float, optional
        Seconds for which :meth:`embed`, :meth:`embed_queries` and :meth:`embed_texts` wait for other such calls, to
        share requests with them. See the notes. Default: each call sends its own.
    limiter : Limiter, optional
        Decides when requests start, in place of a rate that this process learns: :func:`limiter` connects to one that
        processes share. Default: clients of one key and host in this process share what they learn.
    limits : Limits
        The limits of a request.
    token_counter : TokenCounter or callable, optional
        Counts tokens: a :class:`TokenCounter`, or a callable from a list of str to counts. Default: an estimate with a
        margin, which shrinks as responses report their counts.
    default_headers : mapping of str to str, optional
        Headers of every request.
    transport : {"auto", "httpx", "aiohttp"} or object
        The library that sends requests, or a :class:`Transport`, or a transport of httpx such as
        ``httpx.MockTransport``. ``"auto"`` is aiohttp (extra ``aiohttp``) where it is installed and can be used, which
        takes less CPU time a request: always with this client, but without ``http2`` and proxies. The attribute
        ``transport`` names the one in use.
    http_client : httpx.Client, optional
        Your client of httpx, which sends the requests in worker threads. It is never closed here.
    http2 : bool
        Offer HTTP/2 (extra ``http2``). One HTTP/1.1 connection for each request in flight takes less CPU time.
    proxy : str, optional
        URL of a proxy. Default: the environment variable ``HTTPS_PROXY`` and its like.
    verify : ssl.SSLContext or path, optional
        Trusted in place of the public authorities: a context, or a file or folder of certificates.
    on_request, on_response, on_retry : callable, optional
        Called for each attempt with a :class:`RequestEvent`, :class:`ResponseEvent` or :class:`RetryEvent`, in the
        background thread. Exceptions of a hook are logged and change nothing.
    journal : Journal, optional
        Keeps the rows of documents, so that none is paid for twice: ``get(keys)`` returns a mapping of those that it
        knows, ``put(rows, usage)`` stores those of a response before they are returned. Used by :meth:`embed` and
        :meth:`stream`, not by :meth:`embed_queries`, :meth:`embed_texts` and :meth:`create`.
    clock : Clock, optional
        Time, sleep and randomness. Tests pass one that does not wait.
    allow_insecure : bool
        Allow plain http to another machine. Anyone on the way can read the key.

    Raises
    ------
    MissingKeyError
        No key was given, and none is in the environment. It is a ``ValueError``.
    TypeError, ValueError
        An argument is not what it should be. The message never shows the key.

    Notes
    -----
    Thread-safe: any number of threads may share a client. Requests run in an event loop in a daemon thread, which
    starts with the first call and ends with :meth:`close`, when the client is garbage collected, or with the
    interpreter. Calls therefore work inside a running event loop too, for example in a notebook. Ctrl-C cancels the
    requests of the call; the ``KeyboardInterrupt`` of :meth:`embed` carries the vectors so far as ``.partial``. Calls
    work while the interpreter shuts down too, in other threads and ``atexit`` functions: where no thread can be
    started, the caller's own sends the requests. After
    ``fork()`` the child creates a thread and connections of its own. A client cannot be pickled.

    With ``coalesce``, calls of several threads that are under way at once share requests if each fits one request and
    they agree in model, dimensions, format, role and method. A shared request keeps the limits of a request, and takes
    calls in until it starts: ``coalesce`` seconds after the first call, or later where the rate or the concurrency lets
    it start later. Each call has its own rows, failures and deadline, and can be interrupted alone. Tokens and cost are
    divided by estimated tokens, and the shares add up to what was reported; the request is counted for its first call.
    A copy of :meth:`with_options` shares requests with its original if it changes ``deadline`` alone.

    Retries and failures are logged to ``logging.getLogger("ctxembed")`` with details in ``record.ctxembed``, without
    the key and texts. ``docs/failures.md`` describes what happens at each failure.

    Examples
    --------
    >>> with Client() as client:
    ...     emb = client.embed([["First chunk.", "Second chunk."], ["Another document."]])
    >>> emb[0].shape
    (2, 1024)
    """

    _is_async = False

    @show_options(ClientOptions)
    def __init__(self, api_key: str | Callable[[], str] | None = None, **options: Unpack[ClientOptions]) -> None:
        hide_secrets(options)
        key = key_source(api_key)
        del api_key  # no frame of a traceback holds it from here on
        if isinstance(key, Exception):
            raise key
        super().__init__(options, key, None)
        self._loop = BackgroundLoop(self._state.connections)

    @show_options(ClientOptions)
    def with_options(
        self, *, api_key: str | Callable[[], str] | EllipsisType | None = ..., **changed: Unpack[ClientOptions]
    ) -> Self:
        """Return a client with other options that shares this one's connections.

        Parameters
        ----------
        api_key, **changed
            The constructor's arguments. Options that are not given stay as they are.

        Returns
        -------
        Client
            It shares the connections, the concurrency limit, the retry budget and the learned rate, each unless an
            option that it depends on changes. Closing it leaves shared connections open; closing this one closes them.

        Raises
        ------
        TypeError, ValueError
            An option is unknown, or not what it should be.
        """
        copy = self._copy(api_key, changed)
        copy._loop = BackgroundLoop(copy._state.connections) if copy._owns_connections else self._loop  # noqa: SLF001
        return copy

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
            The chunks of each document in their order; any number, of any length.
        model : str
            A contextualized model.
        dimensions : int, optional
            From 128 to the model's. Default: the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 vectors, or one bit a dimension.
        on_error : {"raise", "return"}
            Raise :class:`EmbedError` when a document fails, or return the others.
        progress : callable or True, optional
            Called in this thread with a :class:`Progress` after each request; True draws a bar on stderr if that is a
            terminal. An exception that it raises cancels the call and is raised here.
        deadline : float, optional
            Seconds for this call. Default: the client's.

        Returns
        -------
        Embeddings
            One matrix in input order, in whatever order responses arrive. With ``on_error="return"`` its ``failures``
            name the documents without rows.

        Raises
        ------
        InvalidDocumentsError
            With ``on_error="raise"``, where the API would refuse a document. Nothing was sent.
        EmbedError
            With ``on_error="raise"``, where documents failed. Its ``partial`` holds all others, its ``__cause__`` is
            the error of the first.
        TypeError, ValueError
            An argument is not what it should be.

        Notes
        -----
        Documents are checked, counted and packed before anything is sent. A request that is refused (400, 413, 422) is
        split until the refused document is alone, so that no document fails because of another. An error that every
        request would meet (401, 403, 404, no connection) keeps the rest from being sent.

        With a ``journal``, documents that it knows and further documents of equal content are not sent. An exception
        that it raises cancels the call and is raised here.
        """
        started = self._deadline(deadline)
        planned = self._plan_embed(documents, model, dimensions, encoding_format, on_error)
        return self._run(planned, on_error, progress, started)

    def embed_queries(
        self,
        queries: Iterable[str],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed queries, to search among documents of the same model, or of another of its space.

        Parameters
        ----------
        queries : list of str
            Each is sent as a document of one chunk; with the role ``"query"``, if the model has input types.
        model : str
            A contextualized model: that of the documents.
        dimensions : int, optional
            Those of the documents. Default: the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 vectors, or one bit a dimension.
        deadline : float, optional
            Seconds for this call. Default: the client's.

        Returns
        -------
        Embeddings
            ``vectors`` has one row a query, in order.

        Raises
        ------
        TypeError
            ``queries`` is a single string, or holds something else than strings.
        EmbedError, ValueError
            As for :meth:`embed` with ``on_error="raise"``.
        """
        started = self._deadline(deadline)
        planned = self._plan_queries(queries, model, dimensions, encoding_format)
        return self._run(planned, "raise", None, started)

    def embed_texts(
        self,
        texts: Iterable[str],
        *,
        model: str = DEFAULT_TEXT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        deadline: float | None = None,
    ) -> Embeddings:
        """Embed independent texts with a model that uses no context (``POST /v1/embeddings``).

        Parameters
        ----------
        texts : list of str
            They are sent in as few requests as the limits allow.
        model : str
            A model that is not contextualized. Its vectors cannot be compared with those of a contextualized model.
        dimensions : int, optional
            From 128 to the model's. Default: the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 vectors, or one bit a dimension.
        deadline : float, optional
            Seconds for this call. Default: the client's.

        Returns
        -------
        Embeddings
            ``vectors`` has one row a text, in order.

        Raises
        ------
        TypeError
            ``texts`` is a single string, or holds something else than strings.
        EmbedError, ValueError
            As for :meth:`embed` with ``on_error="raise"``.
        """
        started = self._deadline(deadline)
        planned = self._plan_texts(texts, model, dimensions, encoding_format)
        return self._run(planned, "raise", None, started)

    def create(
        self,
        input: Iterable[Iterable[str]],  # noqa: A002  # the API's word
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        input_type: InputType | None = None,
        deadline: float | None = None,
    ) -> Embeddings:
        """Send exactly one request.

        Parameters
        ----------
        input : iterable of iterables of str
            The chunks of each document in their order.
        model : str
            A contextualized model.
        dimensions : int, optional
            From 128 to the model's. Default: the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 vectors, or one bit a dimension.
        input_type : {"document", "query"}, optional
            The role of the input, for a model with input types. Default: "document".
        deadline : float, optional
            Seconds for this call. Default: the client's.

        Returns
        -------
        Embeddings
            The vectors, checked as those of :meth:`embed`.

        Raises
        ------
        APIError
            The error of the last attempt.
        ValueError
            ``input`` exceeds the limits of a request, or the API would refuse it.
        """
        return single_result(self._create(input, model, dimensions, encoding_format, deadline, input_type=input_type))

    @property
    def with_raw_response(self) -> RawCalls:
        """Calls that return a :class:`RawResponse` with headers, body and vectors: ``.create(...)``."""
        return RawCalls(self._create)

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
            Of any length, also endless. It is read in this thread while the next part is waited for. It is never
            read further ahead than the documents of ``max_concurrency + 4`` requests.
        model : str
            A contextualized model.
        dimensions : int, optional
            From 128 to the model's. Default: the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 vectors, or one bit a dimension.
        on_error : {"raise", "return"}
            With ``"return"`` failures are in the parts, by position in the input, and the stream goes on. With
            ``"raise"`` nothing more is sent after the first failure; the requests in flight are still returned, and
            then :class:`EmbedError` is raised.
        ordered : bool
            Whether parts come in input order, each a range of the input. Default: as requests succeed.
        progress : callable or True, optional
            As for :meth:`embed`; called before a part is returned.
        deadline : float, optional
            Seconds from now to the end. After them nothing more is read, the requests in flight are returned or fail,
            and :class:`APITimeoutError` is raised, or the :class:`EmbedError` of a document that failed.
        flush_after : float, optional
            Maximum seconds to hold a partly filled request, checked when the source gives its next document. Default:
            it is held until it is full.

        Returns
        -------
        Stream
            An iterator of :class:`EmbeddingsPart`. Leaving its ``with`` block, ``close()`` and dropping it cancel the
            requests in flight.

        Raises
        ------
        TypeError, ValueError
            An argument is not what it should be.

        Notes
        -----
        An exception that ``documents`` raises is raised when the documents before it were embedded and returned.

        With a ``journal``, documents that it knows and further documents of equal content are not sent. An exception
        that it raises cancels the requests in flight and is raised here.
        """
        return self._open_stream(
            documents,
            model,
            dimensions,
            encoding_format,
            on_error=on_error,
            ordered=ordered,
            progress=progress,
            deadline=deadline,
            flush_after=flush_after,
        )

    def close(self) -> None:
        """Cancel the requests in flight and close the connections.

        Later calls, and calls that it cancelled, raise :class:`ClosedClientError`. Closing twice is no error. A copy
        of :meth:`with_options` leaves shared connections open.
        """
        if self._closed:
            return
        self._closed = True
        if self._owns_connections:
            self._state.connections.closed = True
            self._loop.stop(self._state.is_storing)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open_stream(
        self,
        documents: Iterable[Iterable[str]],
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        *,
        on_error: str,
        ordered: bool,
        progress: bool | Callable[[Progress], object] | None,
        deadline: float | None,
        flush_after: float | None,
        admit: Callable[[Batch], bool] | None = None,
        settled: Callable[[Outcome], object] | None = None,
        steady: bool = False,
        key_of: Callable[[int, list[str]], bytes] | None = None,
    ) -> Stream:
        """Open a stream. ``admit`` and ``settled`` are called in the event loop: see :class:`Job`.

        With ``steady`` the requests depend on the documents alone: see :class:`StreamState`. ``key_of`` returns the
        ``document_key`` of a document by its position and chunks, where the caller knows it.
        """
        state, closing = self._stream_state(
            model,
            dimensions,
            encoding_format,
            on_error=on_error,
            ordered=ordered,
            progress=progress,
            flush_after=flush_after,
            steady=steady,
            key_of=key_of,
        )
        try:
            source = documents_of("documents", documents)
            return Stream(
                self._loop,
                self._dispatcher,
                self._state,
                state,
                source,
                closing=closing,
                deadline=self._deadline(deadline),
                journal=self._journal_writer(),
                admit=admit,
                settled=settled,
            )
        except BaseException:
            closing()
            raise

    def _create(
        self,
        documents: Any,
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        deadline: float | None,
        *,
        input_type: Any,
        keep_body: bool = False,
    ) -> Outcome:
        started = self._deadline(deadline)
        template, batch = self._plan_create(documents, model, dimensions, encoding_format, input_type)
        outcomes: list[Outcome] = []

        async def send(_: object) -> None:
            outcomes.append(await self._dispatcher.send_one(template, batch, started, keep_body=keep_body))

        self._wait(send, None)
        return outcomes[0]

    def _run(
        self,
        planned: PlannedCall,
        on_error: str,
        progress: bool | Callable[[Progress], object] | None,
        deadline: Deadline,
    ) -> Embeddings:
        """Send the batches of a call and assemble their vectors."""
        assembly = planned.assembly()
        with progress_callback(progress) as report:

            def work(put: Callable[[Progress], object]) -> Coroutine[Any, Any, None]:
                meter = ProgressMeter(planned, assembly, put if report is not None else None, self._state.clock)
                job = Job(planned.template, meter.add, deadline, journal=self._journal_writer(), unstored=assembly.add)
                return self._dispatch(planned, job)

            with attach_partial(assembly):
                self._wait(work, report)
        return result_or_error(assembly, on_error)

    def _wait(
        self,
        work: Callable[[Callable[[Progress], object]], Coroutine[Any, Any, None]],
        report: Callable[[Progress], object] | None,
    ) -> None:
        """Run ``work`` in the background loop. This thread waits, receives Ctrl-C, and reports progress."""
        events = TaskEvents()
        task = self._loop.start_task(lambda: work(events.put), events)
        try:
            while not isinstance(event := events.get(), TaskEnd):
                if report is not None:
                    report(event)
        except BaseException:
            task.cancel(self._state.is_storing)
            raise
        event.check()
