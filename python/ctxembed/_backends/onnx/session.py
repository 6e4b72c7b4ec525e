"""Runs a graph with onnxruntime: token ids in, one state a token out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["GraphSession"]

_STATES: Final = "last_hidden_state"
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
_CUDA: Final = "CUDAExecutionProvider"
_DTYPES: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class GraphSession:
    """A graph that is ready to run.

    Parameters
    ----------
    graph : Path
        The ONNX file.
    device : {"auto", "cpu", "cuda"}
        Where it runs; ``"auto"`` takes a GPU where onnxruntime finds one.
    threads : int or None
        Of a CPU; None for one each CPU that the process may use.
    extra : str
        The extra that installs ``onnxruntime``.

    Attributes
    ----------
    device : {"cpu", "cuda"}
        Where it runs.
    takes_batches : bool
        Whether the graph takes more than one row.

    Raises
    ------
    ImportError
        ``onnxruntime`` is not installed.
    ValueError
        The device is not there, or the graph does not have these inputs and this output.

    Notes
    -----
    Thread-safe. Runs release the GIL.
    """

    def __init__(self, graph: Path, *, device: str, threads: int | None, extra: str) -> None:
        runtime = require("onnxruntime", extra, "a local model")
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be an int of at least 1 or None, got {threads!r}")
        available = runtime.get_available_providers()
        if device == "cuda" and _CUDA not in available:
            raise ValueError(
                f"device='cuda' needs onnxruntime-gpu in place of onnxruntime, which runs on {', '.join(available)}"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or _cpus()
        options.inter_op_num_threads = 1
        # Plans of memory are kept for each length that was ever seen, which grows without an end.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        if device != "cpu" and _CUDA in available:
            providers.insert(0, _CUDA)
        try:
            self._session = runtime.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:
            raise ValueError(f"onnxruntime cannot load {graph}: {error}") from error
        on_cuda = _CUDA in self._session.get_providers()
        if device == "cuda" and not on_cuda:
            raise ValueError("device='cuda': onnxruntime found no usable GPU, and would run on the CPU")
        self.device = "cuda" if on_cuda else "cpu"
        self._dtypes = _check_inputs(graph, self._session.get_inputs())
        self._output = _check_output(graph, self._session.get_outputs())
        rows = [value.shape[0] for value in self._session.get_inputs()]
        self.takes_batches = not any(isinstance(count, int) for count in rows)

    def run(self, passes: Sequence[Sequence[int]], padding: int = 0) -> list[NDArray[np.float32]]:
        """Return the states of each pass, shape (tokens, width).

        Parameters
        ----------
        passes : sequence of sequence of int
            Token ids. More than one only where :attr:`takes_batches`.
        padding : int
            Token behind the end of shorter passes, which the attention mask hides.

        Raises
        ------
        ValueError
            The graph does not return one state a token.
        FloatingPointError
            A state is not finite.
        """
        longest = max(map(len, passes))
        ids = np.full((len(passes), longest), padding, np.int64)
        mask = np.zeros((len(passes), longest), np.int64)
        for row, tokens in enumerate(passes):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        values = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.broadcast_to(np.arange(longest), ids.shape),
        }
        feed = {name: values[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}
        (states,) = self._session.run([self._output], feed)
        if states.ndim != 3 or states.shape[:2] != ids.shape:
            raise ValueError(
                f"the graph's output {self._output} has the shape {states.shape} for {ids.shape[0]} x {ids.shape[1]} "
                "tokens: it is pooled, and late chunking needs one state a token"
            )
        found = [row[: len(tokens)].astype(np.float32, copy=False) for row, tokens in zip(states, passes, strict=True)]
        if not all(np.isfinite(rows).all() for rows in found):
            raise FloatingPointError("the graph returned a value that is not finite: its precision does not suffice")
        return found


def _cpus() -> int:
    """Return the number of CPUs that the process may use: onnxruntime takes all that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_inputs(graph: Path, inputs: Sequence[Any]) -> dict[str, Any]:
    names = [value.name for value in inputs]
    if missing := [name for name in _INPUTS[:2] if name not in names]:
        raise ValueError(f"{graph} has no input {' and no input '.join(missing)}: it has {', '.join(names)}")
    if others := [name for name in names if name not in _INPUTS]:
        raise ValueError(f"{graph} needs inputs that an encoder of text does not have: {', '.join(others[:3])}")
    for value in inputs:
        if value.type not in _DTYPES:
            raise ValueError(f"{graph}: the input {value.name} must be int64 or int32, is {value.type}")
        if len(value.shape) != 2 or isinstance(value.shape[1], int):
            raise ValueError(f"{graph}: the input {value.name} must take rows of any length, has {value.shape}")
    return {value.name: _DTYPES[value.type] for value in inputs}


def _check_output(graph: Path, outputs: Sequence[Any]) -> str:
    ranks: dict[str, int] = {value.name: len(value.shape or ()) for value in outputs}
    states = [name for name, rank in ranks.items() if rank == 3]
    if _STATES in states:
        return _STATES
    if len(states) == 1:
        return states[0]
    if ranks.get(_STATES) == 0:  # a graph need not tell its shapes: the first run does
        return _STATES
    listed = ", ".join(f"{value.name} {value.shape}" for value in outputs)
    raise ValueError(
        f"{graph}: the output is pooled, or not to be told apart: late chunking needs {_STATES} (rows, tokens, width), "
        f"and the graph has {listed}"
    )
