"""Ingestion in processes of their own, so that their memory and processor time can be measured.

``python -m benches.peers.ingestion`` reads one job from stdin and writes what it took to stdout, both as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed import Client, Collection

from benches.cases import collections as given
from benches.serving import KEY, MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[], Any]

ROOT: Final = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Took:
    """What a process took.

    ``seconds`` is what the tables show. ``peak`` is the largest resident memory of the process, in bytes.
    """

    seconds: float
    cpu: float = 0.0
    wall: float = 0.0
    peak: int = 0
    output: str = ""
    correct: bool = True


# --- processes ---

_LAUNCH: Final = """
import json, os, sys, time
command, wanted, environment = json.loads(sys.argv[1])
if wanted == "cpu":  # see pin()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
read, write = os.pipe()
began = time.perf_counter()
actions = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)]
child = os.posix_spawn(command[0], command, os.environ | environment, file_actions=actions)
os.close(write)
with open(read) as file:
    output = file.read()
_, status, used = os.wait4(child, 0)
wall, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
code = os.waitstatus_to_exitcode(status)
if code != 0:
    sys.exit(f"{command[1:4]}: exit code {code}")
print(json.dumps({"seconds": {"wall": wall, "cpu": cpu}[wanted], "cpu": cpu, "wall": wall,
                  "peak": used.ru_maxrss * 1024, "output": output}))
"""


def launch(arguments: list[str], clock: str = "wall", **environment: str) -> Took:
    """Run Python with arguments, started by a small process: peak memory includes that of the process that forks.

    The bytecode of all modules is kept from one process to the next, as in an installation, in a folder of its own.
    """
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(given.folder() / "bytecode")}
    text = json.dumps([[sys.executable, *arguments], clock, bytecode | environment])
    ended = subprocess.run([sys.executable, "-S", "-c", _LAUNCH, text], check=True, capture_output=True, cwd=ROOT)
    return Took(**json.loads(ended.stdout))


@cache
def base_peak() -> int:
    """Return the peak memory of a process that imports numpy and httpx, in bytes."""
    return launch(["-c", "import numpy, httpx"]).peak


@dataclass(frozen=True)
class Job:
    """A job for a process of its own."""

    kind: str
    corpus: given.Corpus
    base_url: str
    path: str = ""


def run(job: Job) -> Took:
    """Run a job in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asdict(job)),
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    return Took(**json.loads(ended.stdout))


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def pin() -> None:
    """Run this process on one CPU.

    Where its threads run on two, they hand the interpreter's lock from one to the other, and the processor time of the
    same work grows by a third, differently in each run.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run_here(job: Job) -> Took:
    """Run a job in this process, and check its result afterwards."""
    if job.kind != "again":  # which is measured by the clock
        pin()
    corpus = job.corpus
    next(iter(corpus))  # the texts are drawn once
    rows = 0
    cpu, began = _cpu(), time.perf_counter()
    with Client(api_key=KEY, base_url=job.base_url) as client:
        if job.kind == "stream":
            for part in client.stream((document.chunks for document in corpus), dimensions=corpus.dimensions):
                rows += len(part.vectors)
            counts = (corpus.documents, 0)
        else:
            opened = (
                Collection.create(job.path, model=MODEL, dimensions=corpus.dimensions)
                if job.kind == "ingest"
                else Collection.open(job.path)
            )
            with opened as collection:
                report = collection.ingest(corpus, client)
            counts = report.added, report.unchanged
    cpu, wall, peak = _cpu() - cpu, time.perf_counter() - began, _peak()
    if job.kind == "stream":
        correct = rows == corpus.documents * corpus.chunks
    else:
        correct = counts == ((corpus.documents, 0) if job.kind == "ingest" else (0, corpus.documents))
        correct = correct and (job.kind != "ingest" or stores(Path(job.path), corpus))
    return Took(wall if job.kind == "again" else cpu, cpu, wall, peak, correct=correct)


def stores(path: Path, corpus: given.Corpus) -> bool:
    """Return whether a collection has all documents, each with the vectors that the server sent for it."""
    with Collection.open(path, read_only=True) as collection:
        if len(collection) != corpus.documents:
            return False
        names, step = [document.id for document in corpus], 10_000
        return all(
            corpus.is_expected(collection.vectors(names[first : first + step]), first * corpus.chunks)
            for first in range(0, len(names), step)
        )


# --- ingestion ---


def stream(case: Any, _threads: int) -> Call:
    """Drain a stream, which stores nothing."""
    return lambda: run(Job("stream", case.corpus, case.corpus.server))


def ingest(case: Any, _threads: int) -> Call:
    """Ingest into a new collection."""
    path = given.folder() / "new.ctx"

    def call() -> Took:
        took = run(Job("ingest", case.corpus, case.corpus.server, str(path)))
        shutil.rmtree(path)
        return took

    return call


def embed_command(case: Any, _threads: int) -> Call:
    """Run ``ctxembed embed`` from JSON Lines to a new collection."""
    path, source = given.folder() / "new.ctx", given.json_lines(case.corpus)
    command("embed", "--help")

    def call() -> Took:
        took = command("embed", str(source), str(path), base_url=case.corpus.server, clock="cpu")
        took = replace(took, correct=stores(path, case.corpus))
        shutil.rmtree(path)
        return took

    return call


def again(case: Any, _threads: int) -> Call:
    """Ingest documents that are all stored."""
    path = given.ingested(case.corpus)
    return lambda: run(Job("again", case.corpus, case.corpus.server, str(path)))


def embed_command_again(case: Any, _threads: int) -> Call:
    """Run ``ctxembed embed`` once more: the whole process."""
    path, source = given.ingested(case.corpus), given.json_lines(case.corpus)
    call = partial(command, "embed", str(source), str(path), base_url=case.corpus.server)
    call()  # from now on the bytecode is there
    return call


def command(*arguments: str, base_url: str = "", clock: str = "wall") -> Took:
    """Run ``ctxembed`` with a server."""
    server = ["--base-url", base_url] if base_url else []
    return launch(["-m", "ctxembed", *arguments, *server], clock, PERPLEXITY_API_KEY=KEY)


def main() -> None:
    fields = json.load(sys.stdin)
    job = Job(**{**fields, "corpus": given.Corpus(**fields["corpus"])})
    json.dump(asdict(run_here(job)), sys.stdout)


if __name__ == "__main__":
    main()
