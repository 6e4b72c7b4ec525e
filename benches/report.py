"""A record to Markdown tables and plots: ``python -m benches.report RECORD [--page FILE]`` renders without measuring.

Everything here is a function of the record alone, so rendering twice gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benches import plots
from benches.results import Row, groups, rate, rows, time_ratio

BEGIN = "<!-- results:begin -->"
END = "<!-- results:end -->"

TITLES = {
    "decode": "Decoding",
    "hamming": "Search by Hamming distance, k = 10",
    "cosine": "Search by cosine, k = 10",
    "scaling": "Scaling of exact search, k = 10",
    "stages": "Two-stage search, filters and building, 1,000,000 x 1024 int8, k = 10",
    "paths": "Search on lower instruction sets, k = 10",
    "quality": "What each way of searching costs in quality",
    "pack": "Packing documents into requests",
    "tokens": "Counting tokens",
    "import": "Import",
    "client": "The client's processor time",
    "pacing": "Pacing",
    "soak": "A job among failures",
}
NOTES = {
    "decode": "From bytes or strings to one array. The peers take rows in the order they come; ctxembed also proves "
    "that each (document, chunk) came exactly once.",
    "hamming": "Exact search; the vectors are synthetic, with the clusters and correlations of real embeddings "
    "(`benches/vectors.py`).",
    "cosine": "Exact search where no recall is given. faiss has no cosine over int8: its rows are brought to one "
    "length and rounded again.",
    "scaling": "One axis at a time from 1,000,000 x 1024 bits and 250,000 x 1024 int8; GB/s counts the bytes of all "
    "rows once a query. Every byte read once, by numpy, is the bandwidth that bounds a single query.",
    "stages": "The vectors are synthetic (`benches/vectors.py`). Two-stage is calibrated on queries of its own for a "
    "recall of 0.99, and measured on others. Building is set beside copying the same rows once, in memory that was "
    "touched before.",
    "paths": "ctxembed in a process of its own that was started with `CTXEMBED_ISA`; a call goes through a pipe, which "
    "is some 0.1 ms. The peers choose their instructions as they do by themselves.",
    "quality": "Real text, embedded by the local server's stand-in for the model, which is lexical: the absolute "
    "values say little of the real model, the differences what a representation loses. recall@10 is the share of the "
    "exact top ten at 1024 dimensions. Cranfield: 1,400 abstracts, 225 questions, judged by experts. Passages: of "
    "books and documentation in English, Chinese and Korean; half of one is the question, all of it the answer.",
    "pack": "In brackets, requests above a bound that no packing undercuts. Every packing is checked against the "
    "limits. Of families, all instances together: how many are packed in the fewest requests that are possible, and "
    "how many requests too many there are in sum.",
    "tokens": "Exact counts for Qwen3's vocabulary, from str to number, of the paragraphs of real books and manuals. "
    "The first column has met the words before, as the `tokenizers` package has, which keeps a cache too; the second "
    "has not. A count is right where it is the `tokenizers` package's own.",
    "import": "Whole processes, the interpreter's own start included.",
    "client": "Processor time of the client's process, all its threads, for all requests together: 0.6 MB up and "
    "0.7 MB down each, over loopback to a process that spends next to nothing. ctxembed also counts, checks and "
    "packs the documents, and proves the answers. Chunks a second are by the clock on the wall.",
    "pacing": "A leaky bucket whose rate no client is told: share of the rate that was used, and of the requests that "
    "were refused, after the first minute. And a server of latency alone: time as a multiple of requests x latency / "
    "concurrency.",
    "soak": "Each job is a process of its own. Memory is what it took at its peak beyond its documents and its result. "
    "The peer retries as often.",
}


#: Groups that only docs/benchmarks.md shows, not the README.
NOT_IN_README = frozenset({"paths"})

#: The number of rows in the README's table at most.
SUMMARY_ROWS = 10

#: Cases that the README shows, and its words for them: the usual size of each kind of work, and cases with a faster
#: peer. A record at another scale has none of them, and shows its first cases.
HEADLINES = {
    "480 chunks x 1024 int8": "decode a response of 480 chunks",
    "1 chunk x 1024 int8": "decode a response of 1 chunk",
    "1,000,000 x 1024 bits, 256 queries": "search 1,000,000 binary vectors for 256 queries",
    "250,000 x 1024 int8, 1 query": "search 250,000 int8 vectors for 1 query",
    "250,000 x 1024 int8, 256 queries": "search 250,000 int8 vectors for 256 queries",
    "triplets, 501 documents": "pack 501 documents, three to a full request",
    "lognormal, 1,000,000 documents": "pack 1,000,000 documents",
    "English prose, 6,003 paragraphs": "count the tokens of 6,003 paragraphs",
    "a process that imports": "start Python and import the package",
    "16 requests of 480 chunks": "send 16 requests of 480 chunks (CPU time)",
}


def dump(record: dict[str, Any]) -> str:
    """Write a record as text: a line a result, so that two records can be compared line by line."""
    head = {key: value for key, value in record.items() if key != "results"}
    lines = ",\n".join("  " + json.dumps(result) for result in record["results"])
    return json.dumps(head, indent=1)[:-2] + f',\n "results": [\n{lines}\n ]\n}}\n'


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
    if "row bytes" in result["size"]:
        parts.append(f"{_digits(rate(result) / 1e9)} GB/s")
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
                ratio = time_ratio(result, best)
                if result["kind"] == "peer" and ratio < 1 and (result["correct"] or not result["exact"]):
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


def summary(record: dict[str, Any]) -> str:
    """Return the README section: chosen cases at their most threads, with our result and the fastest correct peer."""
    machine = record["machine"]
    path = ", ".join(dict.fromkeys(machine["paths"].values()))
    how = "" if "remark" in record else " by `make bench`"
    shown = [group for group in groups(record) if group not in NOT_IN_README]
    cases = {(group, row.case): row for group in shown for row in rows(record, group)}
    comparable = [row for row in cases.values() if _fastest_peer(row)]
    chosen = [row for row in comparable if row.case in HEADLINES] or comparable
    lines = ["| work | threads | ctxembed | fastest correct peer | ratio |", "| --- | ---: | ---: | --- | ---: |"]
    for row in chosen[:SUMMARY_ROWS]:
        best, peer = min(_ours(row), key=lambda result: result["seconds"]), _fastest_peer(row)
        cells = [
            HEADLINES.get(row.case, row.case),
            str(row.threads),
            f"{best['peer']}: {duration(best['seconds'])}{_aside(best)}",
            f"{peer['peer']}: {duration(peer['seconds'])}{_aside(peer)}",
            f"**{times(time_ratio(peer, best))}**",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return (
        f"Medians measured {record['date']}{how} on {machine['cores']} cores of {machine['cpu']} ({path} path). Peers "
        "ran in the same run, and every result was checked. [docs/benchmarks.md](docs/benchmarks.md) has all peers, "
        "sizes and threads, says how each group was measured, and lists every case in which a peer is faster.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _fastest_peer(row: Row) -> dict[str, Any] | None:
    """Return the fastest correct peer. Families have none: the peers leave more requests, so their time says little."""
    if row.baseline["table"].startswith("Families"):
        return None
    peers = [result for result in row.results.values() if result["kind"] == "peer"]
    right = [result for result in peers if result["exact"] and result["correct"]]
    return min(right, key=lambda result: result["seconds"], default=None)


def markdown(record: dict[str, Any], *, pictures: bool = True) -> str:
    """Return all of a record; ``pictures`` are referred to, not drawn."""
    machine = record["machine"]
    paths = ", ".join(f"{name} {path}" for name, path in machine["paths"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    passes = sorted({len(result["passes"]) for result in record["results"]})
    taken = f"{passes[0]} to {passes[-1]} passes" if len(passes) > 1 else f"{passes[0]} pass{'es' * (passes[0] > 1)}"
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
        parts += [f"### {TITLES[group]}", NOTES[group]]
        parts += [f"![{TITLES[group]}]({plot_name(group)})"] if pictures else []
        parts += [tables(record, group)]
    slower = losses(record)
    parts += ["### Where a peer is quicker", "\n".join(f"- {line}" for line in slower) or "Nowhere, in this record."]
    return "\n\n".join(parts) + "\n"


def insert(text: str, section: str) -> str | None:
    """Return ``text`` with what stands between the markers replaced, or None where it has no markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section}{END}{after}" if begin and end else None


# --- files ---


def plot_name(group: str) -> str:
    """Return the file that a group's plot is in."""
    return f"bench-{group}.svg"


def write(record: dict[str, Any], root: Path) -> None:
    """Write plots and tables to ``docs``, and the summary to README.md, or to stdout where that has no markers."""
    docs = root / "docs"
    docs.mkdir(exist_ok=True)
    for group in groups(record):
        (docs / plot_name(group)).write_bytes(plots.draw(record, group))
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
    parser.add_argument("--page", type=Path, help="write the tables alone, to this file: for another CPU's record")
    options = parser.parse_args()
    record = json.loads(options.record.read_text(encoding="utf-8"))
    if options.page is None:
        write(record, Path(__file__).parent.parent)
    else:
        title = ", ".join(sorted(set(record["machine"]["paths"].values())))
        options.page.write_text(f"# Benchmarks: {title}\n\n{markdown(record, pictures=False)}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
