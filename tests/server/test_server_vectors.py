"""The stand-in's vectors follow the rules that the API documents."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed._backends.hashed import embed_documents
from ctxembed._backends.token_estimate import estimate_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.samples import sample_texts
from tests.server.conftest import DOCUMENTS, matrix

CHUNKS = [
    "The packing of documents into requests is a bin packing problem with two limits.",
    "Hamming distance counts the bits in which two binary vectors differ.",
    "A leaky bucket admits requests at a steady rate and refuses what flows over.",
    "Base64 writes three bytes as four characters of a small alphabet.",
    "Die Katze schläft den ganzen Tag auf dem warmen Ofen.",
    "向量检索在大规模数据集中寻找最相似的向量。",
]


def embed(documents, *, model="m", full=1024, dimensions=1024, binary=False, role=None):
    return embed_documents(
        documents, model=model, full_dimensions=full, dimensions=dimensions, binary=binary, input_type=role
    )


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_values_cover_the_int8_range():
    values = embed([[chunk] for chunk in CHUNKS]).astype(np.int64)
    assert 30 <= values.std() <= 50
    assert abs(values.mean()) < 5
    assert values.min() >= -127


def test_a_single_letter_has_many_distinct_values():
    assert len(np.unique(embed([["x"]]))) > 50


def test_vectors_are_not_normalised():
    lengths = np.linalg.norm(embed([[chunk] for chunk in CHUNKS]).astype(np.float64), axis=1)
    assert lengths.max() / lengths.min() > 1.1


def test_every_process_computes_the_same_bytes():
    code = (
        "import sys, hashlib; from ctxembed._backends.hashed import embed_documents;"
        "vs = [embed_documents([sys.argv[1:], sys.argv[1:2]], model='m', full_dimensions=1024, dimensions=1024,"
        " binary=False, input_type=role) for role in (None, 'document', 'query')];"
        "print(hashlib.sha256(b''.join(v.tobytes() for v in vs)).hexdigest())"
    )
    digests = set()
    for seed, threads in (("0", "1"), ("1", "2"), ("random", "1")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", code, *CHUNKS], env=environment, capture_output=True, check=True, text=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dimensions", [128, 256, 512, 1000])
def test_fewer_dimensions_are_a_prefix_of_the_full_vector(dimensions, binary):
    full = embed([CHUNKS], binary=binary)
    width = dimensions // 8 if binary else dimensions
    assert np.array_equal(embed([CHUNKS], dimensions=dimensions, binary=binary), full[:, :width])


def test_the_server_returns_a_prefix_for_fewer_dimensions(api):
    full = api.vectors([CHUNKS])
    assert np.array_equal(api.vectors([CHUNKS], dimensions=200), full[:, :200])


def test_bits_are_signs_with_the_least_significant_bit_first():
    values = embed([CHUNKS])
    bits = np.unpackbits(embed([CHUNKS], binary=True), axis=1, bitorder="little")
    assert np.all(bits[values > 0] == 1)
    assert np.all(bits[values < 0] == 0)


def test_a_value_that_rounds_to_zero_can_have_either_bit():
    chunks = [f"{chunk} {i}" for chunk in CHUNKS for i in range(20)]
    values, packed = embed([chunks]), embed([chunks], binary=True)
    at_zero = np.unpackbits(packed, axis=1, bitorder="little")[values == 0]
    assert set(at_zero.tolist()) == {0, 1}


def test_the_server_sends_the_least_significant_bit_first(api):
    values = api.vectors([CHUNKS])
    packed = api.vectors([CHUNKS], encoding_format="base64_binary")
    first = packed[:, 0].astype(int)
    for dimension in range(8):
        sure = values[:, dimension] != 0
        assert np.array_equal((first >> dimension & 1)[sure], (values[:, dimension] > 0)[sure])


def test_a_chunks_vector_depends_slightly_on_its_document():
    alone = embed([[CHUNKS[0]]])[0]
    first = embed([[CHUNKS[0], CHUNKS[1], CHUNKS[2]]])[0]
    second = embed([[CHUNKS[0], CHUNKS[3], CHUNKS[4]]])[0]
    for one, other in ((alone, first), (alone, second), (first, second)):
        assert not np.array_equal(one, other)
        assert cosine(one, other) > 0.85


def test_splitting_a_document_changes_its_vectors():
    assert not np.array_equal(embed([CHUNKS]), embed([CHUNKS[:3], CHUNKS[3:]]))


words = st.text(min_size=1, max_size=40)
documents = st.lists(st.lists(words, min_size=1, max_size=5), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(documents=documents, binary=st.booleans())
def test_vectors_do_not_depend_on_the_other_documents_of_a_request(documents, binary):
    together = embed(documents, dimensions=256, binary=binary)
    apart = [embed([document], dimensions=256, binary=binary) for document in documents]
    assert np.array_equal(together, np.concatenate(apart))


def test_a_request_of_many_blocks_equals_its_documents_embedded_alone():
    many = [[f"{CHUNKS[(i + j) % 6]} number {i} {j}" for j in range(1 + i % 40)] for i in range(120)]
    together = embed(many, dimensions=128)
    assert len(together) > 2048
    assert np.array_equal(together, np.concatenate([embed([document], dimensions=128) for document in many]))


def test_vectors_of_different_models_are_unrelated():
    assert abs(cosine(embed([[CHUNKS[0]]], model="one")[0], embed([[CHUNKS[0]]], model="other")[0])) < 0.2


@pytest.mark.parametrize(("query", "expected"), [
    ("how are documents packed into requests?", 0),
    ("hamming distance between binary vectors", 1),
    ("rate of requests that a bucket admits", 2),
    ("bytes to base64 characters", 3),
    ("wo schläft die Katze", 4),
    ("相似向量检索", 5),
])  # fmt: skip
@pytest.mark.parametrize("dimensions", [128, 1024])
def test_a_query_finds_the_chunk_about_it(api, query, expected, dimensions):
    chunks = api.vectors([CHUNKS], dimensions=dimensions)
    wanted = api.vectors([[query]], dimensions=dimensions)[0]
    scores = [cosine(wanted, chunk) for chunk in chunks]
    assert int(np.argmax(scores)) == expected, scores


def test_a_query_finds_its_chunk_by_bits(api):
    chunks = api.vectors([CHUNKS], encoding_format="base64_binary")
    query = api.vectors([["hamming distance between binary vectors"]], encoding_format="base64_binary")
    distances = np.bitwise_count(chunks ^ query).sum(axis=1)
    assert int(np.argmin(distances)) == 1


@pytest.mark.parametrize("text", ["!", "...", " ", "\n", "\u200b", "🙂", "\x00", "a", "_" * 100, "a" * 10_000])
def test_no_text_has_a_zero_vector(text):
    values = embed([[text]])
    assert np.abs(values.astype(int)).sum() > 0
    assert values.std() > 20


def test_a_chunk_with_the_separator_misaligns_later_chunks(api):
    plain = api.vectors([["one", "two", "three"]])
    shifted = api.vectors([["one<|endoftext|>two", "three", "four"]])
    assert np.array_equal(shifted, plain)


@pytest.mark.parametrize("input_type", ["document", "query"])
def test_the_separator_of_another_model_shifts_nothing(api, input_type):
    options = {"model": "pplx-embed-v2-context-9b", "input_type": input_type}
    plain = api.vectors([["one two", "three", "four"]], **options)
    other = api.vectors([["one<|endoftext|>two", "three", "four"]], **options)
    assert not np.array_equal(other[0], plain[0])
    assert cosine(other[1], plain[1]) > 0.9
    v1 = api.vectors([["one<|chunk_sep|>two", "three", "four"]])
    assert cosine(v1[1], api.vectors([["one two", "three", "four"]])[1]) > 0.9


def test_a_document_with_its_models_separator_misaligns_later_chunks(api):
    options = {"model": "pplx-embed-v2-context-9b", "input_type": "document"}
    plain = api.vectors([["one", "two", "three"]], **options)
    assert np.array_equal(api.vectors([["one<|chunk_sep|>two", "three", "four"]], **options), plain)


def test_a_query_is_pooled_whole_whatever_it_holds(api):
    options = {"model": "pplx-embed-v2-context-9b", "input_type": "query"}
    cut = api.vectors([["herons fish"]], **options)
    assert not np.array_equal(api.vectors([["herons fish<|chunk_sep|>in rivers"]], **options), cut)


def test_a_model_that_places_its_separator_by_id_is_never_misaligned(in_process):
    model = ctxembed.Model("by-id", 256, None, separator=None)
    bodies = [{"input": [[first, "three"]], "model": "by-id"}
              for first in ("one two", "one<|endoftext|>two", "one<|chunk_sep|>two")]  # fmt: skip
    responses = in_process(*[("POST", DOCUMENTS, {"json": body}) for body in bodies], models=(model,))
    plain, *others = (matrix(response.json()["data"]) for response in responses)
    assert all(cosine(other[1], plain[1]) > 0.9 for other in others)


def embed_role(documents, role, *, model="m", full=1024, **options):
    return embed(documents, model=model, full=full, role=role, **options)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("role", ["document", "query"])
def test_fewer_dimensions_are_a_prefix_with_a_role_too(role, binary):
    full = embed_role([CHUNKS], role, full=2048, dimensions=2048, binary=binary)
    half = embed_role([CHUNKS], role, full=2048, dimensions=1024, binary=binary)
    assert np.array_equal(half, full[:, : half.shape[1]])


@settings(max_examples=30, deadline=None)
@given(documents=documents, role=st.sampled_from(["document", "query"]))
def test_vectors_of_a_role_do_not_depend_on_the_other_documents_of_a_request(documents, role):
    together = embed_role(documents, role, dimensions=256)
    apart = [embed_role([document], role, dimensions=256) for document in documents]
    assert np.array_equal(together, np.concatenate(apart))


def test_roles_move_the_vectors():
    plain, document, query = (embed_role([CHUNKS], role) for role in (None, "document", "query"))
    for a, b in ((plain, document), (plain, query), (document, query)):
        assert all(0.7 < cosine(x, y) < 0.97 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("role", ["document", "query"])
@pytest.mark.parametrize("text", ["!", " ", "\u200b", "a", "a" * 10_000])
def test_no_text_has_a_zero_vector_in_a_role(text, role):
    values = embed_role([[text]], role).astype(int)
    assert 20 < values.std() < 60


def ndcg(scores, relevant, k=10):
    """Mean normalised discounted cumulative gain at k; ``relevant`` is a boolean matrix like ``scores``."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    discounts = 1 / np.log2(np.arange(k) + 2)
    gains = np.take_along_axis(relevant, top, axis=1) @ discounts
    ideal = np.array([discounts[: min(k, count)].sum() for count in relevant.sum(axis=1)])
    return float(np.mean(gains / ideal))


def cosines(a, b):
    a, b = a.astype(np.float32), b.astype(np.float32)
    return a @ b.T / np.linalg.norm(a, axis=1)[:, np.newaxis] / np.linalg.norm(b, axis=1)


ROLE_MODELS = [("pplx-embed-v2-context-0.6b", 1024, 1024), ("pplx-embed-v2-context-9b", 2048, 1024),
               ("pplx-embed-v2-context-9b", 2048, 2048)]  # fmt: skip


@pytest.mark.parametrize(("model", "full", "dimensions"), ROLE_MODELS)
def test_a_query_that_is_sent_as_a_document_ranks_worse(model, full, dimensions):
    sentences = re.split(r"(?<=[.!?]) +|\n", "\n".join(sample_texts().values()))
    texts = [sentence for sentence in sentences if len(sentence.split()) > 5]
    queries = [" ".join(text.split()[2:4]) for text in texts]
    options = {"model": model, "full": full, "dimensions": dimensions}
    stored = embed_role([[text] for text in texts], "document", **options)
    relevant = np.eye(len(texts), dtype=bool)
    by_role = {
        role: ndcg(cosines(embed_role([[query] for query in queries], role, **options), stored), relevant)
        for role in ("query", "document")
    }
    assert by_role["query"] > by_role["document"] + 0.05, by_role


@pytest.mark.parametrize(("model", "full", "dimensions"), ROLE_MODELS)
def test_on_cranfield_a_query_that_is_sent_as_a_document_ranks_worse(model, full, dimensions):
    documents, queries, relevant = cranfield()
    options = {"model": model, "full": full, "dimensions": dimensions}
    stored = embed_role(documents, "document", **options)
    by_role = {role: ndcg(cosines(embed_role(queries, role, **options), stored), relevant)
               for role in ("query", "document")}  # fmt: skip
    assert by_role["query"] > 0.25
    assert by_role["query"] > by_role["document"] + 0.05, by_role


def cranfield():
    """Return Cranfield's documents and queries, and which documents are relevant to each query."""
    data = Path(__file__).parents[3] / "shared" / "data" / "ir" / "cranfield"
    if not data.is_dir():
        pytest.skip(f"{data} is absent")
    corpus = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()]
    relevant = np.zeros((len(queries), len(corpus)), dtype=bool)
    row_of = {query["_id"]: i for i, query in enumerate(queries)}
    column_of = {document["_id"]: i for i, document in enumerate(corpus)}
    for line in (data / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        relevant[row_of[query], column_of[document]] = int(score) > 0
    documents = [[f"{entry['title']} {entry['text']}"] for entry in corpus]
    return documents, [[query["text"]] for query in queries], relevant


def test_on_cranfield_cosine_ranks_better_than_inner_product():
    texts, queries, relevant = cranfield()
    documents = embed(texts).astype(np.float32)
    wanted = embed(queries).astype(np.float32)
    inner = wanted @ documents.T
    lengths = np.linalg.norm(wanted, axis=1)[:, np.newaxis] * np.linalg.norm(documents, axis=1)
    by_cosine = ndcg(inner / lengths, relevant)
    assert by_cosine > 0.25  # chance is below 0.01
    assert ndcg(inner, relevant) < by_cosine


def test_texts_are_embedded_independently(api):
    one = api.texts(["hello world"]).json()["data"][0]["embedding"]
    two = api.texts(["another", "hello world"]).json()["data"][1]["embedding"]
    assert one == two
    assert len(base64.b64decode(one)) == 1024


@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1))
def test_the_token_estimate_is_between_one_and_the_byte_count(text):
    assert 1 <= estimate_tokens(text) <= len(text.encode("utf-8", "surrogatepass"))


def test_the_token_estimate_of_english_is_about_4_5_characters_a_token():
    text = " ".join(CHUNKS[:4])
    assert 3.5 <= len(text) / estimate_tokens(text) <= 6
