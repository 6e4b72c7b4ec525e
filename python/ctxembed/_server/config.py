"""The server's configuration, and its form as command-line arguments."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path

from ctxembed._models import Model, models
from ctxembed._planning.limits import Limits
from ctxembed._server.faults import NAMED

__all__ = ["DEFAULT_PORT", "RANDOM_FAULTS", "ServerConfig", "is_loopback"]

DEFAULT_PORT = 8765
"""Default port of the command line."""

RANDOM_FAULTS: tuple[str, ...] = (
    "429",
    "500",
    "503",
    "reset",
    "truncated",
    "shuffled",
    "missing-chunk",
    "duplicate-chunk",
    "wrong-dimensions",
    "html",
    "garbage",
    "mislabelled-gzip",
)
"""Default faults of ``fail_rate``. None of them makes the client wait."""


_ORIGIN = re.compile(r"\*|https?://[^\s/?#@,]+")


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address, is a loopback address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Configuration of the local server.

    Parameters
    ----------
    host : str
        Address to listen on. It must be a loopback address unless ``allow_remote`` is set.
    port : int
        TCP port; 0 picks a free one, which is printed.
    key : str or None
        The accepted bearer token, or several separated by commas; None accepts any that is not empty. ``repr`` does not
        show it.
    allow_remote : bool
        Allow a ``host`` that other machines can reach.
    allowed_hosts : tuple of str
        Names that the ``Host`` of a request may have, besides addresses, ``localhost`` and ``host``.
    latency : float
        Minimum seconds from a request's arrival to its response.
    requests_per_minute, tokens_per_minute : float or None
        Rate limits, as leaky buckets with continuous refill. Excess requests get a 429 with ``Retry-After``.
    burst : int
        Capacity of the request bucket. The token bucket holds one minute's tokens.
    fail_rate : float
        Share of requests, 0 to 1, that meet a random fault from ``fail_kinds``.
    fail_seed : int
        Seed of the random faults. The same seed and order of requests give the same faults.
    fail_kinds : tuple of str
        Names in ``ctxembed._server.faults.NAMED``.
    faults : str, Path or None
        File of a fault plan (:mod:`ctxembed._server.faults.plan`), read when the server starts.
    cache : int
        Number of response bodies to cache by request body, so that benchmarks measure the client. 0 disables the
        cache.
    threads : int
        Worker threads for parsing, and passes of the stand-in that run at once. A local model runs one pass at a time,
        which has the threads that the model was loaded with.
    max_queued_tokens : int or None
        Tokens of all requests that wait or run. A request beyond it gets a 429 with ``Retry-After``, unless nothing
        else waits or runs. None for no bound.
    max_body_bytes : int
        A larger request body gets a 413.
    limits : Limits
        Largest request.
    models : tuple of Model or None
        Models that requests may name; those of ``ctxembed.models()`` by default. None: the embedder's own, at both
        endpoints.
    collections : tuple of str or Path
        Folders of collections to search.
    cors_origins : tuple of str
        Origins whose pages may search: ``https://example.com``, or ``*`` for all.
    cached_queries : int
        Vectors of text queries that are kept.
    scan_queries : int
        Queries of one scan at most; 1 shares no scans.
    ssl_certfile, ssl_keyfile : str, Path or None
        PEM files of the certificate chain and its key, for https. The key may be in the first file.
    access_log : bool
        Log each request to stderr.

    Raises
    ------
    TypeError, ValueError
        A field has the wrong type or value. The message names the field.

    Examples
    --------
    >>> ServerConfig(latency=0.2).latency
    0.2
    """

    host: str = "127.0.0.1"
    port: int = 0
    key: str | None = field(default=None, repr=False)
    allow_remote: bool = False
    allowed_hosts: tuple[str, ...] = ()
    latency: float = 0.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst: int = 10
    fail_rate: float = 0.0
    fail_seed: int = 0
    fail_kinds: tuple[str, ...] = RANDOM_FAULTS
    faults: str | Path | None = None
    cache: int = 0
    threads: int = 2
    max_queued_tokens: int | None = None
    max_body_bytes: int = 64 * 1024 * 1024
    limits: Limits = field(default_factory=Limits)
    models: tuple[Model, ...] | None = field(default_factory=models)
    collections: tuple[str | Path, ...] = ()
    cors_origins: tuple[str, ...] = ()
    cached_queries: int = 10_000
    scan_queries: int = 512
    ssl_certfile: str | Path | None = None
    ssl_keyfile: str | Path | None = None
    access_log: bool = False

    def __post_init__(self) -> None:
        self._check_int("port", 0, 65_535)
        self._check_int("burst", 1, 2**31)
        self._check_int("fail_seed", -(2**63), 2**63)
        self._check_int("cache", 0, 2**31)
        self._check_int("threads", 1, 256)
        if self.max_queued_tokens is not None:
            self._check_int("max_queued_tokens", 1, 2**40)
        self._check_int("max_body_bytes", 1, 2**40)
        self._check_int("cached_queries", 0, 10_000_000)
        self._check_int("scan_queries", 1, 4096)
        self._check_number("latency", minimum=0.0)
        self._check_number("fail_rate", minimum=0.0, maximum=1.0)
        if self.requests_per_minute is not None:
            self._check_number("requests_per_minute", minimum=1e-6)
        if self.tokens_per_minute is not None:
            self._check_number("tokens_per_minute", minimum=1e-6)
        if not isinstance(self.host, str):
            raise TypeError(f"ServerConfig.host must be a str, got {self.host!r}")
        if not self.allow_remote and not is_loopback(self.host):
            raise ValueError(
                f"ServerConfig.host {self.host!r} is not a loopback address: expected 127.0.0.1, ::1 or localhost, "
                "or allow_remote=True (--allow-remote)"
            )
        if self.key is not None and not isinstance(self.key, str):
            raise TypeError(f"ServerConfig.key must be a str or None, got {type(self.key).__name__}")
        if self.key is not None and not all(self.keys):
            raise ValueError("ServerConfig.key must not be empty, nor any of several keys: None accepts any key")
        unknown = [kind for kind in self.fail_kinds if kind not in NAMED]
        if unknown or (self.fail_rate and not self.fail_kinds):
            raise ValueError(f"ServerConfig.fail_kinds: expected names among {', '.join(NAMED)}, got {unknown!r}")
        if self.models is not None and not self.models:
            raise ValueError("ServerConfig.models must not be empty")
        self._check_names()
        self._check_files()

    @property
    def keys(self) -> tuple[str, ...]:
        """The accepted bearer tokens; empty where any is."""
        return () if self.key is None else tuple(key.strip() for key in self.key.split(","))

    def _check_names(self) -> None:
        for name in self.allowed_hosts:
            if not isinstance(name, str) or not name or any(character in name for character in "/:,@ "):
                raise ValueError(f"ServerConfig.allowed_hosts: expected host names without ports, got {name!r}")
        for origin in self.cors_origins:
            if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
                raise ValueError(f"ServerConfig.cors_origins: expected SCHEME://HOST[:PORT] or *, got {origin!r}")
        for path in self.collections:
            if not isinstance(path, str | PathLike) or not os.fspath(path):
                raise TypeError(f"ServerConfig.collections: expected paths, got {path!r}")

    def _check_files(self) -> None:
        """Check the paths, and read the certificate and its key, so that a server does not start without them."""
        for name in ("faults", "ssl_certfile", "ssl_keyfile"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str | PathLike):
                raise TypeError(f"ServerConfig.{name} must be a path or None, got {value!r}")
        if self.ssl_certfile is None:
            if self.ssl_keyfile is not None:
                raise ValueError("ServerConfig.ssl_keyfile needs ssl_certfile (--ssl-certfile)")
            return
        import ssl  # takes a while, and few servers need it

        for path in (self.ssl_certfile, self.ssl_keyfile):
            if path is not None:
                Path(path).read_bytes()  # an error names the file, which that of ssl does not

        def refuse() -> str:
            raise ValueError(f"the key of ssl_certfile {str(self.ssl_certfile)!r} is encrypted")

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password=refuse)
        except ssl.SSLError as error:
            raise ValueError(
                f"ssl_certfile {str(self.ssl_certfile)!r} must be a certificate in PEM format with its key in it or in "
                f"ssl_keyfile, got: {error.reason or error}"
            ) from None

    def _check_int(self, name: str, minimum: int, maximum: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"ServerConfig.{name} must be an int, got {value!r}")
        if not minimum <= value <= maximum:
            raise ValueError(f"ServerConfig.{name} must be from {minimum} to {maximum}, got {value}")

    def _check_number(self, name: str, *, minimum: float, maximum: float = math.inf) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"ServerConfig.{name} must be a number, got {value!r}")
        if not (minimum <= value <= maximum and math.isfinite(value)):
            raise ValueError(f"ServerConfig.{name} must be a finite number from {minimum} to {maximum}, got {value}")

    def to_args(self) -> list[str]:
        """Return the arguments for ``python -m ctxembed._server``, without the key.

        Raises
        ------
        ValueError
            ``models`` is not the default, and cannot be passed to another process.
        """
        if self.models != models():
            raise ValueError("ServerConfig.models cannot be passed to another process")
        given: list[str] = []
        for entry in fields(self):
            if entry.name in ("key", "limits", "models"):
                continue
            value = getattr(self, entry.name)
            flag = "--" + entry.name.replace("_", "-")
            if isinstance(value, bool):
                given += [flag] if value else []
            elif entry.name == "collections":
                given += [f"--collection={path}" for path in self.collections]
            elif isinstance(value, tuple):
                given += [f"{flag}={','.join(value)}"]
            elif value is not None:
                given += [f"{flag}={value}"]
        for limit in fields(Limits):
            given += [f"--limit-{limit.name.replace('_', '-')}={getattr(self.limits, limit.name)}"]
        return given
