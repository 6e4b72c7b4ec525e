"""Plots of a record, as SVG. The same record gives the same bytes."""

from __future__ import annotations

import io
import statistics
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benches.results import rate, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benches.results import Row

MARKERS = "oDs^vP*XpH"


def draw(record: dict[str, Any], group: str) -> bytes:
    """Return the plot of a group."""
    with _canvas() as plt:
        found = rows(record, group)
        timed = [row for row in found if "accepted" in row.baseline.get("values", {})]
        plot = _over_time if timed else {"scaling": _scaling, "quality": _quality}.get(group, _multiples)
        figure = plot(plt, timed or found)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return buffer.getvalue()


@contextmanager
def _canvas() -> Iterator[Any]:
    """Set up matplotlib for reproducible SVG: fixed ids, and text as text."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "ctxembed", "svg.fonttype": "none", "font.family": "sans-serif"}):
        yield plt


def _multiples(plt: Any, found: list[Row]) -> Any:
    """Plot the time of every peer as a multiple of ours, for each case at its highest number of threads."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    drawn = list({row.case: row for row in found}.values())
    peers = list(dict.fromkeys(peer for row in drawn for peer in row.results))
    figure, axes = plt.subplots(figsize=(9, 1.3 + 0.42 * len(drawn) + 0.12 * len(peers)))
    for number, peer in enumerate(peers):
        points = [(row.ratio(row.results[peer]), -i) for i, row in enumerate(drawn) if peer in row.results]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(*zip(*points, strict=True), marker, label=peer, color=f"C{number % 10}", alpha=0.85)
    axes.axvline(1, color="0.6", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([-i for i in range(len(drawn))], [_tick(row) for row in drawn])
    axes.set_ylim(-len(drawn) + 0.4, 0.6)
    axes.set_xlabel("time as a multiple of the first column's (logarithmic; right is slower)")
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small")
    return figure


def _tick(row: Row) -> str:
    return row.case if row.threads == 1 else f"{row.case}, {row.threads} threads"


SMOOTHED = 5
"""Seconds that a point of a curve over time averages."""


def smooth(values: list[int]) -> list[float]:
    """Return the mean of each second and the seconds before it."""
    return [statistics.fmean(values[max(0, i + 1 - SMOOTHED) : i + 1]) for i in range(len(values))]


def _over_time(plt: Any, drawn: list[Row]) -> Any:
    """Plot the requests accepted (solid) and refused (dotted) per second for each case, and the rate of the limiter."""
    figure, panels = plt.subplots(len(drawn), 1, figsize=(9, 2.6 * len(drawn)), squeeze=False, layout="constrained")
    for axes, row in zip(panels[:, 0], drawn, strict=True):
        for number, (peer, result) in enumerate(row.results.items()):
            data = result["values"]
            axes.plot(smooth(data["accepted"]), color=f"C{number}", label=f"{peer}: accepted", linewidth=1.2)
            axes.plot(smooth(data["refused"]), ":", color=f"C{number}", label=f"{peer}: refused", linewidth=1.2)
        axes.axhline(row.baseline["values"]["per_second"], color="0.6", linewidth=1, zorder=0)
        axes.set_title(row.case, loc="left", fontsize="medium")
        axes.set_ylabel("requests a second")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize="small")
    panels[-1, 0].set_xlabel(f"seconds (means of {SMOOTHED}; the line is the limiter's rate)")
    return figure


def _quality(plt: Any, found: list[Row]) -> Any:
    """Plot nDCG@10 by dimensions: one panel per collection, one curve per search method."""
    collections: dict[str, list[Row]] = {}
    for row in found:
        collections.setdefault(row.case.split(",")[0], []).append(row)
    figure, panels = plt.subplots(1, len(collections), figsize=(4.5 * len(collections), 3.2), squeeze=False)
    for axes, (name, part) in zip(panels[0], collections.items(), strict=True):
        for number, peer in enumerate(part[0].results):
            points = [
                (row.results[peer]["size"]["dimensions"], row.results[peer]["values"]["nDCG@10"])
                for row in part
                if peer in row.results
            ]
            axes.plot(*zip(*sorted(points), strict=True), MARKERS[number] + "-", label=peer, color=f"C{number}")
        axes.set_title(name, fontsize="medium")
        _powers(axes, sorted({row.baseline["size"]["dimensions"] for row in part}), "dimensions")
        axes.set_ylabel("nDCG@10")
    panels[0][0].legend(frameon=False, fontsize="small")
    figure.tight_layout()
    return figure


def _scaling(plt: Any, found: list[Row]) -> Any:
    """Plot the bytes of rows scored per second along each axis from the base case."""
    kinds: dict[str, list[Row]] = {}
    for row in found:
        kinds.setdefault(row.baseline["table"], []).append(row)
    axes_of = ("rows", "queries", "dimensions", "threads")
    figure, panels = plt.subplots(len(kinds), len(axes_of), figsize=(14, 3.3 * len(kinds)), sharey="row", squeeze=False)
    for panel_row, (kind, part) in zip(panels, kinds.items(), strict=True):
        for axes, axis in zip(panel_row, axes_of, strict=True):
            _sweep(axes, part, axis)
            axes.legend(frameon=False, fontsize="x-small")
        panel_row[0].set_ylabel(f"{kind}: GB/s scored")
    figure.tight_layout()
    return figure


def _point(row: Row) -> dict[str, int]:
    size = row.baseline["size"]
    return {axis: size[axis] for axis in ("rows", "queries", "dimensions")} | {"threads": row.threads}


def _sweep(axes: Any, part: list[Row], axis: str) -> None:
    """Plot the curves of one panel: one or many queries, one or all threads, and otherwise the base case."""
    most = max(row.threads for row in part)
    base = {name: part[0].baseline["size"][f"base {name}"] for name in ("rows", "dimensions")}
    curves = [(queries, threads) for queries in (1, 256) for threads in dict.fromkeys((1, most))]
    if axis == "queries":
        curves = [(None, threads) for threads in dict.fromkeys((1, most))]
    elif axis == "threads":
        curves = [(1, None), (256, None)]
    seen = set()
    for number, (queries, threads) in enumerate(curves):
        fixed = base | {"queries": queries, "threads": threads}
        fixed = {name: value for name, value in fixed.items() if name != axis and value is not None}
        for peer, style in (("ours", "-"), ("reference", ":")):
            points = []
            for row in part:
                at = _point(row)
                of_kind = [result for result in row.results.values() if result["kind"] == peer]
                if of_kind and all(at[name] == value for name, value in fixed.items()):
                    points.append((at[axis], rate(of_kind[0]) / 1e9))
            if points:
                seen.update(x for x, _ in points)
                fixed_axes = [_counted(queries, "query", "queries"), _counted(threads, "thread", "threads")]
                label = ", ".join(filter(None, fixed_axes)) if peer == "ours" else None
                marker = MARKERS[number] if peer == "ours" else ""
                axes.plot(*zip(*sorted(points), strict=True), marker + style, label=label, color=f"C{number}")
    axes.set_yscale("log")
    _powers(axes, sorted(seen), f"{axis} (dotted: reading every byte once)" if axis == "rows" else axis)


def _counted(number: int | None, one: str, many: str) -> str:
    return "" if number is None else f"{number} {one if number == 1 else many}"


def _powers(axes: Any, ticks: list[int], label: str) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xticks(ticks, [_short(tick) for tick in ticks], fontsize="small")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.grid(which="major", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _short(value: int) -> str:
    for scale, unit in ((1_000_000, "M"), (1000, "k")):
        if value >= scale and value % (scale // 10) == 0:
            return f"{value / scale:g}{unit}"
    return str(value)
