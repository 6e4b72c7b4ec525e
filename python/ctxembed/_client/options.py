"""The options of both clients, checked. No I/O."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import ssl
import sys
from typing import Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._models import as_int

__all__ = [
    "DEFAULT_MAX_CONCURRENCY",
    "DEFAULT_MAX_RETRIES",
    "DEFAULT_RETRY_BUDGET",
    "OPTIONS",
    "check_base_url",
    "check_headers",
    "check_hedge",
    "check_int",
    "check_proxy",
    "check_rate",
    "check_seconds",
    "check_share",
    "check_verify",
]

DEFAULT_BASE_URL: Final = "https://api.perplexity.ai"
BASE_URL_VARIABLE: Final = "PERPLEXITY_BASE_URL"
HEADERS_VARIABLE: Final = "PERPLEXITY_CUSTOM_HEADERS"
DEFAULT_MAX_RETRIES: Final = 4
DEFAULT_MAX_CONCURRENCY: Final = 8
DEFAULT_RETRY_BUDGET: Final = 0.5
DEFAULT_HEDGE: Final = 0.05

OPTIONS: Final = (
    "api_key",
    "base_url",
    "timeout",
    "total_timeout",
    "deadline",
    "max_retries",
    "max_wait",
    "retry_budget",
    "hedge",
    "max_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "limits",
    "token_counter",
    "default_headers",
    "http_client",
    "http2",
    "proxy",
    "verify",
    "on_request",
    "on_response",
    "on_retry",
    "allow_insecure",
)
"""The constructor's arguments, for ``with_options``."""

# Strict on purpose: what two URL parsers could read in two ways is refused before a key is sent there.
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
    """Return an int of at least so much."""
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
    """Return seconds from 0; None is as long as it takes."""
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
    """Return the share of requests that may be sent twice, None for none."""
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
    """Return a proxy's URL. A message shows no part of it: it may hold a password."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"proxy must be a URL or None, got {type(value).__name__}")
    if not value.lower().startswith(("http://", "https://", "socks5://", "socks5h://")):
        raise ValueError("proxy must begin with http://, https://, socks5:// or socks5h:// (it is not shown here)")
    return value


def check_verify(value: object) -> ssl.SSLContext | None:
    """Return the context that trusts what the caller trusts: a file or folder of certificates, or a context."""
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
    """Return all headers of a request but the key's.

    Those of the environment's ``PERPLEXITY_CUSTOM_HEADERS`` (``Name: value``, one a line) come first, then ``given``.
    """
    headers = {
        "accept": "application/json",
        # The vectors are base64 of noise: compression would win a quarter and cost more time than it saves.
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
