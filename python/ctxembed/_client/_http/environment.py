"""What the environment says about the network: the proxy of a host, and the trusted certificates.

Both transports use it, so that they read the same variables in the same way. An error names the variable, and never
shows a proxy's password.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import ssl
import stat
import urllib.request
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import unquote, urlsplit

import httpx

from ctxembed._client._http.redaction import REDACTED
from ctxembed._errors import APIConnectionError

__all__ = [
    "Proxy",
    "ProxyFault",
    "environment_proxy",
    "environment_ssl_context",
    "is_host",
    "load_authorities",
    "parse_proxy",
]

_SCHEMES: Final = ("http", "https", "socks5", "socks5h")
_AUTHORITY: Final = re.compile(
    r"(?:(?P<user>.*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)?(?P<port>:.*)?", re.DOTALL
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")


class Proxy:
    """A proxy, whose user name and password only :meth:`as_httpx` shows."""

    __slots__ = ("_password", "_url", "_user")

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._user = user
        self._password = password

    def as_httpx(self) -> httpx.Proxy:
        """Return the proxy for httpx."""
        return httpx.Proxy(self._url, auth=(self._user, self._password) if self._user or self._password else None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxy) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[str, str, str]:
        return self._url, self._user, self._password

    def __repr__(self) -> str:
        return f"Proxy({REDACTED!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a proxy cannot be pickled or copied: it may hold a password")


@dataclass(frozen=True, slots=True)
class ProxyFault:
    """What is wrong with a proxy's URL, without any part of it."""

    reason: str


def parse_proxy(url: str) -> Proxy | ProxyFault:
    """Read the URL of a proxy, ``[scheme://][user[:password]@]host[:port]``; http where it has no scheme.

    A fault is returned and not raised, so that no frame of a traceback holds the URL.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "http", url.strip()
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        return ProxyFault("must begin with http://, https://, socks5:// or socks5h://")
    if scheme.startswith("socks5") and importlib.util.find_spec("socksio") is None:
        return ProxyFault("names a SOCKS proxy, which needs the package socksio: pip install 'httpx[socks]'")
    authority, delimiter, path = _split_path(rest)
    if "@" in path or (delimiter in ("?", "#") and path):
        return ProxyFault("holds a '/', '?' or '#' before its end: in a password write %2F, %3F or %23")
    if not all(character.isprintable() for character in authority):
        return ProxyFault("holds a control character or a line break")
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        return ProxyFault("has no valid host")
    if not found["host"]:
        return ProxyFault("has no host")
    if not is_host(found["host"]):
        return ProxyFault("has no valid host")
    port = (found["port"] or "")[1:]
    if port and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        return ProxyFault("has no valid port: it must be from 1 to 65535")
    user, _, password = (found["user"] or "").partition(":")
    return Proxy(f"{scheme}://{found['host']}{':' + port if port else ''}", unquote(user), unquote(password))


def is_host(host: str) -> bool:
    """Return whether a URL's host is a name of ASCII labels, an IPv4 address, or an IPv6 address in brackets."""
    if host.startswith("["):
        return ":" in host and _address(host) is not None
    if len(host) > 253 or _HOST.fullmatch(host) is None:
        return False
    try:
        httpx.URL(f"http://{host}").host  # noqa: B018  # decodes labels that begin with xn--
    except (httpx.InvalidURL, UnicodeError):
        return False
    return True


def _split_path(rest: str) -> tuple[str, str, str]:
    found = re.search(r"[/?#]", rest)
    return (rest, "", "") if found is None else (rest[: found.start()], found[0], rest[found.end() :])


def environment_proxy(base_url: str) -> Proxy | None:
    """Return the proxy that the environment names for a URL, if there is one.

    ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``ALL_PROXY`` are read as :func:`urllib.request.getproxies` does, with the
    settings of macOS and Windows. ``NO_PROXY`` lists hosts, domains, addresses and networks, with a port or without.

    Raises
    ------
    APIConnectionError
        The proxy's URL cannot be used. The message names the variable.
    """
    proxies = urllib.request.getproxies()
    parts = urlsplit(base_url)
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    kind = scheme if proxies.get(scheme) else "all"
    url = proxies.get(kind)
    if not url or not url.strip():
        return None
    port = parts.port or (443 if scheme == "https" else 80)
    if _is_bypassed(proxies.get("no", ""), scheme, host, port):
        return None
    if not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(host):  # the system's exceptions
        return None
    proxy = parse_proxy(url)
    if isinstance(proxy, Proxy):
        return proxy
    del url, proxies
    raise _unusable(_variable(f"{kind}_proxy"), f"{proxy.reason} (it is not shown here)")


def _variable(name: str) -> str:
    """Return the name of a variable as the environment spells it."""
    return next((spelled for spelled in (name, name.upper()) if os.environ.get(spelled)), name.upper())


def _is_bypassed(no_proxy: str, scheme: str, host: str, port: int) -> bool:
    address = _address(host)
    return any(
        _matches(entry.lower(), scheme, host.rstrip("."), address, port) for entry in re.split(r"[,;\s]+", no_proxy)
    )


def _matches(
    entry: str,
    scheme: str,
    host: str,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
    port: int,
) -> bool:
    """Return whether an entry of ``NO_PROXY`` means the host."""
    entry_scheme, separator, rest = entry.partition("://")
    if separator:
        if entry_scheme not in ("all", scheme):
            return False
        entry = rest.rstrip("/")
    if entry == "*":
        return True
    network = _network(entry)
    if network is None:
        name, separator, entry_port = entry.rpartition(":")
        if separator and entry_port.isascii() and entry_port.isdigit():
            if int(entry_port[:6]) != port:
                return False
            entry = name
            if entry == "*":
                return True
            network = _network(entry)
    if network is not None:
        return address is not None and address.version == network.version and address in network
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and address is None and (host == domain or host.endswith("." + domain))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network of an entry such as ``10.0.0.0/8``, ``::1``, ``[::1]`` or ``[fd00::]/8``."""
    if entry.startswith("["):
        inside, _, rest = entry[1:].partition("]")
        if rest and not rest.startswith("/"):
            return None
        entry = inside + rest
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen == 128:
        mapped = network.network_address.ipv4_mapped
        return network if mapped is None else ipaddress.ip_network(mapped)
    return network


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]").replace("%25", "%"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def environment_ssl_context() -> ssl.SSLContext:
    """Return a context that trusts ``SSL_CERT_FILE``, or else ``SSL_CERT_DIR``, or else the public authorities.

    Raises
    ------
    APIConnectionError
        The certificates cannot be loaded. The message names the variable and the path.
    """
    variable, fault = "", ""
    try:
        if file := os.environ.get("SSL_CERT_FILE"):
            variable = "SSL_CERT_FILE"
            return load_authorities(file, folder=False)
        if folders := os.environ.get("SSL_CERT_DIR"):
            variable = "SSL_CERT_DIR"
            _check_folders(folders)
            return load_authorities(folders, folder=True)
        variable = "SSLKEYLOGFILE" if os.environ.get("SSLKEYLOGFILE") else "the bundle of the package certifi"
        return httpx.create_ssl_context(trust_env=False)
    except (OSError, ValueError) as error:
        fault = str(error)
    raise _unusable(f"{variable}:", fault)


def load_authorities(path: str, *, folder: bool) -> ssl.SSLContext:
    """Return a context that trusts the certificates of a file, or of folders.

    Raises
    ------
    ValueError
        There is no certificate. The message says what is wrong with the path.
    """
    try:
        if not folder:
            if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116  # opening it would wait for a writer
                raise ValueError(f"{path!r} is a named pipe")
            with open(path, "rb"):  # noqa: PTH123  # `ssl` raises an error without the path
                pass
        return ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)
    except ssl.SSLError as error:
        raise ValueError(f"{path!r} holds no certificate in PEM format ({error.reason or error})") from None
    except OSError as error:
        keys = os.environ.get("SSLKEYLOGFILE")
        if keys and error.filename in (keys, None):
            raise ValueError(f"SSLKEYLOGFILE names {keys!r}, which cannot be written ({error.strerror})") from None
        raise ValueError(f"{path!r} cannot be read ({error.strerror or error})") from None


def _check_folders(paths: str) -> None:
    found = [path for path in paths.split(os.pathsep) if os.path.isdir(path)]  # noqa: PTH112
    if not found:
        raise ValueError(f"{paths!r} is no folder")
    if not any(name for path in found for name in os.listdir(path)):  # noqa: PTH208
        raise ValueError(f"{paths!r} holds no certificate")


def _unusable(variable: str, reason: str) -> APIConnectionError:
    """Create the error of a variable that cannot be used. Its cause marks it as permanent."""
    message = f"{variable} {reason}"
    error = APIConnectionError(f"no request was sent: {message}")
    error.__cause__ = ValueError(message)
    return error
