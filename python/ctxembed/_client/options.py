"""The options of both clients: declared once, with their defaults and checks. No I/O."""

from __future__ import annotations

import inspect
import ipaddress
import math
import os
import re
import ssl
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

import numpy as np

from ctxembed import _core
from ctxembed._client._http.transport import Timeouts
from ctxembed._client._policy.retry import DEFAULT_MAX_WAIT
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
    from ctxembed._client.hooks import RequestEvent, ResponseEvent, RetryEvent
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
    "check_proxy",
    "check_rate",
    "check_seconds",
    "check_share",
    "check_timeouts",
    "check_token_counter",
    "check_verify",
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
    re.IGNORECASE,
)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS: Final = frozenset({"authorization", "content-length", "transfer-encoding", "host"})


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


def check_int(name: str, value: object, least: int) -> int:
    """Return an int of at least ``least``."""
    number = as_int(name, value)
    if not least <= number < 2**31:
        raise ValueError(f"{name} must be from {least} to {2**31 - 1}, got {number}")
    return number


def check_rate(name: str, value: object) -> float | None:
    """Return a finite number above 0, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number or None, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")
    return float(value)


def check_seconds(name: str, value: object) -> float:
    """Return seconds from 0; infinite for None."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be seconds or None, got {value!r}")
    if not 0 <= value <= math.inf:
        raise ValueError(f"{name} must be seconds from 0, got {value!r}")
    return float(value)


def check_share(name: str, value: object) -> float | None:
    """Return a number from 0, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number or None, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return float(value)


def check_hedge(value: object) -> float | None:
    """Return the share of requests that may be sent twice, or None for none."""
    if value is None or value is False:
        return None
    if value is True:
        return DEFAULT_HEDGE
    if not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"hedge must be a share of the requests, a bool or None, got {value!r}")
    if not 0 < value < 1:
        raise ValueError(f"hedge must be a share of the requests, above 0 and below 1, got {value!r}")
    return float(value)


def check_proxy(value: object) -> str | None:
    """Return a proxy's URL. Messages show no part of it, since it may hold a password."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"proxy must be a URL or None, got {type(value).__name__}")
    if not value.lower().startswith(("http://", "https://", "socks5://", "socks5h://")):
        raise ValueError("proxy must begin with http://, https://, socks5:// or socks5h:// (it is not shown here)")
    return value


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
    folder = os.path.isdir(path)  # noqa: PTH112
    return ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)


def check_headers(given: object) -> dict[str, str]:
    """Return all headers of a request except ``Authorization``.

    Those of the environment's ``PERPLEXITY_CUSTOM_HEADERS`` (``Name: value``, one a line) come first, then ``given``.
    """
    headers = {
        "accept": "application/json",
        # Vectors are base64 of noise: compression saves a quarter of the bytes and costs more time than that.
        "accept-encoding": "identity",
        "user-agent": f"ctxembed/{_core.__version__} python/{sys.version_info[0]}.{sys.version_info[1]}",
    }
    lines = os.environ.get(HEADERS_VARIABLE, "").splitlines()
    _add_headers(headers, HEADERS_VARIABLE, [_header_of(line) for line in lines if ":" in line])
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
        return Timeouts(**timeout.as_dict(), total=total)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be seconds, an httpx.Timeout or None, got {timeout!r}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a finite number of seconds above 0, got {timeout!r}")
    seconds = float(timeout)
    return Timeouts(seconds, seconds, seconds, seconds, seconds if total is None else total)


def check_http_client(client: object, *, is_async: bool) -> Any:
    """Return the caller's client of httpx; refuse one of the other kind."""
    import httpx

    expected = httpx.AsyncClient if is_async else httpx.Client
    if client is not None and not isinstance(client, expected):
        raise TypeError(f"http_client must be an httpx.{expected.__name__} or None, got {type(client).__name__}")
    return client
