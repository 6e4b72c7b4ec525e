"""A demo: a job that embeds the documentation of this Python is killed half way, goes on, and is searched.

Then a model on this machine searches some of it by meaning, where its packages are installed.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxembed._cli import semantic_demo
from ctxembed._cli.output import check_stdout, excerpt, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxembed._client import Client
    from ctxembed._collection.collection import Collection
    from ctxembed._server import ServerProcess

__all__ = ["collect", "run"]

SEARCHES: Final = (
    ("parse command line options and arguments", None),
    ("create a temporary directory that is removed afterwards", None),
    ("parse the headers of a message", "package = 'email'"),
    ("parse the headers of a message", "package <> 'email' AND definitions > 3"),
)
HYBRID: Final = "PEP 3333 environ of a request"
_SKIPPED: Final = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})
_LATENCY: Final = 0.5
_PASSAGE_LINES: Final = 12


def collect(root: Path) -> Iterator[dict[str, Any]]:
    """Yield a record for each module below ``root``: the docstrings of module, classes and functions in source order.

    The files are parsed with ``ast``, not imported. A file that does not parse is skipped.
    """
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not _SKIPPED.isdisjoint(parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes
                tree = ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError):
            continue
        texts = [text for node in _definitions(tree) if (text := (ast.get_docstring(node) or "").strip())]
        if texts:
            name = ".".join(parts).removesuffix(".__init__")
            yield {"id": name, "texts": texts, "source": str(path), "package": parts[0], "definitions": len(texts)}


def _definitions(node: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield ``node`` and the definitions in it, in source order."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _definitions(child)


def run() -> None:
    """Run the demo. Progress goes to stderr, results to stdout."""
    from ctxembed._server import ServerConfig, ServerProcess, create_app  # noqa: F401  # fails early without the extra

    check_stdout()
    started = time.perf_counter()
    records = list(collect(Path(sysconfig.get_paths()["stdlib"])))
    chunks = sum(len(record["texts"]) for record in records)
    write(
        f"{len(records)} modules with {chunks} docstrings of Python {sys.version.split()[0]}, read in "
        f"{time.perf_counter() - started:.1f} s",
        "",
    )
    with ServerProcess(config=ServerConfig(latency=_LATENCY)) as server, tempfile.TemporaryDirectory() as folder:
        write(f"local server at {server.base_url} (a stand-in: lexical vectors, not a model's)", "")
        _Demo(server, Path(folder), records).run()
    write("server stopped", "")
    semantic_demo.run(records)


class _Demo:
    def __init__(self, server: ServerProcess, folder: Path, records: list[dict[str, Any]]) -> None:
        self._server = server
        self._input = folder / "modules.jsonl"
        self._collection = folder / "modules.ctx"
        with self._input.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)

    def run(self) -> None:
        planned = self._planned()
        write(f"$ ctxembed embed modules.jsonl modules.ctx     # {planned} requests, and SIGKILL after half of them")
        before, lost = self._embed_and_kill(planned // 2)
        write(*self._verified("killed"), "")
        write("$ ctxembed embed modules.jsonl modules.ctx     # the same command goes on")
        self._command("embed").wait()
        paid = self._stats()[0]
        write(
            *self._verified("ended"),
            f"responses of the server: {before} before the kill, {lost} in flight at the kill, "
            f"{paid - before - lost} after it; {planned} were planned",
            "",
        )
        write("$ ctxembed embed modules.jsonl modules.ctx     # once more: nothing is new")
        self._command("embed").wait()
        write(f"responses of the server: {self._stats()[0] - paid}", "")
        self._search()

    def _command(self, *arguments: str) -> subprocess.Popen[str]:
        import os

        fields = ("--chunks-field", "texts", "--concurrency", "2")
        return subprocess.Popen(  # noqa: S603  # this program
            [sys.executable, "-m", "ctxembed", *arguments, str(self._input), str(self._collection), *fields],
            env={**os.environ, "PERPLEXITY_API_KEY": "demo", "PERPLEXITY_BASE_URL": self._server.base_url},
            stdout=subprocess.PIPE,
            text=True,
        )

    def _planned(self) -> int:
        process = self._command("embed", "--dry-run", "--json")
        found, _ = process.communicate()
        return int(json.loads(found)["requests"])

    def _embed_and_kill(self, responses: int) -> tuple[int, int]:
        """Start the job and kill it after some responses, with documents stored.

        Return how many responses came before the kill, and how many requests were in flight.
        """
        process = self._command("embed")
        try:
            while (self._stats()[0] < responses or not self._stored()) and process.poll() is None:
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        before, in_flight = self._stats()
        paid = before
        while in_flight:  # the server ends what it had begun
            time.sleep(0.05)
            paid, in_flight = self._stats()
        return before, paid - before

    def _stored(self) -> int:
        """Return how many documents the running job has stored."""
        from ctxembed._collection.collection import Collection

        with Collection.open(self._collection, read_only=True) as collection:
            return len(collection)

    def _stats(self) -> tuple[int, int]:
        """Return the responses of the server, and its requests in flight."""
        import httpx

        stats = httpx.get(f"{self._server.base_url}/stats", trust_env=False).json()
        return int(stats["by_status"].get("200", 0)), int(stats["in_flight"])

    def _verified(self, what: str) -> list[str]:
        from ctxembed._collection.collection import Collection

        with Collection.open(self._collection) as collection:
            problems = collection.verify()
            stats = collection.stats()
        sound = "; ".join(problems) or "verified: every document whole"
        return [f"{what}: {stats.documents} documents, {stats.chunks} chunks, {sound}"]

    def _search(self) -> None:
        from ctxembed._client import Client
        from ctxembed._collection.collection import Collection

        with (
            Collection.open(self._collection, read_only=True) as collection,
            Client(api_key="demo", base_url=self._server.base_url) as client,
        ):
            for question, where in SEARCHES:
                write(question + ("" if where is None else f"   [{where}]"))
                for hit in collection.search(question, 3, client=client, where=where):
                    write(f"  {hit.score:.3f}  {hit.document}[{hit.chunk}]  {excerpt(hit.text or '', question, 70)}")
                write("")
            self._search_words(collection, client)
            usage = collection.stats().usage
        write(f"{usage.requests} requests, {usage.total_tokens} tokens, USD {usage.cost_usd:f} as reported")

    def _search_words(self, collection: Collection, client: Client) -> None:
        """Search words and vectors together, and show the best hit with its neighbours."""
        from importlib.util import find_spec

        if find_spec("tantivy") is None:
            write("words and vectors together: pip install 'ctxembed[hybrid]'", "")
            return
        write(f"{HYBRID}   [words and vectors together]", "    ranks  cosine    BM25")
        hits = collection.search(HYBRID, 3, client=client, hybrid=True, neighbours=1)
        for hit in hits:
            scores = f"{hit.score:.5f}  {hit.vector_score:6.3f}  {hit.text_score:6.2f}"
            write(f"  {scores}  {hit.document}[{hit.chunk}]  {excerpt(hit.text or '', HYBRID, 60)}")
        best = hits[0]
        first, behind = best.passage_chunks or (best.chunk, best.chunk + 1)
        write("", f"{best.document}, docstrings {first} to {behind - 1}:")
        write(*(f"    {line}".rstrip() for line in (best.passage or "").splitlines()[:_PASSAGE_LINES]), "")
