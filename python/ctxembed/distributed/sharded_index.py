"""An index in shards, searched as one index is."""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, overload

import numpy as np

from ctxembed import _core
from ctxembed._extras import require
from ctxembed.distributed.shards import Shards, TwoStages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from os import PathLike
    from types import TracebackType
    from typing import SupportsIndex, TypeAlias

    from numpy.typing import NDArray

    from ctxembed._core import Matches, RangeMatches
    from ctxembed._results import Embeddings

    Metric: TypeAlias = Literal["cosine", "dot", "hamming", "asymmetric"]
    Stage: TypeAlias = Literal["exact", "two-stage", "binary"]
    Queries: TypeAlias = NDArray[np.int8] | NDArray[np.uint8] | Embeddings
    Mask: TypeAlias = NDArray[np.bool_] | NDArray[np.int64] | Sequence[int]
    OnMissing: TypeAlias = Literal["raise", "partial"]

__all__ = ["PartialResult", "ShardedIndex"]

_T = TypeVar("_T")

_TIMEOUT: Final = 120.0


@dataclass(frozen=True, slots=True)
class PartialResult(Generic[_T]):
    """The result of the shards that were there, with the names of those that were not.

    Attributes
    ----------
    result : Matches, RangeMatches, ndarray or int
        What the rows of all other shards give.
    missing : tuple of str
        Paths of the shards whose rows were not searched. Empty where none was missing: then the result is whole.
    """

    result: _T
    missing: tuple[str, ...]


class ShardedIndex:
    """An index whose rows are in several files, each mapped by an actor of Ray.

    :meth:`open` creates it. Searches return what one :class:`Index` (or :class:`BinaryIndex`) with all rows would: the
    same ids, scores and order, ties included, also in two stages.

    Notes
    -----
    Rows are numbered shard after shard, in the order of the paths: a boolean mask has one entry for each, in that
    order. Methods may be called from several threads. Actors live until :meth:`close`, or until the driver ends.

    Examples
    --------
    >>> import ray  # doctest: +SKIP
    >>> ray.init()  # doctest: +SKIP
    >>> with ShardedIndex.open(["shard-0.idx", "shard-1.idx"]) as index:  # doctest: +SKIP
    ...     matches = index.search(queries, k=10)
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        kind = _core.Index if shards.kind == "Index" else _core.BinaryIndex
        # Checks the arguments of a search before anything is sent.
        self._empty: Any = kind(shards.dims, space=shards.space)

    @classmethod
    def open(
        cls,
        paths: Iterable[str | PathLike[str]],
        *,
        mmap: bool = True,
        verify: bool | None = None,
        actor_options: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        timeout: float | None = _TIMEOUT,
        on_missing: OnMissing = "raise",
    ) -> Self:
        """Start an actor for each file, and map the files.

        Parameters
        ----------
        paths : iterable of str or os.PathLike
            Index files, in the order of their rows, as the nodes that open them see them.
        mmap, verify : optional
            As in :meth:`Index.open`.
        actor_options : dict or list of dict, optional
            Options of Ray for all actors or for each, such as ``{"resources": {"node-a": 0.01}}`` or a
            ``scheduling_strategy``, to place a shard where its file is. By default an actor is started again three
            times, and does four searches at once.
        timeout : float or None, default 120
            Seconds until an actor that was not started, or a call that has not ended, counts as missing. None: never.
        on_missing : {"raise", "partial"}, default "raise"
            With "partial", shards that cannot be started are left out, and :attr:`missing` names them.

        Raises
        ------
        MissingShardsError
            No node could start the actor of a shard, or all are missing.
        FileNotFoundError, IndexFileError
            A file is not there, or is no index.
        ValueError
            Shards differ in their kind or dimensions, or share an id: one index cannot have it twice.
        SpaceError
            Shards hold vectors of different spaces.
        """
        _check_on_missing(on_missing)
        if isinstance(paths, str | bytes | os.PathLike):
            raise TypeError(f"paths must be a list of paths, got one: pass [{paths!r}]")
        names = tuple(os.path.abspath(os.fspath(path)) for path in paths)  # noqa: PTH100
        if not names:
            raise ValueError("paths must name at least one shard, got none")
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"paths must be different, got {repeated!r} twice")
        each: list[Any] = [actor_options or {}] * len(names)
        if isinstance(actor_options, list | tuple):
            each = [*actor_options]
        if len(each) != len(names):
            raise ValueError(f"actor_options must have one entry a path: {len(names)} paths, got {len(each)}")
        ray = require("ray", "ray", "ctxembed.distributed.ray")
        shards = Shards(ray, names, [dict(options) for options in each], (mmap, verify), timeout)
        try:
            shards.describe(partial=on_missing == "partial")
            return cls(shards)
        except BaseException:
            shards.close()
            raise

    # --- what it is ---

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all shards."""
        return self._shards.paths

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of the shards that could not be opened."""
        return self._shards.unopened

    @property
    def dims(self) -> int:
        """Dimensions of every vector."""
        return self._shards.dims

    @property
    def dimensions(self) -> int:
        """Dimensions of every vector; the same as ``dims``."""
        return self._shards.dims

    @property
    def space(self) -> str | None:
        """Name of the space of the vectors, or None where it is not known."""
        return self._shards.space

    @property
    def oversample(self) -> int:
        """Default number of candidates per requested row in two stages: the largest of the shards'."""
        return max(known.oversample for known in self._shards.opened.values())

    def __len__(self) -> int:
        return sum(known.count for known in self._shards.opened.values())

    def __repr__(self) -> str:
        missing = f", {len(self.missing)} missing" if self.missing else ""
        kind = "int8" if self._shards.kind == "Index" else "packed"
        shards = f"{len(self.paths)} shards{missing}"
        return f"<ShardedIndex: {len(self)} {kind} vectors of {self.dims} dimensions in {shards}>"

    # --- searches ---

    @overload
    def search(
        self, queries: Queries, k: SupportsIndex, *, on_missing: Literal["raise"] = ..., **options: Any
    ) -> Matches: ...
    @overload
    def search(
        self, queries: Queries, k: SupportsIndex, *, on_missing: Literal["partial"], **options: Any
    ) -> PartialResult[Matches]: ...
    def search(  # type: ignore[misc]  # the overloads leave the shared options open
        self,
        queries: Queries,
        k: SupportsIndex,
        *,
        metric: Metric | None = None,
        stage: Stage = "exact",
        oversample: SupportsIndex | None = None,
        mask: Mask | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
        on_missing: OnMissing = "raise",
    ) -> Any:
        """Find the best ``k`` rows for each query, as :meth:`Index.search` does.

        Parameters
        ----------
        queries, k, metric, stage, oversample, mask, dimensions
            As in :meth:`Index.search`, or :meth:`BinaryIndex.search` for shards of packed bits. A boolean mask has one
            entry for each row of all shards.
        threads : int, optional
            Threads of each shard.
        on_missing : {"raise", "partial"}, default "raise"
            What to do where a shard does not answer: raise, or return what the others have.

        Returns
        -------
        Matches or PartialResult
            With ``on_missing="partial"`` a :class:`PartialResult`, which names the missing shards.

        Raises
        ------
        MissingShardsError
            The actor of a shard is gone or did not end in time.
        TypeError, ValueError, SpaceError
            As in :meth:`Index.search`. Nothing was sent.
        """
        options = _given(metric=metric, dimensions=dimensions, threads=threads)
        stages = _given(stage=stage, oversample=oversample, **options)
        masks = self._masks(mask, lambda ids: self._empty.search(queries, k, mask=ids, **stages))
        vectors, best = _array_of(queries), operator.index(k)
        if stage == "two-stage" and vectors.dtype == np.int8 and self._has_first_stage(dimensions):
            asked = self.oversample if oversample is None else operator.index(oversample)
            two = TwoStages(self._shards, vectors, best, best * asked, masks=masks, options=options)
            return self._result(two.search, on_missing)
        stages.pop("oversample", None)
        if stage == "two-stage":
            stages["stage"] = "exact"
        return self._result(lambda: self._shards.search(masks, vectors, best, **stages), on_missing)

    @overload
    def search_range(
        self, queries: Queries, radius: float, *, on_missing: Literal["raise"] = ..., **options: Any
    ) -> RangeMatches: ...
    @overload
    def search_range(
        self, queries: Queries, radius: float, *, on_missing: Literal["partial"], **options: Any
    ) -> PartialResult[RangeMatches]: ...
    def search_range(  # type: ignore[misc]  # the overloads leave the shared options open
        self,
        queries: Queries,
        radius: float,
        *,
        metric: Metric | None = None,
        mask: Mask | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
        on_missing: OnMissing = "raise",
    ) -> Any:
        """Find all rows within a radius of each query, as :meth:`Index.search_range` does.

        Arguments, missing shards and exceptions are as for :meth:`search`.
        """
        options = _given(metric=metric, dimensions=dimensions, threads=threads)
        masks = self._masks(mask, lambda ids: self._empty.search_range(queries, radius, mask=ids, **options))
        vectors = _array_of(queries)

        def run() -> tuple[Any, dict[int, str]]:
            found, reasons = self._shards.call("search_range", masks, vectors, radius, **options)
            return _core.merge_ranges(found), reasons

        return self._result(run, on_missing)

    @overload
    def count(
        self, queries: Queries, radius: float, *, on_missing: Literal["raise"] = ..., **options: Any
    ) -> NDArray[np.int64] | int: ...
    @overload
    def count(
        self, queries: Queries, radius: float, *, on_missing: Literal["partial"], **options: Any
    ) -> PartialResult[NDArray[np.int64] | int]: ...
    def count(  # type: ignore[misc]  # the overloads leave the shared options open
        self,
        queries: Queries,
        radius: float,
        *,
        metric: Metric | None = None,
        mask: Mask | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
        on_missing: OnMissing = "raise",
    ) -> Any:
        """Count the rows within a radius of each query, as :meth:`Index.count` does.

        Arguments, missing shards and exceptions are as for :meth:`search`.
        """
        options = _given(metric=metric, dimensions=dimensions, threads=threads)
        masks = self._masks(mask, lambda ids: self._empty.count(queries, radius, mask=ids, **options))
        vectors = _array_of(queries)

        def run() -> tuple[Any, dict[int, str]]:
            found, reasons = self._shards.call("count", masks, vectors, radius, **options)
            return sum(found), reasons

        return self._result(run, on_missing)

    def _has_first_stage(self, dimensions: SupportsIndex | None) -> bool:
        """Return whether there is a whole byte of bits to compare: else every row is compared by the metric."""
        return dimensions is None or operator.index(dimensions) in range(8, self.dims + 1) or self.dims == dimensions

    def _masks(self, mask: Mask | None, check: Callable[[Mask | None], object]) -> dict[int, Any] | None:
        """Check all arguments on an index without rows, and return the mask of each shard."""
        if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_):
            check(mask)
            return None if mask is None else self._shards.same_for_all(np.asarray(mask, dtype=np.int64))
        check(None)
        if mask.shape != (len(self),):
            message = f"mask must have one entry per row: shape ({len(self)},), got {mask.shape}"
            raise ValueError(message)
        if self.missing:
            raise ValueError(
                f"a boolean mask needs all shards, since the rows of {self.missing[0]} are not known: use ids"
            )
        ends = np.cumsum([known.count for known in self._shards.opened.values()])[:-1]
        parts = np.split(mask, ends)
        return {number: np.ascontiguousarray(part) for number, part in zip(self._shards.opened, parts, strict=True)}

    def _result(self, run: Callable[[], tuple[Any, dict[int, str]]], on_missing: OnMissing) -> Any:
        _check_on_missing(on_missing)
        if on_missing == "raise" and self.missing:
            raise self._shards.error({})
        result, reasons = run()
        if on_missing == "raise":
            if reasons:
                raise self._shards.error(reasons)
            return result
        return PartialResult(result, self._shards.names(reasons))

    def close(self) -> None:
        """End the actors. Searches that are under way fail."""
        self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _array_of(queries: Any) -> Any:
    return getattr(queries, "vectors", queries)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _check_on_missing(value: object) -> None:
    if value not in {"raise", "partial"}:
        raise ValueError(f"on_missing must be 'raise' or 'partial', got {value!r}")
