"""The Rust core, by room. Public names are re-exported by ``ctxembed``; the rest is internal."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__version__: str

def isa_paths() -> list[tuple[str, str]]: ...

# --- codec ---

# --- similarity and search ---

# --- packing and tokens ---
