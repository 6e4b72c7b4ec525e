"""`ctxembed search`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.cli.process import command, json_lines, write_documents


@pytest.mark.parametrize("encoding", ["base64_int8", "base64_binary"])
def test_search_finds_the_chunk_about_a_question(ctxembed, lines, encoding):
    assert ctxembed("embed", lines, "out", "--encoding-format", encoding, "--dimensions", "512").returncode == 0
    done = ctxembed("search", "out", "who caught a fish?", "bread and flour", "-k", "2")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0] == "who caught a fish?"
    assert " ".join(shown[1].split()[1:]) == "heron[1] It caught a silver fish."
    assert " ".join(shown[4].split()[1:4]) == "7[0] Bread needs"


def test_json_has_an_object_with_all_fields_of_the_hits_for_each_query(ctxembed, collection):
    found = json_lines(ctxembed("search", collection, "who caught a fish?", "bread", "-k", "1", "--json").stdout)
    assert [item["query"] for item in found] == ["who caught a fish?", "bread"]
    (hit,) = found[0]["hits"]
    assert (hit["document"], hit["chunk"], hit["text"]) == ("heron", 1, "It caught a silver fish.")
    assert (hit["metadata"], hit["span"], hit["source"]) == ({"year": 2020}, None, None)
    assert hit["score"] == hit["vector_score"]


def test_neighbours_are_shown_below_the_hit(ctxembed, collection):
    done = ctxembed("search", collection, "who caught a fish?", "-k", "1", "--neighbours", "1")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.split("\n")
    assert shown[1].split()[1:] == ["heron[1]"]
    assert shown[2:] == ["    The heron stood in the reeds.", "    It caught a silver fish.", "", ""]
    found = json.loads(ctxembed("search", collection, "fish", "-k", "1", "--neighbours", "9", "--json").stdout)
    assert found["hits"][0]["passage"] == "The heron stood in the reeds.\nIt caught a silver fish."
    assert found["hits"][0]["passage_chunks"] == [0, 2]
    wrong = ctxembed("search", collection, "fish", "--neighbours", "-1")
    assert (wrong.returncode, "--neighbours" in wrong.stderr) == (2, True)


def test_by_document_each_document_is_one_hit(ctxembed, collection):
    found = json.loads(ctxembed("search", collection, "who caught a fish?", "--by-document", "--json").stdout)
    assert sorted(hit["document"] for hit in found["hits"]) == ["7", "heron", "rust"]
    assert (found["hits"][0]["document"], found["hits"][0]["chunk"]) == ("heron", 1)


def test_where_selects_documents(ctxembed, collection):
    found = json.loads(ctxembed("search", collection, "bread", "--where", "year IS NULL", "--json").stdout)
    assert {hit["document"] for hit in found["hits"]} == {"rust", "7"}
    unknown = ctxembed("search", collection, "bread", "--where", "yaer > 1", PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert (unknown.returncode, "unknown name 'yaer'" in unknown.stderr) == (1, True)


def test_hybrid_shows_each_score_under_its_name(ctxembed, collection):
    done = ctxembed("search", collection, "a silver", "bread", "-k", "2", "--hybrid")
    assert done.returncode == 0, done.stderr
    question, head, first, *_ = done.stdout.splitlines()
    assert (question, head.split()) == ("a silver", ["ranks", "cosine", "BM25"])
    found = json_lines(ctxembed("search", collection, "a silver", "-k", "2", "--hybrid", "--json").stdout)
    hit = found[0]["hits"][0]
    assert hit["document"] == "heron"
    shown = [f"{hit['score']:.5f}", f"{hit['vector_score']:.4f}", f"{hit['text_score']:.3f}", "heron[1]"]
    assert first.split()[:4] == shown
    assert len({hit["score"], hit["vector_score"], hit["text_score"]}) == 3


def test_hybrid_without_its_package_is_one_clear_line(process_environment, collection):
    code = (
        "import sys; sys.argv = ['ctxembed', 'search', 'corpus.ctx', 'q', '--hybrid']; sys.modules['tantivy'] = None\n"
        "from ctxembed.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**process_environment, "PERPLEXITY_BASE_URL": "http://127.0.0.1:9"},
        cwd=collection.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: a hybrid search needs tantivy: pip install 'ctxembed[hybrid]'\n"


def test_a_long_text_is_shown_around_the_words_of_the_question(ctxembed, tmp_path):
    write_documents(
        tmp_path / "docs.jsonl", [{"id": "a", "chunks": ["filler " * 200 + "kingfisher dives " + "end " * 200]}]
    )
    assert ctxembed("embed", "docs.jsonl", "corpus.ctx").returncode == 0
    shown = ctxembed("search", "corpus.ctx", "a kingfisher", COLUMNS="80").stdout.splitlines()[1]
    assert len(shown) <= 80
    assert "kingfisher dives" in shown
    assert shown.endswith("...")


def test_search_of_what_is_no_collection_says_what_to_do(ctxembed, tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("vectors.npy", "meta.json"):
        (tmp_path / "old" / name).touch()
    done = ctxembed("search", "old", "q")
    assert (done.returncode, "`ctxembed import " in done.stderr) == (1, True)
    assert ctxembed("search", "absent", "q").returncode == 1


def test_search_imports_no_package_that_it_does_not_need(ctxembed, process_environment, collection):
    code = (
        "import sys; sys.argv = ['ctxembed', 'search', 'corpus.ctx', 'q', '--json']; import atexit\n"
        "atexit.register(lambda: print([name for name in ('pyarrow', 'aiohttp', 'fastapi', 'selectolax', "
        "'semantic_text_splitter', 'ctxembed._jobs.reading') if name in sys.modules], file=sys.stderr))\n"
        "from ctxembed.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=process_environment, cwd=collection.parent, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == "[]\n"


def test_hits_are_shown_without_control_characters(ctxembed, tmp_path):
    texts = ["\x1b]52;c;cm0gLXJm\x07 \x1b[2J evil \x9b31m", "evil \u202etxt.exe\u2066 \x7f", "evil\u2028line"]
    documents = [{"id": f"i\x1b[{n}m\n", "chunks": [text]} for n, text in enumerate(texts)]
    write_documents(tmp_path / "docs.jsonl", documents)
    assert ctxembed("embed", "docs.jsonl", "out").returncode == 0
    done = ctxembed("search", "out", "evil \x1b[2J")
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert "i\\x1b[0m\\n[0]  \\x1b]52;c;cm0gLXJm\\x07 \\x1b[2J evil \\x9b31m" in done.stdout
    found = ctxembed("search", "out", "evil", "--json").stdout
    assert found.isascii()
    assert {hit["text"] for hit in json.loads(found)["hits"]} == set(texts)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_hits_are_shown_on_a_terminal_of_any_encoding(process_environment, tmp_path, encoding, ctxembed):
    write_documents(tmp_path / "docs.jsonl", [{"id": "caf\xe9", "chunks": ["caf\xe9 \u65e5\u672c \U0001f600"]}])
    assert ctxembed("embed", "docs.jsonl", "out").returncode == 0
    for options in ([], ["--json"]):
        done = subprocess.run(
            command("search", "out", "q", *options),
            env={**process_environment, "PYTHONIOENCODING": encoding},
            cwd=tmp_path, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"caf" in done.stdout
        assert done.stdout.isascii() or not options


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ([""], "the query is empty"),
        (["a", ""], "query 2 is empty"),
        ([b"caf\xe9"], "the query is not UTF-8"),
    ],
)
def test_an_invalid_query_is_an_error_of_usage(ctxembed, collection, queries, words):
    done = ctxembed("search", collection, *map(os.fsdecode, queries), PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_query_that_the_api_would_refuse_is_called_a_query(ctxembed, collection):
    done = ctxembed("search", collection, "a", "b<|endoftext|>c")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith("error: query 2: ")


def test_a_refused_connection_is_one_clear_line(ctxembed, collection):
    done = ctxembed("search", collection, "q", PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == (
        "error: the query was not embedded: cannot connect to http://127.0.0.1:9: connection refused\n"
    )


def test_more_hits_than_chunks_are_all_chunks(ctxembed, collection):
    done = ctxembed("search", collection, "q", "-k", "99999999999999999999999", "--json")
    assert len(json.loads(done.stdout)["hits"]) == 6
