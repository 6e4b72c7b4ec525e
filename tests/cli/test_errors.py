"""Errors: one line or a JSON object, and an exit code."""

from __future__ import annotations

import json
import os

import pytest

from tests.cli.process import set_plan


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["embed", "absent.jsonl", "out"], 1, "absent.jsonl"),
        (["search", "absent", "q"], 1, "absent"),
        (["embed"], 2, "INPUT"),
        (["nonsense"], 2, "nonsense"),
        (["search", "corpus.ctx", "q", "-k", "0"], 2, "'-k'"),
        (["plan", "docs.jsonl", "--encoding-format", "float"], 2, "float"),
        (["plan", "docs.jsonl", "--model", "gpt"], 2, "'gpt'"),
        (["plan", "docs.jsonl", "--dimensions", "64"], 2, "64"),
        (["embed", "docs.jsonl", "out", "--dimensions", "64"], 2, "64"),
        (["plan", "docs.jsonl", "--dimensions", "129", "--encoding-format", "base64_binary"], 2, "multiple of 8"),
        (["search", "corpus.ctx", "q", "--base-url", "ftp://x"], 2, "ftp://x"),
        (["plan", ""], 1, "an input is empty"),
        (["embed", "docs.jsonl", ""], 2, "the path is empty"),
        (["search", "", "q"], 2, "the path is empty"),
        (["serve", "--host", "0.0.0.0"], 2, "loopback"),
        (["serve", "--faults", "no-such-plan.toml"], 2, "no-such-plan.toml"),
    ],
)
def test_errors_have_a_message_and_an_exit_code(ctxembed, lines, arguments, code, words):
    done = ctxembed(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_remote_host_needs_allow_remote(ctxembed):
    done = ctxembed("serve", "--host", "0.0.0.0")
    assert (done.returncode, "--allow-remote" in done.stderr) == (2, True)


def test_plain_http_to_another_machine_needs_allow_insecure(ctxembed, lines):
    done = ctxembed("embed", lines, "out", "--base-url", "http://192.0.2.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "or pass --allow-insecure if" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "exit_code", "expected"),
    [
        (
            ["search", "corpus.ctx", "q"],
            {"PERPLEXITY_API_KEY": ""},
            1,
            ("CTX-018", "MissingKeyError", "PERPLEXITY_API_KEY"),
        ),
        (["search", "absent", "q"], {}, 1, (None, "FileNotFoundError", "absent")),
        (["search", "corpus.ctx", "q", "-k", "0"], {}, 2, (None, "BadParameter", "-k")),
        (["plan", "absent.jsonl"], {}, 1, (None, "FileNotFoundError", "absent.jsonl")),
        (["plan", "docs.jsonl", "--rpm", "0"], {}, 2, (None, "BadParameter", "--rpm must be finite")),
        (["plan"], {}, 2, (None, "MissingParameter", "INPUT")),
        (["bench", "--nonsense"], {}, 2, (None, "NoSuchOption", "--nonsense")),
    ],
)
def test_an_error_is_json_on_stderr_with_json(ctxembed, lines, arguments, variables, exit_code, expected):
    if arguments[:2] == ["search", "corpus.ctx"]:
        assert ctxembed("embed", lines, "corpus.ctx").returncode == 0
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


def test_control_characters_are_escaped_in_messages(ctxembed, lines, fresh_server):
    for arguments in (
        ["plan", "\x1b[2J\n\u202e.jsonl"],
        ["\x1b[2J"],
        ["plan", "--\x1b[2J"],
        ["plan", lines, "--model", "\x1b[2J\x9b"],
        ["search", "\x1b[2J\n", "q"],
        ["search", os.fsdecode(b"\xff\x1b"), "q"],
    ):
        done = ctxembed(*arguments)
        assert done.returncode in {1, 2}
        assert "Traceback" not in done.stderr
        assert all(line.isprintable() for line in done.stderr.split("\n"))


def test_paths_that_no_file_can_have_are_errors(ctxembed, lines):
    for arguments in (["plan", "x" * 5000], ["embed", lines, "x" * 300], ["search", "x/" * 3000, "q"]):
        done = ctxembed(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
