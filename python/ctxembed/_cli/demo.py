"""A demo: embeds and searches the documentation of this Python on a local server."""

from __future__ import annotations

import ast
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ctxembed._cli.documents import Document, first_line
from ctxembed._cli.output import check_stdout, write

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collect", "run"]

QUESTIONS: Final = (
    "parse command line options and arguments",
    "read and write CSV files",
    "create a temporary directory that is removed afterwards",
)
_SKIPPED: Final = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"})


def collect(root: Path) -> Iterator[Document]:
    """Yield a document for each module below ``root``: the docstrings of module, classes and functions in source order.

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
        chunks = [text for node in _definitions(tree) if (text := (ast.get_docstring(node) or "").strip())]
        if chunks:
            yield Document(".".join(parts).removesuffix(".__init__"), chunks, str(path))


def _definitions(node: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield ``node`` and the definitions in it, in source order."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _definitions(child)


def run() -> None:
    """Run the demo. Progress goes to stderr, results to stdout."""
    from ctxembed._server import ServerProcess, create_app  # noqa: F401  # create_app: fails early without the extra

    check_stdout()
    started = time.perf_counter()
    documents = list(collect(Path(sysconfig.get_paths()["stdlib"])))
    write(
        f"{len(documents)} modules with {sum(len(document.chunks) for document in documents)} docstrings "
        f"of Python {sys.version.split()[0]}, read in {time.perf_counter() - started:.1f} s",
        "",
    )
    with ServerProcess() as server, tempfile.TemporaryDirectory() as folder:
        write(f"local server at {server.base_url} (a stand-in: lexical vectors, not a model's)", "")
        _embed_and_search(documents, server.base_url, Path(folder) / "docs.index", started)
    write("server stopped")


def _embed_and_search(documents: list[Document], base_url: str, path: Path, started: float) -> None:
    import ctxembed

    texts = [document.chunks for document in documents]
    write(*str(ctxembed.plan(texts)).split("\n"))
    with ctxembed.Client(api_key="demo", base_url=base_url) as client:
        embedding = time.perf_counter()
        emb = client.embed(texts, progress=True)
        embedding = time.perf_counter() - embedding
        index = ctxembed.Index(emb.dimensions)
        index.add(emb.vectors)
        index.save(path)
        index = ctxembed.Index.open(path)
        write("", *str(emb).split("\n"), f"index of {len(index)} vectors saved: {path.stat().st_size / 1e6:.1f} MB", "")
        matches = index.search(client.embed_queries(list(QUESTIONS)).vectors, 4)

    sources = [(document, chunk) for document in documents for chunk in range(len(document.chunks))]
    for question, ids, scores in zip(QUESTIONS, matches.ids.tolist(), matches.scores.tolist(), strict=True):
        write(question)
        for row, score in zip(ids, scores, strict=True):
            document, chunk = sources[row]
            write(f"  {score:.3f}  {document.id}[{chunk}]  {first_line(document.chunks[chunk], 70)}")
        write("")
    usage = emb.usage
    write(
        f"{len(emb.vectors)} chunks, {usage.requests} requests, {usage.total_tokens} tokens, "
        f"{embedding:.1f} s embedding, {time.perf_counter() - started:.1f} s in all, "
        f"USD {usage.cost_usd:f} as reported"
    )
