"""A record to Markdown tables and plots: ``python -m benches.report RECORD [--page FILE]`` renders without measuring.

The output depends on the record alone, so rendering twice gives the same bytes.
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
    "quality": "Quality of each search method",
    "pack": "Packing documents into requests",
    "tokens": "Counting tokens",
    "import": "Import",
    "client": "Processor time of the client",
    "collections": "Collections",
    "hybrid": "Hybrid search",
    "models": "Local models",
    "pacing": "Pacing",
    "coalescing": "Requests shared by concurrent calls",
    "limiter": "Limits shared by processes",
    "soak": "A job with failing requests",
    "service": "Search as a service",
    "service_soak": "Search as a service, beside a writer",
}
NOTES = {
    "decode": "From bytes or strings to one array. The peers trust the order of the rows; ctxembed also checks that "
    "each (document, chunk) occurs exactly once.",
    "hamming": "Exact search; the vectors are synthetic, with the clusters and correlations of real embeddings "
    "(`benches/vectors.py`).",
    "cosine": "Exact search unless a recall is given. faiss has no cosine over int8: its rows are scaled to one length "
    "and rounded again.",
    "scaling": "One axis at a time from 1,000,000 x 1024 bits and 250,000 x 1024 int8. GB/s counts the bytes of all "
    "rows once for each query. The memory bandwidth, which bounds a single query, is measured by numpy reading every "
    "byte once.",
    "stages": "The vectors are synthetic (`benches/vectors.py`). Two-stage is calibrated for a recall of 0.99 with "
    "separate queries. Building is compared with one copy of the rows, into memory that is already mapped and into "
    "new memory.",
    "paths": "ctxembed runs in a separate process with `CTXEMBED_ISA` set, and each call goes through a pipe, which "
    "takes some 0.1 ms. The peers choose their own instruction sets.",
    "quality": "Real text, embedded by the local server's lexical stand-in for the model: the differences show what a "
    "representation loses, while the absolute values say little about the real model. recall@10 is the share of the "
    "exact top ten at 1024 dimensions. Cranfield: 1,400 abstracts and 225 queries, judged by experts. Passages: books "
    "and documentation in English, Chinese and Korean; half of a passage is the query, and that passage is relevant.",
    "pack": "In brackets: the requests above a lower bound for any packing. Every packing is checked against the "
    "limits. A family shows all its instances together: how many are packed into the fewest possible requests, and "
    "the total of requests above that.",
    "tokens": "Exact counts with Qwen3's vocabulary, from str to number, for the paragraphs of real books and manuals. "
    "The first column counts with a warm word cache, like the `tokenizers` package, which has one too; the second "
    "with an empty one. A count is correct if it equals that of the `tokenizers` package.",
    "import": "Whole processes, including the start of the interpreter.",
    "client": "Processor time of the client's process, over all threads and requests. A request uploads 0.6 MB and "
    "downloads 0.7 MB over loopback, from a server of prepared responses. ctxembed also counts, validates and packs "
    "the documents, and checks the responses. Chunks per second are by the wall clock.",
    "collections": "Ingestion embeds and stores chunks of some 40 words from a server of prepared responses, in a "
    "new process on one CPU: the processor time of draining `Client.stream`, which stores nothing, of "
    "`Collection.ingest`, and of the whole command. Memory is the peak above a process that imports numpy and httpx. "
    "A search in a new process includes starting Python, and `ctxembed search` also has its query embedded by a "
    "local server; the files are in the page cache. Filters have other parameters at each call, since the rows of a "
    "filter are kept. Results are compared with numpy. faiss has no cosine over int8: its rows are scaled to one "
    "length and rounded again. LanceDB, where it is installed, searches float16 without a vector index.",
    "hybrid": "Chunks of some 90 words, from a vocabulary of 100,000 whose frequencies follow Zipf's law. Questions "
    "are drawn like the texts, and each call has another. Vectors are synthetic and given, so no query is embedded. "
    "nDCG@10 on Cranfield is that of the local server's lexical stand-in for the model, and of BM25 without stemming.",
    "models": "Cranfield's 1,400 abstracts, each a document of its title and groups of three sentences, embedded "
    "through a local server and the client, then its 225 queries. A document counts by its best chunk. Below, tokens "
    "per second of processor time, on one thread: the passes of 150 documents by onnxruntime alone, and the embedder, "
    "which also splits texts into tokens, plans passes and pools.",
    "pacing": "First, a leaky bucket of a rate unknown to the clients: the share of the rate that was used, and of the "
    "requests that were refused, after the first minute. Then a server with latency alone: the time as a multiple of "
    "requests x latency / concurrency.",
    "coalescing": "Two hundred coroutines make ten calls of `embed_queries` with one text a second each; the server "
    "takes 50 ms for a request and allows 20 a second. First the processor time of a call, without that of the "
    "coroutines themselves. Then the calls that could be made, where not all, and that failed; the share of the "
    "allowed requests that was used; the median time of a call; and what it adds to the least that a client of that "
    "rate could reach: the median time of a request, and the 25 ms until the next one is allowed. `coalesce` is the "
    "window in seconds.",
    "service": "The server and its callers share the machine. The gain is the searches a second beside those of the "
    "same server with one query a scan; the kernels' gain is 64 calls of the index with one query beside one call with "
    "64; all take turns in three rounds. The first hits are compared with those of the collection.",
    "service_soak": "Searches of all kinds, while documents are added and deleted and the collection is compacted. "
    "Memory is what the server has that is no file's: the median of the last fifth of the time less that of the "
    "second.",
    "limiter": "Seconds until the last response to six processes, which have connections and share the requests of a "
    "job, and what the rate takes; then those of simulated workers, with stragglers, errors, workers that are killed "
    "and a limiter that is killed twice. `benches/simulation.py` has the setting.",
    "soak": "Each job runs in a separate process. Memory is the peak beyond the documents and the result. The peer "
    "retries as often.",
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
    """Write a record as JSON with one line per result, so that two records can be compared line by line."""
    head = {key: value for key, value in record.items() if key != "results"}
    lines = ",\n".join("  " + json.dumps(result) for result in record["results"])
    return json.dumps(head, indent=1)[:-2] + f',\n "results": [\n{lines}\n ]\n}}\n'


# --- Markdown ---


def duration(seconds: float) -> str:
    """Write a time with three digits and a readable unit."""
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
    """Return the tables of a group: one row per case and number of threads, one column per peer."""
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
    """Return a line for each case in which a peer is faster than our fastest exact result.

    The lines include the notes, because a packing is also judged by its number of requests.
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
                    faster = f"{result['peer']} {duration(result['seconds'])} ({times(ratio)}){_aside(result)}"
                    found.setdefault(case, []).append(faster)
    return [f"{case}; {'; '.join(faster)}." for case, faster in found.items()]


def _ours(row: Row) -> list[dict[str, Any]]:
    """Return our exact results for the same work as the peers: decoding into an existing array (``out=``) is less."""
    own = [result for result in row.results.values() if result["kind"] == "ours" and result["exact"]]
    return [result for result in own if not result["peer"].endswith("out=")]


def _remark(record: dict[str, Any]) -> str:
    """Return the remark of a record, which describes how it was measured if not in one run."""
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
    """Return all tables of a record. ``pictures`` adds links to the plots."""
    machine = record["machine"]
    paths = ", ".join(f"{name} {path}" for name, path in machine["paths"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    passes = sorted({len(result["passes"]) for result in record["results"]})
    taken = f"{passes[0]} to {passes[-1]} passes" if len(passes) > 1 else f"{passes[0]} pass{'es' * (passes[0] > 1)}"
    parts = [
        (
            f"Measured {record['date']} on {machine['cores']} cores of {machine['cpu']} ({machine['system']}; "
            f"{paths}), Python {machine['python']}. Peers took turns in {taken}; times are medians, and ratios (in "
            "**bold**: the time as a multiple of the first column's) are medians of the ratios of each pass. Every "
            f"result was checked. Load at the start: {record['load']:.1f}. "
            f"Versions: {versions}.{_remark(record)}"
        )
    ]
    for group in groups(record):
        parts += [f"### {TITLES[group]}", NOTES[group]]
        parts += [f"![{TITLES[group]}]({plot_name(group)})"] if pictures else []
        parts += [tables(record, group)]
    slower = losses(record)
    parts += ["### Where a peer is faster", "\n".join(f"- {line}" for line in slower) or "Nowhere, in this record."]
    return "\n\n".join(parts) + "\n"


def insert(text: str, section: str) -> str | None:
    """Return ``text`` with the part between the markers replaced, or None without the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section}{END}{after}" if begin and end else None


# --- files ---


def plot_name(group: str) -> str:
    """Return the name of the file with the plot of a group."""
    return f"bench-{group}.svg"


def write(record: dict[str, Any], root: Path) -> None:
    """Write plots and tables to ``docs``, and the summary to README.md, or to stdout if that has no markers."""
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
    parser.add_argument("--page", type=Path, help="write only the tables, to this file")
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
