"""What is checked of a model before it embeds anything: late chunking needs more of a graph than its shape shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctxembed._backends.onnx.passes import Pass, PassPlanner
    from ctxembed._backends.onnx.session import GraphSession
    from ctxembed._backends.onnx.tokenizer import ChunkTokenizer

__all__ = ["batches_equal_single_passes", "check_context", "codes", "mean_states"]

_TEXTS: Final = (
    "The grey heron stood still among the reeds and waited for a fish.",
    "The central bank raised its interest rate by a quarter of a point.",
    "Boil the water, add salt, and cook the pasta for nine minutes.",
    "It rained.",
)
_LEAST_CHANGE: Final = 1e-4
"""Change of a vector, relative to its length, that is no rounding."""

_LEAST_SHARE: Final = 0.02
"""Of the change that an earlier chunk makes to a later one. Activations that are quantised together leak less."""


def mean_states(states: NDArray[np.float32], spans: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Return the mean of each span of one pass, shape (spans, width)."""
    return np.stack([states[start:stop].mean(axis=0, dtype=np.float64) for start, stop in spans])


def codes(means: NDArray[np.float64], scale: float = 1.0) -> NDArray[np.int8]:
    """Return ``clamp(round(127 * tanh(scale * x)))``. The tangent keeps the product within -127 and 127."""
    values: NDArray[np.int8] = np.rint(127 * np.tanh(scale * means)).astype(np.int8)
    return values


def check_context(session: GraphSession, tokenizer: ChunkTokenizer, planner: PassPlanner) -> int:
    """Check that each chunk sees the others, and return the width of the vectors.

    Raises
    ------
    ValueError
        The graph is pooled, or causal, or does not look at other chunks.
    """
    first, second, third, _ = tokenizer.encode(_TEXTS)
    size = min(map(len, (first, second, third)))  # of one length: the same kernels run, and rounding is the same
    first, second, third = first[:size], second[:size], third[:size]
    original, later, earlier = (
        _means(session, planner.plan(0, chunks)[0]) for chunks in ([first, second], [first, third], [third, second])
    )
    ahead = _change(original[0], later[0])
    back = _change(original[1], earlier[1])
    if ahead < max(_LEAST_CHANGE, _LEAST_SHARE * back):
        kind = "is causal" if back >= _LEAST_CHANGE else "does not look at other chunks"
        raise ValueError(
            f"the graph {kind}: another second chunk changes the vector of the first by {ahead:.1e} of its length, and "
            f"another first chunk that of the second by {back:.1e}. Late chunking needs attention in both directions"
        )
    return int(original.shape[1])


def batches_equal_single_passes(session: GraphSession, tokenizer: ChunkTokenizer, planner: PassPlanner) -> bool:
    """Return whether passes of several lengths give the same int8 values together as alone, up to one."""
    if not session.takes_batches:
        return False
    ids = tokenizer.encode(_TEXTS)
    passes = [planner.plan(0, chunks)[0] for chunks in (ids[:3], ids[3:], [ids[1], ids[3]])]
    try:
        together = session.run([each.ids for each in passes], tokenizer.padding)
    except Exception:  # noqa: BLE001 - whatever it is, single passes work
        return False
    return all(
        int(np.abs(codes(mean_states(states, each.spans)).astype(int) - codes(_means(session, each))).max()) <= 1
        for states, each in zip(together, passes, strict=True)
    )


def _means(session: GraphSession, each: Pass) -> NDArray[np.float64]:
    return mean_states(session.run([each.ids])[0], each.spans)


def _change(before: NDArray[Any], after: NDArray[Any]) -> float:
    return float(np.linalg.norm(after - before) / max(float(np.linalg.norm(before)), 1e-12))
