"""Instructions of each kernel on aarch64, counted by an emulator: ``python -m benches.instructions [--output RECORD]``.

Needs what ``make test-aarch64`` sets up. An emulator shows answers and instructions, but no times. A kernel is run on
16 and on 32 rows; the difference leaves out what is not the kernel's. ``--page`` writes the table from a record.
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
ROWS = 16, 32
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

`scalar` is portable Rust as the compiler optimises it for any aarch64, all of which have NEON. So it counts the bits of
16 bytes by CNT itself, and multiplies eight pairs of int8 by one instruction: there a kernel by hand saves less.

`neon` is on all (Cortex-A72, Graviton 1), `neon-dotprod` since Neoverse N1 and Apple M1, `neon-i8mm` since Neoverse V1
and N2, and Apple M2.

"""

# What was counted while the kernels were written; those figures have no record.
NOTES = """
## Goals, and what was tried

Goals were base64 at 6, Hamming distances at 4, SDOT at 6, and batches with SMMLA at 12 times fewer than portable Rust.
Figures of this list were counted once, in the same way, while the kernels were written.

- **Hamming distance**: 4 is out of reach. EOR, CNT and ADD of eight registers are 23 instructions, their loads 4 or
  more, and portable Rust, which uses CNT too, takes 80: 3 times at the very best. Sixteen registers of counts, for four
  rows and four queries: 54.2 for one query, 42.8 each for many. Counts of eight registers summed as bytes, and one sum
  for four rows: 47.6 and 38.7. With what is left of a vector in a call of its own, which gives the loop its registers:
  45.4 and 38.9, kept. A carry-save adder (EOR, EOR, BSL) leaves one register less to count for three instructions, and
  counting it is two: not built.
- **SDOT**, one query: eight registers of each vector a round, each loaded by itself: 139.4. Four a round: 150.9. Twice
  four: 130.4. A step of 16 bytes is one SDOT and half a load, as the compiler makes LDP of two loads, and that alone is
  104 with a quarter of the query's loads. LD1 of four registers, by `asm!`, would save some 20 (worked out, not
  counted), and load as many bytes.
- **SDOT**, many queries: four rows and four queries, two registers of each a round: 111.4, and 101.8 without checks of
  four slices. Eight registers a round leave too few for addresses: 112.4. Four, and what is left of a vector in a call
  of its own: 96, kept.
- **SMMLA**: 32 of the instructions multiply. Eight queries by eight rows, two chunks of eight dimensions a round: 54.0.
  Four a round: 51.7. Eight, of which the compiler makes a loop within the loop: 56.7. Four, and stores without a check
  each: 51.2. Eight in a loop over pairs of references: 66.1. Eight, written out: 49.9, kept. Interleaving the rows is
  some 4 of them (worked out).
- **base64 to bits**: two look-ups that keep what they do not find, in place of one with a subtraction and an OR: 195
  from 207. One length for text and output, and one address for both tables: 187. That address not through memory: the
  figure of the table. **Bits to base64**: 187 while the call and the last bytes took more than its three blocks. With
  one reservation of memory for all and no loop over no triples: 179. Counted in triples, so that bytes and text have
  one length: the figure of the table.
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
    return introduction + "\n".join(lines) + "\n" + NOTES


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
