"""Loads a model: reads its folder, starts its session, and checks it before it embeds anything."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ctxembed._backends.onnx.embedder import LocalEmbedder
from ctxembed._backends.onnx.folder import API_NAMES, ModelFolder, read_folder
from ctxembed._backends.onnx.hub import download, parse_id
from ctxembed._backends.onnx.passes import PassPlanner
from ctxembed._backends.onnx.probes import batches_equal_single_passes, check_context
from ctxembed._backends.onnx.session import GraphSession
from ctxembed._backends.onnx.tokenizer import tokenizer_of
from ctxembed._models import MIN_DIMENSIONS, Model, as_int, register_model

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["embedder_of", "folder_of"]

_CPU_TOKENS: Final = 2_048
"""Tokens of a pass on a CPU, unless told otherwise: time and memory of attention grow with their square."""

_GPU_BATCH: Final = 16_384
_LEAST_CONTEXT: Final = 64


def folder_of(path_or_id: str | PathLike[str], *, name: str | None, graph: str | None, extra: str) -> ModelFolder:
    """Read a folder, or the one of a model of the Hugging Face hub.

    Raises
    ------
    FileNotFoundError
        It is neither a folder nor the id of a model.
    OSError, ValueError
        As for :func:`ctxembed.backends.load`.
    """
    folder = Path(path_or_id).expanduser()
    if not folder.exists():
        found = parse_id(path_or_id) if isinstance(path_or_id, str) else None
        if found is None:
            raise FileNotFoundError(2, "neither a folder nor ORGANISATION/NAME[@REVISION]", str(path_or_id))
        folder = download(*found, graph, extra)
        name = name or found[0].rpartition("/")[2]
    if not folder.is_dir():
        raise NotADirectoryError(20, "a model is a folder", str(folder))
    return read_folder(folder, name=name, graph=graph)


def embedder_of(
    folder: ModelFolder,
    extra: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    max_document_tokens: int | None = None,
    long_documents: str = "windows",
    overlap_chunks: int = 0,
    batch_tokens: int | None = None,
) -> LocalEmbedder:
    """Create the embedder of a model, and register the model.

    Parameters
    ----------
    folder : ModelFolder
        The model.
    extra : str
        The extra that installs what it needs.
    device, threads, max_document_tokens, long_documents, overlap_chunks, batch_tokens
        As in :func:`ctxembed.backends.load`.

    Raises
    ------
    ImportError, ValueError
        As for :func:`ctxembed.backends.load`.
    """
    if long_documents not in ("windows", "refuse"):
        raise ValueError(f"long_documents must be 'windows' or 'refuse', got {long_documents!r}")
    if as_int("overlap_chunks", overlap_chunks) < 0:
        raise ValueError(f"overlap_chunks must be at least 0, got {overlap_chunks}")
    most = _at_least("max_document_tokens", max_document_tokens, _LEAST_CONTEXT)
    batch = _at_least("batch_tokens", batch_tokens, 1)
    tokenizer = tokenizer_of(folder.tokenizer, folder.separator, extra)
    session = GraphSession(folder.graph, device=device, threads=threads, extra=extra)
    planner = PassPlanner(
        tokenizer.before,
        tokenizer.after,
        tokenizer.separator,
        pools_special_tokens=folder.pools_special_tokens,
        context=min(folder.context, most or (_CPU_TOKENS if session.device == "cpu" else folder.context)),
        overlap_chunks=overlap_chunks,
        cuts=long_documents == "windows",
    )
    width = check_context(session, tokenizer, planner)
    if folder.hidden_size not in (None, width):
        raise ValueError(
            f"{folder.graph}: the graph's vectors have {width} dimensions, but config.json says {folder.hidden_size}"
        )
    if batch is None and session.device == "cuda":
        batch = _GPU_BATCH
    if batch is not None and not batches_equal_single_passes(session, tokenizer, planner):
        batch = None
    model = Model(
        folder.name,
        width,
        Decimal(0),
        separator=None,
        dimension_choices=None if folder.dimensions is None else _choices(folder.dimensions, width),
        digest=folder.digest,
    )
    if not model.name.startswith(API_NAMES):  # those of the API keep their prices
        register_model(model)
    return LocalEmbedder(model, session, tokenizer, planner, batch)


def _choices(prefixes: tuple[int, ...], width: int) -> tuple[int, ...]:
    return (*[size for size in prefixes if MIN_DIMENSIONS <= size < width], width)


def _at_least(name: str, value: int | None, least: int) -> int | None:
    if value is None:
        return None
    number = as_int(name, value, "an int or None")
    if number < least:
        raise ValueError(f"{name} must be at least {least} or None, got {number}")
    return number
