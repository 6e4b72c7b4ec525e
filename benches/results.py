"""A record's results, brought together to the rows that tables and plots show."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A case at a number of threads: the results by peer, the baseline's first."""

    case: str
    threads: int
    results: dict[str, dict[str, Any]]

    @property
    def baseline(self) -> dict[str, Any]:
        """What ratios are taken against: the first of our own."""
        return next(result for result in self.results.values() if result["kind"] == "ours")

    def ratio(self, result: dict[str, Any]) -> float:
        """How many times as long as the baseline."""
        return time_ratio(result, self.baseline)


def time_ratio(result: dict[str, Any], base: dict[str, Any]) -> float:
    """How many times as long as ``base``, by the median of the passes' own ratios."""
    return statistics.median(a / b for a, b in zip(result["passes"], base["passes"], strict=True))


def rows(record: dict[str, Any], group: str) -> list[Row]:
    """Bring the results of a group together by case and threads, in the order they were measured."""
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for result in record["results"]:
        if result["group"] == group:
            found.setdefault((result["case"], result["threads"]), {})[result["peer"]] = result
    return [
        Row(case, threads, results)
        for (case, threads), results in found.items()
        if any(result["kind"] == "ours" for result in results.values())
    ]


def groups(record: dict[str, Any]) -> list[str]:
    """Return the groups of a record in the order they were measured."""
    return list(dict.fromkeys(result["group"] for result in record["results"]))


def rate(result: dict[str, Any]) -> float:
    """Bytes of rows that pass a second, once a query."""
    size = result["size"]
    return size["row bytes"] * size["queries"] / result["seconds"]
