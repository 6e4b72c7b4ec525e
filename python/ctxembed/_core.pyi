"""The Rust core, by room. Public names are re-exported by ``ctxembed``; the rest is internal."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__version__: str

def isa_paths() -> list[tuple[str, str]]: ...

# --- codec ---

# --- similarity and search ---

# --- packing and tokens ---

WINDOW_REQUESTS: int

def pack(
    token_counts: NDArray[np.int64],
    chunk_counts: NDArray[np.int64] | None,
    limits: tuple[int, int, int, int],
    order: str,
    effort: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]: ...
def token_upper_bound(texts: list[str]) -> NDArray[np.int64]: ...
def token_estimate(texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...
def token_classes(texts: list[str]) -> tuple[list[str], NDArray[np.int64]]: ...
def inspect_chunks(
    chunks: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[tuple[int, str, int]]]: ...
