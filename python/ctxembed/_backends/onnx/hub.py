"""Downloads what is needed of a model from the Hugging Face hub, into its own cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from ctxembed._backends.onnx.folder import GRAPHS, find_graph
from ctxembed._backends.onnx.graph_file import external_data
from ctxembed._extras import require

__all__ = ["download", "parse_id"]

_ID: Final = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def parse_id(text: str) -> tuple[str, str | None] | None:
    """Return id and revision of ``ORGANISATION/NAME[@REVISION]``, or None where it is no such text."""
    found = _ID.fullmatch(text)
    return (found["id"], found["revision"]) if found else None


def download(repository: str, revision: str | None, graph: str | None, extra: str) -> Path:
    """Return a folder with configuration, tokenizer, graph and weights of a model.

    Parameters
    ----------
    repository : str
        ``ORGANISATION/NAME``.
    revision : str or None
        A commit, tag or branch. Default: the main branch.
    graph : str or None
        The ONNX file. Default: ``onnx/model.onnx`` or ``model.onnx``, else the only ``model*.onnx``.
    extra : str
        The extra that installs ``huggingface_hub``.

    Raises
    ------
    ImportError
        ``huggingface_hub`` is not installed.
    OSError
        The model cannot be downloaded, or has no graph.
    """
    hub = require("huggingface_hub", extra, "a model of the Hugging Face hub")

    def fetch(patterns: list[str], commit: str | None) -> Path:
        return Path(hub.snapshot_download(repository, revision=commit, allow_patterns=patterns))

    try:
        folder = fetch(["*.json", "1_Pooling/config.json", *([graph] if graph else GRAPHS)], revision)
        commit = folder.name  # the rest is of the same commit, also when somebody pushes meanwhile
        if graph is None and not any((folder / name).is_file() for name in GRAPHS):
            fetch(["onnx/model*.onnx", "model*.onnx"], commit)
        path = find_graph(folder, graph)
        inner = path.relative_to(folder).parent
        if weights := [(inner / name).as_posix() for name in external_data(path)]:
            fetch([_literal(name) for name in weights], commit)
    except Exception as error:
        raise _described(repository, error) from error
    return folder


def _literal(name: str) -> str:
    """Return a pattern that matches one name."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _described(repository: str, error: Exception) -> Any:
    if isinstance(error, (ImportError, ValueError)) or (isinstance(error, FileNotFoundError) and error.filename):
        return error
    return OSError(f"{repository} cannot be had from the Hugging Face hub, and is no folder here: {error}")
