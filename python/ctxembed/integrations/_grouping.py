"""Puts chunks that come one by one back into their documents, in order. Knows no framework."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from ctxembed._errors import ChunkOrderError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["Group", "Names", "Place", "check_order", "group"]

_LONGEST_GAP: Final = 100
"""Characters between two chunks that a splitter may have left out: it strips white space and separators."""

_SURE_GAP: Final = 4
"""Characters that it may have left out between chunks of any length."""

_GAP_SHARE: Final = 8
"""Otherwise what it left out is shorter than this part of the median chunk. Of 590 real documents, split at 500
characters, one has a longer gap; of the chunks taken out of them one in fifty is shorter, and not missed."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a framework calls things, for messages.

    Parameters
    ----------
    chunk, document, start : str
        A chunk, the field with the id of its document, and the field with its place in it.
    """

    chunk: str
    document: str
    start: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk stands.

    Parameters
    ----------
    document : str or None
        Id of its document; None where the framework knows none.
    start, stop : int or None
        Its first position in the document, and the one behind its last; None where they are not known.
    id, previous, next : str or None
        Its own id and those of its neighbours, in frameworks that link chunks.
    """

    document: str | None
    start: int | None = None
    stop: int | None = None
    id: str | None = None
    previous: str | None = None
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A document.

    Parameters
    ----------
    document : str or None
        Its id; None for a chunk that stands for itself.
    members : list of int
        Positions of its chunks in the input, in the order of the document.
    """

    document: str | None
    members: list[int]


def group(
    places: Sequence[Place],
    names: Names,
    *,
    isolated: bool = False,
    max_gap: int | None = None,
    model: str = "the model",
) -> list[Group]:
    """Put chunks into their documents, whatever order they come in.

    Parameters
    ----------
    places : sequence of Place
        Where each chunk stands.
    names : Names
        For messages.
    isolated : bool
        Whether a chunk without a document is a document of its own.
    max_gap : int, optional
        See :func:`check_order`.
    model : str
        Name of the model, for messages.

    Returns
    -------
    list of Group
        In the order in which their first chunks come.

    Raises
    ------
    ChunkOrderError
        A chunk of a document is missing, two stand at one place, or their order is not known.
    ValueError
        A chunk has no document, and ``isolated`` is false.
    """
    groups: list[Group] = []
    by_document: dict[str, list[int]] = {}
    for position, place in enumerate(places):
        if place.document is None:
            if not isolated:
                raise ValueError(
                    f"{names.chunk} {position} has no {names.document}, and {model} embeds chunks in the context of "
                    f"their document: set it, or pass isolated=True to embed each such text as a document of its own"
                )
            groups.append(Group(None, [position]))
        elif place.document in by_document:
            by_document[place.document].append(position)
        else:
            members = by_document[place.document] = [position]
            groups.append(Group(place.document, members))
    for document, members in by_document.items():
        members[:] = _in_order(document, members, places, names, max_gap)
    return groups


def _in_order(
    document: str, members: list[int], places: Sequence[Place], names: Names, max_gap: int | None
) -> list[int]:
    """Return the chunks of a document in order: by their links where those make one chain, else by their places."""
    if any(places[member].previous is not None or places[member].next is not None for member in members):
        chain = _chain(document, members, places, names)
        if chain is not None:
            return chain
    if len(members) == 1 and places[members[0]].start is None:
        return members
    starts = [places[member].start for member in members]
    if None in starts:
        raise ChunkOrderError(
            document,
            places[members[starts.index(None)]].id,
            f"{names.chunk} {members[starts.index(None)]} has no {names.start}, so the order of the document's "
            f"{len(members)} chunks is not known",
        )
    ordered = sorted(members, key=lambda member: places[member].start or 0)
    check_order(
        document,
        [(places[member].start or 0, places[member].stop or 0) for member in ordered],
        names.start,
        max_gap=max_gap,
    )
    return ordered


def check_order(
    document: str,
    spans: Sequence[tuple[int, int]],
    name: str,
    *,
    max_gap: int | None = None,
    adjacent: Collection[tuple[int, int]] = (),
) -> None:
    """Check that chunks make up their document.

    Parameters
    ----------
    document : str
        Its id, for messages.
    spans : sequence of (int, int)
        First position of each chunk, and the one behind its last, in order.
    name : str
        What the framework calls a place.
    max_gap : int, optional
        Positions that may lie between two chunks, and before the first. Default: an eighth of the median length of the
        document's chunks, but at least 4 and at most 100, as splitters leave out white space.
    adjacent : collection of (int, int)
        Starts of chunks between which nothing is missing, however far they are from each other.

    Raises
    ------
    ChunkOrderError
        Two chunks stand at one place, or one is missing.
    """
    if max_gap is None:
        share = int(median(stop - start for start, stop in spans)) // _GAP_SHARE
        max_gap = min(max(share, _SURE_GAP), _LONGEST_GAP)
    first = spans[0][0]
    if first < 0:
        raise ChunkOrderError(document, first, f"{name} is {first}, which is no place in the document")
    if first > max_gap:
        raise ChunkOrderError(document, 0, f"its first chunk is missing: the first that is there has {name} {first}")
    end = spans[0][1]
    for (before, _), (start, stop) in pairwise(spans):
        if start == before:
            raise ChunkOrderError(document, start, f"two chunks have {name} {start}")
        if start - end > max_gap and (before, start) not in adjacent:
            raise ChunkOrderError(
                document,
                end,
                f"a chunk is missing: after the one with {name} {before}, which ends at {end}, comes {name} {start}",
            )
        end = max(end, stop)


def _chain(document: str, members: list[int], places: Sequence[Place], names: Names) -> list[int] | None:
    """Return the chunks in the order of their links; None where these do not connect them all."""
    by_id: dict[str, int] = {}
    for member in members:
        name = places[member].id or ""
        if name in by_id:
            raise ChunkOrderError(document, name, f"two chunks have the id {name!r}")
        by_id[name] = member
    after: dict[str, str] = {}
    before: dict[str, str] = {}

    def link(first: str, second: str) -> None:
        for links, one, other, where in ((after, first, second, "after"), (before, second, first, "before")):
            if links.setdefault(one, other) != other:
                raise ChunkOrderError(document, one, f"both {links[one]!r} and {other!r} come {where} {one!r}")

    for name, member in by_id.items():
        place = places[member]
        for other, where in ((place.previous, "before"), (place.next, "after")):
            if other is not None and other not in by_id:
                raise ChunkOrderError(
                    document, other, f"a chunk is missing: {other!r}, which comes {where} {names.chunk} {name!r}"
                )
        if place.previous is not None:
            link(place.previous, name)
        if place.next is not None:
            link(name, place.next)
    heads = [name for name in by_id if name not in before]
    ordered = heads[:1]
    while ordered and ordered[-1] in after:
        ordered.append(after[ordered[-1]])
    return [by_id[name] for name in ordered] if len(ordered) == len(by_id) else None
