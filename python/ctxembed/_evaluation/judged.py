"""Queries and judgements, checked against what is searched before anything is paid for."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ctxembed._evaluation.corpus import StoredCorpus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ctxembed._evaluation.corpus import Corpus

__all__ = ["JudgedQueries", "check_queries"]

_SHOWN: Final = 3
"""Ids that a message names."""

Level = Literal["document", "chunk"]
_Key = str | tuple[str, int]


@dataclass(frozen=True, eq=False)
class JudgedQueries:
    """Queries with the items that are relevant for them.

    Parameters
    ----------
    ids : list of str
        Of the queries.
    values : list
        Their texts or vectors.
    kind : {"text", "int8", "bits"}
        What the values are.
    level : {"document", "chunk"}
        What is ranked.
    relevant : list of ndarray of int64
        For each query the documents, or rows, with a grade of at least 1; -1 for one that is not there.
    grades : list of ndarray of int64
        Their grades.
    notes : list of str
        What a reader of the results should know.
    """

    ids: list[str]
    values: list[Any]
    kind: str
    level: Level
    relevant: list[NDArray[np.int64]]
    grades: list[NDArray[np.int64]]
    notes: list[str]


def check_queries(
    corpus: Corpus,
    queries: object,
    judgements: object,
    *,
    by: Level | None,
    skip_unjudged: bool,
    allow_missing: bool,
) -> JudgedQueries:
    """Check queries and judgements, and find what they judge.

    Raises
    ------
    TypeError, ValueError
        Something is not what it should be. The message names its place: query, document, and line where it was read
        from a file.
    """
    if by not in (None, "document", "chunk"):
        raise ValueError(f"by must be 'document', 'chunk' or None, got {by!r:.100}")
    asked = _checked_values(corpus, queries)
    judged = _checked_grades(judgements)
    if unknown := [name for name in judged if name not in asked]:
        raise ValueError(f"{_place(judgements, unknown[0])}there is no query {_listed(unknown)} that judgements name")
    notes = []
    if unjudged := [name for name in asked if name not in judged]:
        if not skip_unjudged:
            raise ValueError(
                f"{_place(queries, unjudged[0])}query {_listed(unjudged)} has no judgement: expected one of each "
                "query. skip_unjudged=True leaves such queries out"
            )
        notes.append(f"{len(unjudged):,} queries without a judgement were left out")
        asked = {name: value for name, value in asked.items() if name in judged}
    level: Level = by or (
        "chunk" if any(isinstance(key, tuple) for found in judged.values() for key in found) else "document"
    )
    finder = _Finder(corpus, level, judgements, allow_missing=allow_missing)
    relevant, grades = zip(*(finder.find(name, judged[name]) for name in asked), strict=True)
    notes += finder.notes()
    if without := sum(not len(found) for found in relevant):
        notes.append(f"{without:,} queries have no relevant {level}, and score 0")
    return JudgedQueries([*asked], [*asked.values()], _kind([*asked.values()]), level, [*relevant], [*grades], notes)


def _checked_values(corpus: Corpus, queries: object) -> dict[str, Any]:
    """Return the queries by id: texts, or vectors of shape (width,)."""
    if not isinstance(queries, Mapping):
        raise TypeError(f"queries must be a dict of query ids to texts or vectors, got {type(queries).__name__}")
    if not queries:
        raise ValueError(f"{_place(queries, None)}there are no queries")
    found = {}
    for name, value in queries.items():
        _check_name(queries, "queries", name)
        found[name] = _text(queries, name, value) if isinstance(value, str) else _vector(corpus, name, value)
    kinds = {_kind([value]): name for name, value in found.items()}
    if len(kinds) > 1:
        shown = " and ".join(f"{name!r:.100} is {kind}" for kind, name in kinds.items())
        raise TypeError(f"queries must be all texts, or all vectors of one type: {shown}")
    return found


def _kind(values: list[Any]) -> str:
    if isinstance(values[0], str):
        return "text"
    return "bits" if values[0].dtype == np.uint8 else "int8"


def _check_name(source: object, what: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"{_place(source, name)}{what} has the key {name!r:.100}: expected the id of a query, a str")


def _text(queries: object, name: str, value: str) -> str:
    place = f"{_place(queries, name)}query {name!r:.100}"
    if not value.strip():
        raise ValueError(f"{place} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} holds a lone surrogate (character {error.start})") from None
    return value


def _vector(corpus: Corpus, name: str, value: object) -> NDArray[Any]:
    vector = np.asarray(value)
    if vector.dtype not in (np.int8, np.uint8):
        raise TypeError(f"query {name!r:.100} must be a text or a vector of int8 or packed bits, got {vector.dtype}")
    if vector.dtype == np.uint8 and not corpus.is_binary:
        raise TypeError(f"query {name!r:.100} is packed bits: the vectors that it searches are int8, and need int8")
    width = corpus.dimensions // 8 if vector.dtype == np.uint8 else corpus.dimensions
    if vector.shape not in ((width,), (1, width)):
        raise ValueError(f"query {name!r:.100} has the shape {vector.shape}: expected ({width},)")
    return vector.reshape(width)


def _checked_grades(judgements: object) -> dict[str, dict[_Key, int]]:
    if not isinstance(judgements, Mapping):
        raise TypeError(
            "judgements must be a dict of query ids to dicts of a document id, or of (document id, chunk), to a grade, "
            f"got {type(judgements).__name__}"
        )
    if not judgements:
        raise ValueError(f"{_place(judgements, None)}there are no judgements")
    found: dict[str, dict[_Key, int]] = {}
    for name, grades in judgements.items():
        _check_name(judgements, "judgements", name)
        if not isinstance(grades, Mapping):
            raise TypeError(
                f"judgements[{name!r:.100}] must be a dict of a document id, or of (document id, chunk), to a grade, "
                f"got {type(grades).__name__}"
            )
        if not grades:
            raise ValueError(f"judgements[{name!r:.100}] is empty: expected a judgement of each query")
        found[name] = {_key(name, key): _grade(judgements, name, key, grade) for key, grade in grades.items()}
    return found


def _key(name: str, key: object) -> _Key:
    if isinstance(key, str) and key:
        return key
    if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) and key[0]:
        chunk = _int(key[1])
        if chunk is not None and chunk >= 0:
            return key[0], chunk
    raise TypeError(
        f"judgements[{name!r:.100}] has the key {key!r:.100}: expected a document id or (document id, chunk)"
    )


def _grade(judgements: object, name: str, key: object, grade: object) -> int:
    number = _int(grade)
    if number is None:
        raise TypeError(
            f"{_place(judgements, (name, key))}query {name!r:.100} grades {_shown(key)} as {grade!r:.100}: expected an "
            "integer, 0 for what is not relevant"
        )
    return number


def _int(value: Any) -> int | None:
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


class _Finder:
    """Finds what judgements name."""

    def __init__(self, corpus: Corpus, level: Level, judgements: object, *, allow_missing: bool) -> None:
        self._corpus = corpus
        self._level = level
        self._judgements = judgements
        self._allow_missing = allow_missing
        self._failed: set[str] | None = None
        self._absent: dict[str, list[_Key]] = {"failed": [], "missing": []}

    def find(self, name: str, judged: dict[_Key, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the relevant items of a query, and their grades."""
        grades: dict[Any, int] = {}
        for key, grade in judged.items():
            place = self._position(name, key)
            # A document is as relevant as its best chunk. What is not there keeps its key, since each counts.
            item = key if place is None else place
            if self._level == "document" and place is None and isinstance(key, tuple):
                item = key[0]
            grades[item] = max(grade, grades.get(item, grade))
        relevant = {item: grade for item, grade in grades.items() if grade > 0}
        places = [item if isinstance(item, int) else -1 for item in relevant]
        return np.array(places, np.int64), np.array([*relevant.values()], np.int64)

    def _position(self, name: str, key: _Key) -> int | None:
        corpus = self._corpus
        if isinstance(key, tuple) != (self._level == "chunk") and self._level == "chunk":
            raise ValueError(
                f"{_place(self._judgements, (name, key))}query {name!r:.100} judges the {_shown(key)}, and others "
                "judge chunks: expected a chunk of it, or by='document', which ranks documents"
            )
        document, chunk = key if isinstance(key, tuple) else (key, None)
        position = corpus.positions.get(document)
        if position is None:
            self._note_absent(name, key, f"there is no document {document!r:.100}")
            return None
        first, behind = int(corpus.offsets[position]), int(corpus.offsets[position + 1])
        if chunk is not None and chunk >= behind - first:
            reason = f"document {document!r:.100} has no chunk {chunk}: its chunks are 0 to {behind - first - 1}"
            self._note_absent(name, key, reason)
            return None
        return position if self._level == "document" else first + (chunk or 0)

    def _note_absent(self, name: str, key: _Key, reason: str) -> None:
        document = key[0] if isinstance(key, tuple) else key
        if self._failed is None:
            self._failed = self._corpus.failed() if isinstance(self._corpus, StoredCorpus) else set()
        if document in self._failed:
            self._absent["failed"].append(key)
        elif self._allow_missing:
            self._absent["missing"].append(key)
        else:
            raise ValueError(
                f"{_place(self._judgements, (name, key))}{reason}, which query {name!r:.100} judges. "
                "allow_missing=True counts what is not there as never found"
            )

    def notes(self) -> list[str]:
        """Return what was not there."""
        reasons = {"failed": "could not be embedded (see failures())", "missing": "are not there"}
        return [
            f"{len(keys):,} judged {self._level}s {reasons[kind]}, and count as never found: {_listed(keys)}"
            for kind, keys in self._absent.items()
            if keys
        ]


def _shown(key: object) -> str:
    return f"chunk {key[1]} of {key[0]!r:.100}" if isinstance(key, tuple) else f"document {key!r:.100}"


def _listed(keys: Iterable[object]) -> str:
    names = [f"{key!r:.100}" for key in dict.fromkeys(keys)]
    more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN:,} more"
    return ", ".join(names[:_SHOWN]) + more


def _place(source: object, key: object) -> str:
    """Return where something was read from, as the start of a message; nothing where it was not read from a file."""
    place_of = getattr(source, "place_of", None)
    return f"{place_of(key)}: " if callable(place_of) else ""
