"""`ctxembed show`, `verify`, `compact`, `delete`, `failures`, `snapshot` and `sql`."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from tests.cli.process import command, ids_of, json_lines, write_documents


def test_show_prints_size_and_cost(ctxembed, collection):
    shown = ctxembed("show", collection).stdout
    assert f"{collection}: 3 documents, 6 chunks\n" in shown
    assert "responses: 1, " in shown
    found = json.loads(ctxembed("show", collection, "--json").stdout)
    assert (found["documents"], found["chunks"], found["usage"]["requests"]) == (3, 6, 1)


def test_show_prints_a_document(ctxembed, collection):
    done = ctxembed("show", collection, "heron")
    assert done.stdout == (
        "heron: 2 chunks\nyear: 2020\n\n[0]\nThe heron stood in the reeds.\n\n[1]\nIt caught a silver fish.\n"
    )
    found = json.loads(ctxembed("show", collection, "heron", "--json").stdout)
    assert (found["id"], len(found["chunks"]), found["metadata"]) == ("heron", 2, {"year": 2020})
    absent = ctxembed("show", collection, "none")
    assert (absent.returncode, absent.stderr) == (1, f"error: there is no document 'none' in {collection}\n")


def test_verify_prints_each_damage(ctxembed, collection):
    assert ctxembed("verify", collection).stdout == "3 documents: all is as it was written\n"
    (tail,) = collection.glob("tail-*.rows")
    content = bytearray(tail.read_bytes())
    content[100] ^= 1
    tail.write_bytes(content)
    done = ctxembed("verify", collection)
    assert (done.returncode, tail.name in done.stdout) == (1, True)
    found = ctxembed("verify", collection, "--json")
    assert (found.returncode, len(json.loads(found.stdout)["problems"]) > 0) == (1, True)


def test_deleted_documents_are_gone_and_compact_removes_their_rows(ctxembed, collection):
    done = ctxembed("delete", collection, "rust", "none")
    assert (done.returncode, done.stdout) == (1, "1 document deleted\n")
    assert done.stderr == f"error: not in {collection}: 'none'\n"
    assert ids_of(collection) == ["heron", "7"]
    assert ctxembed("compact", collection).stdout.startswith("3 chunks removed, ")
    assert json.loads(ctxembed("compact", collection, "--json").stdout)["removed_chunks"] == 0
    assert ids_of(collection) == ["heron", "7"]


def test_a_snapshot_is_a_collection_and_replaces_nothing(ctxembed, collection, tmp_path):
    done = ctxembed("snapshot", collection, "copy.ctx")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"copy.ctx: a copy of {collection}, all checksums compared\n"
    assert ids_of(tmp_path / "copy.ctx") == ids_of(collection)
    again = ctxembed("snapshot", collection, "copy.ctx")
    assert (again.returncode, again.stdout, len(again.stderr.splitlines())) == (1, "", 1)
    assert "exists already: a snapshot replaces nothing" in again.stderr
    found = json.loads(ctxembed("snapshot", collection, "other.ctx", "--json").stdout)
    assert found == {"collection": str(collection), "snapshot": "other.ctx"}
    assert ctxembed("verify", "other.ctx").returncode == 0


def test_failures_are_listed(ctxembed, collection, tmp_path):
    assert ctxembed("failures", collection).stdout == ""
    write_documents(tmp_path / "docs.jsonl", [{"id": "empty", "chunks": []}])
    assert ctxembed("embed", "docs.jsonl", collection).returncode == 1
    assert ctxembed("failures", collection).stdout.startswith("empty: DocumentError: a document must have at least one")
    (failure,) = json.loads(ctxembed("failures", collection, "--json").stdout)
    assert (failure["id"], failure["attempts"]) == ("empty", 0)


def test_sql_prints_a_table_or_json(ctxembed, collection):
    statement = "SELECT id, rows, metadata FROM documents ORDER BY number"
    shown = ctxembed("sql", collection, statement).stdout.splitlines()
    assert shown[:2] == ["id     rows  metadata", 'heron  2     {"year":2020}']
    assert shown[2].endswith("NULL")
    found = json_lines(ctxembed("sql", collection, statement, "--json").stdout)
    assert found[1] == {"id": "rust", "rows": 3, "metadata": None}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM documents",
        "INSERT INTO settings VALUES ('a', 1, 2)",
        "PRAGMA user_version = 7",
        "PRAGMA journal_mode = DELETE",
        "ATTACH 'other.sqlite' AS other",
        "CREATE TEMP TABLE t (a)",
        "VACUUM INTO 'copy.sqlite'",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM documents",
        "SELECT no_such_column FROM documents",
        "",
    ],
)
def test_sql_refuses_everything_but_reading(ctxembed, collection, tmp_path, statement):
    done = ctxembed("sql", collection, statement)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert ids_of(collection) == ["heron", "rust", "7"]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.ctx"]


def test_ctrl_c_ends_a_long_statement(process_environment, collection):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    process = subprocess.Popen(
        command("sql", collection, endless), env=process_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, stdout, stderr) == (130, b"", b"error: interrupted\n")


@pytest.mark.parametrize("name", ["show", "verify", "compact", "failures"])
def test_what_is_no_collection_is_one_line(ctxembed, tmp_path, name):
    for path in ("absent", tmp_path):
        done = ctxembed(name, path)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
