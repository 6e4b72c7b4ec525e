"""The results of a record, grouped into the rows of tables and plots."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A case at a number of threads, with the results by peer."""

    case: str
    threads: int
    results: dict[str, dict[str, Any]]

    @property
    def baseline(self) -> dict[str, Any]:
        """The first of our own results, the denominator of the ratios."""
        return next(result for result in self.results.values() if result["kind"] == "ours")

    def ratio(self, result: dict[str, Any]) -> float:
        """Return the time of ``result`` as a multiple of the baseline's."""
        return time_ratio(result, self.baseline)


def time_ratio(result: dict[str, Any], base: dict[str, Any]) -> float:
    """Return the time of ``result`` as a multiple of the time of ``base``: the median of the ratios of each pass."""
    return statistics.median(a / b for a, b in zip(result["passes"], base["passes"], strict=True))


def rows(record: dict[str, Any], group: str) -> list[Row]:
    """Group the results of a group by case and threads, in the order of measurement."""
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
    """Return the groups of a record in the order of measurement."""
    return list(dict.fromkeys(result["group"] for result in record["results"]))


def rate(result: dict[str, Any]) -> float:
    """Return the bytes of rows scored per second, once for each query."""
    size = result["size"]
    return size["row bytes"] * size["queries"] / result["seconds"]
