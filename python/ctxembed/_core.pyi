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
