"""A record to Markdown tables and plots: ``python -m benches.report RECORD`` renders without measuring.

Everything here is a function of the record alone, so rendering twice gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN = "<!-- results:begin -->"
END = "<!-- results:end -->"

TITLES = {
    "decode": "Decoding",
    "hamming": "Search by Hamming distance, k = 10",
    "cosine": "Search by cosine, k = 10",
    "pack": "Packing documents into requests",
    "import": "Import",
}
NOTES = {
    "decode": "From bytes or strings to one array. The peers take rows in the order they come; ctxembed also proves "
    "that each (document, chunk) came exactly once.",
    "hamming": "Exact search; the vectors are synthetic, with the clusters and correlations of real embeddings "
    "(`benches/vectors.py`).",
    "cosine": "Exact search where no recall is given. faiss has no cosine over int8: its rows are brought to one "
    "length and rounded again.",
    "pack": "In brackets, requests above a bound that no packing undercuts. Every packing is checked against the "
    "limits. Of families, all instances together: how many are packed in the fewest requests that are possible, and "
    "how many requests too many there are in sum.",
    "import": "Whole processes, the interpreter's own start included.",
}


def dump(record: dict[str, Any]) -> str:
    """Write a record as text: a line a result, so that two records can be compared line by line."""
    head = {key: value for key, value in record.items() if key != "results"}
    lines = ",\n".join("  " + json.dumps(result) for result in record["results"])
    return json.dumps(head, indent=1)[:-2] + f',\n "results": [\n{lines}\n ]\n}}\n'


# --- from results to rows ---


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
        return _ratio(result, self.baseline)


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


# --- Markdown ---


def duration(seconds: float) -> str:
    """Write a time with three digits and a unit that keeps it readable."""
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * scale >= 0.9995:
            return f"{_digits(seconds * scale)} {unit}"
    return f"{_digits(seconds * 1e9)} ns"


def times(ratio: float) -> str:
    """Write a ratio with two digits."""
    return f"{ratio:.2g}x" if ratio < 0.995 else f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:,.0f}x"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _cell(row: Row, peer: str) -> str:
    result = row.results.get(peer)
    if result is None:
        return "-"
    parts = [duration(result["seconds"])]
    if result is not row.baseline:
        parts.append(f"**{times(row.ratio(result))}**")
    if result["note"]:
        parts.append(result["note"])
    if not result["correct"] and result["exact"]:
        parts.append("wrong")
    return "<br>".join(parts)


def tables(record: dict[str, Any], group: str) -> str:
    """Return the tables of a group: a row a case and number of threads, a column a peer."""
    parts: dict[str, list[Row]] = {}
    for row in rows(record, group):
        parts.setdefault(row.baseline["table"], []).append(row)
    return "\n\n".join(_table(title, part) for title, part in parts.items())


def _table(title: str, part: list[Row]) -> str:
    peers = list(dict.fromkeys(peer for row in part for peer in row.results))
    threaded = len({row.threads for row in part}) > 1
    head = [title, *(["threads"] if threaded else []), *peers]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [
        [row.case, *([str(row.threads)] if threaded else []), *(_cell(row, peer) for peer in peers)] for row in part
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def losses(record: dict[str, Any]) -> list[str]:
    """Return a line for each case in which a peer is quicker than the quickest of our own exact answers.

    A time is not all there is to a packing: the lines say how many requests each leaves.
    """
    found: dict[str, list[str]] = {}
    for group in groups(record):
        for row in rows(record, group):
            best = min(_ours(row), key=lambda result: result["seconds"])
            for result in row.results.values():
                ratio = _ratio(result, best)
                if result["kind"] == "peer" and ratio < 1:
                    threads = f", {row.threads} threads" if row.threads > 1 else ""
                    case = f"{row.case}{threads}: {best['peer']} {duration(best['seconds'])}{_aside(best)}"
                    quicker = f"{result['peer']} {duration(result['seconds'])} ({times(ratio)}){_aside(result)}"
                    found.setdefault(case, []).append(quicker)
    return [f"{case}; {'; '.join(quicker)}." for case, quicker in found.items()]


def _ours(row: Row) -> list[dict[str, Any]]:
    """Our own exact answers that do what the peers do: decoding into an array at hand (``out=``) is less work."""
    own = [result for result in row.results.values() if result["kind"] == "ours" and result["exact"]]
    return [result for result in own if not result["peer"].endswith("out=")]


def _remark(record: dict[str, Any]) -> str:
    """What a record says of how it came about, where that is not one run."""
    return f" {record['remark']}" if "remark" in record else ""


def _aside(result: dict[str, Any]) -> str:
    return f", {result['note']}" if result["note"] else ""


def _ratio(result: dict[str, Any], base: dict[str, Any]) -> float:
    """How many times as long as ``base``, by the median of the passes' own ratios."""
    return statistics.median(a / b for a, b in zip(result["passes"], base["passes"], strict=True))


def summary(record: dict[str, Any]) -> str:
    """Return the README's section: for each case, at its most threads, our answer beside the quickest right one."""
    machine = record["machine"]
    path = ", ".join(dict.fromkeys(machine["paths"].values()))
    lines = ["| | threads | ctxembed | quickest peer with the same answer | |", "| --- | ---: | ---: | --- | ---: |"]
    for group in groups(record):
        for row in {row.case: row for row in rows(record, group)}.values():
            right = [result for result in row.results.values() if result["exact"] and result["correct"]]
            peers = [result for result in right if result["kind"] == "peer"]
            if peers:
                best, peer = (min(found, key=lambda result: result["seconds"]) for found in (_ours(row), peers))
                cells = [row.case, str(row.threads), f"{best['peer']}: {duration(best['seconds'])}{_aside(best)}"]
                cells += [
                    f"{peer['peer']}: {duration(peer['seconds'])}{_aside(peer)}",
                    f"**{times(_ratio(peer, best))}**",
                ]
                lines.append("| " + " | ".join(cells) + " |")
    return (
        f"Medians measured {record['date']} by `make bench` on {machine['cores']} cores of {machine['cpu']} "
        f"({path} path), peers in the same run, every answer checked. All peers, sizes and threads, "
        f"with plots and where a peer is quicker: [docs/benchmarks.md](docs/benchmarks.md).{_remark(record)}\n\n"
        + "\n".join(lines)
        + "\n"
    )


def markdown(record: dict[str, Any]) -> str:
    """Return all of a record."""
    machine = record["machine"]
    paths = ", ".join(f"{name} {path}" for name, path in machine["paths"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    passes = max(len(result["passes"]) for result in record["results"])
    taken = f"{passes} {'pass' if passes == 1 else 'passes'}"
    parts = [
        (
            f"Measured {record['date']} on {machine['cores']} cores of {machine['cpu']} ({machine['system']}; "
            f"{paths}), Python {machine['python']}. Peers took turns in {taken}; times are medians, and ratios (in "
            "**bold**: how many times as long as the first column) are medians of each pass's own. Every answer was "
            f"checked. Load at the start: {record['load']:.1f}. "
            f"Versions: {versions}.{_remark(record)}"
        )
    ]
    for group in groups(record):
        parts += [f"### {TITLES[group]}", NOTES[group], f"![{TITLES[group]}]({_plot_name(group)})"]
        parts += [tables(record, group)]
    slower = losses(record)
    parts += ["### Where a peer is quicker", "\n".join(f"- {line}" for line in slower) or "Nowhere, in this record."]
    return "\n\n".join(parts) + "\n"


def insert(text: str, section: str) -> str | None:
    """Return ``text`` with what stands between the markers replaced, or None where it has no markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section}{END}{after}" if begin and end else None


# --- plots ---


def _plot_name(group: str) -> str:
    return f"bench-{group}.svg"


def plot(record: dict[str, Any], group: str) -> bytes:
    """Draw a group: for each case, at its most threads, every peer's time as a multiple of ours, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    last = {row.case: row for row in rows(record, group)}
    drawn = list(last.values())
    peers = list(dict.fromkeys(peer for row in drawn for peer in row.results))
    # Ids that do not depend on the run, text as text, and no date: the same record gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "ctxembed", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = plt.subplots(figsize=(9, 1.3 + 0.42 * len(drawn) + 0.12 * len(peers)))
        for number, peer in enumerate(peers):
            points = [(row.ratio(row.results[peer]), -i) for i, row in enumerate(drawn) if peer in row.results]
            marker = "oDs^vP*XpH"[number % 10]
            axes.plot(*zip(*points, strict=True), marker, label=peer, color=f"C{number % 10}", alpha=0.85)
        axes.axvline(1, color="0.6", linewidth=1, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks([-i for i in range(len(drawn))], [_tick(row) for row in drawn])
        axes.set_ylim(-len(drawn) + 0.4, 0.6)
        axes.set_xlabel("time as a multiple of ctxembed's (logarithmic; right is slower)")
        axes.grid(axis="x", which="both", linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return buffer.getvalue()


def _tick(row: Row) -> str:
    return row.case if row.threads == 1 else f"{row.case}, {row.threads} threads"


# --- files ---


def write(record: dict[str, Any], root: Path) -> None:
    """Write plots and tables to ``docs``, and the summary to README.md, or to stdout where that has no markers."""
    docs = root / "docs"
    docs.mkdir(exist_ok=True)
    for group in groups(record):
        (docs / _plot_name(group)).write_bytes(plot(record, group))
    (docs / "benchmarks.md").write_text(f"# Benchmarks\n\n{markdown(record)}", encoding="utf-8")
    section = summary(record)
    readme = root / "README.md"
    text = insert(readme.read_text(encoding="utf-8"), section) if readme.exists() else None
    if text is None:
        print(section)
    else:
        readme.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.report", description="Render a record.")
    parser.add_argument("record", type=Path)
    write(json.loads(parser.parse_args().record.read_text(encoding="utf-8")), Path(__file__).parent.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
