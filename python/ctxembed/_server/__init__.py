"""A server with the API's interface: a model on this machine, or a stand-in for tests and benchmarks without cost.

Endpoints, limits, errors and response formats are the API's. The vectors come from the embedder that the server is
started with. Needs the extra ``ctxembed[server]``, which is imported when a server starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxembed._server.config import DEFAULT_PORT, RANDOM_FAULTS, ServerConfig
from ctxembed._server.process import ServerProcess

if TYPE_CHECKING:
    from ctxembed._server.app import create_app
    from ctxembed._server.http_server import serve

__all__ = ["DEFAULT_PORT", "RANDOM_FAULTS", "ServerConfig", "ServerProcess", "create_app", "serve"]


def __getattr__(name: str) -> Any:  # a module attribute has any type
    """Import ``create_app`` and ``serve``, which need the extra, on first use."""
    try:
        if name == "create_app":
            from ctxembed._server.app import create_app

            return create_app
        if name == "serve":
            from ctxembed._server.http_server import serve

            return serve
    except ModuleNotFoundError as error:
        if error.name in ("fastapi", "uvicorn", "starlette", "pydantic"):
            raise ImportError(f"{error.name} is missing: pip install 'ctxembed[server]'") from error
        raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
