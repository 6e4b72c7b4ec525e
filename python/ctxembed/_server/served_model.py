"""What a server serves: the stand-in, or a model on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed._backends.hashed import NOTICE, HashedEmbedder
from ctxembed._models import get_model, models
from ctxembed._planning.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctxembed._backends.embedder import Embedder
    from ctxembed._models import Model

__all__ = ["DEMO", "LOCAL_QUEUE", "STAND_IN", "ServedModel", "choose_model"]

STAND_IN: Final = "stand-in"
DEMO: Final = "demo"
LOCAL_QUEUE: Final = 4 * Limits().tokens
"""Tokens in the queue of a local model unless told otherwise: four requests of the largest size."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The models of a server, and where their vectors come from.

    Parameters
    ----------
    models : tuple of Model or None
        For :class:`~ctxembed._server.config.ServerConfig`.
    embedder : Embedder or callable
        For :func:`~ctxembed._server.serve`.
    notice : str
        What a server says when it starts.
    max_queued_tokens : int or None
        The bound of its queue unless told otherwise.
    """

    models: tuple[Model, ...] | None
    embedder: Embedder | Callable[[], Embedder]
    notice: str
    max_queued_tokens: int | None


def choose_model(
    names: Sequence[str] = (),
    *,
    device: str | None = None,
    threads: int | None = None,
    max_document_tokens: int | None = None,
    long_documents: str | None = None,
) -> ServedModel:
    """Choose what to serve.

    Parameters
    ----------
    names : sequence of str
        Nothing or ``"stand-in"`` for the stand-in of all models, or names of the API's models for that of some; or one
        name of a local model: ``"demo"``, a folder, or an id of the Hugging Face hub.
    device, threads, max_document_tokens, long_documents
        For :func:`ctxembed.backends.load`; None for its default.

    Returns
    -------
    ServedModel
        A local model is not loaded yet.

    Raises
    ------
    ValueError
        A name is unknown or no folder, or the options do not fit together.
    """
    given = {
        "device": device,
        "threads": threads,
        "max_document_tokens": max_document_tokens,
        "long_documents": long_documents,
    }
    options = {name: value for name, value in given.items() if value is not None}
    local = [name for name in names if _is_local(name)]
    if not local:
        if others := [name for name in options if name != "threads"]:
            raise ValueError(f"{others[0]} is an option of local models: name one (--model)")
        wanted = models() if STAND_IN in names or not names else tuple(map(get_model, names))
        return ServedModel(wanted, HashedEmbedder(wanted), NOTICE, None)
    if len(names) > 1:
        raise ValueError(f"a server has one local model, got {', '.join(names)}")
    return ServedModel(None, _loader(local[0], options), f"ctxembed: loading {local[0]}", LOCAL_QUEUE)


def _is_local(name: str) -> bool:
    """Whether a name is that of a local model. A folder goes before a model of the API."""
    if name in (STAND_IN, DEMO):
        return name == DEMO
    if Path(name).expanduser().is_dir():
        return True
    known = [model.name for model in models()]
    if name in known:
        return False
    if name.startswith((".", "~", os.sep)) or Path(name).exists():
        raise ValueError(f"model {name!r} is not a folder")
    if "/" not in name:
        raise ValueError(
            f"model {name!r} is not known: expected {STAND_IN}, {DEMO}, a folder, an id of the Hugging Face hub "
            f"(ORGANISATION/NAME), or a model of the API to stand in for: {', '.join(known)}"
        )
    return True


def _loader(name: str, options: dict[str, Any]) -> Callable[[], Embedder]:
    def load() -> Embedder:
        from ctxembed import backends

        embedder: Embedder = backends.demo(**options) if name == DEMO else backends.load(name, **options)
        return embedder

    return load
