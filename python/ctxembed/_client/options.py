"""The options of both clients: declared once, with their defaults and checks. No I/O."""

from __future__ import annotations

import contextlib
import inspect
import ipaddress
import math
import os
import re
import ssl
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, cast

import numpy as np

from ctxembed import _core
from ctxembed._client._http.environment import Proxy, ProxyFault, is_host, load_authorities, parse_proxy
from ctxembed._client._http.redaction import REDACTED
from ctxembed._client._http.transport import Timeouts
from ctxembed._client._policy.retry import DEFAULT_MAX_WAIT
from ctxembed._client.journal import ResponseJournal
from ctxembed._models import as_int
from ctxembed._planning.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    import httpx
    from numpy.typing import ArrayLike

    from ctxembed._client._http.connections import TransportName
    from ctxembed._client._http.transport import Transport
    from ctxembed._client._policy.clock import Clock
    from ctxembed._client._policy.shared_limiter import Limiter
    from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent
    from ctxembed._client.journal import Journal
    from ctxembed._planning.prepare import CountsTokens

__all__ = [
    "DEFAULTS",
    "AsyncClientOptions",
    "ClientOptions",
    "check_base_url",
    "check_bool",
    "check_clock",
    "check_headers",
    "check_hedge",
    "check_hook",
    "check_http_client",
    "check_int",
    "check_journal",
    "check_limiter",
    "check_proxy",
    "check_rate",
    "check_seconds",
    "check_share",
    "check_timeouts",
    "check_token_counter",
    "check_verify",
    "hide_secrets",
    "show_options",
]

DEFAULT_BASE_URL: Final = "https://api.perplexity.ai"
BASE_URL_VARIABLE: Final = "PERPLEXITY_BASE_URL"
HEADERS_VARIABLE: Final = "PERPLEXITY_CUSTOM_HEADERS"
DEFAULT_HEDGE: Final = 0.05


class _SharedOptions(TypedDict, total=False):
    base_url: str | None
    timeout: float | httpx.Timeout | None
    total_timeout: float | None
    deadline: float | None
    max_retries: int
    max_wait: float | None
    retry_budget: float | None
    hedge: float | bool | None
    max_concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    coalesce: float | None
    limiter: Limiter | None
    limits: Limits
    token_counter: CountsTokens | Callable[[list[str]], ArrayLike] | None
    default_headers: Mapping[str, str] | None
    transport: TransportName | Transport | httpx.AsyncBaseTransport | httpx.BaseTransport
    http2: bool
    proxy: str | None
    verify: ssl.SSLContext | str | PathLike[str] | None
    on_request: Callable[[RequestEvent], Any] | None
    on_response: Callable[[ResponseEvent], Any] | None
    on_retry: Callable[[RetryEvent], Any] | None
    journal: Journal | None
    clock: Clock | None
    allow_insecure: bool


class ClientOptions(_SharedOptions, total=False):
    """The keyword arguments of :class:`Client`."""

    http_client: httpx.Client | None


class AsyncClientOptions(_SharedOptions, total=False):
    """The keyword arguments of :class:`AsyncClient`."""

    http_client: httpx.AsyncClient | None


DEFAULTS: Final[ClientOptions] = {
    "base_url": None,
    "timeout": None,
    "total_timeout": None,
    "deadline": None,
    "max_retries": 4,
    "max_wait": DEFAULT_MAX_WAIT,
    "retry_budget": 0.5,
    "hedge": None,
    "max_concurrency": 8,
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "coalesce": None,
    "limiter": None,
    "limits": Limits(),
    "token_counter": None,
    "default_headers": None,
    "transport": "auto",
    "http_client": None,
    "http2": False,
    "proxy": None,
    "verify": None,
    "on_request": None,
    "on_response": None,
    "on_retry": None,
    "journal": None,
    "clock": None,
    "allow_insecure": False,
}
"""The default of each option. Those of :class:`AsyncClient` are the same."""

_F = TypeVar("_F", bound="Callable[..., Any]")


def show_options(options: type) -> Callable[[_F], _F]:
    """Give a function that takes ``**options`` the signature with each option, for ``help`` and editors.

    Type checkers read the same from ``Unpack[options]``.
    """
    annotations: dict[str, Any] = {}
    for cls in reversed(options.__mro__ + getattr(options, "__orig_bases__", ())):
        annotations.update(getattr(cls, "__annotations__", {}))

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        has_defaults = function.__name__ == "__init__"  # with_options keeps what is not given
        shown = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=DEFAULTS[name] if has_defaults else ...,  # type: ignore[literal-required]
                annotation=getattr(annotations[name], "__forward_arg__", annotations[name]),
            )
            for name in DEFAULTS
        ]
        function.__signature__ = signature.replace(parameters=[*named, *shown])  # type: ignore[attr-defined]
        return function

    return decorate


# Strict: a URL that two parsers could read in two ways is refused before the key is sent there.
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?P<port>:[0-9]{1,5})?(?P<path>/[a-z0-9._~%/-]*)?",
    re.IGNORECASE | re.ASCII,  # else "k" would match U+212A too
)
_SHOWN: Final = 80  # characters of a value in a message
_LEAST: Final = 1e-9  # of a duration or rate: less would be taken for 0, or for an infinite wait
_MOST: Final = 1e9  # seconds, or units a minute: the operating system takes no timeout of 300 years
_PUBLIC_HEADERS: Final = frozenset({"accept", "accept-encoding", "user-agent", "content-type"})
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS: Final = frozenset({"authorization", "content-length", "transfer-encoding", "host"})


def check_base_url(value: object, *, allow_insecure: bool, name: str = "base_url") -> str:
    """Return the base URL without a trailing slash or ``/v1``. Only ``base_url`` has a default.

    Raises
    ------
    TypeError, ValueError
        It is no plain http(s) URL, or it would send the key over plain http to another machine.
    """
    optional = " or None" if name == "base_url" else ""
    if value is None and optional:
        value = os.environ.get(BASE_URL_VARIABLE)
        name = f"base_url (from {BASE_URL_VARIABLE})" if value else name
        value = value or DEFAULT_BASE_URL
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str{optional}, got {type(value).__name__}")
    if "@" in value:
        del value  # from the frame that a traceback shows
        raise ValueError(f"{name} must not hold a user name or password (it is not shown here); use api_key")
    found = _URL.fullmatch(value)
    if found is None or (found["port"] and not 0 < int(found["port"][1:]) < 65_536) or not is_host(found["host"]):
        # Escapes show which letter is not the ASCII one that it resembles. A name of other letters is written as xn--.
        raise ValueError(
            f"{name} must be http(s)://host[:port][/path] in ASCII, without query or fragment, got {_shown(value)}"
        )
    if found["scheme"].lower() == "http" and not _is_loopback(found["host"]) and not allow_insecure:
        raise ValueError(
            f"{name} {value!r} would send the API key unencrypted: use https, or a loopback host, or pass "
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


def check_int(name: str, value: object, least: int) -> int:
    """Return an int of at least ``least``."""
    number = as_int(name, value)
    if not least <= number < 2**31:
        raise ValueError(f"{name} must be from {least} to {2**31 - 1}, got {_shown(number)}")
    return number


def _shown(value: object) -> str:
    """Return a short text of a value for a message, in ASCII."""
    try:
        shown = ascii(value)
    except ValueError:  # an int of too many digits to print
        return "an int of more than 4,000 digits"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(shown)} characters)"


def _real(name: str, value: object, what: str) -> float:
    """Return a real number, NumPy's included, as a float; infinite where it is too large for one."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be {what}, got {_shown(value)} ({type(value).__name__})")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_rate(name: str, value: object) -> float | None:
    """Return a finite number above 0, or None."""
    if value is None:
        return None
    number = _real(name, value, "an int or float, or None")
    if not _LEAST <= number < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {_shown(value)}")
    return min(number, _MOST)


def check_seconds(name: str, value: object) -> float:
    """Return seconds from 0; infinite for None."""
    if value is None:
        return math.inf
    number = _real(name, value, "seconds as an int or float, or None")
    if not number >= 0:
        raise ValueError(f"{name} must be seconds from 0, got {_shown(value)}")
    return number


def check_share(name: str, value: object) -> float | None:
    """Return a number from 0, or None."""
    if value is None:
        return None
    number = _real(name, value, "an int or float, or None")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {_shown(value)}")
    return number


def check_hedge(value: object) -> float | None:
    """Return the share of requests that may be sent twice, or None for none."""
    if value is None or value is False:
        return None
    if value is True:
        return DEFAULT_HEDGE
    share = _real("hedge", value, "a share of the requests, a bool or None")
    if not 0 < share < 1:
        raise ValueError(f"hedge must be a share of the requests, above 0 and below 1, got {_shown(value)}")
    return share


def hide_secrets(options: Mapping[str, Any]) -> None:
    """Replace a proxy's URL and the values of headers by objects that do not show them.

    It changes the keyword arguments of a call in place, before anything is raised: frames of a traceback refer to them.
    """
    arguments = cast("dict[str, Any]", options)
    if isinstance(arguments.get("proxy"), str):
        arguments["proxy"] = parse_proxy(arguments["proxy"])
    headers = arguments.get("default_headers")
    if headers is not None:
        with contextlib.suppress(TypeError, ValueError):  # refused later
            arguments["default_headers"] = _Headers(headers)


class _Headers(dict[str, str]):
    """Headers, whose values the repr does not show: they may be secrets of a gateway."""

    def __repr__(self) -> str:
        return repr({name: value if name in _PUBLIC_HEADERS else REDACTED for name, value in self.items()})


def check_proxy(value: object) -> Proxy | None:
    """Return a proxy. Messages show no part of its URL, since that may hold a password."""
    proxy = parse_proxy(value) if isinstance(value, str) else value
    del value
    if proxy is None or isinstance(proxy, Proxy):
        return proxy
    if not isinstance(proxy, ProxyFault):
        raise TypeError(f"proxy must be a URL or None, got {type(proxy).__name__}")
    raise ValueError(f"proxy {proxy.reason} (it is not shown here)")


def check_verify(value: object) -> ssl.SSLContext | None:
    """Return the SSL context for a file or folder of certificates, or the context that was given."""
    if value is None or isinstance(value, ssl.SSLContext):
        return value
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"verify must be an ssl.SSLContext, the path of a file or folder of certificates, or None, got {value!r}"
        )
    path = os.fspath(value)
    if not os.path.exists(path):  # noqa: PTH110  # a str is all that ssl takes
        raise ValueError(f"verify: there is no file or folder {path!r}")
    try:
        return load_authorities(os.fsdecode(path), folder=os.path.isdir(path))  # noqa: PTH112
    except ValueError as error:
        raise ValueError(f"verify: {error}") from None


def check_headers(given: object, variable: str | None = HEADERS_VARIABLE) -> dict[str, str]:
    """Return all headers of a request except ``Authorization``.

    Those of an environment variable (``Name: value``, one a line) come first, then ``given``.
    """
    headers = _Headers()
    headers |= {
        "accept": "application/json",
        # Vectors are base64 of noise: compression saves a quarter of the bytes and costs more time than that.
        "accept-encoding": "identity",
        "user-agent": f"ctxembed/{_core.__version__} python/{sys.version_info[0]}.{sys.version_info[1]}",
    }
    if variable is not None:
        lines = os.environ.get(variable, "").splitlines()
        _add_headers(headers, variable, [_header_of(line) for line in lines if ":" in line])
    try:
        items: list[tuple[Any, Any]] = list(dict(given or {}).items())  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise TypeError(f"default_headers must be a mapping of str to str, got {type(given).__name__}") from None
    _add_headers(headers, "default_headers", items)
    headers["content-type"] = "application/json"
    return headers


def _header_of(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _add_headers(headers: dict[str, str], source: str, items: list[tuple[Any, Any]]) -> None:
    for name, value in items:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"{source} must map str to str, got {name!r}: {type(value).__name__}")
        if _HEADER_NAME.fullmatch(name) is None:
            raise ValueError(f"{source}: {name!r} is not a header name")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{source}: {name!r} is set by the client itself (the key is api_key's)")
        if not value.isascii() or not (value.isprintable() or not value):
            raise ValueError(f"{source}: the value of {name!r} must be printable ASCII (it is not shown here)")
        headers[name.lower()] = value


def check_bool(name: str, value: object) -> bool:
    """Return a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return value


def check_hook(name: str, value: object) -> Any:
    """Return a callable or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a callable or None, got {type(value).__name__}")
    return value


def check_token_counter(value: object) -> Any:
    """Return a token counter, a callable, or None."""
    if value is not None and not callable(value) and not hasattr(value, "count_batch"):
        raise TypeError(f"token_counter must be a TokenCounter or a callable, got {type(value).__name__}")
    return value


def check_journal(value: object) -> Any:
    """Return an object with the callables ``get`` and ``put``, or None."""
    if value is None:
        return None
    if isinstance(value, ResponseJournal):  # one of ours
        return value
    missing = [name for name in ("get", "put") if not callable(getattr(value, name, None))]
    if missing:
        raise TypeError(f"journal must have get() and put(), got {type(value).__name__} without {missing[0]}()")
    return value


def check_limiter(value: object) -> Any:
    """Return an object with the callables ``reserve`` and ``settle``, or None."""
    if value is None:
        return None
    missing = [name for name in ("reserve", "settle") if not callable(getattr(value, name, None))]
    if missing:
        hint = ': pass ctxembed.limiter("...")' if isinstance(value, str) else ""
        raise TypeError(
            f"limiter must have reserve() and settle(), got {type(value).__name__} without {missing[0]}(){hint}"
        )
    return value


def check_clock(value: object) -> Any:
    """Return an object with the callables of :class:`Clock`."""
    missing = [name for name in ("monotonic", "wall", "sleep", "random") if not callable(getattr(value, name, None))]
    if missing:
        raise TypeError(f"clock must be a ctxembed.Clock or None, got {type(value).__name__} without {missing[0]}()")
    return value


def check_timeouts(timeout: object, total: float | None) -> Timeouts:
    """Return the timeouts for ``timeout`` (None, seconds, or an ``httpx.Timeout``) and ``total_timeout``."""
    import httpx

    if timeout is None:
        default = Timeouts()
        return default if total is None else replace(default, total=total)
    if isinstance(timeout, httpx.Timeout):
        phases = {name: check_rate(f"timeout.{name}", seconds) for name, seconds in timeout.as_dict().items()}
        return Timeouts(**phases, total=total)
    number = _real("timeout", timeout, "seconds as an int or float, an httpx.Timeout or None")
    if not _LEAST <= number < math.inf:
        raise ValueError(f"timeout must be a finite number of seconds above 0, got {_shown(timeout)}")
    seconds = min(number, _MOST)
    return Timeouts(seconds, seconds, seconds, seconds, seconds if total is None else total)


def check_http_client(client: object, *, is_async: bool) -> Any:
    """Return the caller's client of httpx; refuse one of the other kind."""
    import httpx

    expected = httpx.AsyncClient if is_async else httpx.Client
    if client is not None and not isinstance(client, expected):
        raise TypeError(f"http_client must be an httpx.{expected.__name__} or None, got {type(client).__name__}")
    return client
