"""``ctxembed search http://...``: the hits of a folder, from a server."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess

import pytest

from tests.cli.process import command, environment

KEY = "search-0123456789abcdefghijklmnop"


@pytest.fixture(scope="module")
def url(_session_collection):
    """The URL of a server of the collection that tests share, which several tests use."""
    arguments = command("serve", "--port", "0", "--collection", _session_collection)
    process = subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    yield process.stdout.readline().strip()
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture
def serve(collection, process_environment):
    """Return a function that serves collections of the current folder, and returns the URL."""
    started = []

    def start(*names, **variables):
        arguments = [argument for name in names for argument in ("--collection", name)]
        process = subprocess.Popen(
            command("serve", "--port", "0", *arguments), env={**process_environment, **variables},
            cwd=collection.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        started.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    "options",
    [
        ["who caught a fish?", "bread", "-k", "2"],
        ["who caught a fish?", "-k", "500"],
        ["bread", "--where", "year IS NULL", "--json"],
        ["who caught a fish?", "bread", "--neighbours", "1"],
        ["who caught a fish?", "--by-document", "--json"],
        ["a silver", "--hybrid"],
    ],
)
def test_the_output_is_that_of_the_folder(ctxembed, collection, url, options):
    nothing = {"PERPLEXITY_API_KEY": "", "PPLX_API_KEY": "", "PERPLEXITY_BASE_URL": "http://127.0.0.1:9"}
    done = ctxembed("search", url, *options, **nothing)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (ctxembed("search", collection, *options).stdout, "")


def test_a_key_comes_from_the_environment(ctxembed, serve):
    url = serve("corpus.ctx", CTXEMBED_SERVER_KEY=KEY)
    done = ctxembed("search", url + "/v1/", "bread", "-k", "1", CTXEMBED_SERVER_KEY=f"{KEY},the-next-key")
    assert (done.returncode, done.stderr) == (0, "")
    assert "7[0]" in done.stdout
    without = ctxembed("search", url, "bread", CTXEMBED_SERVER_KEY="")
    assert (without.returncode, without.stdout) == (1, "")
    assert "401" in without.stderr
    assert without.stderr.endswith("(no key was sent: set CTXEMBED_SERVER_KEY)\n")
    wrong = ctxembed("search", url, "bread", "--json", CTXEMBED_SERVER_KEY="not-" + KEY)
    shown = json.loads(wrong.stderr)
    assert (wrong.returncode, shown["code"], shown["type"]) == (1, "CTX-007", "AuthenticationError")
    assert KEY not in wrong.stderr


def test_one_of_several_collections_is_named(ctxembed, serve, tmp_path):
    shutil.copytree(tmp_path / "corpus.ctx", tmp_path / "second.ctx")
    assert ctxembed("delete", "second.ctx", "7").returncode == 0
    url = serve("corpus.ctx", "second.ctx")
    found = ctxembed("search", url, "bread", "--collection", "second", "--json")
    assert found.returncode == 0, found.stderr
    assert {hit["document"] for hit in json.loads(found.stdout)["hits"]} == {"heron", "rust"}
    unnamed = ctxembed("search", url, "bread")
    assert (unnamed.returncode, unnamed.stdout) == (1, "")
    assert "collection" in unnamed.stderr
    unknown = ctxembed("search", url, "bread", "--collection", "third")
    assert unknown.returncode == 1
    assert unknown.stderr == f"error: there is no collection 'third' at {url}: it serves corpus, second\n"


def test_what_the_server_refuses_is_one_line(ctxembed, serve):
    url = serve("corpus.ctx")
    unknown = ctxembed("search", url, "bread", "--where", "yaer > 1")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "the server returned 422" in unknown.stderr
    assert "unknown name 'yaer': the fields are id, source, year" in unknown.stderr
    many = ctxembed("search", url, "bread", "-k", "10001")
    assert (many.returncode, many.stderr.count("\n"), "10000" in many.stderr) == (1, 1, True)


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "message"),
    [
        (["http://127.0.0.1:9", "q"], {}, 1, "error: cannot connect to http://127.0.0.1:9: connection refused\n"),
        (["http://example.com", "q"], {"CTXEMBED_SERVER_KEY": KEY}, 2, "--allow-insecure"),
        (["http://a b", "q"], {}, 2, "url must be http(s)://host[:port][/path]"),
        (["http://127.0.0.1:9", "q", "--embedder", "demo"], {}, 2, "--embedder has no place here"),
        (["http://127.0.0.1:9", "q", "--model", "any"], {}, 2, "--model has no place here"),
        (["http://127.0.0.1:9", "q", "--base-url", "https://a.test"], {}, 2, "--base-url has no place here"),
        (["http://127.0.0.1:9", ""], {}, 2, "the query is empty"),
        (["corpus.ctx", "q", "--collection", "corpus"], {}, 2, "--collection has no place here"),
    ],
)
def test_what_cannot_work_is_said(ctxembed, arguments, variables, code, message):
    done = ctxembed("search", *arguments, **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_a_server_without_collections_is_named(ctxembed, server):
    done = ctxembed("search", server.base_url, "q")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {server.base_url} has no search endpoints, which `ctxembed serve --collection FOLDER` has\n"
    )


def test_ctrl_c_ends_a_search_that_waits(process_environment):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = subprocess.Popen(
            command("search", f"http://127.0.0.1:{silent.getsockname()[1]}", "q"), env=process_environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                shown = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, *shown) == (130, "", "error: interrupted\n")
