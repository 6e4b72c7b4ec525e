"""Instructions of each kernel on aarch64, counted by an emulator: ``python -m benches.instructions [--output RECORD]``.

Needs what ``make test-aarch64`` sets up. An emulator shows answers and instructions, but no times. A kernel is run on
32 and on 64 rows; the difference leaves out what is not the kernel's. ``--page`` writes the table from a record.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROWS = 32, 64
PATHS = "scalar", "neon", "neon-dotprod", "neon-i8mm"
# A CPU model that has no path above each.
MODELS = {"neon": "cortex-a72", "neon-dotprod": "neoverse-n1", "neon-i8mm": "max"}
TITLES = {
    "hamming-1": "Hamming distance, 1 query",
    "hamming-64": "Hamming distance, 64 queries",
    "int8-1": "int8 product, 1 query",
    "int8-64": "int8 product, 64 queries",
    "int8-norms": "squared norm of int8",
    "asymmetric-1": "int8 query and bits, 1 query",
    "asymmetric-64": "int8 query and bits, 64 queries",
    "base64-decode-int8": "base64 to int8",
    "base64-decode-bits": "base64 to bits",
    "base64-encode-int8": "int8 to base64",
    "base64-encode-bits": "bits to base64",
    "response-int8": "chunk of a response, int8",
    "response-bits": "chunk of a response, bits",
    "bits-pack": "int8 to bits",
    "bits-unpack": "bits to int8",
}
INTRODUCTION = """# Benchmarks: aarch64

Nobody has measured times on aarch64 yet. These are instructions of one core for a vector of 1,024 dimensions, counted
by {emulator} with a release build of {compiler} on {date}. The record is in
`benches/records/instructions`. Those of several queries are for each pair of a query and a row, and include
interleaving where a path does that. In **bold**: how many times fewer than portable Rust. A path that says nothing runs
the kernel to its left. Instructions are not times: most here work on 16 bytes, some CPUs start four such a cycle and
others one, and a CPU may wait for memory.

`neon` is on all (Cortex-A72, Graviton 1), `neon-dotprod` since Neoverse N1 and Apple M1, `neon-i8mm` since Neoverse V1
and N2, and Apple M2.

"""


def _exports() -> dict[str, str]:
    """Return the environment that the set-up prints."""
    lines = subprocess.run([ROOT / "tests/aarch64/setup.sh"], check=True, capture_output=True, text=True).stdout
    words = (shlex.split(line)[1] for line in lines.splitlines())
    return os.environ | dict(word.split("=", 1) for word in words)


def _build(environment: dict[str, str]) -> Path:
    command = ["cargo", "bench", "--no-run", "--locked", "--bench", "instructions", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    artifacts = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(found["executable"] for found in artifacts if found.get("executable")))


def _count(emulator: list[str], program: Path, kernel: str, path: str, rows: int) -> int:
    """Return the instructions of a run: with one in each translated block, the emulator logs a line for each."""
    environment = os.environ | {"QEMU_CPU": MODELS.get(path, "max")}
    command = [emulator[0], "-singlestep", "-d", "exec,nochain", *emulator[1:], str(program), kernel, path, str(rows)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        count = sum(line.startswith(b"Trace ") for line in run.stderr)
    if run.returncode != 0:
        raise RuntimeError(f"{kernel} on {path} ended with exit code {run.returncode}")
    return count


def measure(program: Path | None) -> dict[str, Any]:
    """Count all kernels on all paths."""
    environment = _exports()
    program = program or _build(environment)
    emulator = shlex.split(environment["CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"])
    listed = subprocess.run([*emulator, program], check=True, capture_output=True, text=True).stdout
    kernels: dict[str, dict[str, float]] = {}
    for kernel, results in (line.split() for line in listed.splitlines()):
        counts = kernels[kernel] = {}
        for path in PATHS:
            few, many = (_count(emulator, program, kernel, path, rows) for rows in ROWS)
            counts[path] = round((many - few) / (ROWS[1] - ROWS[0]) / int(results), 1)
            print(f"{kernel:18} {path:12} {counts[path]:10,.1f}", flush=True)

    def version(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "emulator": version(emulator[0], "--version"),
        "compiler": version(environment["RUSTC"], "--version"),
        "instructions": kernels,
    }


def page(record: dict[str, Any]) -> str:
    """Return the page of a record."""
    lines = ["| kernel | " + " | ".join(PATHS) + " |", "| --- |" + " ---: |" * len(PATHS)]
    for kernel, counts in record["instructions"].items():
        cells = [f"{counts['scalar']:,.1f}"]
        for before, path in itertools.pairwise(PATHS):
            fewer = counts["scalar"] / counts[path]
            # Of one kernel, two runs differ by some instructions of the start.
            same = abs(counts[path] / counts[before] - 1) < 0.02
            cells.append("" if same else f"{counts[path]:,.1f}<br>**{fewer:.1f}**")
        lines.append(f"| {TITLES[kernel]} | " + " | ".join(cells) + " |")
    emulator, compiler = (record[name].partition(" (")[0] for name in ("emulator", "compiler"))
    introduction = INTRODUCTION.format(emulator=emulator, compiler=compiler, date=record["date"])
    return introduction + "\n".join(lines) + "\n"


def main() -> None:
    """Count and keep a record, or write the page of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="file for the record")
    parser.add_argument("--program", type=Path, help="the program, if it is built already")
    parser.add_argument("--page", type=Path, help="a record: docs/benchmarks-aarch64.md is written from it")
    arguments = parser.parse_args()
    if arguments.page:
        record = json.loads(arguments.page.read_text())
        (ROOT / "docs/benchmarks-aarch64.md").write_text(page(record))
        return
    record = measure(arguments.program)
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
