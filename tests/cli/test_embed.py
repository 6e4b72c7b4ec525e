"""`ctxembed embed`."""

from __future__ import annotations

import json

import numpy as np
from ctxembed import Limits

from tests.cli.process import DOCUMENTS, LONG_DOCUMENTS, TOKENIZER, needs_tokenizer, set_plan, write_documents


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


def test_a_dash_reads_stdin(ctxembed, tmp_path):
    done = ctxembed("embed", "-", "out", stdin=json.dumps(DOCUMENTS[0]) + "\n\n")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (2, 1024)


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


def test_a_missing_key_names_the_environment_variable(ctxembed, lines):
    done = ctxembed("embed", lines, "out", PERPLEXITY_API_KEY="", PPLX_API_KEY="")
    assert (done.returncode, done.stderr.startswith("error: no API key: set PERPLEXITY_API_KEY")) == (1, True)


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


@needs_tokenizer
def test_embed_packs_with_the_tokenizers_counts(ctxembed, lines, tmp_path):
    done = ctxembed("embed", lines, "out", "--tokenizer", TOKENIZER)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (6, 1024)
