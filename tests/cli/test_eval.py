"""``ctxembed eval``."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from decimal import Decimal

import ctxembed as package
import numpy as np
import pytest

from benches import ranking
from tests.cli.process import TOKENIZER, needs_tokenizer, paid_of, set_plan
from tests.evaluation.samples import documents, judged
from tests.samples import CRANFIELD

OFFLINE = {"PERPLEXITY_BASE_URL": "http://127.0.0.1:9", "PERPLEXITY_API_KEY": "", "PPLX_API_KEY": ""}
DOCUMENTS = documents(40)


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


@pytest.fixture
def data(tmp_path):
    """A judged collection in the layout of ConTEB."""
    queries, judgements = judged(DOCUMENTS, by_chunk=True)
    chunks = [(f"{each.id}_{place}", text) for each in DOCUMENTS for place, text in enumerate(each.chunks)]
    write_lines(tmp_path / "data" / "documents.jsonl", [{"chunk_id": name, "chunk": text} for name, text in chunks])
    asked = []
    for name, text in queries.items():
        relevant = [f"{document}_{chunk}" for (document, chunk), grade in judgements[name].items() if grade > 0]
        asked.append({"id": name, "query": text, "chunk_ids": relevant})
    write_lines(tmp_path / "data" / "queries.jsonl", asked)
    return tmp_path / "data"


def test_a_folder_is_embedded_and_evaluated_by_one_command(ctxembed, data, tmp_path):
    arguments = ("eval", "corpus.ctx", "--data", "data", "--ingest", "--isolated")
    planned = ctxembed(*arguments, "--dry-run", "--json", **OFFLINE)
    assert planned.returncode == 0, planned.stderr
    price = json.loads(planned.stdout)
    chunks = sum(len(each.chunks) for each in DOCUMENTS)
    assert (price["documents"], price["queries"], price["chunks"]) == (40, 12, chunks)
    assert not (tmp_path / "corpus.ctx").exists()
    done = ctxembed(*arguments, "-k", "1", "-k", "10", "--markdown", "t.md", "--plot", "p.svg")
    assert done.returncode == 0, done.stderr
    assert "40 documents added, 0 changed, 0 unchanged, 0 failed" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        f"40 documents, {chunks} chunks with 1024 dimensions of pplx-embed-context-v1-0.6b; 12 queries"
    )
    assert lines[1].split()[:3] == ["variant", "arm", "ndcg@10"]
    assert [line.split()[:2] for line in lines[2:4]] == [["int8", "context"], ["int8@512", "context"]]
    assert any(": context is worth " in line and "nDCG@10 here" in line for line in lines)
    assert (tmp_path / "t.md").read_text().startswith(lines[0])
    ET.fromstring((tmp_path / "p.svg").read_text())
    # Again, as JSON: the same figures, and nothing is paid.
    again = json.loads(ctxembed(*arguments, "-k", "1", "-k", "10", "--json").stdout)
    assert again["usage"] == {"total_tokens": None, "cost_usd": None, "requests": 0}
    assert f"{again['table'][0]['ndcg@10']:.3f}" in lines[2]
    # And by the functions.
    found = package.read_judged(data)
    with package.Collection.open(tmp_path / "corpus.ctx", read_only=True) as opened:
        result = package.evaluate(
            opened, found.queries, found.judgements, k=(1, 10), arms=("context", "isolated"),
            client=package.Client("key", base_url="http://127.0.0.1:9"),
        )  # fmt: skip
    assert [row["ndcg@10"] for row in result.table] == [row["ndcg@10"] for row in again["table"]]
    assert result.sentences == again["sentences"]


def test_files_are_not_replaced_unless_asked(ctxembed, data, tmp_path):
    arguments = ("eval", "corpus.ctx", "--data", "data", "--ingest", "--variant", "bits", "--plot", "p.svg")
    (tmp_path / "p.svg").write_text("of somebody else")
    refused = ctxembed(*arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: p.svg: the file of --plot exists: --overwrite replaces it\n"
    assert (tmp_path / "p.svg").read_text() == "of somebody else"
    assert not (tmp_path / "corpus.ctx").exists()
    assert ctxembed(*arguments, "--overwrite").returncode == 0
    assert (tmp_path / "p.svg").read_text().startswith("<svg")


@needs_tokenizer
def test_the_price_is_what_is_then_spent(ctxembed, fresh_server, data):
    server = fresh_server()
    set_plan(server, {"limits": {"tokenizer": str(TOKENIZER)}})
    embedded = ctxembed(
        "eval", "corpus.ctx", "--data", "data", "--ingest", "--variant", "bits", PERPLEXITY_BASE_URL=server.base_url
    )
    assert embedded.returncode == 0, embedded.stderr
    arguments = ("eval", "corpus.ctx", "--data", "data", "--isolated", "--tokenizer", TOKENIZER, "--json")
    planned = json.loads(ctxembed(*arguments, "--dry-run", **OFFLINE).stdout)
    before = paid_of(server)
    done = json.loads(ctxembed(*arguments, PERPLEXITY_BASE_URL=server.base_url).stdout)
    assert planned["exact_tokens"]
    assert planned["tokens"] == planned["tokens_upper"] == done["usage"]["total_tokens"] > 0
    assert float(planned["cost_usd"]) == pytest.approx(float(done["usage"]["cost_usd"]), rel=1e-12)
    assert planned["requests"] == done["usage"]["requests"] == paid_of(server) - before
    assert json.loads(ctxembed(*arguments, "--dry-run", **OFFLINE).stdout)["tokens"] == 0


def test_nothing_is_sent_for_what_costs_more_than_it_may(ctxembed, fresh_server, data, tmp_path):
    server = fresh_server()
    arguments = ("eval", "corpus.ctx", "--data", "data", "--isolated", "--variant", "bits", "--json")
    there = {"PERPLEXITY_BASE_URL": server.base_url}
    stopped = ctxembed(*arguments, "--ingest", "--max-cost", "0", **there)
    assert stopped.returncode == 1
    assert (
        json.loads(stopped.stderr)["message"]
        == "corpus.ctx: --max-cost is reached. The same command goes on from there"
    )
    assert paid_of(server) == 0
    assert ctxembed("eval", "corpus.ctx", "--data", "data", "--ingest", "--variant", "bits", **there).returncode == 0
    price = json.loads(ctxembed(*arguments, "--dry-run", **OFFLINE).stdout)["cost_usd"]
    before, too_little = paid_of(server), f"{Decimal(price) * Decimal('0.99'):f}"
    refused = ctxembed(*arguments, "--max-cost", too_little, **there)
    assert refused.returncode == 1
    message = json.loads(refused.stderr)["message"]
    assert message.endswith(f"would cost USD {price}, which is more than --max-cost {too_little}: they were not sent")
    assert paid_of(server) == before
    done = json.loads(ctxembed(*arguments, "--max-cost", price, **there).stdout)
    assert 0 < float(done["usage"]["cost_usd"]) <= float(price)
    # What is kept costs nothing.
    assert json.loads(ctxembed(*arguments, "--max-cost", "0", **there).stdout)["usage"]["requests"] == 0


def test_queries_and_judgements_in_files(ctxembed, collection, tmp_path):
    write_lines(tmp_path / "q.jsonl", [{"id": "a", "text": "a bird and its fish"}, {"id": "b", "text": "bread"}])
    (tmp_path / "j.tsv").write_text("query-id\tcorpus-id\tscore\na\theron\t1\nb\t7\t1\n")
    arguments = ("eval", collection, "--queries", "q.jsonl", "--judgements", "j.tsv", "--json")
    done = ctxembed(*arguments, "--variant", "int8", "--variant", "hybrid")
    assert done.returncode == 0, done.stderr
    assert [row["success@1"] for row in json.loads(done.stdout)["table"]] == [1.0, 1.0]
    (tmp_path / "j.tsv").write_text("a\theron_1\t1\nb\t7_0\t1\n")
    by_chunk = ctxembed(*arguments, "--chunk-ids", "--variant", "int8")
    assert json.loads(by_chunk.stdout)["level"] == "chunk"


@pytest.mark.parametrize(
    ("judgements", "options", "message"),
    [
        ("a\teagle\t1\nb\t7\t1\n", (),
         "j.tsv, line 1: there is no document 'eagle', which query 'a' judges. --allow-missing counts"),
        ("a\theron\t1\n", (),
         "q.jsonl, line 2: query 'b' has no judgement: expected one of each query. --skip-unjudged leaves"),
        ("a\theron\tx\n", (), "j.tsv, line 1: the grade must be an integer, got 'x'"),
        ("a\theron\t1\nb\t7\t1\n", ("--variant", "float"), "--variant: 'float' is unknown: expected \"int8\""),
        ("", (), "j.tsv: there are no judgements"),
    ],
)  # fmt: skip
def test_errors_are_one_line_that_names_the_place(ctxembed, collection, tmp_path, judgements, options, message):
    write_lines(tmp_path / "q.jsonl", [{"id": "a", "text": "a bird"}, {"id": "b", "text": "bread"}])
    (tmp_path / "j.tsv").write_text(judgements)
    done = ctxembed(
        "eval",
        collection,
        "--queries",
        "q.jsonl",
        "--judgements",
        "j.tsv",
        *options,
        **{**OFFLINE, "PPLX_API_KEY": "k"},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --queries and --judgements, or --data"),
        (("--queries", "q"), "expected --queries and --judgements, or --data"),
        (("--data", "d", "--queries", "q"), "--data has queries and judgements"),
        (("--queries", "q", "--judgements", "j", "--ingest"), "--ingest embeds the documents of --data"),
        (("--data", "d", "--by", "page"), "--by must be document or chunk, got page"),
        (("--data", "d", "-k", "0"), "0 is not in the range"),
    ],
)
def test_errors_of_usage(ctxembed, options, message):
    done = ctxembed("eval", "corpus.ctx", *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


@pytest.mark.skipif(not CRANFIELD.is_dir(), reason="../shared/data is absent")
def test_a_part_of_cranfield_has_the_same_figures_by_the_command_and_by_numpy(ctxembed, server, tmp_path):
    """Of the stand-in's vectors; ``make test-quality`` compares those of the demo model with the record."""
    read = [json.loads(line) for line in (CRANFIELD / "corpus.jsonl").read_text().splitlines()[:200]]
    names = {each["_id"] for each in read}
    lines = (CRANFIELD / "qrels" / "test.tsv").read_text().splitlines()
    kept = [lines[0], *(line for line in lines[1:] if line.split("\t")[1] in names)]
    (tmp_path / "part" / "qrels").mkdir(parents=True)
    (tmp_path / "part" / "qrels" / "test.tsv").write_text("\n".join(kept) + "\n")
    write_lines(tmp_path / "part" / "corpus.jsonl", read)
    (tmp_path / "part" / "queries.jsonl").write_bytes((CRANFIELD / "queries.jsonl").read_bytes())
    done = ctxembed(
        "eval", "part.ctx", "--data", "part", "--ingest", "--variant", "int8", "--chunk-tokens", "64", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    judgements = package.read_judgements(tmp_path / "part")
    queries = {name: text for name, text in package.read_queries(CRANFIELD).items() if name in judgements}
    with (
        package.Collection.open(tmp_path / "part.ctx", read_only=True) as opened,
        package.Client("key", base_url=server.base_url) as client,
    ):
        documents = [document.id for document in opened.documents()]
        rows = opened.vectors()
        counts = [len(document.chunks) for document in opened.documents()]
        vectors = client.embed_queries([*queries.values()]).normalized()
    scores = vectors @ package.normalize(rows).T
    best = np.maximum.reduceat(scores, np.cumsum([0, *counts[:-1]]), axis=1)
    found = np.argsort(-best, axis=1, kind="stable")[:, :10]
    place_of = {name: place for place, name in enumerate(documents)}
    gains = [{place_of[name]: float(grade) for name, grade in judgements[query].items()} for query in queries]
    by_numpy = [ranking.ndcg(row, each) for row, each in zip(found.tolist(), gains, strict=True)]
    assert (result["documents"], result["queries"]) == (200, len(queries))
    assert result["table"][0]["ndcg@10"] == pytest.approx(np.mean(by_numpy), abs=1e-6)
