"""Imports that a command makes before those that would take along what it does not use."""

from __future__ import annotations

import sys

__all__ = ["import_httpx"]


def import_httpx() -> None:
    """Import httpx without the packages that it and httpcore take along where these are installed.

    They are for httpx's own command, for HTTP/2 and for another event loop, and take longer than httpx.
    """
    hidden = [name for name in ("click", "h2", "rich", "trio") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import of it fails
    try:
        import httpcore
        import httpx

        del httpcore, httpx
    finally:
        for name in hidden:
            del sys.modules[name]
