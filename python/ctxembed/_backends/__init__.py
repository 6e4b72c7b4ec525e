"""Embedders: the protocol, and the implementations behind it.

The server serves any :class:`~ctxembed._backends.embedder.Embedder`. Whoever starts a server chooses one.
"""

from __future__ import annotations

from ctxembed._backends.embedder import Embedder

__all__ = ["Embedder"]
