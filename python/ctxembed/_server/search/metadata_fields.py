"""The metadata fields of a collection with their values: what a page can offer as filters."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ctxembed._collection.view import View

__all__ = ["read_fields"]

_SAMPLE: Final = 20_000
"""Documents that are read: the first and the last ones where there are more."""

_VALUES: Final = 20
"""Most values that are listed."""

_DISTINCT: Final = 10_000
"""Values of a field that are counted. Further ones are not."""

_LONGEST: Final = 200
"""Characters of a value. A longer text is no choice."""


class _Field:
    def __init__(self) -> None:
        self.documents = 0
        self.types: set[str] = set()
        self.counts: Counter[tuple[str, Any]] = Counter()
        self.smallest: float | None = None
        self.largest: float | None = None

    def add(self, value: Any) -> None:
        kind = type(value).__name__
        if value is None or kind not in ("str", "int", "float", "bool"):
            return
        self.documents += 1
        self.types.add(kind)
        if kind in ("int", "float"):
            self.smallest = value if self.smallest is None else min(self.smallest, value)
            self.largest = value if self.largest is None else max(self.largest, value)
        # By type too: True == 1 == 1.0.
        counted = (kind, value)
        if counted in self.counts or (len(self.counts) < _DISTINCT and not (kind == "str" and len(value) > _LONGEST)):
            self.counts[counted] += 1

    def to_json(self, name: str) -> dict[str, Any]:
        most = sorted(self.counts.items(), key=lambda item: (-item[1], str(item[0][1])))[:_VALUES]
        found: dict[str, Any] = {
            "name": name,
            "types": sorted(self.types),
            "documents": self.documents,
            "distinct": len(self.counts),
            "values": [{"value": value, "documents": count} for (_, value), count in most],
        }
        if self.smallest is not None:
            found |= {"minimum": self.smallest, "maximum": self.largest}
        return found


def read_fields(view: View) -> dict[str, Any]:
    """Return the fields that ``where`` can name, in order of their names, and whether only a sample was read.

    Parameters
    ----------
    view : View
        The state. Its connection is in use meanwhile.
    """
    statement = "SELECT source, metadata FROM documents ORDER BY number"
    sampled = view.documents > _SAMPLE
    if sampled:
        half = _SAMPLE // 2
        rows = view.query(f"{statement} LIMIT ?", (half,)) + view.query(f"{statement} DESC LIMIT ?", (half,))
    else:
        rows = view.query(statement)
    fields = {name: _Field() for name in ("source", *view.columns.metadata)}
    for source, metadata in rows:
        if source is not None:
            fields["source"].add(source)
        for name, value in (json.loads(metadata) if metadata else {}).items():
            if name in fields:
                fields[name].add(value)
    return {
        "fields": [field.to_json(name) for name, field in sorted(fields.items()) if field.documents],
        "sampled": sampled,
    }
