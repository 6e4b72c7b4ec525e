"""The command line as a process, against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from ctxembed import Limits

DOCUMENTS = [
    {"id": "heron", "chunks": ["The heron stood in the reeds.", "It caught a silver fish."]},
    {"id": "rust", "chunks": ["Rust has no garbage collector.", "Memory has an owner.", "Owners drop memory."]},
    {"id": 7, "chunks": ["Bread needs flour, water, salt and time."]},
]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **extra}


@pytest.fixture
def ctxembed(server, tmp_path):
    """Return a function that runs a command with a key and the shared server, and returns the completed process."""

    def run(*args, stdin: str | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        env = environment(**{"PERPLEXITY_API_KEY": "key-for-tests", "PERPLEXITY_BASE_URL": server.base_url, **extra})
        return subprocess.run(
            [sys.executable, "-m", "ctxembed", *map(str, args)],
            env=env, cwd=tmp_path, input=stdin, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "docs.jsonl"
    write_documents(path, DOCUMENTS)
    return path


def test_embed_writes_vectors_chunks_and_meta(ctxembed, lines, tmp_path):
    done = ctxembed("embed", lines, "out")
    assert (done.returncode, done.stdout) == (0, "")
    assert "6 vectors of 3 documents" in done.stderr
    vectors = np.load(tmp_path / "out" / "vectors.npy")
    assert (vectors.dtype, vectors.shape) == (np.int8, (6, 1024))
    rows = [json.loads(line) for line in (tmp_path / "out" / "chunks.jsonl").read_text().splitlines()]
    assert [(row["id"], row["chunk"]) for row in rows] == [
        ("heron", 0), ("heron", 1), ("rust", 0), ("rust", 1), ("rust", 2), ("7", 0),
    ]  # fmt: skip
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["documents"], meta["chunks"], meta["failures"]) == (3, 6, [])
    assert meta["usage"]["requests"] == 1
    assert float(meta["usage"]["cost_usd"]) > 0


@pytest.mark.parametrize("encoding", ["base64_int8", "base64_binary"])
def test_search_finds_the_chunk_about_a_question(ctxembed, lines, encoding):
    assert ctxembed("embed", lines, "out", "--encoding-format", encoding, "--dimensions", "512").returncode == 0
    done = ctxembed("search", "out", "who caught a fish?", "bread and flour", "-k", "2")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0] == "who caught a fish?"
    assert "heron[1]  It caught a silver fish." in shown[1]
    assert "7[0]  Bread needs flour" in shown[4]
    as_json = ctxembed("search", "out", "who caught a fish?", "-k", "1", "--json")
    found = json.loads(as_json.stdout)
    assert found["hits"][0]["id"] == "heron"


def test_a_text_file_is_a_document_of_paragraphs(ctxembed, tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("first\n\nsecond,\nstill second\n \n\nthird\n")
    (folder / "sub" / "b.md").write_text("only")
    (folder / "empty.txt").write_text("\n\n")
    (folder / "ignored.bin").write_bytes(b"\xff\xfe")
    assert ctxembed("embed", folder, "out").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "chunks.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [
        ("a.txt", "first"), ("a.txt", "second,\nstill second"), ("a.txt", "third"), ("sub/b.md", "only"),
    ]  # fmt: skip


def test_a_dash_reads_stdin(ctxembed, tmp_path):
    done = ctxembed("embed", "-", "out", stdin=json.dumps(DOCUMENTS[0]) + "\n\n")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (2, 1024)


def test_plan_sends_nothing_and_can_print_json(ctxembed, lines):
    offline = {"PERPLEXITY_BASE_URL": "http://127.0.0.1:9", "PERPLEXITY_API_KEY": ""}
    done = ctxembed("plan", lines, **offline)
    assert done.returncode == 0
    assert "3 documents, 6 chunks" in done.stdout
    planned = json.loads(ctxembed("plan", lines, "--json", **offline).stdout)
    assert (planned["documents"], planned["chunks"], planned["requests"], planned["problems"]) == (3, 6, 1, [])


def test_plan_shows_how_long_requests_take_at_a_rate(ctxembed, lines):
    assert "30 seconds at 2 requests a minute" in ctxembed("plan", lines, "--rpm", "2").stdout
    planned = json.loads(ctxembed("plan", lines, "--rpm", "2", "--json").stdout)
    assert (planned["requests_per_minute"], planned["minutes"]) == (2.0, 0.5)
    rejected = ctxembed("plan", lines, "--rpm", "0")
    assert rejected.returncode == 2
    assert "--rpm must be finite and above 0" in rejected.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": 1, "chunks": ["a"]}\n{"id": 2, "chunks": [}\n', ["line 2", "not JSON"]),
        ('{"id": 1, "chunks": ["a"]}\n\n{"id": 2}\n', ["line 3", '"chunks"']),
        ('{"id": 1, "chunks": "a"}\n', ["line 1", "list of strings"]),
        ('{"id": 1, "chunks": ["a", 2]}\n', ["line 1", "chunk 1"]),
        ('{"id": true, "chunks": ["a"]}\n', ["line 1", "id"]),
        ('["a"]\n', ["line 1", '"id"']),
        ('{"id": 1, "chunks": ["a"]}\n{"id": "1", "chunks": ["b"]}\n', ["line 2", "line 1", "'1'"]),
        ('{"id": 1, "chunks": ["a"]}\n{"id": 2, "chunks": ["b", ""]}\n', ["line 2", "chunk 1", "empty"]),
        ('{"id": 1, "chunks": []}\n', ["line 1", "document '1'"]),
        ('{"id": 1, "chunks": ["a\\ud800"]}\n', ["line 1", "chunk 0", "surrogate"]),
        ("", ["no documents"]),
    ],
)
@pytest.mark.parametrize("command", ["embed", "plan"])
def test_invalid_input_is_reported_by_line_before_anything_is_sent(ctxembed, tmp_path, command, text, words):
    (tmp_path / "bad.jsonl").write_text(text)
    arguments = ["bad.jsonl", "out"] if command == "embed" else ["bad.jsonl"]
    done = ctxembed(command, *arguments, PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_invalid_utf8_is_reported_by_line(ctxembed, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(b'{"id": 1, "chunks": ["a"]}\n{"id": 2, "chunks": ["\xff"]}\n')
    done = ctxembed("plan", "bad.jsonl")
    assert (done.returncode, "line 2: not UTF-8 at byte 22 of the line" in done.stderr) == (1, True)


def test_utf16_is_rejected(ctxembed, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes('{"id": 1, "chunks": ["a"]}'.encode("utf-16"))
    done = ctxembed("plan", "bad.jsonl")
    assert (done.returncode, "line 1: not UTF-8 at byte 0 of the line" in done.stderr) == (1, True)


def test_a_missing_key_names_the_environment_variable(ctxembed, lines):
    done = ctxembed("embed", lines, "out", PERPLEXITY_API_KEY="", PPLX_API_KEY="")
    assert (done.returncode, done.stderr.startswith("error: no API key: set PERPLEXITY_API_KEY")) == (1, True)


def test_a_remote_host_needs_allow_remote(ctxembed):
    done = ctxembed("serve", "--host", "0.0.0.0")
    assert (done.returncode, "--allow-remote" in done.stderr) == (2, True)


def test_counts_of_one_are_singular(ctxembed, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": 1, "chunks": ["a"]}')
    assert "1 second at 60 requests" in ctxembed("plan", "one.jsonl", "--rpm", "60").stdout
    assert "1 vector of 1 document in out (1 request, " in ctxembed("embed", "one.jsonl", "out").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["embed", "absent.jsonl", "out"], 1, "absent.jsonl"),
        (["search", "absent", "q"], 1, "absent"),
        (["embed"], 2, "INPUT"),
        (["nonsense"], 2, "nonsense"),
        (["search", "out", "q", "-k", "0"], 2, "'-k'"),
        (["plan", "docs.jsonl", "--encoding-format", "float"], 2, "float"),
        (["plan", "docs.jsonl", "--model", "gpt"], 1, "'gpt'"),
        (["plan", "docs.jsonl", "--dimensions", "64"], 1, "64"),
        (["serve", "--host", "0.0.0.0"], 2, "loopback"),
        (["serve", "--faults", "no-such-plan.toml"], 2, "no-such-plan.toml"),
    ],
)
def test_errors_have_a_message_and_an_exit_code(ctxembed, lines, arguments, code, words):
    done = ctxembed(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_existing_folder_is_not_overwritten(ctxembed, lines, tmp_path):
    assert ctxembed("embed", lines, "out").returncode == 0
    rejected = ctxembed("embed", lines, "out")
    assert (rejected.returncode, "--force" in rejected.stderr) == (1, True)
    assert ctxembed("embed", lines, "out", "--force", "--dimensions", "128").returncode == 0
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (6, 128)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "diary.txt").write_text("dear diary")
    rejected = ctxembed("embed", lines, "precious", "--force")
    assert (rejected.returncode, "not an output" in rejected.stderr) == (1, True)
    assert (precious / "diary.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["docs.jsonl", "out", "precious"]


def test_a_wrong_key_is_reported_without_showing_it(ctxembed, lines, fresh_server, tmp_path):
    guarded = fresh_server(key="the-right-key")
    for command in (["embed", lines, "out"], ["search", "ready", "q"]):
        if command[0] == "search":
            assert ctxembed("embed", lines, "ready").returncode == 0
        done = ctxembed(*command, PERPLEXITY_BASE_URL=guarded.base_url)
        assert done.returncode == 1
        assert "401" in done.stderr
        assert "key-for-tests" not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_an_empty_key_counts_as_missing(ctxembed, lines):
    done = ctxembed("embed", lines, "out", PERPLEXITY_API_KEY="")
    assert (done.returncode, "PERPLEXITY_API_KEY" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("meta.json", lambda p: p.unlink(), "meta.json"),
        ("meta.json", lambda p: p.write_text("{"), "damaged"),
        ("meta.json", lambda p: p.write_text(p.read_text().replace('"version": 1', '"version": 99')), "99"),
        ("vectors.npy", lambda p: p.write_bytes(p.read_bytes()[:-100]), "vectors.npy"),
        ("vectors.npy", lambda p: np.save(p, np.zeros((6, 5))), "float64"),
        ("chunks.jsonl", lambda p: p.write_text(p.read_text() + "{}\n"), "line 7"),
        ("chunks.jsonl", lambda p: p.write_text(p.read_text().split("\n", 1)[1]), "5 lines"),
    ],
)
def test_a_damaged_folder_is_reported_by_file(ctxembed, lines, tmp_path, name, damage, words):
    assert ctxembed("embed", lines, "out").returncode == 0
    damage(tmp_path / "out" / name)
    done = ctxembed("search", "out", "q")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_info_shows_the_paths_that_the_environment_lowers(ctxembed):
    assert "hamming:" in ctxembed("info").stdout
    facts = json.loads(ctxembed("info", "--json", CTXEMBED_ISA="scalar").stdout)
    assert facts["paths"] == {"codec": "scalar", "hamming": "scalar", "dot": "scalar"}


def test_an_unknown_instruction_set_is_rejected_by_name(ctxembed):
    done = ctxembed("info", CTXEMBED_ISA="avx1024")
    assert done.returncode != 0
    assert "avx1024" in done.stderr


def test_help_does_not_import_the_http_stack():
    code = "import sys, ctxembed._cli.commands; print('httpx' in sys.modules, 'fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("command", ["embed", "plan", "search", "info", "serve", "demo"])
def test_every_command_has_help(ctxembed, command):
    done = ctxembed(command, "--help")
    assert (done.returncode, "--help" in done.stdout) == (0, True)


def test_plain_http_to_another_machine_needs_allow_insecure(ctxembed, lines):
    done = ctxembed("embed", lines, "out", "--base-url", "http://192.0.2.1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "or pass --allow-insecure if" in done.stderr


def test_version_is_printed(ctxembed):
    from ctxembed import __version__

    done = ctxembed("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ctxembed {__version__}\n", "")
    assert ctxembed().returncode == 2  # without a command: the list of them


LONG_DOCUMENTS = [{"id": i, "chunks": ["word " * 31_000]} for i in range(10)]  # one document a request


def write_documents(path, documents):
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def set_plan(server, plan):
    httpx.post(server.base_url + "/faults", json=plan, trust_env=False).raise_for_status()


def test_ctrl_c_keeps_what_was_embedded(fresh_server, tmp_path):
    slow = fresh_server()
    set_plan(slow, [{}, {"delay": 60, "times": "always"}])
    write_documents(tmp_path / "docs.jsonl", LONG_DOCUMENTS)
    process = subprocess.Popen(
        [sys.executable, "-m", "ctxembed", "embed", "docs.jsonl", "out"],
        env=environment(PERPLEXITY_API_KEY="k", PERPLEXITY_BASE_URL=slow.base_url),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # The client starts with four requests. A fifth means that it has the response to the first.
        requests = 0
        while requests < 5:
            time.sleep(0.02)
            stats = httpx.get(slow.base_url + "/stats", trust_env=False).json()
            requests = stats["requests"] + stats["in_flight"]
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, stdout) == (1, ""), stderr
    assert "Traceback" not in stderr
    assert "9 documents without vectors (interrupted)" in stderr
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["chunks"], len(meta["failures"])) == (1, 9)
    assert {failure["code"] for failure in meta["failures"]} == {"CTX-001"}
    assert len(np.load(tmp_path / "out" / "vectors.npy")) == 1


def test_an_outage_keeps_what_was_embedded(ctxembed, server, tmp_path):
    set_plan(server, [{}, {"fault": "429-too-long", "times": "always"}])
    write_documents(tmp_path / "docs.jsonl", LONG_DOCUMENTS)
    done = ctxembed("embed", "docs.jsonl", "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert "1 vector of 1 document in out" in done.stderr
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["chunks"], len(meta["failures"])) == (1, 9)
    assert {failure["code"] for failure in meta["failures"]} == {"CTX-011"}


def test_a_failing_document_does_not_fail_the_others(ctxembed, lines, fresh_server, tmp_path):
    strict = fresh_server(limits=Limits(tokens_per_document=14))
    done = ctxembed("embed", lines, "out", PERPLEXITY_BASE_URL=strict.base_url)
    assert done.returncode == 1
    assert "1 document without vectors (the first: rust: " in done.stderr
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    (failure,) = meta["failures"]
    assert (failure["id"], failure["code"], failure["attempts"]) == ("rust", "CTX-010", 2)
    assert len(np.load(tmp_path / "out" / "vectors.npy")) == 3


@pytest.mark.parametrize(
    ("arguments", "variables", "exit_code", "expected"),
    [
        (["search", "out", "q"], {"PERPLEXITY_API_KEY": ""}, 1, ("CTX-018", "MissingKeyError", "PERPLEXITY_API_KEY")),
        (["search", "absent", "q"], {}, 1, (None, "StoreError", "absent")),
        (["search", "out", "q", "-k", "0"], {}, 2, (None, "BadParameter", "-k")),
        (["plan", "absent.jsonl"], {}, 1, (None, "FileNotFoundError", "absent.jsonl")),
        (["plan", "docs.jsonl", "--rpm", "0"], {}, 2, (None, "BadParameter", "--rpm must be finite")),
        (["plan"], {}, 2, (None, "MissingParameter", "INPUT")),
        (["bench", "--nonsense"], {}, 2, (None, "NoSuchOption", "--nonsense")),
    ],
)
def test_an_error_is_json_on_stderr_with_json(ctxembed, lines, arguments, variables, exit_code, expected):
    if arguments[:2] == ["search", "out"]:
        assert ctxembed("embed", lines, "out").returncode == 0
    done = ctxembed(*arguments, "--json", **variables)
    assert (done.returncode, done.stdout) == (exit_code, "")
    error = json.loads(done.stderr)
    code, kind, words = expected
    assert (error["code"], error["type"]) == (code, kind)
    assert words in error["message"]
    assert ctxembed(*arguments, **variables).returncode == exit_code


def test_an_error_in_json_has_its_cause(ctxembed, lines, server):
    assert ctxembed("embed", lines, "out").returncode == 0
    set_plan(server, ["401"])
    done = ctxembed("search", "out", "q", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)
    assert (error["code"], error["type"]) == ("CTX-016", "EmbedError")
    assert (error["cause"]["code"], error["cause"]["type"]) == ("CTX-007", "AuthenticationError")
    assert "key-for-tests" not in done.stderr


def test_problems_in_json_have_a_code(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [{"id": "a", "chunks": ["text", ""]}])
    done = ctxembed("plan", "docs.jsonl", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["code"], problem["id"], problem["chunk"]) == ("CTX-015", "a", 1)


def test_ctrl_c_ends_the_demo_and_its_server(tmp_path):
    import socket

    process = subprocess.Popen(
        [sys.executable, "-m", "ctxembed", "demo"],
        env=environment(PYTHONUNBUFFERED="1"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in process.stdout if line.startswith("local server at"))
        port = int(line.split("http://127.0.0.1:")[1].split()[0])
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert stderr.strip().endswith("error: interrupted")
    assert "Traceback" not in stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_the_demo_finds_the_right_modules(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ctxembed", "demo"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "csv[0]" in done.stdout
    assert "tempfile[" in done.stdout
    assert "getopt[" in done.stdout
    assert "USD 0.00" in done.stdout
    assert done.stdout.endswith("server stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_bench_measures_and_checks_each_operation(ctxembed):
    done = ctxembed("bench", "--seconds", "0.01", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report["paths"]) == {"codec", "hamming", "dot"}
    assert [result["correct"] for result in report["results"]] == [True] * 7
    assert all(result["seconds"] > 0 and result["rate"] > 0 for result in report["results"])


def test_bench_prints_one_line_per_operation_on_the_chosen_path(ctxembed):
    done = ctxembed("bench", "--seconds", "0.01", CTXEMBED_ISA="scalar")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "paths: codec scalar, hamming scalar, dot scalar"
    assert len(lines) == 8
    assert all(line.endswith("/s") for line in lines[1:])


TOKENIZER = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizer" / "tokenizer.json"
needs_tokenizer = pytest.mark.skipif(not TOKENIZER.exists(), reason="needs ../shared/data/tokenizer")


@needs_tokenizer
def test_a_tokenizer_makes_the_plan_exact(ctxembed, lines):
    estimated = json.loads(ctxembed("plan", lines, "--json").stdout)
    counted = json.loads(ctxembed("plan", lines, "--json", "--tokenizer", TOKENIZER).stdout)
    assert (estimated["exact_tokens"], counted["exact_tokens"]) == (False, True)
    assert counted["tokens"] == counted["tokens_upper"] < estimated["tokens_upper"]


@needs_tokenizer
def test_embed_packs_with_the_tokenizers_counts(ctxembed, lines, tmp_path):
    done = ctxembed("embed", lines, "out", "--tokenizer", TOKENIZER)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (6, 1024)


def test_an_invalid_tokenizer_is_rejected_with_a_reason(ctxembed, lines, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    done = ctxembed("plan", lines, "--tokenizer", "other.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "other.json" in done.stderr
    assert ctxembed("plan", lines, "--tokenizer", "absent.json").returncode == 2
