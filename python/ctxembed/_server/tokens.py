"""Exact token counts for a fault plan that names a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctxembed._planning.token_counter import TokenCounter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctxembed._server.contract import CountTokens

__all__ = ["load_token_counter"]


def load_token_counter(path: str | Path) -> CountTokens:
    """Make an exact counter from a ``tokenizer.json``.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    callable
        Takes documents of chunks and returns the tokens of each document, separators included.

    Raises
    ------
    ValueError
        The file cannot be read or is not a tokenizer.
    """
    try:
        counter = TokenCounter.from_file(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer: {error}") from None

    def count_tokens(documents: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        chunk_counts = np.array([len(chunks) for chunks in documents], np.int64)
        counts = counter.count_batch([chunk for chunks in documents for chunk in chunks])
        ends = np.cumsum(chunk_counts)
        totals: NDArray[np.int64] = np.add.reduceat(counts, ends - chunk_counts) + chunk_counts - 1
        return totals

    return count_tokens
