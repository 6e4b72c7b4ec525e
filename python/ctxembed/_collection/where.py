"""The ``where`` of a search: an SQL expression of the caller's, whose names become columns of the catalogue.

The expression is read token by token. Names are columns or functions, and every other token is one of a fixed set, so
that nothing reaches SQLite that could read another table or end the statement. SQLite then parses the expression.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Filter", "parse_where"]

_TOKEN: Final = re.compile(
    r"""
      (?P<space>[ \t\r\n\f]+)
    | (?P<blob>[xX]'[0-9a-fA-F]*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    | (?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![0-9A-Za-z_])
    | (?P<parameter>\?(?![0-9])|[:@$][A-Za-z_][A-Za-z_0-9]*)
    | (?P<word>[^\W\d]\w*)
    | (?P<operator>\|\||->>|->|<<|>>|<=|>=|==|<>|!=|[-+*/%&|~<>=(),])
    """,
    re.VERBOSE,
)

_WORDS: Final = """
    AND AS BETWEEN CASE CAST COLLATE CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP DISTINCT ELSE END ESCAPE FALSE FROM
    GLOB IN IS ISNULL LIKE NOT NOTNULL NULL OR THEN TRUE WHEN
"""
_KEYWORDS: Final = frozenset(_WORDS.split())
"""Words of an expression of SQLite (https://www.sqlite.org/lang_expr.html) that need no other table."""

_TYPES: Final = frozenset(["INTEGER", "REAL", "TEXT", "NUMERIC", "BLOB"])
_COLLATIONS: Final = frozenset(["NOCASE", "BINARY", "RTRIM"])

_CALLED: Final = """
    abs ceil ceiling coalesce concat date datetime floor glob hex ifnull iif instr julianday length like lower ltrim
    max min nullif octet_length quote replace round rtrim sign strftime substr substring time trim typeof unicode
    unixepoch upper
"""
_FUNCTIONS: Final = frozenset(_CALLED.split())
"""Functions of SQLite that depend on nothing but their arguments, and the time."""


@dataclass(frozen=True, slots=True)
class Filter:
    """An expression that SQLite can read.

    Parameters
    ----------
    sql : str
        The expression, with each name replaced by its column.
    names : tuple of str
        The names that it uses, each once, in order.
    """

    sql: str
    names: tuple[str, ...]


def parse_where(where: str, known: Collection[str], column: Callable[[str], str]) -> Filter:
    """Read an expression.

    Parameters
    ----------
    where : str
        The expression.
    known : collection of str
        The names that may be used.
    column : callable
        Returns the SQL of a known name.

    Returns
    -------
    Filter

    Raises
    ------
    TypeError
        ``where`` is no str.
    ValueError
        A name is unknown, or a token has no place in an expression. The message names it and its position.
    """
    if not isinstance(where, str):
        raise TypeError(f"where must be a str, got {where!r:.100}")
    pieces: list[str] = []
    names: dict[str, None] = {}
    position, before, depth = 0, "", 0
    while position < len(where):
        found = _TOKEN.match(where, position)
        if found is None or found.lastgroup is None:
            _refuse(position, _unreadable(where, position))
        kind, text = found.lastgroup, found.group()
        after = where[found.end() :].lstrip()[:1]
        if kind == "word":
            text, name = _word(where, position, text, before, is_call=after == "(", known=known)
        elif kind == "quoted":
            name = _unquoted(text)
            if before in ("COLLATE", "AS") or name not in known:
                _unknown(where, position, name, known)
        else:
            name = None
            depth += (text == "(") - (text == ")")
            if depth < 0:
                _refuse(position, "no parenthesis is open")
        if name is not None:
            names.setdefault(name)
            text = column(name)
        pieces.append(text)
        before = text.upper() if kind == "word" and name is None else before if kind == "space" else ""
        position = found.end()
    if depth:
        _refuse(len(where), "a parenthesis is not closed")
    if not "".join(pieces).strip():
        raise ValueError("where is empty: expected an SQL expression, or None")
    return Filter("".join(pieces), tuple(names))


def _word(
    where: str, position: int, text: str, before: str, *, is_call: bool, known: Collection[str]
) -> tuple[str, str | None]:
    """Return the SQL of a word, and the name of the field that it is, or None."""
    upper = text.upper()
    if before == "COLLATE" and upper in _COLLATIONS:
        return upper, None
    if before == "AS" and upper in _TYPES:
        return upper, None
    # A field may be named like a keyword that is left out here, or like a function; a keyword itself must be quoted.
    if upper in _KEYWORDS:
        return upper, None
    if is_call:
        if text.lower() in _FUNCTIONS:
            return text.lower(), None
        if text not in known:
            _refuse(position, f"unknown function {text!r}: expected one of {', '.join(sorted(_FUNCTIONS))}")
    if text not in known:
        _unknown(where, position, text, known)
    return text, text


def _unquoted(text: str) -> str:
    if text[0] == "[":
        return text[1:-1]
    return text[1:-1].replace(text[0] * 2, text[0])


def _unreadable(where: str, position: int) -> str:
    rest = where[position:]
    if rest[:2] in ("--", "/*"):
        return "a comment has no place here"
    if rest[0] in "'\"`[":
        return f"the quote {rest[0]} is not closed"
    if rest[0] == ";":
        return "one expression is expected, and ';' ends a statement"
    if rest[0] == "?":
        return "numbered parameters are not supported: use ? or :name"
    return f"unexpected {rest[0]!r}"


def _unknown(where: str, position: int, name: str, known: Collection[str]) -> NoReturn:
    hint = " (a string stands in single quotes)" if where[position] == '"' else ""
    if name.upper() in ("SELECT", "WITH", "VALUES", "EXISTS", "INSERT", "DELETE", "UPDATE", "PRAGMA", "ATTACH"):
        _refuse(position, f"{name.upper()} has no place here: no subqueries and statements")
    _refuse(position, f"unknown name {name!r}{hint}: the fields are {', '.join(sorted(known))}")


def _refuse(position: int, reason: str) -> NoReturn:
    raise ValueError(f"where, character {position}: {reason}")
