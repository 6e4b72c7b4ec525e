"""Files that are counted natively, files that the tokenizers package counts, and files that are rejected."""

from __future__ import annotations

import json
import os
import re
import socket
import sys

import ctxembed
import pytest

from tests.samples import sample_texts

from . import fuzz_files
from .conftest import BYTE_CHARACTERS

TEXTS = ["heron", "the  heron's <end> e\u0301 HE 12\n", "\u4e2d\u6587 [x] <endless>\ud7ff", "", " "]

TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<end>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<end>": {"id": "<end>", "ids": [259, 259], "tokens": ["<end>", "<end>"]}},
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def change(contents, path, value):
    *parents, last = path
    for key in parents:
        contents = contents[key]
    contents[last] = value


NATIVE = {
    "no normalizer": (("normalizer",), None),
    "byte-level post-processor": (("post_processor",), BYTES),
    "template post-processor": (("post_processor",), TEMPLATE),
    "byte-level and template post-processors": (
        ("post_processor",),
        {"type": "Sequence", "processors": [BYTES, TEMPLATE]},
    ),
    "merges as strings": (("model", "merges"), ["h e", "r o", "he ro"]),
    "no merges": (("model", "merges"), []),
    "null prefix": (("model", "continuing_subword_prefix"), None),
    "zero dropout": (("model", "dropout"), 0.0),
    "another decoder": (("decoder",), BYTES),
    "no added tokens": (("added_tokens",), []),
}


@pytest.mark.parametrize(("path", "value"), NATIVE.values(), ids=NATIVE)
def test_supported_files_are_counted_natively_and_match_the_reference(tiny, write_tokenizer, path, value):
    tokenizers = pytest.importorskip("tokenizers")
    change(tiny, path, value)
    counter = ctxembed.TokenCounter.from_file(write_tokenizer(tiny))
    assert counter.backend == "native"
    reference = tokenizers.Tokenizer.from_file(counter.path)
    assert counter.count_batch(TEXTS).tolist() == [len(reference.encode(text).ids) for text in TEXTS]


def split(**changed):
    parts = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\P{L}+"}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [parts | changed, BYTES]}


ONE_SHORT = {token: i for i, token in enumerate([*list(BYTE_CHARACTERS.values())[1:], "he", "ro", "hero", "\u0120he"])}

OTHER = {
    "another normalizer": (("normalizer",), {"type": "Lowercase"}, "normalizer must be NFC or null, got .*Lowercase"),
    "another pattern": (("pre_tokenizer",), split(), "pre_tokenizer must be"),
    "another behavior": (("pre_tokenizer", "pretokenizers", 0, "behavior"), "Removed", "pre_tokenizer must be"),
    "inverted pattern": (("pre_tokenizer", "pretokenizers", 0, "invert"), True, "pre_tokenizer must be"),
    "prefix space": (("pre_tokenizer", "pretokenizers", 1, "add_prefix_space"), True, "pre_tokenizer must be"),
    "second pattern": (("pre_tokenizer", "pretokenizers", 1, "use_regex"), True, "pre_tokenizer must be"),
    "another pre-tokenizer": (("pre_tokenizer",), {"type": "WhitespaceSplit"}, "pre_tokenizer must be"),
    "no pre-tokenizer": (("pre_tokenizer",), None, "pre_tokenizer must be .* got null"),
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
    "normalized": (("added_tokens", 0, "normalized"), True, "expected none"),
    "unk": (("model", "unk_token"), "!", "model.unk_token must be null"),
    "byte fallback": (("model", "byte_fallback"), True, "model.byte_fallback must be false"),
    "ignore merges": (("model", "ignore_merges"), True, "model.ignore_merges must be false"),
    "suffix": (("model", "end_of_word_suffix"), "o", "model.end_of_word_suffix must be empty"),
    "another post-processor": (
        ("post_processor",),
        {"type": "BertProcessing", "sep": ["<end>", 259], "cls": ["[x]", 261]},
        "post_processor must be",
    ),
    "missing byte": (("model", "vocab"), ONE_SHORT, "no token for the byte"),
}


@pytest.mark.parametrize(("path", "value", "reason"), OTHER.values(), ids=OTHER)
def test_other_files_use_the_reference_and_record_the_reason(tiny, write_tokenizer, path, value, reason):
    tokenizers = pytest.importorskip("tokenizers")
    change(tiny, path, value)
    counter = ctxembed.TokenCounter.from_file(write_tokenizer(tiny))
    assert counter.backend == "tokenizers"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(counter.reason)
    reference = tokenizers.Tokenizer.from_file(counter.path)
    reference.no_truncation()
    reference.no_padding()
    assert counter.count_batch(TEXTS).tolist() == [len(reference.encode(text).ids) for text in TEXTS]
    assert [counter.count(text) for text in TEXTS] == counter(TEXTS).tolist()


@pytest.mark.parametrize(("path", "value", "reason"), OTHER.values(), ids=OTHER)
def test_other_files_are_rejected_with_the_reason_when_the_reference_is_missing(
    tiny, write_tokenizer, monkeypatch, path, value, reason
):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    change(tiny, path, value)
    with pytest.raises(ValueError, match=f"(?s)({reason}).*pip install 'ctxembed"):
        ctxembed.TokenCounter.from_file(write_tokenizer(tiny))


def test_dropout_is_rejected_because_counts_would_be_random(tiny, write_tokenizer):
    pytest.importorskip("tokenizers")
    tiny["model"]["dropout"] = 0.1
    with pytest.raises(ValueError, match="model.dropout is set: counts would be random"):
        ctxembed.TokenCounter.from_file(write_tokenizer(tiny))


BROKEN = {
    "merge of an unknown token": (("model", "merges", 0), ["h", "nothing"], "not in model.vocab"),
    "merge into an unknown token": (("model", "merges", 0), ["o", "o"], "not in model.vocab"),
    "merge of one token": (("model", "merges", 0), ["h"], "a merge is two tokens"),
    "merge of three tokens": (("model", "merges", 0), ["h", "e", "r"], "a merge is two tokens"),
    "merge without a space": (("model", "merges", 0), "he", "has no space"),
    "number as a token": (("model", "merges", 0), [1, 2], "expected a token"),
    "character without a byte": (("model", "merges", 0), ["h", "\u4e2d"], "stands for no byte"),
    "repeated id": (("model", "vocab", "h"), 7, "the same number"),
    "unknown field": (("model", "shrink"), 1, "unknown field `shrink`"),
    "no model": (("model",), None, "invalid type: null"),
    "another version": (("version",), "2.0", 'version must be "1.0"'),
}


@pytest.mark.parametrize(("path", "value", "reason"), BROKEN.values(), ids=BROKEN)
def test_errors_name_what_is_wrong_with_a_file(tiny, write_tokenizer, monkeypatch, path, value, reason):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    change(tiny, path, value)
    with pytest.raises(ValueError, match=reason):
        ctxembed.TokenCounter.from_file(write_tokenizer(tiny))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": "1.0"}', "\x00", "{" * 100_000])
def test_a_file_that_is_not_a_tokenizer_is_rejected(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"not a tokenizer\.json of a known form"):
        ctxembed.TokenCounter.from_file(path)


def test_two_merges_that_make_the_same_token_use_the_reference(tiny, write_tokenizer):
    tokenizers = pytest.importorskip("tokenizers")
    tiny["model"]["merges"] += [["e", "ro"], ["h", "ero"]]
    tiny["model"]["vocab"]["ero"] = 900
    counter = ctxembed.TokenCounter.from_file(write_tokenizer(tiny))
    assert "makes the token that model.merges[2] makes" in counter.reason
    reference = tokenizers.Tokenizer.from_file(counter.path)
    assert counter.count_batch(TEXTS).tolist() == [len(reference.encode(text).ids) for text in TEXTS]


def test_merges_in_the_older_spelling_give_the_same_counts(vocabulary, counter, write_tokenizer):
    contents = json.loads(vocabulary.read_text(encoding="utf-8"))
    contents["model"]["merges"] = [" ".join(pair) for pair in contents["model"]["merges"]]
    older = ctxembed.TokenCounter.from_file(write_tokenizer(contents))
    assert older.backend == "native"
    texts = [*TEXTS, *sample_texts().values()]
    assert older.count_batch(texts).tolist() == counter.count_batch(texts).tolist()


def test_a_path_that_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        kinds = {"fifo": "FIFO", "link": "FIFO", "folder": "directory", "socket": "socket"}
        for path, kind in [
            *((tmp_path / name, kind) for name, kind in kinds.items()),
            ("/dev/zero", "character device"),
        ]:
            with pytest.raises(OSError, match=f"must be a regular file, got a {kind}") as raised:
                ctxembed.TokenCounter.from_file(path)
            assert raised.value.filename == str(path)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_files_are_read_or_rejected_by_name(seed):
    outcomes = fuzz_files.run(200, seed)
    assert outcomes["native"] > 0
    assert outcomes["refused"] > 100


def test_a_panic_of_the_tokenizers_package_is_an_error_that_names_the_file(tiny, write_tokenizer, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")

    class PanicException(BaseException):
        """As PyO3 raises it: no Exception."""

    class Tokenizer:
        @staticmethod
        def from_file(path):
            raise PanicException("index out of bounds")

    monkeypatch.setattr(tokenizers, "Tokenizer", Tokenizer)
    tiny["version"] = "2.0"
    path = write_tokenizer(tiny)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*fails to read it: index out of bounds"):
        ctxembed.TokenCounter.from_file(path)
