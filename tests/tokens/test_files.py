"""Which files are counted natively, and what happens with the others: a reason, or the tokenizers package."""

from __future__ import annotations

import json
import sys

import ctxembed
import pytest

from .conftest import FILE, SPELLED

TEXTS = ["heron", "the  heron's <end> e\u0301 HE 12\n", "\u4e2d\u6587 [x] <endless>\ud7ff", "", " "]

TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<end>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<end>": {"id": "<end>", "ids": [259, 259], "tokens": ["<end>", "<end>"]}},
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def change(small, path, value):
    *parents, last = path
    for key in parents:
        small = small[key]
    small[last] = value


NATIVE = {
    "no normaliser": (("normalizer",), None),
    "bytes after": (("post_processor",), BYTES),
    "a template": (("post_processor",), TEMPLATE),
    "a template after bytes": (("post_processor",), {"type": "Sequence", "processors": [BYTES, TEMPLATE]}),
    "merges as one string": (("model", "merges"), ["h e", "r o", "he ro"]),
    "no merges": (("model", "merges"), []),
    "no prefix": (("model", "continuing_subword_prefix"), None),
    "no dropout": (("model", "dropout"), 0.0),
    "another decoder": (("decoder",), BYTES),
    "no added tokens": (("added_tokens",), []),
}


@pytest.mark.parametrize(("path", "value"), NATIVE.values(), ids=NATIVE)
def test_files_of_the_known_kind_are_counted_natively_and_as_the_reference_does(small, written, path, value):
    tokenizers = pytest.importorskip("tokenizers")
    change(small, path, value)
    counter = ctxembed.TokenCounter.from_file(written(small))
    assert counter.backend == "native"
    reference = tokenizers.Tokenizer.from_file(counter.path)
    assert counter.count_batch(TEXTS).tolist() == [len(reference.encode(text).ids) for text in TEXTS]


def split(**changed):
    parts = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\P{L}+"}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [parts | changed, BYTES]}


ONE_SHORT = {token: i for i, token in enumerate([*list(SPELLED.values())[1:], "he", "ro", "hero", "\u0120he"])}

OTHER = {
    "a normaliser": (("normalizer",), {"type": "Lowercase"}, "normalizer must be NFC or null, got .*Lowercase"),
    "a pattern": (("pre_tokenizer",), split(), "pre_tokenizer must be"),
    "a behaviour": (("pre_tokenizer", "pretokenizers", 0, "behavior"), "Removed", "pre_tokenizer must be"),
    "an inverted pattern": (("pre_tokenizer", "pretokenizers", 0, "invert"), True, "pre_tokenizer must be"),
    "a prefix space": (("pre_tokenizer", "pretokenizers", 1, "add_prefix_space"), True, "pre_tokenizer must be"),
    "a second pattern": (("pre_tokenizer", "pretokenizers", 1, "use_regex"), True, "pre_tokenizer must be"),
    "a pre-tokeniser": (("pre_tokenizer",), {"type": "WhitespaceSplit"}, "pre_tokenizer must be"),
    "no pre-tokeniser": (("pre_tokenizer",), None, "pre_tokenizer must be .* got null"),
    "truncation": (
        ("truncation",),
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "truncation must be null",
    ),
    "padding": (
        ("padding",),
        {
            "strategy": {"Fixed": 40},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
        "padding must be null",
    ),
    "lstrip": (("added_tokens", 0, "lstrip"), True, "added token '<end>' has one of|added token \"<end>\" has one of"),
    "rstrip": (("added_tokens", 0, "rstrip"), True, "expected none"),
    "single word": (("added_tokens", 0, "single_word"), True, "expected none"),
    "normalised": (("added_tokens", 0, "normalized"), True, "expected none"),
    "unk": (("model", "unk_token"), "!", "model.unk_token must be null"),
    "byte fallback": (("model", "byte_fallback"), True, "model.byte_fallback must be false"),
    "ignore merges": (("model", "ignore_merges"), True, "model.ignore_merges must be false"),
    "a suffix": (("model", "end_of_word_suffix"), "o", "model.end_of_word_suffix must be empty"),
    "a post-processor": (
        ("post_processor",),
        {"type": "BertProcessing", "sep": ["<end>", 259], "cls": ["[x]", 261]},
        "post_processor must be",
    ),
    "a missing byte": (("model", "vocab"), ONE_SHORT, "no token for the byte"),
}


@pytest.mark.parametrize(("path", "value", "reason"), OTHER.values(), ids=OTHER)
def test_files_of_another_kind_are_counted_by_the_reference_and_the_reason_is_kept(small, written, path, value, reason):
    tokenizers = pytest.importorskip("tokenizers")
    change(small, path, value)
    counter = ctxembed.TokenCounter.from_file(written(small))
    assert counter.backend == "tokenizers"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(counter.reason)
    reference = tokenizers.Tokenizer.from_file(counter.path)
    reference.no_truncation()
    reference.no_padding()
    assert counter.count_batch(TEXTS).tolist() == [len(reference.encode(text).ids) for text in TEXTS]
    assert [counter.count(text) for text in TEXTS] == counter(TEXTS).tolist()


@pytest.mark.parametrize(("path", "value", "reason"), OTHER.values(), ids=OTHER)
def test_without_the_reference_they_are_refused_with_the_reason(small, written, monkeypatch, path, value, reason):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    change(small, path, value)
    with pytest.raises(ValueError, match=f"(?s)({reason}).*pip install 'ctxembed"):
        ctxembed.TokenCounter.from_file(written(small))


def test_random_counts_are_refused_whoever_counts(small, written):
    pytest.importorskip("tokenizers")
    small["model"]["dropout"] = 0.1
    with pytest.raises(ValueError, match="model.dropout is set: counts would be random"):
        ctxembed.TokenCounter.from_file(written(small))


BROKEN = {
    "a merge of no token": (("model", "merges", 0), ["h", "nothing"], "not in model.vocab"),
    "a merge to no token": (("model", "merges", 0), ["o", "o"], "not in model.vocab"),
    "a merge of one": (("model", "merges", 0), ["h"], "a merge is two tokens"),
    "a merge of three": (("model", "merges", 0), ["h", "e", "r"], "a merge is two tokens"),
    "a merge without a space": (("model", "merges", 0), "he", "has no space"),
    "a number as a token": (("model", "merges", 0), [1, 2], "expected a token"),
    "a character of no byte": (("model", "merges", 0), ["h", "\u4e2d"], "stands for no byte"),
    "a number twice": (("model", "vocab", "h"), 7, "the same number"),
    "a field that nobody knows": (("model", "shrink"), 1, "unknown field `shrink`"),
    "no model": (("model",), None, "invalid type: null"),
    "a version": (("version",), "2.0", 'version must be "1.0"'),
}


@pytest.mark.parametrize(("path", "value", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_file_is_named(small, written, monkeypatch, path, value, reason):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    change(small, path, value)
    with pytest.raises(ValueError, match=reason):
        ctxembed.TokenCounter.from_file(written(small))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": "1.0"}', "\x00", "{" * 100_000])
def test_what_is_no_tokenizer_is_refused_by_both(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"not a tokenizer\.json of a known form"):
        ctxembed.TokenCounter.from_file(path)


def test_two_merges_that_make_one_token_are_left_to_the_reference(small, written):
    tokenizers = pytest.importorskip("tokenizers")
    small["model"]["merges"] += [["e", "ro"], ["h", "ero"]]
    small["model"]["vocab"]["ero"] = 900
    counter = ctxembed.TokenCounter.from_file(written(small))
    assert "makes the token that model.merges[2] makes" in counter.reason
    reference = tokenizers.Tokenizer.from_file(counter.path)
    assert counter.count_batch(TEXTS).tolist() == [len(reference.encode(text).ids) for text in TEXTS]


@pytest.mark.skipif(not FILE.exists(), reason=f"the Qwen3 vocabulary is not at {FILE}")
def test_the_real_vocabulary_in_the_older_spelling_of_merges_counts_the_same(counter, written):
    contents = json.loads(FILE.read_text(encoding="utf-8"))
    contents["model"]["merges"] = [" ".join(pair) for pair in contents["model"]["merges"]]
    older = ctxembed.TokenCounter.from_file(written(contents))
    assert older.backend == "native"
    texts = [*TEXTS, FILE.with_name("README.txt").read_text()]
    assert older.count_batch(texts).tolist() == counter.count_batch(texts).tolist()
