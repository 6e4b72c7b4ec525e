"""What an evaluation returns, and its forms: a dict, Markdown, a table in text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from ctxembed._evaluation.plot import draw
from ctxembed._planning.plan import plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._results import Usage

__all__ = ["Evaluation", "EvaluationPlan"]

_MINUS: Final = "\u2212"


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation would send and cost.

    Parameters
    ----------
    documents : int
        Documents that are not embedded yet; 0 for a collection.
    queries, chunks : int
        Texts to embed: queries, and chunks alone for the arm ``"isolated"``. Equal texts count once.
    kept : int
        Texts that were paid for in an earlier evaluation, and are not sent.
    requests : int
        Requests to send.
    tokens, tokens_upper : int
        Tokens to send and their upper bound, which are equal where they are counted.
    exact_tokens : bool
        Whether they are counted.
    cost_usd, cost_usd_upper : Decimal or None
        List price of both; None where the price of the model is not known.
    model : str
        The model.
    """

    documents: int
    queries: int
    chunks: int
    kept: int
    requests: int
    tokens: int
    tokens_upper: int
    exact_tokens: bool
    cost_usd: Decimal | None
    cost_usd_upper: Decimal | None
    model: str

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types. Prices are strings, which keeps them exact."""
        return {name: _as_json(getattr(self, name)) for name in self.__dataclass_fields__}

    def __str__(self) -> str:
        what = f"{plural(self.documents, 'document')}, " if self.documents else ""
        what += f"{self.queries:,} queries"
        if self.chunks:
            what += f" and {plural(self.chunks, 'chunk')} alone"
        counted = "counted" if self.exact_tokens else f"estimated with a margin; at most {self.tokens_upper:,}"
        lines = [f"{what} to embed, {self.kept:,} kept", plural(self.requests, "request")]
        lines.append(f"{plural(self.tokens, 'token')} ({counted})")
        if self.cost_usd is None or self.cost_usd_upper is None:
            lines.append(f"price of {self.model} not known")
        else:
            upper = "" if self.exact_tokens else f" to {_usd(self.cost_usd_upper)}"
            lines.append(f"USD {_usd(self.cost_usd)}{upper} for {self.model}")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The quality of each variant of search, on judged queries.

    Parameters
    ----------
    table : list of dict
        One a variant and arm: ``"variant"``, ``"arm"``, the measures (``"ndcg@10"``, ``"recall@10"``, ``"success@10"``
        at each k, ``"mrr"``, ``"map"``), ``"bytes"`` of a vector, ``"queries_per_second"`` as measured here,
        ``"usd"``, and ``"intervals"``: (low, high) of each measure. ``"difference"`` has (mean, low, high) of each
        measure less that of the arm's first variant, over the same queries; None for that variant.
    comparisons : list of dict
        What context is worth, one a variant: ``"variant"``, and ``"difference"`` with (mean, low, high) of each
        measure of the arm "context" less that of "isolated", over the same queries. Empty with one arm.
    level : {"document", "chunk"}
        What was ranked and judged.
    k : tuple of int
        The cuts.
    queries, documents, chunks : int
        How many.
    model : str or None
        Of a collection.
    dimensions : int
        Of the vectors.
    usage : Usage
        What this evaluation has sent.
    exact_tokens : bool
        Whether the prices are of counted tokens.
    seed, resamples, confidence : int, int, float
        Of the bootstrap.
    notes : tuple of str
        What a reader should know: queries and documents that were left out.
    query_ids : tuple of str
        The queries, in the order of ``values``.
    values : dict of (str, str) to dict of str to ndarray of float64
        For each (variant, arm) each measure of each query.
    """

    table: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    level: str
    k: tuple[int, ...]
    queries: int
    documents: int
    chunks: int
    model: str | None
    dimensions: int
    usage: Usage
    exact_tokens: bool
    seed: int
    resamples: int
    confidence: float
    notes: tuple[str, ...]
    query_ids: tuple[str, ...] = ()
    values: Mapping[tuple[str, str], Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The measure that sentences and plots show: nDCG at 10, or at the cut nearest to it."""
        return f"ndcg@{min(self.k, key=lambda cut: (abs(cut - 10), cut))}"

    @property
    def sentences(self) -> list[str]:
        """What context is worth, in words, one sentence a variant."""
        shown = self.headline.replace("ndcg", "nDCG")
        found = []
        for comparison in self.comparisons:
            mean, low, high = comparison["difference"][self.headline]
            unsure = "" if low > 0 or high < 0 else ": not to be told from nothing"
            found.append(
                f"{comparison['variant']}: context is worth {_signed(mean)} \u00b1 {(high - low) / 2:.3f} {shown} here"
                f"{unsure}"
            )
        return found

    def to_dict(self, *, queries: bool = False) -> dict[str, Any]:
        """Return all fields as JSON types.

        Parameters
        ----------
        queries : bool
            Whether the measures of each query are among them.
        """
        fields = {
            name: _as_json(getattr(self, name))
            for name in self.__dataclass_fields__
            if name not in ("usage", "query_ids", "values")
        }
        fields["usage"] = {
            "total_tokens": self.usage.total_tokens,
            "cost_usd": _as_json(self.usage.cost_usd),
            "requests": self.usage.requests,
        }
        fields["sentences"] = self.sentences
        if queries:
            fields["values"] = [
                {
                    "variant": variant,
                    "arm": arm,
                    "queries": {
                        name: {measure: float(found[place]) for measure, found in measures.items()}
                        for place, name in enumerate(self.query_ids)
                    },
                }
                for (variant, arm), measures in self.values.items()
            ]
        return fields

    def to_json(self, *, queries: bool = False) -> str:
        """Return :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(queries=queries), indent=1)

    def plot(self) -> str:
        """Return a plot of quality against bytes, as SVG."""
        model = "" if self.model is None else f", {self.model}"
        title = f"by {self.level}, {self.queries:,} queries{model}"
        return draw(self.table, self.headline, title, self.confidence)

    def columns(self) -> tuple[list[str], list[list[str]]]:
        """Return the head and the rows of a table in text."""
        arms = len({row["arm"] for row in self.table}) > 1
        least, most = min(self.k), max(self.k)
        measures = [self.headline, *(name for name in (f"recall@{most}", f"success@{least}", "mrr", "map"))]
        head = ["variant", *(["arm"] if arms else []), *measures, "bytes", "queries/s", "USD"]
        head[head.index(self.headline)] += f" ({self.confidence:.0%})"
        rows = []
        for row in self.table:
            low, high = row["intervals"][self.headline]
            shown = [
                f"{row[self.headline]:.3f} ({low:.3f} to {high:.3f})",
                *(f"{row[name]:.3f}" for name in measures[1:]),
            ]
            price = "-" if row["usd"] is None else _usd(row["usd"])
            cells = [f"{row['bytes']:,}", f"{row['queries_per_second']:,.0f}", price]
            rows.append([row["variant"], *([row["arm"]] if arms else []), *shown, *cells])
        return head, rows

    def to_markdown(self) -> str:
        """Return the table, what context is worth and the notes, as Markdown."""
        head, rows = self.columns()
        numbers = head.index("bytes")
        ruler = ["---:" if place >= numbers - 5 else "---" for place in range(len(head))]
        lines = ["| " + " | ".join(line) + " |" for line in (head, ruler, *rows)]
        parts = [self.summary, "\n".join(lines)]
        if self.comparisons:
            parts.append("\n".join(f"- {sentence}" for sentence in self.sentences))
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

    @property
    def summary(self) -> str:
        """What was evaluated, in one sentence."""
        model = "" if self.model is None else f" of {self.model}"
        return (
            f"{plural(self.documents, 'document')}, {plural(self.chunks, 'chunk')} with {self.dimensions} dimensions"
            f"{model}; {self.queries:,} queries, ranked by {self.level}."
        )

    def __str__(self) -> str:
        head, rows = self.columns()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        first = len(head) - 8
        lines = [
            "  ".join(
                cell.ljust(width) if place < first else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (head, *rows)
        ]
        return "\n".join([self.summary, *lines, *self.sentences, *self.notes])

    __repr__ = __str__


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", _MINUS)


def _usd(price: Decimal) -> str:
    digits = max(2, 1 - price.adjusted()) if price else 2
    return f"{price:,.{digits}f}"


def _as_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dict):
        return {name: _as_json(part) for name, part in value.items()}
    return [_as_json(part) for part in value] if isinstance(value, list | tuple) else value
