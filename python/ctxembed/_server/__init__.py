"""A local server that speaks the API: for development, demos, tests and measurements, without a key or a bill.

Endpoints, limits, errors and the shape of every answer are the API's; the vectors come from a stand-in that knows
words but no meaning (``embedder``). Needs the extra ``ctxembed[server]``, which is imported when a server starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctxembed._server.config import DEFAULT_PORT, RANDOM_FAULTS, ServerConfig
from ctxembed._server.process import ServerProcess

if TYPE_CHECKING:
    from ctxembed._server.app import create_app
    from ctxembed._server.serving import serve

__all__ = ["DEFAULT_PORT", "RANDOM_FAULTS", "ServerConfig", "ServerProcess", "create_app", "serve"]


def __getattr__(name: str) -> Any:  # what a module attribute may be
    """Import what needs the extra only when it is used."""
    try:
        if name == "create_app":
            from ctxembed._server.app import create_app

            return create_app
        if name == "serve":
            from ctxembed._server.serving import serve

            return serve
    except ModuleNotFoundError as error:
        if error.name in ("fastapi", "uvicorn", "starlette", "pydantic"):
            raise ImportError(f"{error.name} is missing: pip install 'ctxembed[server]'") from error
        raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
