"""The shards of an index: actors of Ray, each with one index file mapped, and the calls that go to all of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed import _core
from ctxembed._errors import IndexFileError, MissingShardsError, SpaceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from ctxembed._core import BinaryIndex, Index, Matches, RangeMatches

__all__ = ["Shards", "TwoStages"]

_ACTOR: Final = {"max_restarts": 3, "max_task_retries": 2, "max_concurrency": 4}
_CANDIDATES: Final = 1 << 21
"""Candidates of a first stage that the driver receives at once, over all shards. More queries take several rounds."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a shard says of itself."""

    kind: str
    dims: int
    space: str | None
    count: int
    oversample: int
    ids: tuple[int, int] | None
    file: tuple[int, int, int]


class _Shard:
    """An actor: one index file, mapped.

    Ray starts it again where its process ends, and then it maps the file anew. Every call raises what opening raised:
    Ray would take an exception of the constructor for a dead process.
    """

    def __init__(self, path: str, mmap: bool, verify: bool | None) -> None:
        self._path = path
        try:
            self._opened = _open(path, mmap, verify)
            self._file = _identity(path)
        except Exception as error:  # noqa: BLE001
            self._error: Exception | None = error
        else:
            self._error = None

    @property
    def _index(self) -> Index | BinaryIndex:
        if self._error is not None:
            raise self._error
        return self._opened

    def describe(self) -> Description:
        index = self._index
        ids = _core.ids_of_rows(index)
        bounds = (int(ids.min()), int(ids.max())) if len(ids) else None
        return Description(
            type(index).__name__, index.dims, index.space, len(index), index.oversample, bounds, self._file
        )

    def sorted_ids(self) -> NDArray[np.int64]:
        return np.sort(_core.ids_of_rows(self._index))

    def shared_id(self, other: NDArray[np.int64]) -> int | None:
        """Return an id of ``other``, which is sorted, that is also one of these rows'."""
        common = np.intersect1d(other, _core.ids_of_rows(self._index), assume_unique=True)
        return int(common[0]) if len(common) else None

    def call(self, file: tuple[int, int, int], method: str, *arguments: Any, **options: Any) -> Any:
        self._check(file)
        return getattr(self._index, method)(*arguments, **options)

    def first_stage(
        self, file: tuple[int, int, int], queries: Any, candidates: int, **options: Any
    ) -> tuple[tuple[NDArray[Any], int], NDArray[np.int64]]:
        """Return what the driver needs, and the rows, which stay here until the second stage asks for them."""
        self._check(file)
        found, allowed = _core.first_stage(self._index, queries, candidates, **options)
        narrow = np.uint16 if self._index.dims < 1 << 16 else np.int32
        return (found.scores.astype(narrow), allowed), found.ids

    def second_stage(self, file: tuple[int, int, int], *arguments: Any, **options: Any) -> RangeMatches:
        self._check(file)
        return _core.second_stage(self._index, *arguments, **options)

    def _check(self, file: tuple[int, int, int]) -> None:
        if self._error is None and file != self._file:
            raise IndexFileError(f"{self._path} is another file than the one that was opened: open the shards again")


def _open(path: str, mmap: bool, verify: bool | None) -> Index | BinaryIndex:
    try:
        return _core.Index.open(path, mmap, verify)
    except IndexFileError as error:
        if "BinaryIndex.open" not in str(error):
            raise
    return _core.BinaryIndex.open(path, mmap, verify)


def _identity(path: str) -> tuple[int, int, int]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_ino, found.st_size, found.st_mtime_ns


class Shards:
    """The actors of all shards.

    Parameters
    ----------
    ray : module
        Ray.
    paths : tuple of str
        The files.
    options : list of dict
        Options of each actor.
    how : (bool, bool or None)
        ``mmap`` and ``verify`` of :meth:`Index.open`.
    timeout : float or None
        Seconds for a call.
    """

    def __init__(
        self,
        ray: Any,
        paths: tuple[str, ...],
        options: list[dict[str, Any]],
        how: tuple[bool, bool | None],
        timeout: float | None,
    ) -> None:
        self._ray = ray
        self.paths = paths
        self._timeout = timeout
        remote = ray.remote(_Shard)
        self._actors = [
            remote.options(**{**_ACTOR, **own}).remote(path, *how) for path, own in zip(paths, options, strict=True)
        ]
        self.opened: dict[int, Description] = {}
        """By the number of the shard."""
        self._unopened: dict[int, str] = {}
        self.kind, self.dims = "Index", 0
        self.space: str | None = None

    def describe(self, *, partial: bool) -> None:
        """Wait until the files are open, and check that the shards fit each other."""
        found, reasons = self._gather({number: actor.describe.remote() for number, actor in enumerate(self._actors)})
        if reasons and (not partial or not found):
            raise self.error(reasons)
        self.opened, self._unopened = found, reasons
        first_number, first = next(iter(found.items()))
        self.kind, self.dims = first.kind, first.dims
        for number, known in found.items():
            if (known.kind, known.dims) != (self.kind, self.dims):
                raise ValueError(
                    f"shards must be alike: {self.paths[first_number]} is an {self.kind} of {self.dims} dimensions, "
                    f"{self.paths[number]} an {known.kind} of {known.dims}"
                )
            if None not in {self.space, known.space} and known.space != self.space:
                raise SpaceError(
                    f"shards must hold vectors of one space: {self.paths[number]} has {known.space!r}, those before it "
                    f"{self.space!r}"
                )
            self.space = self.space or known.space
        self._check_ids()

    def _check_ids(self) -> None:
        """Raise where two shards have an id in common. Only those whose ranges overlap are compared."""
        bounds = sorted((*known.ids, number) for number, known in self.opened.items() if known.ids is not None)
        sent: dict[int, Any] = {}
        for at, (_, last, number) in enumerate(bounds):
            others = [other for first, _, other in bounds[at + 1 :] if first <= last]
            if others:
                ids = sent.setdefault(number, self._actors[number].sorted_ids.remote())
                shared, reasons = self._gather({other: self._actors[other].shared_id.remote(ids) for other in others})
                if reasons:
                    raise self.error(reasons)
                for other, found in shared.items():
                    if found is not None:
                        raise ValueError(
                            f"ids must be unique over all shards: {self.paths[number]} and {self.paths[other]} both "
                            f"have the id {found}. Give ids when rows are added: index.add(rows, ids)"
                        )

    @property
    def unopened(self) -> tuple[str, ...]:
        """Paths of the shards that could not be opened."""
        return tuple(self.paths[number] for number in self._unopened)

    def names(self, reasons: Iterable[int]) -> tuple[str, ...]:
        """Return the paths of the shards that are missing, those that were never opened included."""
        return tuple(self.paths[number] for number in sorted({*reasons, *self._unopened}))

    def error(self, reasons: dict[int, str]) -> MissingShardsError:
        """Return the exception for missing shards."""
        every = dict(sorted({**self._unopened, **reasons}.items()))
        listed = "; ".join(f"{self.paths[number]}: {reason}" for number, reason in list(every.items())[:3])
        more = f"; and {len(every) - 3} more" if len(every) > 3 else ""
        return MissingShardsError(
            f"{len(every)} of {len(self.paths)} shards are missing ({listed}{more})",
            tuple(self.paths[n] for n in every),
        )

    def same_for_all(self, value: Any) -> dict[int, Any]:
        """Return one argument for all shards, which is sent to a node once."""
        reference = self._ray.put(value)
        return dict.fromkeys(self.opened, reference)

    def call(
        self, method: str, masks: Mapping[int, Any] | None, queries: Any, *arguments: Any, **options: Any
    ) -> tuple[list[Any], dict[int, str]]:
        """Call a method of every index, and return the results of those that answer, at least one."""
        queries = self._ray.put(queries)
        calls = {}
        for number, known in self.opened.items():
            own = options if masks is None else {**options, "mask": masks[number]}
            calls[number] = self._actors[number].call.remote(known.file, method, queries, *arguments, **own)
        found, reasons = self._gather(calls)
        if not found:
            raise self.error(reasons)
        return list(found.values()), reasons

    def search(
        self, masks: Mapping[int, Any] | None, queries: Any, k: int, **options: Any
    ) -> tuple[Matches, dict[int, str]]:
        """Return the best ``k`` rows of all shards, and the missing shards."""
        found, reasons = self.call("search", masks, queries, k, **options)
        return _core.merge_top_k(found, k), reasons

    def first_stage(
        self, masks: Mapping[int, Any] | None, queries: Any, candidates: int, options: dict[str, Any], skipped: set[int]
    ) -> tuple[dict[int, tuple[NDArray[Any], int]], dict[int, Any], dict[int, str]]:
        """Return distances and the number of allowed rows of each shard, references to the rows, and missing shards."""
        heads, rows = {}, {}
        for number, known in self.opened.items():
            if number in skipped:
                continue
            own = options if masks is None else {**options, "mask": masks[number]}
            stage = self._actors[number].first_stage.options(num_returns=2)
            heads[number], rows[number] = stage.remote(known.file, queries, candidates, **own)
        found, reasons = self._gather(heads)
        if not found:
            raise self.error(reasons)
        return found, rows, reasons

    def second_stage(
        self, calls: Mapping[int, tuple[Any, ...]], options: dict[str, Any]
    ) -> tuple[dict[int, RangeMatches], dict[int, str]]:
        """Compare the chosen rows of each shard."""
        return self._gather(
            {
                number: self._actors[number].second_stage.remote(self.opened[number].file, *arguments, **options)
                for number, arguments in calls.items()
            }
        )

    def put(self, value: Any) -> Any:
        """Put a value into the object store."""
        return self._ray.put(value)

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _gather(self, calls: Mapping[int, Any]) -> tuple[dict[int, Any], dict[int, str]]:
        """Return the results of calls, and why there is none.

        An exception of a shard's own, such as one of a damaged file, is raised.
        """
        errors = self._ray.exceptions
        if not calls:
            return {}, {}
        ready, _ = self._ray.wait(list(calls.values()), num_returns=len(calls), timeout=self._timeout)
        done, found, reasons = set(ready), {}, {}
        for number, reference in calls.items():
            if reference not in done:
                reasons[number] = f"no result within {self._timeout:g} s"
                continue
            try:
                found[number] = self._ray.get(reference)
            except errors.RayTaskError as error:
                raise (error.cause or error) from None
            except errors.RayError as error:
                reasons[number] = _cause_of(error)
        return found, reasons


def _cause_of(error: Exception) -> str:
    """Return what Ray says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


class TwoStages:
    """A search in two stages over all shards.

    Each shard selects candidates by its sign bits. The nearest of all of them are compared by the metric, each where it
    is, so that these are the candidates that one index would select.

    Parameters
    ----------
    shards : Shards
        The shards.
    queries : ndarray
        int8, of one or two dimensions.
    k, candidates : int
        Rows to find, and to select by the bits.
    masks : dict or None
        The mask of each shard.
    options : dict
        ``metric``, ``dimensions`` and ``threads``, where given.
    """

    def __init__(
        self,
        shards: Shards,
        queries: NDArray[np.int8],
        k: int,
        candidates: int,
        *,
        masks: Mapping[int, Any] | None,
        options: dict[str, Any],
    ) -> None:
        self._shards = shards
        self._queries = queries
        self._k = k
        self._candidates = candidates
        self._masks = masks
        metric = "cosine" if shards.kind == "Index" else "asymmetric"
        self._options = {"metric": metric, **options}
        self._first_options = {name: value for name, value in options.items() if name != "metric"}

    def search(self) -> tuple[Matches, dict[int, str]]:
        """Return the best rows, and the missing shards."""
        queries = np.atleast_2d(self._queries)
        together = max(1, _CANDIDATES // (self._candidates * len(self._shards.opened)))
        parts, missing = [], {}
        for start in range(0, max(1, len(queries)), together):
            part, reasons = self._search(queries[start : start + together])
            if part is None:  # fewer rows than candidates: all are compared
                return self._shards.search(self._masks, self._queries, self._k, **self._options)
            parts.append(part)
            missing.update(reasons)
        shape = (len(queries), self._k) if self._queries.ndim == 2 else (self._k,)
        ids, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "scores"))
        keys = np.concatenate([part.keys for part in parts if part.keys is not None])
        keys = keys.reshape(*shape, *keys.shape[1:])
        return _core.Matches(ids.reshape(shape), scores.reshape(shape), False, parts[0].metric, keys), missing

    def _search(self, queries: NDArray[np.int8]) -> tuple[RangeMatches | None, dict[int, str]]:
        shards, reference = self._shards, self._shards.put(queries)
        missing: dict[int, str] = {}
        while True:
            first, rows, reasons = shards.first_stage(
                self._masks, reference, self._candidates, self._first_options, set(missing)
            )
            missing.update(reasons)
            if self._candidates >= sum(allowed for _, allowed in first.values()):
                return None, missing
            chosen = _choose([distances for distances, _ in first.values()], self._candidates)
            calls = {
                number: (reference, self._k, rows[number], counts) for number, counts in zip(first, chosen, strict=True)
            }
            second, lost = shards.second_stage(calls, self._options)
            if not lost:
                return _core.merge_ranges(list(second.values()), self._k), missing
            missing.update(lost)  # their candidates are gone with them: the others select anew


def _choose(distances: list[NDArray[Any]], candidates: int) -> list[NDArray[np.int64]]:
    """Return how many candidates of each shard are among the nearest of all, for each query.

    Each shard's are ordered by distance and then by row, so a stable sort orders all as one index does.
    """
    order = np.argsort(np.concatenate(distances, axis=1), axis=1, kind="stable")[:, :candidates]
    ends = np.cumsum([part.shape[1] for part in distances])
    owners = np.searchsorted(ends, order, side="right")
    return [np.count_nonzero(owners == number, axis=1).astype(np.int64) for number in range(len(distances))]
