"""What both clients are before any I/O: checked options, and the plan of each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from ctxembed._client._http.credentials import KeySource, key_source
from ctxembed._client._http.lines import Connecting
from ctxembed._client._http.transport import Pool, Timeouts, check_http_client
from ctxembed._client._policy.concurrency import Gate
from ctxembed._client._policy.retry import CLOCK, Hedger, RetryBudget, RetryPolicy
from ctxembed._client.batches import Batch
from ctxembed._client.dispatch import Engine
from ctxembed._client.endpoint import CONTEXTUALIZED, TEXTS, Call
from ctxembed._client.hooks import Hooks
from ctxembed._client.options import (
    OPTIONS,
    check_base_url,
    check_headers,
    check_hedge,
    check_int,
    check_proxy,
    check_rate,
    check_seconds,
    check_share,
    check_verify,
)
from ctxembed._client.planned import Plan, check_on_error, materialise, plan_of
from ctxembed._client.progress import watcher
from ctxembed._client.stream import StreamState
from ctxembed._errors import ClosedClientError
from ctxembed._models import Limits
from ctxembed._planning.calibration import TokenCalibration
from ctxembed._planning.prepare import documents_of, prepare, prepare_one, prepare_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxembed._client._policy.retry import Deadline
    from ctxembed._client.batches import Progress
    from ctxembed._planning.prepare import Prepared

__all__ = ["BaseClient"]

_RESERVE: Final = 20
"""Retries that a client may take beyond its budget's share."""


class BaseClient:
    """Options, plans and state that the sync and the async client share."""

    _kind: str
    _options: dict[str, Any]
    _engine: Engine

    def __init__(self, options: dict[str, Any], key: KeySource, origin: BaseClient | None) -> None:
        for name in ("allow_insecure", "http2"):
            if not isinstance(options[name], bool):
                raise TypeError(f"{name} must be a bool, got {options[name]!r}")
        base_url = check_base_url(options["base_url"], allow_insecure=options["allow_insecure"])
        check_http_client(options["http_client"], self._kind)
        if not isinstance(options["limits"], Limits):
            raise TypeError(f"limits must be a ctxembed.Limits, got {options['limits']!r}")
        counter = options["token_counter"]
        if counter is not None and not callable(counter) and not hasattr(counter, "count_batch"):
            raise TypeError(f"token_counter must be a TokenCounter or a callable, got {type(counter).__name__}")
        requests, tokens = (check_rate(name, options[name]) for name in ("requests_per_minute", "tokens_per_minute"))
        concurrency = check_int("max_concurrency", options["max_concurrency"], 1)
        retries = check_int("max_retries", options["max_retries"], 0)
        policy = RetryPolicy(retries, check_seconds("max_wait", options["max_wait"]))
        timeouts = Timeouts.of(options["timeout"], check_rate("total_timeout", options["total_timeout"]))
        deadline = check_rate("deadline", options["deadline"])
        share, hedge = check_share("retry_budget", options["retry_budget"]), check_hedge(options["hedge"])
        headers = check_headers(options["default_headers"])
        connecting = Connecting(
            # Over plain http a proxy would see the key, so to this very machine there is none.
            trust_env=base_url.lower().startswith("https:") or options["allow_insecure"],
            http2=options["http2"],
            proxy=check_proxy(options["proxy"]),
            verify=check_verify(options["verify"]),
        )

        self._owns_pool = True
        if origin is None:
            pool = Pool(options["http_client"], connecting)
            gate, clock = Gate(concurrency), CLOCK
            budget, hedger = RetryBudget(share, max(_RESERVE, 2 * concurrency)), Hedger(hedge)
            calibration = TokenCalibration()
        else:
            before, engine = origin._options, origin._engine  # noqa: SLF001  # the same class
            pool, clock, gate = engine.pool, engine.clock, engine.gate
            budget, hedger, calibration = engine.budget, engine.hedger, engine.calibration
            if before["http_client"] is options["http_client"] and pool.connecting == connecting:
                self._owns_pool = False
            else:
                pool = Pool(options["http_client"], connecting)
            if before["max_concurrency"] != concurrency:
                gate = Gate(concurrency)
            if before["retry_budget"] != share or before["max_concurrency"] != concurrency:
                budget = RetryBudget(share, max(_RESERVE, 2 * concurrency))
            if check_hedge(before["hedge"]) != hedge:
                hedger = Hedger(hedge)
        # The context, not its path: a copy with another one would have connections of its own.
        self._options = {**options, "api_key": None, "base_url": base_url, "verify": connecting.verify}
        self._closed = False
        self._engine = Engine(
            base_url=base_url,
            headers=headers,
            key=key,
            rates=(requests, tokens),
            deadline=deadline,
            timeouts=timeouts,
            policy=policy,
            budget=budget,
            hedger=hedger,
            hooks=Hooks.of(options),
            gate=gate,
            pool=pool,
            clock=clock,
            calibration=calibration,
        )

    @property
    def base_url(self) -> str:
        """Where requests go, without ``/v1``."""
        return self._engine.base_url

    def with_options(self, **changed: Any) -> Self:
        """Return a client with other options that shares this one's connections.

        Parameters
        ----------
        **changed
            Any of the constructor's arguments.

        Returns
        -------
        Client or AsyncClient
            Shares connections, and, unless they change, the number of requests in flight, the retry budget and the
            rates. Closing it does not close the connections; closing this one does.

        Raises
        ------
        TypeError
            An option is unknown.
        """
        unknown = sorted(set(changed) - set(OPTIONS))
        if unknown:
            raise TypeError(f"with_options() got unknown options {', '.join(unknown)}: expected {', '.join(OPTIONS)}")
        self._check_open()
        key: KeySource | Exception = self._engine.key
        if "api_key" in changed:
            key = key_source(changed.pop("api_key"))
        if isinstance(key, Exception):
            raise key
        twin = type(self).__new__(type(self))
        BaseClient.__init__(twin, {**self._options, **changed}, key, self)
        twin._share(self)  # noqa: SLF001  # the same class
        return twin

    def _share(self, origin: Self) -> None:
        """Take over from the original what belongs to the connections."""

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedClientError("this client is closed")
        if self._engine.pool.closed:
            raise ClosedClientError("the client whose connections this one shares is closed")
        injected = self._engine.pool.injected
        if injected is not None and injected.is_closed:
            raise ClosedClientError("the http_client that this client was given is closed")

    def __repr__(self) -> str:
        """Say where requests go; neither the key nor the headers."""
        state = ", closed" if self._closed else ""
        return f"{type(self).__name__}(base_url={self._engine.base_url!r}{state})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: it holds an API key and connections")

    def _until(self, seconds: float | None) -> Deadline:
        """Start the clock of a call."""
        return self._engine.until(check_rate("deadline", seconds))

    # Plans: what each call sends, checked before anything is.

    def _plan(
        self,
        prepare: Callable[..., Prepared],
        documents: Any,
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        *,
        on_error: str = "raise",
        path: str = CONTEXTUALIZED,
    ) -> Plan:
        self._check_open()
        check_on_error(on_error)
        call = Call.of(path, model, dimensions, encoding_format)
        return plan_of(call, self._prepared(prepare, documents), on_error)

    def _prepared(self, prepare: Callable[..., Prepared], documents: Any, first_document: int = 0) -> Prepared:
        counter, limits = self._options["token_counter"], self._options["limits"]
        return prepare(
            documents,
            token_counter=counter,
            limits=limits,
            first_document=first_document,
            calibration=self._engine.calibration,
        )

    def _plan_embed(
        self, documents: Any, model: str, dimensions: int | None, encoding_format: Any, on_error: str
    ) -> Plan:
        return self._plan(prepare, documents, model, dimensions, encoding_format, on_error=on_error)

    def _plan_queries(self, queries: Any, model: str, dimensions: int | None, encoding_format: Any) -> Plan:
        if isinstance(queries, str | bytes):
            raise TypeError(f"queries must be a list of str, got one {type(queries).__name__}: pass [query]")
        if isinstance(queries, Mapping | AbstractSet) or not isinstance(queries, Iterable):
            raise TypeError(f"queries must be a list of str, got {type(queries).__name__}")
        items = list(queries)
        if not items:
            raise ValueError("queries is empty: expected at least one query")
        for position, query in enumerate(items):
            if not isinstance(query, str):
                raise TypeError(f"queries[{position}] must be a str, got {type(query).__name__}")
        return self._plan(prepare, [[query] for query in items], model, dimensions, encoding_format)

    def _plan_texts(self, texts: Any, model: str, dimensions: int | None, encoding_format: Any) -> Plan:
        return self._plan(prepare_texts, texts, model, dimensions, encoding_format, path=TEXTS)

    def _plan_one(self, documents: Any, model: str, dimensions: int | None, encoding_format: Any) -> tuple[Call, Batch]:
        """Plan exactly one request."""
        limits: Limits = self._options["limits"]
        call = Call.of(CONTEXTUALIZED, model, dimensions, encoding_format)
        self._check_open()
        documents = documents if type(documents) is list else list(documents_of("input", documents))
        if self._options["token_counter"] is None and self._options["tokens_per_minute"] is None:
            documents = materialise(documents)  # it may have to be read twice
            found = prepare_one(documents, limits, call.rest)  # the caller has packed: nothing depends on an estimate
            if found is not None and len(found.documents) <= limits.documents:
                positions = np.arange(len(documents), dtype=np.int64)
                return call, Batch(documents, positions, found.tokens, body=found.body, shape=found.chunk_counts)
        plan = plan_of(call, self._prepared(prepare, documents), "raise")
        tokens = sum(batch.tokens for batch in plan.batches)
        sizes = {"documents": len(plan.documents), "chunks": plan.chunks}
        if self._options["token_counter"] is not None:  # an estimate is no reason to refuse
            sizes["tokens"] = tokens
        for name, size in sizes.items():
            if size > getattr(limits, name):
                raise ValueError(
                    f"input has {size} {name}, and limits.{name} = {getattr(limits, name)} a request: embed() takes "
                    "as many requests as it needs"
                )
        return call, Batch(plan.documents, np.arange(len(plan.documents), dtype=np.int64), tokens)

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
    ) -> tuple[StreamState, Callable[[], object]]:
        """Check a stream's arguments; return its state, and what to call at its end."""
        self._check_open()
        check_on_error(on_error)
        if not isinstance(ordered, bool):
            raise TypeError(f"ordered must be a bool, got {ordered!r}")
        call = Call.of(CONTEXTUALIZED, model, dimensions, encoding_format)
        stack = ExitStack()
        state = StreamState(
            call,
            partial(self._prepared, prepare),
            self._options["limits"],
            self._options["max_concurrency"],
            ordered=ordered,
            on_error=on_error,
            progress=stack.enter_context(watcher(progress)),
            clock=self._engine.clock,
            flush_after=check_rate("flush_after", flush_after),
        )
        return state, stack.close
