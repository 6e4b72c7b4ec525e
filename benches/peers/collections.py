"""Jobs on collections in processes of their own, and the stores that a collection is compared with.

``python -m benches.peers.collections`` reads one job from stdin and writes what it took to stdout, both as JSON.
"""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import faiss
import numpy as np
from ctxembed import Client, Collection
from ctxembed._server import ServerConfig

from benches import serving
from benches.cases import collections as given
from benches.serving import KEY, MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Call = Callable[[], Any]

ROOT: Final = Path(__file__).parent.parent.parent
HAS_LANCE: Final = find_spec("lancedb") is not None and find_spec("pyarrow") is not None
"""Whether LanceDB, which the benches do not install, is there to compare with."""

HAS_COMMANDS: Final = find_spec("ctxembed._cli.store") is None
"""Whether the command line reads and writes collections."""


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
    """Run Python with arguments, started by a small process: peak memory includes that of the process that forks."""
    text = json.dumps([[sys.executable, *arguments], clock, environment])
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


def run_here(job: Job) -> Took:
    """Run a job in this process, and check its result afterwards."""
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

    def call() -> Took:
        took = command("embed", str(source), "-o", str(path), base_url=case.corpus.server, clock="cpu")
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
    return lambda: command("embed", str(source), "-o", str(path), base_url=case.corpus.server)


def command(*arguments: str, base_url: str, clock: str = "wall") -> Took:
    """Run ``ctxembed`` with a server."""
    return launch(["-m", "ctxembed", *arguments, "--base-url", base_url], clock, PERPLEXITY_API_KEY=KEY)


# --- opening ---


def open_to_read(case: Any, _threads: int) -> Call:
    return partial(_opened, case.data.path, read_only=True)


def open_to_write(case: Any, _threads: int) -> Call:
    return partial(_opened, case.data.path, read_only=False)


def _opened(path: Path, *, read_only: bool) -> int:
    with Collection.open(path, read_only=read_only) as collection:
        return len(collection)


# --- search in a new process ---

_SEARCH: Final = """
import sys
import numpy as np
from ctxembed import Collection
with Collection.open(sys.argv[1], read_only=True) as collection:
    for hit in collection.search(np.load(sys.argv[2])[0], int(sys.argv[3])):
        print(hit.document, hit.chunk, repr(hit.score))
"""


def _saved_queries(data: given.Searched) -> Path:
    path = given.folder() / "queries.npy"
    if not path.exists():
        np.save(path, data.queries)
    return path


def search_process(case: Any, _threads: int) -> Call:
    """Start Python, open the collection and search."""
    arguments = ["-c", _SEARCH, str(case.data.path), str(_saved_queries(case.data)), str(given.K)]
    return lambda: launch(arguments)


def search_command(case: Any, _threads: int) -> Call:
    """Run ``ctxembed search``, whose query a local server embeds."""
    path, server = str(case.data.path), serving.server(ServerConfig())
    return lambda: command("search", path, given.QUERY, "-k", str(given.K), "--json", base_url=server)


def import_and_scan(case: Any, _threads: int) -> Call:
    """Add the time of a process that imports numpy and httpx to that of one scan."""
    index, query = case.data.index, case.data.queries[0]

    def call() -> Took:
        index.search(query, given.K)
        began = time.perf_counter()
        index.search(query, given.K)
        scan = time.perf_counter() - began
        took = launch(["-c", "import numpy, httpx"])
        return replace(took, seconds=took.wall + scan)

    return call


# --- search ---


Found = tuple[int, "np.ndarray", "np.ndarray | None"]
"""The number of a query, and the rows that were found with their cosines."""


def _each(case: Any, search: Callable[[int, np.ndarray], tuple[Any, Any]]) -> Callable[[], Found]:
    """Search with one query after the other, so that no call repeats the one before."""
    turns, queries = itertools.count(), case.data.queries

    def call() -> Found:
        turn = next(turns)
        number = turn % len(queries)
        ids, scores = search(turn, queries[number])
        return number, np.asarray(ids), scores if scores is None else np.asarray(scores)

    return call


def search_index(case: Any, _threads: int) -> Call:
    """Search an index of all rows, with the mask of the filter."""
    index, mask = case.data.index, case.mask

    def search(_turn: int, query: np.ndarray) -> tuple[Any, Any]:
        found = index.search(query, given.K, mask=mask)
        return found.ids, found.scores

    return _each(case, search)


def _hits(case: Any, where: Callable[[int], tuple[str | None, tuple[Any, ...]]]) -> Call:
    collection, row = case.data.opened, case.data.row

    def search(turn: int, query: np.ndarray) -> tuple[Any, Any]:
        expression, params = where(turn)
        hits = collection.search(query, given.K, where=expression, params=params)
        return [row(hit.document, hit.chunk) for hit in hits], [hit.score for hit in hits]

    return _each(case, search)


def search_collection(case: Any, _threads: int) -> Call:
    """Search the collection. Each call has parameters of its own, so that the filter is evaluated each time."""
    return _hits(case, case.where)


def search_collection_again(case: Any, _threads: int) -> Call:
    """Search with the same filter each time: its rows are kept."""
    return _hits(case, lambda _turn: case.where(0))


class _Faiss:
    """The rows scaled to one length as int8 codes in faiss, documents and texts in SQLite: a store built by hand.

    faiss has no cosine over int8, so the result is approximate. See ``benches.peers.search.faiss_int8``.
    """

    def __init__(self, data: given.Searched) -> None:
        rows = data.rows
        self.index = faiss.IndexScalarQuantizer(
            rows.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        length = 127 * 4.0
        for first in range(0, len(rows), 1 << 14):
            part = rows[first : first + (1 << 14)].astype(np.float32)
            part *= length / np.sqrt(np.einsum("ij,ij->i", part, part))[:, None]
            self.index.add(np.rint(part).clip(-127, 127))
        self.texts = sqlite3.connect(given.folder() / f"peer-{len(rows)}.sqlite", check_same_thread=False)
        self.texts.execute("CREATE TABLE chunks (row INTEGER PRIMARY KEY, id TEXT, chunk INTEGER, text TEXT)")
        self.texts.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, year INTEGER, lang TEXT, first INTEGER)")
        row = itertools.count()
        for document in data.corpus:
            meta = data.corpus.metadata_of(int(document.id.rpartition("-")[2]))
            chunks = [(next(row), document.id, chunk, text) for chunk, text in enumerate(document.chunks)]
            self.texts.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", chunks)
            values = (document.id, meta["year"], meta["lang"], chunks[0][0])
            self.texts.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", values)
        self.texts.execute("CREATE INDEX documents_by_year ON documents (year, first)")
        self.texts.execute("CREATE INDEX documents_by_lang ON documents (lang, first)")
        self.texts.commit()

    def search(self, query: np.ndarray, allowed: np.ndarray | None) -> list[int]:
        options = {}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            options["params"] = faiss.SearchParameters(sel=selector)
        _, ids = self.index.search(query[None].astype(np.float32), given.K, **options)
        marks = ", ".join("?" * given.K)
        found = self.texts.execute(f"SELECT row, id, chunk, text FROM chunks WHERE row IN ({marks})", ids[0].tolist())
        texts = {row: rest for row, *rest in found}
        return [row for row in ids[0].tolist() if texts[row]]


def faiss_sqlite(case: Any, threads: int) -> Call:
    """Search with faiss, then look the texts up in SQLite; a filter is evaluated there first."""
    store = case.data.cache.get("faiss", lambda: _Faiss(case.data))
    faiss.omp_set_num_threads(threads)
    chunks, count = case.data.corpus.chunks, case.data.count

    def search(turn: int, query: np.ndarray) -> tuple[Any, Any]:
        expression, params = case.where(turn)
        allowed = None
        if expression is not None:
            found = store.texts.execute(f"SELECT first FROM documents WHERE {expression}", params).fetchall()
            allowed = np.zeros((count // chunks, chunks), np.bool_)
            allowed[np.array(found)[:, 0] // chunks] = True
            allowed = allowed.reshape(-1)
        return store.search(query, allowed), None

    return _each(case, search)


def _lance_table(data: given.Searched) -> Any:
    import lancedb
    import pyarrow as pa

    rows, chunks = data.rows, data.corpus.chunks
    width = rows.shape[1]

    def batches() -> Iterator[Any]:
        documents = iter(data.corpus)
        for first in range(0, len(rows), 20_000 * chunks):
            part = list(itertools.islice(documents, 20_000))
            place = slice(first, first + len(part) * chunks)
            vector = pa.array(rows[place].astype(np.float16).reshape(-1))
            columns = {
                "id": [document.id for document in part for _ in range(chunks)],
                "chunk": list(range(chunks)) * len(part),
                "text": [text for document in part for text in document.chunks],
                "year": pa.array(data.metadata["year"][place], pa.int64()),
                "lang": data.metadata["lang"][place].tolist(),
                "vector": pa.FixedSizeListArray.from_arrays(vector, width),
            }
            yield pa.record_batch(columns)

    stream = batches()
    head = next(stream)
    reader = pa.RecordBatchReader.from_batches(head.schema, itertools.chain([head], stream))
    table = lancedb.connect(given.folder() / "lance").create_table(f"chunks-{len(rows)}", reader)
    for name in ("year", "lang"):
        table.create_scalar_index(name, index_type="BITMAP")
    return table


def lance(case: Any, _threads: int) -> Call:
    """Search a LanceDB table without a vector index: exact, over float16, since it has no cosine over int8."""
    table = case.data.cache.get("lance", lambda: _lance_table(case.data))
    row = case.data.row

    def search(turn: int, query: np.ndarray) -> tuple[Any, Any]:
        expression, params = case.where(turn)
        found = table.search(query.astype(np.float32)).distance_type("cosine").limit(given.K)
        if expression is not None:
            value = params[0]
            found = found.where(expression.replace("?", repr(value)), prefilter=True)
        hits = found.select(["id", "chunk", "text", "_distance"]).to_list()
        return [row(hit["id"], hit["chunk"]) for hit in hits], None

    return _each(case, search)


def lance_open(case: Any, _threads: int) -> Call:
    """Open the LanceDB table, and count its rows."""
    import lancedb

    case.data.cache.get("lance", lambda: _lance_table(case.data))
    name = f"chunks-{case.data.count}"
    return lambda: lancedb.connect(given.folder() / "lance").open_table(name).count_rows() // case.data.corpus.chunks


def main() -> None:
    fields = json.load(sys.stdin)
    job = Job(**{**fields, "corpus": given.Corpus(**fields["corpus"])})
    json.dump(asdict(run_here(job)), sys.stdout)


if __name__ == "__main__":
    main()
