"""The plot of an evaluation: quality against bytes, as SVG. The same evaluation gives the same bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["draw"]

_WIDTH: Final = 760
_HEIGHT: Final = 420
_LEFT: Final = 64
_RIGHT: Final = 230
_TOP: Final = 40
_BOTTOM: Final = 56
_COLOURS: Final = {
    "int8": "#1f77b4",
    "two-stage": "#2ca02c",
    "asymmetric": "#ff7f0e",
    "bits": "#d62728",
    "hybrid": "#9467bd",
}
_LINE: Final = 15
_APART: Final = 7.0
"""Pixels between points of equal bytes."""


def draw(rows: Sequence[dict[str, Any]], measure: str, title: str, confidence: float) -> str:
    """Return the plot of a measure.

    Parameters
    ----------
    rows : sequence of dict
        The table of an evaluation.
    measure : str
        Its name.
    title : str
        Stands above, behind the measure.
    confidence : float
        Of the intervals.
    """
    return "\n".join(_lines(rows, measure, title, confidence)) + "\n"


def _lines(rows: Sequence[dict[str, Any]], measure: str, title: str, confidence: float) -> Iterator[str]:
    shown = measure.replace("ndcg", "nDCG")
    sizes = sorted({row["bytes"] for row in rows})
    low: float = min(row["intervals"][measure][0] for row in rows)
    high: float = max(row["intervals"][measure][1] for row in rows)
    step = _step(high - low)
    bottom, top = math.floor(low / step) * step, math.ceil(high / step + 1e-9) * step
    span: float = math.log2(sizes[-1] / sizes[0]) or 1.0

    def x(size: float) -> float:
        return _LEFT + 24 + math.log2(size / sizes[0]) / span * (_WIDTH - _LEFT - _RIGHT - 48)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="12">'
    )
    yield f"<title>{shown} against bytes a vector</title>"
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    yield f'<text x="{_LEFT}" y="22" font-size="13">{escape(f"{shown} {title}")}</text>'
    for number in range(round((top - bottom) / step) + 1):
        value = bottom + number * step
        yield f'<path d="M{_LEFT} {y(value):.1f}H{right}" stroke="#dddddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.{_digits(step)}f}</text>'
    last = -math.inf
    for size in sizes:
        yield f'<path d="M{x(size):.1f} {base}v5" stroke="#333333"/>'
        if x(size) - last > 9 + 7 * len(f"{size:,}"):
            last = x(size)
            yield f'<text x="{last:.1f}" y="{base + 20}" text-anchor="middle">{size:,}</text>'
    yield f'<path d="M{_LEFT} {_TOP}V{base}H{right}" fill="none" stroke="#333333"/>'
    yield (
        f'<text x="{(_LEFT + right) / 2:.1f}" y="{base + 42}" text-anchor="middle">bytes a vector (logarithmic)</text>'
    )
    middle = (_TOP + base) / 2
    yield (
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 16 {middle:.1f})">{shown}, '
        f"{confidence:.0%} intervals</text>"
    )
    seen: dict[int, int] = {}
    alike = {size: sum(row["bytes"] == size for row in rows) for size in sizes}
    for number, row in enumerate(rows, start=1):
        size = row["bytes"]
        place = seen[size] = seen.get(size, -1) + 1
        at = x(size) + _APART * (place - (alike[size] - 1) / 2)
        colour = _COLOURS[row["variant"].split("@")[0].split(":")[0]]
        low, high = row["intervals"][measure]
        inner = "#ffffff" if row["arm"] == "isolated" else colour
        yield f'<path d="M{at:.1f} {y(low):.1f}V{y(high):.1f}" stroke="{colour}" stroke-opacity="0.45"/>'
        yield (
            f'<circle cx="{at:.1f}" cy="{y(row[measure]):.1f}" r="3.5" fill="{inner}" stroke="{colour}" '
            f'stroke-width="1.5"><title>{escape(_name(row))}: {row[measure]:.3f}</title></circle>'
        )
        line = _TOP + 8 + (number - 1) * min(_LINE, (_HEIGHT - _TOP - 24) / len(rows))
        yield f'<circle cx="{right + 20}" cy="{line - 4:.1f}" r="3.5" fill="{inner}" stroke="{colour}"/>'
        yield (f'<text x="{right + 30}" y="{line:.1f}" font-size="11">{escape(_name(row))}, {row[measure]:.3f}</text>')
    yield "</svg>"


def _name(row: dict[str, Any]) -> str:
    return f"{row['variant']}" + (" (alone)" if row["arm"] == "isolated" else "")


def _step(span: float) -> float:
    """Return a step of the axis: 1, 2 or 5 times a power of ten, some six of which fill it."""
    rough = max(span, 0.01) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))
