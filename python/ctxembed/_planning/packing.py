"""Packs documents into requests: the Python API of the core's packing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ctxembed import _core
from ctxembed._planning.limits import Limits, check_limits

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Packing", "as_counts", "pack", "pack_counts"]


@dataclass(frozen=True, eq=False, repr=False)
class Packing:
    """An assignment of documents to requests.

    Attributes
    ----------
    request_of : ndarray of int64, shape (n,)
        The request of each document. Read-only.
    lower_bound : int
        Proven minimum of requests for the given order.
    optimal : bool
        Whether this packing has ``lower_bound`` requests.

    Notes
    -----
    Immutable and thread-safe. Can be pickled.
    """

    request_of: NDArray[np.int64]
    lower_bound: int
    optimal: bool
    _positions: NDArray[np.int64]
    _offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        for array in (self.request_of, self._positions, self._offsets):
            array.flags.writeable = False

    @cached_property
    def requests(self) -> list[NDArray[np.int64]]:
        """Document positions of each request, ascending: int64 arrays, read-only views of one array."""
        ends = self._offsets.tolist()
        return [self._positions[start:end] for start, end in pairwise(ends)]

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._offsets) - 1

    def __repr__(self) -> str:
        return (
            f"Packing(requests={len(self)}, documents={len(self.request_of)}, "
            f"lower_bound={self.lower_bound}, optimal={self.optimal})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the constructor's arguments."""
        return type(self), (self.request_of, self.lower_bound, self.optimal, self._positions, self._offsets)


def pack(
    token_counts: ArrayLike,
    chunk_counts: ArrayLike | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    order: Literal["any", "input", "window"] = "any",
    effort: float = 0.05,
) -> Packing:
    """Pack documents into as few requests as the limits allow.

    The documents of a request do not influence each other's vectors, so only the number of requests matters.

    Parameters
    ----------
    token_counts : array_like of int, shape (n,)
        Tokens of each document's chunks, at least 1, without separators: ``chunk_counts - 1`` are added for them. Any
        integer dtype, or a sequence of ints.
    chunk_counts : array_like of int, shape (n,), optional
        Chunks of each document, at least 1. Default: ones.
    limits : Limits
        The limits of a request and a document.
    order : {"any", "input", "window"}
        ``"any"``: any documents may share a request. ``"input"``: requests are contiguous ranges of the input.
        ``"window"``, for streams: documents are read ahead until they would fill 8 requests by tokens, chunks or
        number; the next request takes the oldest of them and the largest others that fit. So a request is complete
        after at most 8 requests' worth of documents was read.
    effort : float
        Maximum seconds to improve the packing while it is above the bound, for ``"any"``; 0 keeps
        best-fit-decreasing, or contiguous requests where these are fewer. A second stands for 300 million steps, which
        a current core does in about 0.6 seconds. The steps end the search, so the result depends on the arguments
        alone, not on the load of the machine. On a slower machine the clock ends it after ``effort`` seconds, and not
        before half a second: of processor time on Linux, elsewhere of time.

    Returns
    -------
    Packing
        Positions ascend within a request, and requests are ordered by their first document.

    Raises
    ------
    TypeError
        Counts are not integers (floats, bools and strings are refused too), or an argument has another type.
    ValueError
        A count is below 1, the shapes differ, a document exceeds a limit by itself (named, with its cost and the
        limit), the order is unknown, or the effort is negative or not finite.

    Notes
    -----
    ``"any"`` is best-fit-decreasing under all limits, or, where they take fewer requests, contiguous requests or an
    alternation of documents that cost more of one limit and of another. While it is above the bound, worst-fit
    at the bound is tried, and then three methods take turns: two requests are divided anew by meeting in the middle
    (Horowitz and Sahni, 1974) until none is too full; where hardly a token is to spare, exact cover (Knuth, 2000)
    chooses among the sets of documents that fill a request; and the linear program over patterns (Gilmore and Gomory,
    1961) is rounded, where the documents have at most 700 different costs. It is never worse than best-fit-decreasing.
    ``"input"`` is next-fit, which is optimal for contiguous requests: its k-th request ends no earlier than the k-th
    of any other contiguous packing, because it starts no earlier and every part of a feasible request is feasible.

    The bound is the best of: the ceilings of documents, chunks and tokens; L2 of Martello and Toth (1990) and dual
    feasible functions of Fekete and Schepers (2001), of Carlier, Clautiaux and Moukrim (2007) and of Lueker (1983),
    each combined with the other limits; and, with effort, the dual prices of the linear program, checked in integers.

    Arrays of dtype int64 are borrowed, others copied. The GIL is released; Ctrl-C ends a long search.

    Examples
    --------
    >>> import ctxembed
    >>> p = ctxembed.pack([60, 50, 40, 30, 20], limits=ctxembed.Limits(tokens=100))
    >>> p
    Packing(requests=2, documents=5, lower_bound=2, optimal=True)
    >>> [request.tolist() for request in p.requests]
    [[0, 2], [1, 3, 4]]
    """
    check_limits(limits)
    if isinstance(effort, bool) or not isinstance(effort, (int, float, np.integer, np.floating)):
        raise TypeError(f"effort must be a number of seconds, got {effort!r}")
    if not 0 <= effort < float("inf"):
        raise ValueError(f"effort must be a finite number of seconds >= 0, got {effort!r}")
    if not isinstance(order, str):
        raise TypeError(f"order must be 'any', 'input' or 'window', got {order!r}")
    tokens = as_counts("token_counts", token_counts)
    chunks = None if chunk_counts is None else as_counts("chunk_counts", chunk_counts)
    return pack_counts(tokens, chunks, limits, order, min(float(effort), 1e9))


def pack_counts(
    tokens: NDArray[np.int64], chunks: NDArray[np.int64] | None, limits: Limits, order: str, effort: float
) -> Packing:
    """Pack contiguous int64 counts. The other arguments are checked already."""
    values = (limits.documents, limits.chunks, limits.tokens_per_document, limits.tokens)
    request_of, positions, offsets, bound = _core.pack(tokens, chunks, values, order, effort)
    return Packing(request_of, bound, bound == len(offsets) - 1, positions, offsets)


def as_counts(name: str, values: object) -> NDArray[np.int64]:
    """Return ``values`` as a contiguous int64 array, or raise an error that names the first invalid entry."""
    if isinstance(values, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be a sequence of ints, got {type(values).__name__}")
    if hasattr(values, "__array__"):
        _refuse_mask(name, values)
        array = np.asarray(values)
        if array.ndim != 1:
            raise ValueError(f"{name} must have one dimension, got shape {array.shape}")
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            position = int(array.argmax())
            raise ValueError(f"{name}[{position}] = {array[position]} does not fit int64")
        if array.dtype.kind in "iu":
            return np.require(array, np.int64, ("C_CONTIGUOUS", "ALIGNED"))
        if not array.size:
            return np.zeros(0, dtype=np.int64)
        if array.dtype.kind == "f":
            odd = np.flatnonzero(array != np.floor(array))
            position = int(odd[0]) if odd.size else 0
            raise TypeError(f"{name} must be integers, got dtype {array.dtype}: {name}[{position}] = {array[position]}")
        values = array.tolist()
    try:
        entries = values if isinstance(values, (list, tuple)) else list(values)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"{name} must be a sequence of ints, got {type(values).__name__}") from None
    if set(map(type, entries)) - {int}:
        for position, entry in enumerate(entries):
            if isinstance(entry, (bool, np.bool_)) or not isinstance(entry, (int, np.integer)):
                raise TypeError(f"{name}[{position}] must be an int, got {entry!r}")
    try:
        return np.array(entries, dtype=np.int64)
    except OverflowError:
        position = next(i for i, entry in enumerate(entries) if not -(2**63) <= entry < 2**63)
        raise ValueError(f"{name}[{position}] = {entries[position]} does not fit int64") from None


def _refuse_mask(name: str, values: object) -> None:
    # numpy imports numpy.ma lazily: only a subclass needs the check, and it has imported it.
    if isinstance(values, np.ndarray) and type(values) is not np.ndarray and isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, got a MaskedArray: pass the valid entries")
