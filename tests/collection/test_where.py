"""The expression of ``where``: names become columns, and nothing else passes."""

from __future__ import annotations

import sqlite3

import pytest
from ctxembed._collection.where import parse_where

KNOWN = {"id", "source", "year", "lang", "a b", 'odd"name', "order", "length", "naïve"}


def column(name):
    return '"' + name.replace('"', '""') + '"'


def parse(where):
    return parse_where(where, KNOWN, column)


ACCEPTED = [
    "year >= ? AND lang = 'en'",
    "year BETWEEN :low AND $high",
    "lang IN ('en', 'de') OR year IS NULL",
    "lang LIKE 'e%' ESCAPE '\\' COLLATE NOCASE",
    "CASE WHEN year > 2000 THEN 1 ELSE 0 END",
    "CAST(year AS INTEGER) % 2 = 0",
    "lower(lang) || 'x' == 'enx'",
    "coalesce(year, 0x10) + 1.5e3 - .5 <> -2",
    "\"a b\" = 1 AND [year] > 2 AND `lang` != ''",
    '"odd""name" IS NOT DISTINCT FROM 5',
    '"order" = 1 and length = 5 and length(lang) = 2',
    "naïve notnull",
    "lang = 'it''s -- no comment; SELECT'",
    "x'00ff' = x''",
    "year -> '$' ->> 'a' = 1",
    "\n\tyear\r\n=\n5",
]


@pytest.mark.parametrize("where", ACCEPTED)
def test_sqlite_reads_what_is_accepted(where):
    found = parse(where)
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE t ({', '.join(column(name) for name in KNOWN)})")
    values = {"low": 1, "high": 2} if ":" in where else [1] * where.count("?")
    connection.execute(f"SELECT * FROM t WHERE ({found.sql})", values)
    assert set(found.names) <= KNOWN


def test_names_stand_once_in_order():
    assert parse("year > 1 AND lang = 'a' AND year < 5").names == ("year", "lang")
    assert parse("1").names == ()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("colour = 'red'", "character 0: unknown name 'colour': the fields are a b, id, lang,"),
        ('lang = "en"', r"character 7: unknown name 'en' \(a string stands in single quotes\)"),
        ("year > 1; DROP TABLE documents", "character 8: one expression"),
        ("year > 1 -- comment", "comment"),
        ("year /* comment */ > 1", "comment"),
        ("id IN (SELECT id FROM documents)", "no subqueries"),
        ("EXISTS (SELECT 1)", "unknown function 'EXISTS'"),
        ("load_extension('x')", "unknown function 'load_extension'"),
        ("readfile('/etc/passwd')", "unknown function"),
        ("randomblob(1000000000)", "unknown function"),
        ("zeroblob(1000000000)", "unknown function"),
        ("lang = 'open", "quote ' is not closed"),
        ('"open', 'quote " is not closed'),
        ("documents.id = 1", "unknown name 'documents'"),
        ("year = ?1", "numbered parameters"),
        ("year = 5abc", "unexpected '5'"),
        ("year = 1and lang = 'a'", "unexpected '1'"),
        ("0) OR (1", "character 1: no parenthesis is open"),
        ("(year = 1", "character 9: a parenthesis is not closed"),
        ("year # 5", "unexpected '#'"),
        ("year = 1 COLLATE documents", "unknown name 'documents'"),
        ("rowid = 1", "unknown name 'rowid'"),
        ("year MATCH 'x'", "unknown name 'MATCH'"),
        ("lang REGEXP 'x'", "unknown name 'REGEXP'"),
        ("RAISE(ABORT, 'x')", "unknown function"),
    ],
)
def test_anything_else_is_refused_by_its_place(where, words):
    with pytest.raises(ValueError, match=words):
        parse(where)


@pytest.mark.parametrize("where", [5, b"year = 1", ["year"]])
def test_it_is_a_str(where):
    with pytest.raises(TypeError, match="where must be a str"):
        parse(where)
