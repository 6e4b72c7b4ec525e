"""Extracts the text of HTML."""

from __future__ import annotations

import codecs
import re
from typing import Any, Final

from ctxembed._extras import require

__all__ = ["text_of_html"]

_META: Final = re.compile(rb"<meta\b[^>]*?\bcharset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.IGNORECASE)
_SNIFFED: Final = 1024  # bytes in which a page names its charset
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, which begins alike
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
)
_LEFT_OUT: Final = frozenset({"script", "style", "template", "head", "title", "-comment"})
_NOT_OF_PAGES: Final = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7"})
_PREFORMATTED: Final = frozenset({"pre", "textarea", "listing", "xmp"})
_PARAGRAPHS: Final = frozenset(
    {
        *("address", "article", "aside", "blockquote", "body", "center", "details", "dialog", "dir", "div", "dl"),
        *("fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup"),
        *("hr", "legend", "listing", "main", "menu", "nav", "ol", "p", "pre", "search", "section", "summary", "table"),
        *("ul", "xmp"),
    }
)
_LINES: Final = frozenset({"caption", "dd", "dt", "li", "option", "optgroup", "select", "tr"})
_CELLS: Final = frozenset({"td", "th"})
_SPACES: Final = re.compile(r"[ \t\n\r\f]+")


def text_of_html(content: bytes) -> tuple[str, str]:
    """Return the title and the text of a page.

    Scripts, styles, templates and the head are left out. An empty line separates block elements, a line end items of
    lists, rows of tables and what ``<br>`` separates. Whitespace is one space, except in preformatted text.

    Raises
    ------
    ImportError
        ``selectolax`` (extra ``html``) is not installed.
    ValueError
        The page is not in its charset, or not text.
    """
    page = require("selectolax.lexbor", "html", "reading HTML").LexborHTMLParser(_decode(content))
    title = page.css_first("head title")
    named = _SPACES.sub(" ", title.text()).strip() if title is not None else ""
    return named, _text_below(page.body) if page.body is not None else ""


def _decode(content: bytes) -> str:
    mark, charset = next(((mark, name) for mark, name in _BOMS if content.startswith(mark)), (b"", ""))
    content = content.removeprefix(mark)
    if not charset:
        named = _META.search(content[:_SNIFFED])
        charset = _codec(named[1].decode("ascii")) if named else "utf-8"
    try:
        text = content.decode(charset)
    except UnicodeDecodeError as error:
        raise ValueError(f"not {charset.upper()} at byte {error.start}") from None
    if "\0" in text:
        raise ValueError(f"not text: a NUL at character {text.index(chr(0))}")
    return text


def _codec(label: str) -> str:
    try:
        name = codecs.lookup(label).name
        if name.replace("_", "-") in _NOT_OF_PAGES:
            raise LookupError
        "".encode(name)  # a LookupError for codecs of bytes
    except LookupError:
        raise ValueError(f"its charset {label!r} is unknown") from None
    if name in {"iso8859-1", "ascii"}:
        return "cp1252"  # browsers read these so
    return "utf-8" if name.startswith(("utf-16", "utf-32")) else name  # the label itself was read as ASCII


def _text_below(root: Any) -> str:
    """Return the text below a node, without recursion: elements can be nested deeper than Python's limit."""
    text = _Text()
    node = root.child
    preformatted = 0
    while node is not None:
        tag = node.tag
        if tag == "-text":
            text.add(node.text_content or "", preformatted=preformatted > 0)
        elif tag not in _LEFT_OUT:
            text.separate(tag)
            if node.child is not None:
                preformatted += tag in _PREFORMATTED
                node = node.child
                continue
            text.separate(tag if tag != "br" else "")
        while node.next is None:
            node = node.parent
            if node is None or node.mem_id == root.mem_id:
                return text.joined()
            preformatted -= node.tag in _PREFORMATTED
            text.separate(node.tag)
        node = node.next
    return text.joined()


class _Text:
    """Joins texts, with whitespace between them as the elements around them ask."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._space = False
        self._line_ends = 0

    def separate(self, tag: str) -> None:
        """Note where an element begins or ends."""
        if tag in _PARAGRAPHS:
            self._line_ends = 2
        elif tag == "br":
            self._line_ends = min(self._line_ends + 1, 2)
        elif tag in _LINES:
            self._line_ends = max(self._line_ends, 1)
        elif tag in _CELLS:
            self._space = True

    def add(self, text: str, *, preformatted: bool) -> None:
        if preformatted:
            shown = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
        else:
            shown = _SPACES.sub(" ", text)
            self._space = self._space or shown.startswith(" ")
            shown = shown.strip(" ")
        if shown:
            if self._parts:
                self._parts.append("\n" * self._line_ends or " " * self._space)
            self._parts.append(shown)
            self._line_ends, self._space = 0, False
        if preformatted:
            self._line_ends = max(self._line_ends, min(text[len(text.rstrip()) :].count("\n"), 2))
        self._space = self._space or text[-1:].isspace()

    def joined(self) -> str:
        return "".join(self._parts)
