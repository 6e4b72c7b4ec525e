"""Write ``docs/reference.md``: every public name with its kind and the first line of its docstring.

    python -m tests.reference

A new name goes into one of the ``ROOMS``; ``tests/test_reference.py`` compares them with ``ctxembed.__all__``, and the
``MODULES`` with theirs. The site has a page for each room, with the whole docstrings: ``docs/conf.py`` writes them.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin, is_typeddict

import ctxembed

from tests.test_public_names import definition_of, module_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEAD = """# Public names

All public names, importable from `ctxembed` or from the module that a heading names. `help(ctxembed.NAME)` prints the
full documentation of one; on the site each name is a link to it.

<!-- Written by `python -m tests.reference` from the docstrings. -->
"""
ROOMS = {
    "Client": (
        "Client",
        "AsyncClient",
        "ClientOptions",
        "AsyncClientOptions",
        "Stream",
        "AsyncStream",
        "EmbeddingsPart",
        "RawCalls",
        "AsyncRawCalls",
        "RawResponse",
        "Progress",
        "Journal",
        "limiter",
        "SocketLimiter",
        "LocalLimiter",
        "Limiter",
        "RequestEvent",
        "ResponseEvent",
        "RetryEvent",
        "embed_batch",
        "aembed_batch",
    ),
    "Search server": ("SearchClient", "AsyncSearchClient"),
    "Transport": (
        "Transport",
        "TransportName",
        "TransportRequest",
        "TransportResponse",
        "Timeouts",
        "Credentials",
        "Clock",
    ),
    "Results": ("Embeddings", "Usage", "Failure"),
    "Models and limits": ("Model", "models", "get_model", "register_model", "EncodingFormat", "InputType", "Limits"),
    "Planning": (
        "document_key",
        "plan",
        "Plan",
        "Problem",
        "pack",
        "Packing",
        "split_long",
        "SplitDocuments",
        "Window",
        "chunk",
        "Chunks",
        "TokenCounter",
        "CountsTokens",
        "token_upper_bound",
    ),
    "Codec": (
        "decode_response",
        "ResponseDecoder",
        "decode_base64",
        "encode_base64",
        "pack_bits",
        "unpack_bits",
        "reverse_bit_order",
        "truncate",
        "normalize",
    ),
    "Similarity and search": (
        "hamming",
        "dot",
        "cosine",
        "top_k",
        "merge_top_k",
        "Index",
        "BinaryIndex",
        "Matches",
        "RangeMatches",
        "Pairs",
        "Calibration",
    ),
    "Collections": (
        "Collection",
        "Document",
        "Hit",
        "IngestReport",
        "IngestProgress",
        "ExportReport",
        "FailedDocument",
        "MigrationReport",
        "NearDuplicate",
        "StoredGeneration",
        "CollectionStats",
    ),
    "Evaluation": (
        "evaluate",
        "plan_evaluation",
        "Evaluation",
        "EvaluationPlan",
        "read_judged",
        "read_queries",
        "read_judgements",
        "JudgedCorpus",
    ),
    "Errors": (
        "CtxembedError",
        "APIError",
        "APIConnectionError",
        "APITimeoutError",
        "APIStatusError",
        "BadRequestError",
        "AuthenticationError",
        "PermissionDeniedError",
        "NotFoundError",
        "UnprocessableEntityError",
        "RateLimitError",
        "InternalServerError",
        "BadResponseError",
        "ChunkOrderError",
        "EmbedError",
        "DocumentError",
        "InvalidDocumentsError",
        "DecodeError",
        "IndexFileError",
        "SpaceError",
        "CollectionError",
        "CollectionLockedError",
        "LimiterError",
        "MissingKeyError",
        "MissingShardsError",
        "ClosedClientError",
    ),
    "Package": ("__version__",),
}
MODULES = {
    "ctxembed.backends": ("load", "demo", "LocalEmbedder"),
    "ctxembed.distributed.ray": ("embed", "ShardedIndex", "PartialResult", "JournalFolder", "RayLimiter"),
    "ctxembed.integrations.langchain": ("CtxembedVectorStore", "CtxembedEmbeddings"),
    "ctxembed.integrations.llama_index": ("ContextualEmbedder",),
    "ctxembed.integrations.haystack": ("CtxembedDocumentEmbedder", "CtxembedTextEmbedder"),
}
"""Public modules beside the package. They are parsed, not imported: the frameworks of some may be absent."""
NOT_OURS = "Exception, dict, tuple, Protocol"
"""Base classes whose methods the reference leaves out."""
WITHOUT_DOCSTRING = {"__version__": "The version of the package."}


def kind(value: Any) -> str:
    """Return what sort of object a name stands for."""
    if inspect.isclass(value):
        if issubclass(value, BaseException):
            return "exception"
        if is_typeddict(value):
            return "typed dictionary"
        return "protocol" if getattr(value, "_is_protocol", False) else "class"
    if inspect.isroutine(value):
        return "function"
    return "type" if get_origin(value) else type(value).__name__


def kind_of_node(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return what sort of object a definition makes."""
    return "class" if isinstance(node, ast.ClassDef) else "function"


def summary(name: str, value: Any) -> str:
    """Return the first line of the docstring in Markdown; of a type, its alternatives."""
    if name in WITHOUT_DOCSTRING:
        return WITHOUT_DOCSTRING[name]
    if get_origin(value):
        return "One of " + ", ".join(f"`{each!r}`" for each in get_args(value)) + "."
    return in_markdown(inspect.getdoc(value) or "")


def in_markdown(docstring: str) -> str:
    """Return the first line of a docstring in Markdown."""
    first = docstring.partition("\n")[0]
    return re.sub(r":\w+:(`[\w.]+`)", r"\1", first.replace("``", "`")).replace("|", r"\|")


def definition(module: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    """Return the class or function of a name of one of the ``MODULES``."""
    found = definition_of(module_of(module), name)
    assert found is not None, f"{module} has no {name}"
    (node,) = found[1]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return node


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for room, names in ROOMS.items():
        rows = [f"| `{name}` | {kind(value)} | {summary(name, value)} |" for name, value in values(names)]
        parts.append(table(room, rows))
    for module, names in MODULES.items():
        rows = []
        for name in names:
            node = definition(module, name)
            rows.append(f"| `{module}.{name}` | {kind_of_node(node)} | {in_markdown(ast.get_docstring(node) or '')} |")
        parts.append(table(f"`{module}`", rows))
    return "\n".join(parts)


def table(heading: str, rows: list[str]) -> str:
    return "\n".join([f"## {heading}\n", "| name | kind | |", "|---|---|---|", *rows]) + "\n"


def values(names: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, getattr(ctxembed, name)) for name in names]


def api_pages() -> dict[str, str]:
    """Return the pages of the site with the whole docstrings, by the names of their files."""
    pages = {}
    for room, names in ROOMS.items():
        members = [(name, kind(value)) for name, value in values(names)]
        pages[room.lower().replace(" ", "-") + ".md"] = api_page(room, "ctxembed", members)
    for module, names in MODULES.items():
        members = [(name, kind_of_node(definition(module, name))) for name in names]
        pages[module.removeprefix("ctxembed.").replace(".", "-") + ".md"] = api_page(
            module.removeprefix("ctxembed."), module, members
        )
    return pages


def api_page(title: str, module: str, members: list[tuple[str, str]]) -> str:
    """Return a page with the directives of Sphinx that show the docstrings of the members."""
    text = [f"# {title}\n", "```{eval-rst}", f".. py:currentmodule:: {module}\n"]
    for name, sort in members:
        match sort:
            case "function":
                text.append(f".. autofunction:: {name}\n")
            case "type" | "str":
                text.append(f".. autodata:: {name}\n")
            case _:
                text += [f".. autoclass:: {name}", "   :members:", f"   :inherited-members: {NOT_OURS}\n"]
    return "\n".join([*text, "```", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
