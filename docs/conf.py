"""How Sphinx builds the site from the pages of this folder: ``make docs``.

The navigation is the links in the lists of ``index.md`` and of ``*/index.md``, which are also what a reader of the
repository follows. The pages of ``api/`` are made from :data:`tests.reference.ROOMS` at each build.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import ctxembed  # noqa: E402

from tests import reference  # noqa: E402

project = "ctxembed"
author = "the ctxembed contributors"
version = release = ctxembed.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
suppress_warnings = ["myst.header"]  # the tables of the benches also stand in README, below a second heading

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_typehints = "none"  # the sections of a docstring name the types
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
autodoc_mock_imports = [name for name in ("langchain_core", "llama_index") if importlib.util.find_spec(name) is None]
numpydoc_show_class_members = False  # autodoc lists them

html_theme = "furo"
html_title = "ctxembed"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

if importlib.util.find_spec("haystack") is None:
    # Its decorators replace what they decorate, so a mock of them would hide the components.
    haystack = sys.modules["haystack"] = sys.modules["haystack.utils"] = MagicMock()
    haystack.component = lambda cls: cls
    haystack.component.output_types = lambda **_: lambda method: method
    haystack.Secret.from_env_var.return_value.__repr__ = lambda _: 'Secret.from_env_var("PERPLEXITY_API_KEY")'

_ITEM = re.compile(r"^- \[([^\]]+)\]\(([^)#:]+)\.md\)", flags=re.MULTILINE)
_PUBLIC = re.compile(r"(?:ctxembed\.)?([A-Z]\w+(?:\.\w+)?|[a-z]\w*_\w+)|ctxembed\.([a-z]\w*)")
_COPIED = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
"""Pages of the folder above, which Sphinx does not read, and their copies in ``project/``."""


def write_pages(_app: Sphinx) -> None:
    """Write the pages of the public names, and the copies of those of the folder above."""
    pages = {f"api/{name}": text for name, text in reference.api_pages().items()}
    for name, copy in _COPIED.items():
        text = (FOLDER.parent / name).read_text(encoding="utf-8")
        pages[f"project/{copy}"] = re.sub(r"\]\(docs/", "](../", text)
    for path in [*FOLDER.glob("api/*"), *FOLDER.glob("project/*")]:
        if path.relative_to(FOLDER).as_posix() not in pages:
            path.unlink()
    for name, text in pages.items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
            path.write_text(text, encoding="utf-8")


def add_navigation(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the links of an index page as a table of contents, and lead links out of this folder to their copies."""
    (text,) = source
    for name, copy in _COPIED.items():
        text = re.sub(rf"\]\((?:\.\./)*{name}", f"]({'../' * docname.count('/')}project/{copy}", text)
    entries: list[str] = []
    if f"/{docname}".endswith("/index"):
        entries = [f"{title} <{page}>" for title, page in _ITEM.findall(text)]
    elif docname == "reference":
        entries = [f"api/{name.removesuffix('.md')}" for name in reference.api_pages()]
    if entries:
        text += "\n".join(["\n```{toctree}", ":hidden:", "", *entries, "```", ""])
    source[0] = text


def link_public_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Lead each `Client.embed` in a text to its place in the reference."""
    objects = app.env.domains.python_domain.objects
    for literal in list(doctree.findall(nodes.literal)):
        if isinstance(literal.parent, nodes.reference) or not (match := _PUBLIC.fullmatch(literal.astext())):
            continue
        entry = objects.get(f"ctxembed.{match[1] or match[2]}")
        if entry is not None and not (docname.startswith("api/") and entry.docname == docname):
            link = make_refnode(app.builder, docname, entry.docname, entry.node_id, literal.deepcopy())
            literal.replace_self(link)


def resolve_in_package(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element) -> nodes.Element | None:
    """Find the `Client` that a docstring of a submodule names, as one of the package."""
    entry = env.domains.python_domain.objects.get(f"ctxembed.{node['reftarget']}")
    if node["refdomain"] != "py" or entry is None:
        return None
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions above."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", add_navigation)
    app.connect("missing-reference", resolve_in_package)
    app.connect("doctree-resolved", link_public_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
