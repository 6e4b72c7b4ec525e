"""Which requests the server handles: for its own host names, and to its own endpoints from no other site's pages."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.responses import Response

from ctxembed._server.contract import error_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ctxembed._server.config import ServerConfig

__all__ = ["SEARCHING", "SEARCH_PATH", "AccessControl"]

SEARCH_PATH: Final = "/v1/search"
SEARCHING: Final = (SEARCH_PATH, "/v1/documents/", "/v1/collections")
"""Beginnings of the paths of collections. A query in a URL may cost something, so that reading is protected, too."""

_MAX_KNOWN: Final = 256
"""Hosts of requests whose check is remembered."""

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class AccessControl:
    """Refuse requests that a page of another site can cause.

    A page may point its own host name at this machine and then read what the server responds (DNS rebinding), so the
    ``Host`` of a request must be an address, a name of the loopback interface, or a name that the configuration
    lists. The endpoints that change the server need no key, and those that search may need none, so a request to them
    that a browser marks as another site's is refused (OWASP, Cross-Site Request Forgery Prevention), unless that site
    may search.

    Parameters
    ----------
    app : ASGIApp
        The application.
    config : ServerConfig
        Its ``host``, ``allowed_hosts`` and ``cors_origins``.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._hosts = frozenset(name.lower().rstrip(".") for name in (config.host, *config.allowed_hosts))
        self._known: dict[str, bool] = {}
        self._origins = frozenset(origin.lower() for origin in config.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refused = self._refusal(scope)
            if refused is not None:
                status, message = refused
                headers = {"connection": "close"}
                await Response(error_body(status, message), status, headers, "application/json")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        host, origin, site = None, None, "none"
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    return 400, "A request must have one Host"
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1")
        if host is not None and not self._is_own(host):  # HTTP/1.0 has none, and browsers always send it
            return 421, "This server does not serve the host of the request: start it with --allowed-host NAME"
        path = scope["path"]
        searches = path.startswith(SEARCHING)
        if not searches and (scope["method"] in _READING or path.startswith("/v1/")):  # those need a key
            return None
        if searches and origin is not None and not self._origins.isdisjoint((origin.lower(), "*")):
            return None
        same_origin = origin is None or urlsplit(origin).netloc.lower() == (host or "").lower()
        if not same_origin or site not in ("none", "same-origin"):
            return 403, f"Pages of other sites may not {'search' if searches else 'change'} this server"
        return None

    def _is_own(self, host: str) -> bool:
        known = self._known.get(host)
        if known is None:
            known = self._is_own_name(host)
            if len(self._known) < _MAX_KNOWN:
                self._known[host] = known
        return known

    def _is_own_name(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
