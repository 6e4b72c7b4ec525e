"""What a model's folder says: its graph, its tokenizer, and how its vectors are made. Nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ctxembed._backends.onnx.graph_file import external_data

__all__ = ["API_NAMES", "GRAPHS", "ModelFolder", "read_folder"]

GRAPHS: Final = ("onnx/model.onnx", "model.onnx")
"""Where a graph is looked for, in this order, before any other ``model*.onnx``."""

API_NAMES: Final = "pplx-embed-"
"""Models of the API begin with this. Local ones may only if they are the same, and embed in context."""

_CONTEXTUAL: Final = "pplx-embed-context-v1-"
_PPLX: Final = "bidirectional_pplx_qwen3"
_PPLX_SEPARATOR: Final = "<|endoftext|>"
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
"""Parts of a sentence-transformers model that a cosine of means does not need. The quantiser of pplx is ours."""

_MOST_TOKENS: Final = 1_000_000
"""``model_max_length`` of a tokenizer that has none is about 1e30."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model as its folder describes it.

    Attributes
    ----------
    name : str
        Of the model.
    graph : Path
        The ONNX file.
    tokenizer : bytes
        Content of ``tokenizer.json``.
    separator : str
        The token between two chunks.
    pools_special_tokens : bool
        Whether the tokens before the first chunk and after the last count as theirs.
    context : int
        Tokens of one pass at most.
    dimensions : tuple of int or None
        Prefixes that the model was trained for, besides its full size; None for any.
    hidden_size : int or None
        Width of the vectors, where the configuration says so.
    digest : str
        Of weights, tokenizer and settings: two models of one digest produce the same vectors.
    """

    name: str
    graph: Path
    tokenizer: bytes
    separator: str
    pools_special_tokens: bool
    context: int
    dimensions: tuple[int, ...] | None
    hidden_size: int | None
    digest: str


def read_folder(folder: Path, *, name: str | None = None, graph: str | None = None) -> ModelFolder:
    """Read a folder as Hugging Face has them.

    Parameters
    ----------
    folder : Path
        Holds ``config.json``, ``tokenizer.json`` and ``onnx/model.onnx`` or ``model.onnx``.
    name : str, optional
        Of the model. Default: the folder's.
    graph : str, optional
        The ONNX file, relative to the folder.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        A file is not what it should be, or the model cannot be used for late chunking. The message says why.
    """
    config = _json(folder / "config.json", required=True)
    is_pplx = config.get("model_type") == _PPLX or any(
        str(each).startswith("PPLXQwen3") for each in config.get("architectures") or ()
    )
    tokenizer_config = _json(folder / "tokenizer_config.json")
    _check_pooling(folder)
    _check_modules(folder, is_pplx=is_pplx)
    _check_prompts(folder)
    path = find_graph(folder, graph)
    tokenizer = _read(folder / "tokenizer.json")
    separator = _separator(folder, tokenizer_config) or (_PPLX_SEPARATOR if is_pplx else None)
    if separator is None:
        raise ValueError(
            f"{folder}: the model has no separator: neither special_tokens_map.json nor tokenizer_config.json has a "
            "sep_token, and without a token between chunks it was not trained to tell them apart"
        )
    context = _context(config, tokenizer_config, folder)
    dimensions = None if is_pplx else _prefixes(config)
    settings = [separator, "content" if is_pplx else "edges"]
    return ModelFolder(
        name=_name(folder, config, name, is_pplx=is_pplx),
        graph=path,
        tokenizer=tokenizer,
        separator=separator,
        pools_special_tokens=not is_pplx,
        context=context,
        dimensions=dimensions,
        hidden_size=_hidden_size(config, folder),
        digest=digest_of(path, tokenizer, settings),
    )


def digest_of(graph: Path, tokenizer: bytes, settings: list[str]) -> str:
    """Return the SHA-256 of weights, tokenizer and settings: its first 32 hexadecimal digits.

    Raises
    ------
    OSError
        A file of weights is missing.
    ValueError
        The graph is no ONNX file, or names a file outside of its folder.
    """
    total = hashlib.sha256()
    for path in [graph, *_weights(graph)]:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    total.update(hashlib.sha256(tokenizer).digest())
    total.update(json.dumps(settings).encode())
    return total.hexdigest()[:32]


def _weights(graph: Path) -> list[Path]:
    found = []
    for name in external_data(graph):
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{graph} has weights in {name!r}, which is not in its folder")
        path = graph.parent / name
        if not path.is_file():
            raise FileNotFoundError(2, f"the weights of {graph.name} are missing", str(path))
        found.append(path)
    return found


def find_graph(folder: Path, graph: str | None) -> Path:
    """Return the ONNX file of a folder: that with a name, or the only one that may be meant.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        There are several, and none is ``model.onnx``.
    """
    if graph is not None:
        path = folder / graph
        if not path.is_file():
            raise FileNotFoundError(2, f"the folder has no {graph}", str(path))
        return path
    for name in GRAPHS:
        if (folder / name).is_file():
            return folder / name
    others = sorted([*(folder / "onnx").glob("model*.onnx"), *folder.glob("model*.onnx")])
    if len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(path.relative_to(folder).as_posix() for path in others)
        raise ValueError(f"{folder} has several graphs: name one of {names} (graph=)")
    raise FileNotFoundError(2, "the folder has no ONNX graph (onnx/model.onnx or model.onnx)", str(folder))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(2, f"the folder of a model needs {path.name}", str(path)) from None


def _json(path: Path, *, required: bool = False) -> dict[str, Any]:
    if not required and not path.is_file():
        return {}
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(found).__name__}")  # noqa: TRY004 - of a file
    return found


def _separator(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    for source in (_json(folder / "special_tokens_map.json"), tokenizer_config):
        found = source.get("sep_token")
        token = found.get("content") if isinstance(found, dict) else found
        if isinstance(token, str) and token:
            return token
    return None


def _check_pooling(folder: Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    pooling = _json(path)
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    modes += [f"pooling_mode={pooling['pooling_mode']!r}"] if pooling.get("pooling_mode", "mean") != "mean" else []
    if others := [mode for mode in modes if mode != "pooling_mode_mean_tokens"]:
        raise ValueError(
            f"{path}: late chunking takes the mean of each chunk's tokens, but the model pools by {', '.join(others)}"
        )


def _check_modules(folder: Path, *, is_pplx: bool) -> None:
    path = folder / "modules.json"
    if not path.is_file():
        return
    try:
        types = [str(module["type"]) for module in json.loads(path.read_bytes())]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} must hold a JSON array of objects with a type") from None
    known = (*_MODULES, "FlexibleQuantizer") if is_pplx else _MODULES
    if others := [kind for kind in types if kind.rpartition(".")[2] not in known]:
        raise ValueError(f"{path}: the model ends in {', '.join(others)}, which its graph does not hold")


def _check_prompts(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    prompts = _json(path).get("prompts") or {}
    if named := sorted(key for key, text in prompts.items() if text):
        raise ValueError(f"{path}: the model needs a prompt before each text ({', '.join(named)}), which none is given")


def _context(config: dict[str, Any], tokenizer_config: dict[str, Any], folder: Path) -> int:
    found = []
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int):
        # Positions of RoBERTa and MPNet start behind that of the padding token.
        starts_late = any(part in str(config.get("model_type")) for part in ("roberta", "mpnet"))
        found.append(positions - (config.get("pad_token_id", 1) + 1 if starts_late else 0))
    longest = tokenizer_config.get("model_max_length")
    if isinstance(longest, int) and longest < _MOST_TOKENS:
        found.append(longest)
    if not found or min(found) < 1:
        raise ValueError(f"{folder / 'config.json'}: max_position_embeddings must be a positive int, got {positions!r}")
    return min(found)


def _prefixes(config: dict[str, Any]) -> tuple[int, ...]:
    trained = config.get("matryoshka_dimensions")
    return tuple(size for size in trained if isinstance(size, int)) if isinstance(trained, list) else ()


def _hidden_size(config: dict[str, Any], folder: Path) -> int | None:
    found = config.get("hidden_size")
    if found is not None and not isinstance(found, int):
        raise ValueError(f"{folder / 'config.json'}: hidden_size must be an int, got {found!r}")
    return found


def _name(folder: Path, config: dict[str, Any], name: str | None, *, is_pplx: bool) -> str:
    if name is None:
        place = folder.resolve()
        # A folder of the Hugging Face cache: models--ORGANISATION--NAME/snapshots/COMMIT.
        snapshot = place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--")
        name = place.parent.parent.name.rpartition("--")[2] if snapshot else place.name
    if name.startswith(API_NAMES) and not (is_pplx and name.startswith(_CONTEXTUAL)):
        kinds = [str(config.get("model_type")), *map(str, config.get("architectures") or ())]
        raise ValueError(
            f"{folder}: {name!r} is the name of a model of the API, but config.json says {', '.join(kinds)}: name it "
            "otherwise (name=)"
        )
    return name
