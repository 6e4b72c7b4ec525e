"""The command line with models that have roles, and collections of other spaces."""

from __future__ import annotations

import json
import subprocess

import httpx
import numpy as np
import pytest
from ctxembed import Collection, Embeddings, Usage

from tests.cli.process import command

V1, SMALL, LARGE = "pplx-embed-context-v1-0.6b", "pplx-embed-v2-context-0.6b", "pplx-embed-v2-context-9b"


def paid(server):
    return httpx.get(server.base_url + "/stats", trust_env=False).json()["requests"]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (SMALL, ()),
        (LARGE, ()),
        (LARGE, ("--dimensions", "1024")),
        (SMALL, ("--encoding-format", "base64_binary")),
    ],
)
def test_v2_models_are_planned_embedded_and_searched(ctxembed, lines, tmp_path, model, options):
    planned = ctxembed("plan", lines, "--model", model, *options, "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["model"] == model
    done = ctxembed("embed", lines, "out", "--model", model, *options)
    assert done.returncode == 0, done.stderr
    with Collection.open(tmp_path / "out") as made:
        assert (made.model, made.space) == (model, f"stand-in:{model}")
    found = ctxembed("search", "out", "who caught a fish?", "-k", "1", "--json")
    assert json.loads(found.stdout)["hits"][0]["document"] == "heron"


@pytest.mark.parametrize("command", ["plan", "embed"])
def test_dimensions_that_a_model_does_not_offer_are_an_error_of_usage(ctxembed, lines, command):
    output = ["out"] if command == "embed" else []
    done = ctxembed(command, lines, *output, "--model", LARGE, "--dimensions", "512")
    assert (done.returncode, "1024 or 2048" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("stored", "options", "asked", "words"),
    [
        (V1, (), "pplx-embed-context-v1-4b", f"embedded by {V1}"),
        (V1, (), SMALL, f"embedded by {V1}"),
        (LARGE, (), SMALL, "1024 for pplx-embed-v2-context-0.6b, got 2048"),
        (LARGE, (), V1, f"embedded by {LARGE}"),
        (V1, (), "unknown", "not known"),
        (V1, (), "pplx-embed-v1-0.6b", "not contextualized"),
    ],
)
def test_a_model_of_another_space_is_refused_before_anything_is_paid_for(
    ctxembed, server, lines, stored, options, asked, words
):
    assert ctxembed("embed", lines, "out", "--model", stored, *options).returncode == 0
    before = paid(server)
    done = ctxembed("search", "out", "who caught a fish?", "--model", asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert paid(server) == before


def test_the_model_of_the_documents_may_be_named(ctxembed, lines):
    assert ctxembed("embed", lines, "out").returncode == 0
    done = ctxembed("search", "out", "who caught a fish?", "--model", V1, "-k", "1")
    assert (done.returncode, "heron" in done.stdout) == (0, True)


class Embedder:
    """Embeds in a space of its own, or in none."""

    def __init__(self, space):
        self.space = space

    def embed(self, documents, *, model, dimensions, encoding_format, on_error):
        vectors = np.ones((sum(map(len, documents)), dimensions), np.int8)
        offsets = np.cumsum([0, *map(len, documents)])
        return Embeddings(vectors, offsets, model, dimensions, encoding_format, Usage(), space=self.space)


def test_documents_of_another_server_are_not_compared(ctxembed, tmp_path):
    with Collection.create(tmp_path / "out") as made:
        made.ingest([("a", ["text"])], Embedder(V1))
    done = ctxembed("search", "out", "who caught a fish?")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"of the space '{V1}'" in done.stderr
    assert f"in the space 'stand-in:{V1}'" in done.stderr


def test_a_collection_without_a_space_is_searched(ctxembed, tmp_path):
    with Collection.create(tmp_path / "out") as made:
        made.ingest([("a", ["text"])], Embedder(None))
    assert ctxembed("search", "out", "who caught a fish?").returncode == 0


def test_serve_may_offer_some_models_only(process_environment):
    process = subprocess.Popen(
        command("serve", "--port", "0", "--model", SMALL), env=process_environment, stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().strip()
        body = {"model": V1, "input": [["a"]]}
        headers = {"authorization": "Bearer k"}
        refused = httpx.post(url + "/v1/contextualizedembeddings", json=body, headers=headers, trust_env=False)
        assert refused.json()["detail"][0]["msg"] == f"Input should be '{SMALL}'"
        body = {"model": SMALL, "input": [["a"]], "input_type": "query"}
        served = httpx.post(url + "/v1/contextualizedembeddings", json=body, headers=headers, trust_env=False)
        assert served.headers["x-ctxembed-space"] == f"stand-in:{SMALL}"
    finally:
        process.terminate()
        process.communicate()


def test_serve_refuses_an_unknown_model(ctxembed):
    done = ctxembed("serve", "--port", "0", "--model", "unknown")
    assert (done.returncode, "not known" in done.stderr) == (2, True)
