"""The page at ``/``: static files that search a collection through the endpoints under ``/v1``."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

__all__ = ["page_routes"]

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Content types by the ending of a name. Other files of the folder are not served."""

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asks with the ETag each time, so that a new version shows at once
}


def page_routes() -> list[Route]:
    """Return the routes of the page: ``/`` and ``/page/NAME`` for each file.

    Returns
    -------
    list of Route
        For the application of the server. They need no key, since they hold nothing of a collection.

    Notes
    -----
    The files are read once, now, from wherever the package is installed. No path comes from a request.
    """
    routes = []
    for file in sorted(resources.files(__name__).iterdir(), key=lambda file: file.name):
        media_type = _TYPES.get(file.name[file.name.rfind(".") :])
        if media_type is None:
            continue
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        routes.append(Route(path, _endpoint(file.read_bytes(), media_type), methods=["GET"]))
    return routes


def _endpoint(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that serves a file, or a 304 to a browser that has it."""
    tag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
    headers = {**_HEADERS, "etag": tag}

    async def serve(request: Request) -> Response:
        known = (name.strip().removeprefix("W/") for name in request.headers.get("if-none-match", "").split(","))
        if tag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return serve
