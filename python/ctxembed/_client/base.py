"""What both clients share: checked options, the state of a client, and the plan of each call. No I/O."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from ctxembed._client._http.connections import Connections, TransportSettings
from ctxembed._client._http.credentials import key_source
from ctxembed._client._policy.clock import SYSTEM_CLOCK
from ctxembed._client._policy.concurrency import ConcurrencyLimiter
from ctxembed._client._policy.hedging import HedgingPolicy
from ctxembed._client._policy.pacing import Pacing
from ctxembed._client._policy.rate_limiter import shared_rate_limiter
from ctxembed._client._policy.retry import RetryBudget, RetryPolicy
from ctxembed._client._policy.shared_limiter import shared_limiter
from ctxembed._client._runtime import current_event_loop, is_trio
from ctxembed._client.batches import Batch, attach_no_vectors, plan_call
from ctxembed._client.coalescing import Coalescer
from ctxembed._client.dispatch import Dispatcher
from ctxembed._client.endpoint import CONTEXTUALIZED, TEXTS, RequestTemplate
from ctxembed._client.hooks import Hooks
from ctxembed._client.journal import ClientJournal, JournalWriter, plan_missing
from ctxembed._client.options import (
    DEFAULTS,
    check_base_url,
    check_bool,
    check_clock,
    check_headers,
    check_hedge,
    check_hook,
    check_http_client,
    check_int,
    check_journal,
    check_limiter,
    check_proxy,
    check_rate,
    check_seconds,
    check_share,
    check_timeouts,
    check_token_counter,
    check_verify,
    hide_secrets,
)
from ctxembed._client.progress import progress_callback
from ctxembed._client.state import ClientState
from ctxembed._client.stream import StreamState
from ctxembed._errors import ClosedClientError
from ctxembed._models import get_model
from ctxembed._planning.calibration import ModelCalibrations
from ctxembed._planning.document_key import DocumentKeys
from ctxembed._planning.limits import check_limits
from ctxembed._planning.prepare import as_lists, documents_of, prepare, prepare_one, prepare_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ctxembed._client._http.credentials import KeySource
    from ctxembed._client._policy.clock import Clock, Deadline
    from ctxembed._client.batches import PlannedCall
    from ctxembed._client.dispatch import Job
    from ctxembed._client.progress import Progress
    from ctxembed._planning.limits import Limits
    from ctxembed._planning.prepare import PreparedDocuments

__all__ = ["BaseClient", "check_on_error"]

_RETRY_RESERVE: Final = 20
"""Retries that a client may make beyond the share of its budget."""

_SALT: Final = os.urandom(32)


class BaseClient:
    """The options, the plans and the state that both clients share."""

    _is_async: bool
    _options: dict[str, Any]
    _state: ClientState

    def __init__(self, options: Mapping[str, Any], key: KeySource, origin: BaseClient | None) -> None:
        unknown = sorted(set(options) - set(DEFAULTS))
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {unknown[0]!r}")
        self._options = {**DEFAULTS, **options}
        self._closed = False
        self._state = self._create_state(key, origin)
        self._owns_connections = origin is None or self._state.connections is not origin._state.connections  # noqa: SLF001
        self._dispatcher = Dispatcher(self._state)
        window = self._options["coalesce"]
        self._coalescer = (
            None if window is None else Coalescer(window, self._dispatcher, self._state, self._options["limits"])
        )

    def _create_state(self, key: KeySource, origin: BaseClient | None) -> ClientState:
        """Check the options and create the state; share with ``origin`` what the options leave the same."""
        options = self._options
        insecure = check_bool("allow_insecure", options["allow_insecure"])
        base_url = check_base_url(options["base_url"], allow_insecure=insecure)
        check_limits(options["limits"])
        check_token_counter(options["token_counter"])
        concurrency = check_int("max_concurrency", options["max_concurrency"], 1)
        retry = RetryPolicy(
            check_int("max_retries", options["max_retries"], 0), check_seconds("max_wait", options["max_wait"])
        )
        total_timeout = check_rate("total_timeout", options["total_timeout"])
        share, hedge = check_share("retry_budget", options["retry_budget"]), check_hedge(options["hedge"])
        settings = TransportSettings(
            transport=options["transport"],
            http_client=check_http_client(options["http_client"], is_async=self._is_async),
            # A proxy would see the key of plain http, so none is used for this very machine.
            trust_env=base_url.lower().startswith("https:") or insecure,
            http2=check_bool("http2", options["http2"]),
            origin="/".join(base_url.lower().split("/")[:3]),
            proxy=check_proxy(options["proxy"]),
            verify=check_verify(options["verify"]),
        )
        journal = None if check_journal(options["journal"]) is None else ClientJournal(options["journal"])
        clock = SYSTEM_CLOCK if options["clock"] is None else check_clock(options["clock"])
        # The SSL context, not its path: a copy with a context of its own would need connections of its own.
        options.update(base_url=base_url, verify=settings.verify)
        limiter = ConcurrencyLimiter(concurrency, current_event_loop)
        options["coalesce"] = check_rate("coalesce", options["coalesce"])
        budget = RetryBudget(share, max(_RETRY_RESERVE, 2 * concurrency))
        hedging, calibrations, connections = HedgingPolicy(hedge), ModelCalibrations(), Connections(settings)
        if origin is not None:
            before, state = origin._options, origin._state  # noqa: SLF001  # the same class
            calibrations = state.calibrations
            if state.connections.settings == settings:
                connections = state.connections
            if before["max_concurrency"] == concurrency:
                limiter = state.pacing.concurrency
                if before["retry_budget"] == share:
                    budget = state.budget
            if check_hedge(before["hedge"]) == hedge:
                hedging = state.hedging
            if before["journal"] is options["journal"]:
                journal = state.journal
        pacing = Pacing(
            shared_rate_limiter(rate_limiter_identity(key, base_url, clock)),
            limiter,
            check_rate("requests_per_minute", options["requests_per_minute"]),
            check_rate("tokens_per_minute", options["tokens_per_minute"]),
            clock,
            shared=shared_limiter(check_limiter(options["limiter"])),
        )
        return ClientState(
            base_url=base_url,
            headers=check_headers(options["default_headers"]),
            key=key,
            deadline=check_rate("deadline", options["deadline"]),
            timeouts=check_timeouts(options["timeout"], total_timeout),
            retry=retry,
            budget=budget,
            hedging=hedging,
            hooks=Hooks(*(check_hook(name, options[name]) for name in ("on_request", "on_response", "on_retry"))),
            pacing=pacing,
            connections=connections,
            clock=clock,
            calibrations=calibrations,
            journal=journal,
        )

    @property
    def base_url(self) -> str:
        """The URL that requests go to, without ``/v1``."""
        return self._state.base_url

    @property
    def transport(self) -> Any:
        """The transport that sends: ``"httpx"``, ``"aiohttp"``, or the object that was given."""
        return self._state.connections.settings.chosen(trio=self._is_async and is_trio())

    def _copy(self, api_key: Any, changed: Mapping[str, Any]) -> Self:
        """Create the copy of ``with_options``; ``...`` as the key keeps the key."""
        hide_secrets(changed)
        unknown = sorted(set(changed) - set(DEFAULTS))
        if unknown:
            names = ", ".join(["api_key", *DEFAULTS])
            raise TypeError(f"with_options() got unknown options {', '.join(unknown)}: expected {names}")
        self._check_open()
        key = self._state.key if api_key is ... else key_source(api_key)
        del api_key
        if isinstance(key, Exception):
            raise key
        copy = type(self).__new__(type(self))
        BaseClient.__init__(copy, {**self._options, **changed}, key, self)
        if set(changed) <= {"deadline"} and key is self._state.key:  # what it sends is what this client would send
            copy._coalescer = self._coalescer  # noqa: SLF001
        return copy

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedClientError("this client is closed")
        if self._state.connections.closed:
            raise ClosedClientError("the client whose connections this one shares is closed")
        http_client = self._state.connections.settings.http_client
        if http_client is not None and http_client.is_closed:
            raise ClosedClientError("the http_client that this client was given is closed")

    def __repr__(self) -> str:
        """Show the URL, neither the key nor headers."""
        if not hasattr(self, "_state"):
            return f"{type(self).__name__}()"  # in the traceback of a constructor that failed
        state = ", closed" if self._closed else ""
        return f"{type(self).__name__}(base_url={self._state.base_url!r}{state})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: it holds an API key and connections")

    def _deadline(self, seconds: float | None) -> Deadline:
        """Start the deadline of a call."""
        return self._state.deadline_after(check_rate("deadline", seconds))

    # The plan of each call: its documents are checked and divided into batches before anything is sent.

    def _plan_embed(
        self, documents: Any, model: str, dimensions: int | None, encoding_format: Any, on_error: str
    ) -> PlannedCall:
        self._check_open()
        check_on_error(on_error)
        template, journal = (
            RequestTemplate.create(CONTEXTUALIZED, model, dimensions, encoding_format),
            self._state.journal,
        )
        with attach_no_vectors(template):
            prepared = self._prepare(prepare, template, documents, allow_empty=True, pack=journal is None)
            planned = plan_call(template, prepared, on_error)
        return planned if journal is None else plan_missing(planned, prepared, journal, self._options["limits"])

    def _plan_queries(self, queries: Any, model: str, dimensions: int | None, encoding_format: Any) -> PlannedCall:
        documents = [[query] for query in _check_queries(queries)]
        self._check_open()
        template = RequestTemplate.create(CONTEXTUALIZED, model, dimensions, encoding_format, role="query")
        return plan_call(template, self._prepare(prepare, template, documents, allow_empty=True), "raise", "query")

    def _plan_texts(self, texts: Any, model: str, dimensions: int | None, encoding_format: Any) -> PlannedCall:
        self._check_open()
        template = RequestTemplate.create(TEXTS, model, dimensions, encoding_format)
        return plan_call(template, self._prepare(prepare_texts, template, texts, allow_empty=True), "raise", "text")

    def _plan_create(
        self, documents: Any, model: str, dimensions: int | None, encoding_format: Any, input_type: Any
    ) -> tuple[RequestTemplate, Batch]:
        """Plan exactly one request."""
        limits: Limits = self._options["limits"]
        template = RequestTemplate.create(CONTEXTUALIZED, model, dimensions, encoding_format, input_type)
        self._check_open()
        documents = documents if type(documents) is list else list(documents_of("input", documents))
        if self._options["token_counter"] is None and self._options["tokens_per_minute"] is None:
            documents = as_lists(documents)  # they may have to be read twice
            # The caller has packed the request, so nothing depends on an estimate of its tokens.
            found = prepare_one(documents, limits, template.body_end, template.separator)
            if found is not None and len(found.documents) <= limits.documents:
                positions = np.arange(len(documents), dtype=np.int64)
                return template, Batch(documents, positions, found.tokens, body=found.body, shape=found.chunk_counts)
        planned = plan_call(template, self._prepare(prepare, template, documents), "raise")
        tokens = sum(batch.tokens for batch in planned.batches)
        sizes = {"documents": len(planned.documents), "chunks": planned.chunks}
        if self._options["token_counter"] is not None:  # an estimate is no reason to refuse
            sizes["tokens"] = tokens
        for name, size in sizes.items():
            if size > getattr(limits, name):
                raise ValueError(
                    f"input has {size} {name}, and limits.{name} = {getattr(limits, name)} a request: embed() takes "
                    "as many requests as it needs"
                )
        return template, Batch(planned.documents, np.arange(len(planned.documents), dtype=np.int64), tokens)

    def _stream_state(
        self,
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        *,
        on_error: str,
        ordered: bool,
        progress: bool | Callable[[Progress], object] | None,
        flush_after: float | None,
        steady: bool = False,
        key_of: Callable[[int, list[str]], bytes] | None = None,
    ) -> tuple[StreamState, Callable[[], object]]:
        """Check the arguments of a stream; return its state, and a callable that ends its progress bar."""
        self._check_open()
        check_on_error(on_error)
        if not isinstance(ordered, bool):
            raise TypeError(f"ordered must be a bool, got {ordered!r}")
        template = RequestTemplate.create(CONTEXTUALIZED, model, dimensions, encoding_format)
        stack = ExitStack()
        state = StreamState(
            template,
            partial(self._prepare, prepare, template, pack=False, checked=key_of is not None),
            self._options["limits"],
            self._options["max_concurrency"],
            ordered=ordered,
            on_error=on_error,
            progress=stack.enter_context(progress_callback(progress)),
            clock=self._state.clock,
            flush_after=check_rate("flush_after", flush_after),
            key_of=self._key_of(model, dimensions, encoding_format, key_of),
            steady=steady,
            checked=key_of is not None,
        )
        return state, stack.close

    def _key_of(
        self, model: str, dimensions: int | None, encoding_format: Any, known: Callable[[int, list[str]], bytes] | None
    ) -> Callable[[int, list[str]], bytes] | None:
        """Return the key of a document by its position and chunks; None without a journal, which needs none."""
        if self._state.journal is None:
            return None
        if known is not None:
            return known
        keys = DocumentKeys(model, dimensions, encoding_format)
        return lambda _, chunks: keys.key(chunks)

    def _prepare(
        self,
        prepare: Callable[..., PreparedDocuments],
        template: RequestTemplate,
        documents: Any,
        first_document: int = 0,
        **more: bool,
    ) -> PreparedDocuments:
        return prepare(
            documents,
            token_counter=self._options["token_counter"],
            limits=self._options["limits"],
            first_document=first_document,
            calibration=self._state.calibrations.of(template.model),
            model=get_model(template.model),
            **more,
        )

    async def _dispatch(self, planned: PlannedCall, job: Job) -> None:
        """Send the batches of a call: together with those of other calls, if it has one and ``coalesce`` is set."""
        if self._coalescer is not None and len(planned.batches) == 1 and not planned.batches[0].alone:
            await self._coalescer.run(planned, job)
        else:
            await self._dispatcher.run(job, planned.batches)

    def _journal_writer(self) -> JournalWriter | None:
        """Create the writer of one call, if the client has a journal."""
        return None if self._state.journal is None else JournalWriter(self._state.journal)


def rate_limiter_identity(key: KeySource, base_url: str, clock: Clock) -> Hashable:
    """Return what clients must have in common to share a rate limiter: key, host and clock.

    A key is identified by its hash with a random salt of this process, so that the registry holds no key. A callable
    is identified by itself, since the keys that it will return are unknown.
    """
    origin = base_url.lower().split("/")[:3]
    return (key.fingerprint(lambda value: hashlib.blake2b(value, key=_SALT).digest()), *origin, id(clock))


def check_on_error(on_error: object) -> None:
    """Refuse a value that is neither ``"raise"`` nor ``"return"``."""
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error must be 'raise' or 'return', got {on_error!r}")


def _check_queries(queries: Any) -> list[str]:
    if isinstance(queries, str | bytes):
        raise TypeError(f"queries must be a list of str, got one {type(queries).__name__}: pass [query]")
    if isinstance(queries, Mapping | AbstractSet) or not isinstance(queries, Iterable):
        raise TypeError(f"queries must be a list of str, got {type(queries).__name__}")
    items = list(queries)
    for position, query in enumerate(items):
        if not isinstance(query, str):
            raise TypeError(f"queries[{position}] must be a str, got {type(query).__name__}")
    return items
