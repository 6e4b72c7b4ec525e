"""What both clients are before any I/O: checked options, and the plan of each call."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from ctxembed import _core
from ctxembed._calibration import Calibration
from ctxembed._client._engine import Engine
from ctxembed._client._pacing import Gate, Pacer
from ctxembed._client._parts import Batch
from ctxembed._client._plan import Plan, check_on_error, plan_of
from ctxembed._client._progress import watcher
from ctxembed._client._retry import Clock, RetryPolicy
from ctxembed._client._secret import KeySource, key_source
from ctxembed._client._stream import StreamState
from ctxembed._client._transport import Pool, Timeouts, check_http_client
from ctxembed._client._wire import CONTEXTUALIZED, TEXTS, Call
from ctxembed._errors import ClosedClientError
from ctxembed._models import Limits
from ctxembed._planning import prepare, prepare_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxembed._client._parts import Progress
    from ctxembed._planning import Prepared

__all__ = ["BaseClient"]

DEFAULT_BASE_URL: Final = "https://api.perplexity.ai"
BASE_URL_VARIABLE: Final = "PERPLEXITY_BASE_URL"
DEFAULT_MAX_RETRIES: Final = 4
DEFAULT_MAX_CONCURRENCY: Final = 8

# Strict on purpose: what two URL parsers could read in two ways is refused before a key is sent there.
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?P<port>:[0-9]{1,5})?(?P<path>/[a-z0-9._~%/-]*)?",
    re.IGNORECASE,
)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS: Final = frozenset({"authorization", "content-length", "transfer-encoding", "host"})

_OPTIONS: Final = (
    "api_key",
    "base_url",
    "timeout",
    "max_retries",
    "max_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "limits",
    "token_counter",
    "default_headers",
    "http_client",
    "allow_insecure",
)


def check_base_url(value: object, *, allow_insecure: bool) -> str:
    """Return the base URL without a trailing slash or ``/v1``.

    Raises
    ------
    TypeError, ValueError
        It is no plain http(s) URL, or it would send the key over plain http to another machine.
    """
    if value is None:
        value = os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
    if not isinstance(value, str):
        raise TypeError(f"base_url must be a str or None, got {type(value).__name__}")
    if "@" in value:
        raise ValueError("base_url must not hold a user name or password (it is not shown here); use api_key")
    found = _URL.fullmatch(value)
    if found is None or (found["port"] and not 0 < int(found["port"][1:]) < 65_536):
        raise ValueError(f"base_url must be http(s)://host[:port][/path], without query or fragment, got {value!r}")
    if found["scheme"].lower() == "http" and not _is_loopback(found["host"]) and not allow_insecure:
        raise ValueError(
            f"base_url {value!r} would send the API key unencrypted: use https, or a loopback host, or pass "
            "allow_insecure=True if the network in between is yours"
        )
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _check_int(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not least <= value < 2**31:
        raise ValueError(f"{name} must be from {least} to {2**31 - 1}, got {value}")
    return value


def _check_rate(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")
    return float(value)


def _check_headers(given: object) -> dict[str, str]:
    """Return all headers of a request but the key's."""
    headers = {
        "accept": "application/json",
        # The vectors are base64 of noise: compression would win a quarter and cost more time than it saves.
        "accept-encoding": "identity",
        "user-agent": f"ctxembed/{_core.__version__} python/{sys.version_info[0]}.{sys.version_info[1]}",
    }
    try:
        items = list(dict(given or {}).items())  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise TypeError(f"default_headers must be a mapping of str to str, got {type(given).__name__}") from None
    for name, value in items:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"default_headers must map str to str, got {name!r}: {type(value).__name__}")
        if _HEADER_NAME.fullmatch(name) is None:
            raise ValueError(f"default_headers: {name!r} is not a header name")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"default_headers: {name!r} is set by the client itself (the key is api_key's)")
        if not value.isascii() or not (value.isprintable() or not value):
            raise ValueError(f"default_headers: the value of {name!r} must be printable ASCII (it is not shown here)")
        headers[name.lower()] = value
    headers["content-type"] = "application/json"
    return headers


class BaseClient:
    """Options, plans and state that the sync and the async client share."""

    _kind: str
    _options: dict[str, Any]
    _engine: Engine

    def __init__(self, options: dict[str, Any], key: KeySource, origin: BaseClient | None) -> None:
        if not isinstance(options["allow_insecure"], bool):
            raise TypeError(f"allow_insecure must be a bool, got {options['allow_insecure']!r}")
        base_url = check_base_url(options["base_url"], allow_insecure=options["allow_insecure"])
        check_http_client(options["http_client"], self._kind)
        if not isinstance(options["limits"], Limits):
            raise TypeError(f"limits must be a ctxembed.Limits, got {options['limits']!r}")
        counter = options["token_counter"]
        if counter is not None and not callable(counter) and not hasattr(counter, "count_batch"):
            raise TypeError(f"token_counter must be a TokenCounter or a callable, got {type(counter).__name__}")
        rates = [_check_rate(name, options[name]) for name in ("requests_per_minute", "tokens_per_minute")]
        concurrency = _check_int("max_concurrency", options["max_concurrency"], 1)
        policy = RetryPolicy(_check_int("max_retries", options["max_retries"], 0))
        timeouts = Timeouts.of(options["timeout"])
        headers = _check_headers(options["default_headers"])
        # Over plain http a proxy would see the key, so to this very machine there is none.
        trust_env = base_url.lower().startswith("https:") or options["allow_insecure"]

        pool, pacer = Pool(options["http_client"], trust_env=trust_env), Pacer(*rates)
        gate, clock, calibration = Gate(concurrency), Clock(), Calibration()
        self._owns_pool = True
        if origin is not None:
            before, engine = origin._options, origin._engine  # noqa: SLF001  # the same class
            clock, calibration = engine.clock, engine.calibration
            if before["http_client"] is options["http_client"] and engine.pool.trust_env == trust_env:
                pool, self._owns_pool = engine.pool, False
            if before["max_concurrency"] == concurrency:
                gate = engine.gate
            if rates == [before["requests_per_minute"], before["tokens_per_minute"]]:
                pacer = engine.pacer
        self._options = {**options, "api_key": None, "base_url": base_url}
        self._closed = False
        self._engine = Engine(base_url, headers, key, timeouts, policy, pacer, gate, pool, clock, calibration)

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
            Shares connections, and, unless they change, the rates and the number of requests in flight. Closing it
            does not close the connections; closing this one does.

        Raises
        ------
        TypeError
            An option is unknown.
        """
        unknown = sorted(set(changed) - set(_OPTIONS))
        if unknown:
            raise TypeError(f"with_options() got unknown options {', '.join(unknown)}: expected {', '.join(_OPTIONS)}")
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

    def _plan_one(self, documents: Any, model: str, dimensions: int | None, encoding_format: Any) -> Plan:
        """Plan exactly one request."""
        plan = self._plan(prepare, documents, model, dimensions, encoding_format)
        limits: Limits = self._options["limits"]
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
        whole = Batch(plan.documents, np.arange(len(plan.documents), dtype=np.int64), tokens)
        return Plan(plan.call, plan.documents, plan.offsets, [whole])

    def _stream_state(
        self,
        model: str,
        dimensions: int | None,
        encoding_format: Any,
        *,
        on_error: str,
        ordered: bool,
        progress: bool | Callable[[Progress], object] | None,
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
        )
        return state, stack.close
