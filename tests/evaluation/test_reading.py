"""Judged collections in files: the layouts of BEIR and ConTEB, TREC's judgements, JSON Lines, Parquet."""

from __future__ import annotations

import json

import ctxembed
import numpy as np
import pytest

from tests.samples import CRANFIELD


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return path


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "beir"
    text = "The heron stood in the reeds. " * 20
    write(folder / "corpus.jsonl", {"_id": "a", "title": "Birds", "text": text}, {"_id": "b", "title": "", "text": ""})
    write(folder / "queries.jsonl", {"_id": "q1", "text": "heron"}, {"_id": "q2", "text": "of another split"})
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q1\ta\t2", "q1\tb\t0")
    write(folder / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore", "q2\ta\t1")
    return folder


def test_the_layout_of_beir(beir):
    found = ctxembed.read_judged(beir, chunk_tokens=32)
    assert found.queries == {"q1": "heron"}
    assert found.judgements == {"q1": {"a": 2, "b": 0}}
    first, second = found.documents
    assert (first.id, first.chunks[0], second.id, second.chunks) == ("a", "Birds", "b", [])
    assert len(first.chunks) > 2
    assert " ".join(first.chunks[1:]).split() == ("The heron stood in the reeds. " * 20).split()
    assert [each.id for each in found.documents] == ["a", "b"]  # a second time
    assert ctxembed.read_judged(beir, split="dev").queries == {"q2": "of another split"}
    with pytest.raises(FileNotFoundError, match=r"train\.tsv"):
        ctxembed.read_judged(beir, split="train")


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "folders"])
def test_the_layout_of_conteb(tmp_path, ending):
    documents = [{"chunk_id": f"{name}_{place}", "chunk": f"{name} {place}"} for place in (1, 0, 2) for name in "ab"]
    queries = [{"query": "first", "chunk_id": "b_2"}, {"query": "second", "chunk_ids": ["a_0", "a_1"]}]
    of_parquet = [{"query": "first", "chunk_ids": ["b_2"]}, queries[1]]
    for name, records, columns in (("documents", documents, documents), ("queries", queries, of_parquet)):
        if ending == "jsonl":
            write(tmp_path / f"{name}.jsonl", *records)
            continue
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        file = tmp_path / f"{name}.parquet" if ending == "parquet" else tmp_path / name / "test-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(columns), file)
        if ending == "folders":
            write(tmp_path / name / "train.jsonl", {"query": "of another split", "chunk_id": "x_0", "chunk": "x"})
    found = ctxembed.read_judged(tmp_path)
    assert {each.id: each.chunks for each in found.documents} == {
        name: [f"{name} 0", f"{name} 1", f"{name} 2"] for name in "ab"
    }
    assert found.queries == {"1": "first", "2": "second"}
    assert found.judgements == {"1": {("b", 2): 1}, "2": {("a", 0): 1, ("a", 1): 1}}
    vectors = {name: np.eye(3, 8, dtype=np.int8) for name in "ab"}
    asked = {"1": np.eye(3, 8, dtype=np.int8)[2], "2": np.eye(3, 8, dtype=np.int8)[0]}
    result = ctxembed.evaluate(vectors, asked, found.judgements, variants=["int8"], k=2)
    assert (result.level, result.table[0]["recall@2"]) == ("chunk", 0.75)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("qrels.txt", ["q1 0 a 2", "q1 0 b_c 0", "", "q2 0 a -1"]),
        ("qrels.tsv", ["q1\ta\t2", "q1\tb_c\t0", "q2\ta\t-1"]),
        ("j.jsonl", ['{"query": "q1", "document": "a", "grade": 2}',
                     '{"query-id": "q1", "corpus-id": "b_c", "score": 0}',
                     '{"qid": "q2", "doc_id": "a", "relevance": -1}']),
    ],
)  # fmt: skip
def test_judgements_in_the_usual_forms(tmp_path, name, lines):
    found = ctxembed.read_judgements(write(tmp_path / name, *lines))
    assert found == {"q1": {"a": 2, "b_c": 0}, "q2": {"a": -1}}


def test_chunks_are_judged_by_position_or_by_their_ids(tmp_path):
    path = write(tmp_path / "j.jsonl", {"query": "q", "document": "a", "chunk": 3, "grade": 2})
    assert ctxembed.read_judgements(path) == {"q": {("a", 3): 2}}
    path = write(tmp_path / "j.tsv", "q\tmy_document_3\t2")
    assert ctxembed.read_judgements(path, chunk_ids=True) == {"q": {("my_document", 3): 2}}


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("q.jsonl", [], "q.jsonl: there are no queries"),
        ("q.jsonl", ['{"_id": "a", "text": "x"}', '{"_id": "a", "text": "y"}'],
         r"q.jsonl, line 2: the query 'a' a second time, the first is at .*q.jsonl, line 1"),
        ("q.jsonl", ['{"text": "x"}'], "line 1: has no id: expected one of _id, id, query-id"),
        ("q.jsonl", ['{"_id": "a"}'], "line 1: query 'a' has no text: expected one of text, query, question, got None"),
        ("q.jsonl", ['{"_id": "a", "text": " "}'], "line 1: query 'a' has no text: .*, got ' '"),
        ("q.jsonl", ['{"_id": 1.5, "text": "x"}'], "line 1: _id must be a text or a whole number, got 1.5"),
        ("q.jsonl", ['{"_id": "a", "text": "x"}', "", '{"_id": "b", "text": '],
         "line 3: not JSON: Expecting value at column 22"),
        ("q.jsonl", ["[1, 2]"], r"line 1: expected a JSON object, got '\[1, 2\]'"),
        ("q.csv", ["a,b"], "q.csv: expected a file of JSON Lines .* or Parquet"),
        ("q.parquet", ["no"], "q.parquet: not Parquet"),
    ],
)  # fmt: skip
def test_queries_that_are_none(tmp_path, name, lines, message):
    with pytest.raises(ValueError, match=message):
        ctxembed.read_queries(write(tmp_path / name, *lines))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("j.tsv", [], "j.tsv: there are no judgements"),
        ("j.tsv", ["query-id\tcorpus-id\tscore"], "j.tsv: there are no judgements"),
        ("j.tsv", ["q\ta\t1", "q\ta\t1"], "line 2: query 'q' judges 'a' a second time, the first is at .*line 1"),
        ("j.tsv", ["q\ta\t0.5"], "line 1: the grade must be an integer, got '0.5'"),
        ("j.tsv", ["q\ta"], "line 1: expected query, document and grade, or TREC's .*, got 2 columns: 'q.ta'"),
        ("j.txt", ["q 0 a 1 run more"], "line 1: .*got 6 columns"),
        ("j.jsonl", ['{"query": "q", "document": "a"}'], "line 1: the grade of query 'q' must be an integer, got None"),
        ("j.jsonl", ['{"query": "q", "document": "a", "grade": 1.0}'],
         "line 1: the grade .* must be an integer, got 1.0"),
        ("j.jsonl", ['{"query": "q", "document": "a", "grade": true}'], "line 1: the grade .* got True"),
        ("j.jsonl", ['{"query": "q", "grade": 1}'], "line 1: expected query-id, document .*, got 'query', 'grade'"),
        ("j.jsonl", ['{"query": "q", "document": "a", "chunk": -1, "grade": 1}'],
         "chunk must be a position from 0, got -1"),
        ("j.jsonl", ['{"query": "q", "chunk_id": "nothing"}'],
         "the chunk id must be DOCUMENT_CHUNK, .*, got 'nothing'"),
        ("j.jsonl", ['{"query": "q", "chunk_ids": []}'], "query '1' has no chunk_ids: expected at least one"),
    ],
)  # fmt: skip
def test_judgements_that_are_none(tmp_path, name, lines, message):
    with pytest.raises(ValueError, match=message):
        ctxembed.read_judgements(write(tmp_path / name, *lines))


def test_documents_that_are_none(beir, tmp_path):
    write(beir / "corpus.jsonl", {"_id": "a", "text": "x"}, {"_id": "a", "text": "y"})
    with pytest.raises(ValueError, match=r"corpus.jsonl, line 2: the document 'a' a second time, .*line 1"):
        list(ctxembed.read_judged(beir).documents)
    write(tmp_path / "c" / "queries.jsonl", {"query": "x", "chunk_id": "a_0"})
    write(tmp_path / "c" / "documents.jsonl", {"chunk_id": "a_0", "chunk": "x"}, {"chunk_id": "a_2", "chunk": "y"})
    with pytest.raises(ValueError, match="line 2: document 'a' has a chunk 2, and no chunk 1: expected all positions"):
        ctxembed.read_judged(tmp_path / "c")
    with pytest.raises(NotADirectoryError, match="expected the folder of a judged collection"):
        ctxembed.read_judged(beir / "corpus.jsonl")


def test_errors_of_an_evaluation_name_file_and_line(tmp_path):
    queries = ctxembed.read_queries(write(tmp_path / "q.jsonl", {"_id": "q", "text": "x"}, {"_id": "r", "text": "y"}))
    vectors = {"a": np.ones((2, 8), np.int8)}
    judgements = ctxembed.read_judgements(write(tmp_path / "j.tsv", "q\ta\t1", "r\tz\t1"))
    with pytest.raises(ValueError, match=r"j.tsv, line 2: there is no document 'z', which query 'r' judges"):
        ctxembed.evaluate(vectors, queries, judgements)
    judgements = ctxembed.read_judgements(write(tmp_path / "j.tsv", "q\ta_2\t1", "r\ta_0\t1"), chunk_ids=True)
    with pytest.raises(ValueError, match=r"j.tsv, line 1: document 'a' has no chunk 2: its chunks are 0 to 1"):
        ctxembed.evaluate(vectors, queries, judgements)
    judgements = ctxembed.read_judgements(write(tmp_path / "j.tsv", "q\ta\t1"))
    with pytest.raises(ValueError, match=r"q.jsonl, line 2: query 'r' has no judgement"):
        ctxembed.evaluate(vectors, queries, judgements)
    judgements = ctxembed.read_judgements(write(tmp_path / "j.tsv", "q\ta\t1", "r\ta\t1", "s\ta\t1"))
    with pytest.raises(ValueError, match=r"j.tsv, line 3: there is no query 's' that judgements name"):
        ctxembed.evaluate(vectors, queries, judgements)


@pytest.mark.skipif(not CRANFIELD.is_dir(), reason="../shared/data is absent")
def test_cranfield_is_read_whole():
    found = ctxembed.read_judged(CRANFIELD)
    assert len(found.queries) == len(found.judgements) == 225
    assert sum(map(len, found.judgements.values())) == 1837
    assert found.judgements["40"]["85"] == 3
    documents = list(found.documents)
    assert len(documents) == 1400
    assert [each.id for each in documents if not each.chunks] == ["471", "995"]
