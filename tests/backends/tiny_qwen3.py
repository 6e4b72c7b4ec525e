"""A bidirectional Qwen3 of three layers with random weights, as a folder of Hugging Face has the vendor's model.

    python -m tests.backends.tiny_qwen3 FOLDER

The graph is built operator by operator, so that nobody needs torch. :mod:`tests.backends.reference` computes the same
in NumPy.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOKENIZER: Final = Path(__file__).resolve().parents[1] / "data" / "tokenizer" / "tokenizer.json"
SEPARATOR: Final = "<|endoftext|>"

CONFIG: Final[dict[str, Any]] = {
    "architectures": ["PPLXQwen3ContextualModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration.PPLXQwen3Config", "AutoModel": "modeling.PPLXQwen3ContextualModel"},
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 32768,
    "model_type": "bidirectional_pplx_qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "vocab_size": 3234,
}


def weights(seed: int = 20) -> dict[str, np.ndarray]:
    """Return random weights by their names in Qwen3: float16 for the embeddings, float32 for the rest."""
    rng = np.random.default_rng(seed)
    width, inner, head = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    heads, groups = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    def scales(size: int, mean: float) -> np.ndarray:
        return (mean + 0.1 * rng.standard_normal(size)).astype(np.float32)

    found = {
        "embed_tokens": rng.standard_normal((CONFIG["vocab_size"], width)).astype(np.float16),
        "norm": scales(width, 0.7),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        found |= {
            f"{layer}.input_layernorm": scales(width, 1),
            f"{layer}.q_proj": matrix(width, heads * head),
            f"{layer}.k_proj": matrix(width, groups * head),
            f"{layer}.v_proj": matrix(width, groups * head),
            f"{layer}.q_norm": scales(head, 1.5),
            f"{layer}.k_norm": scales(head, 1.5),
            f"{layer}.o_proj": matrix(heads * head, width),
            f"{layer}.post_attention_layernorm": scales(width, 1),
            f"{layer}.gate_proj": matrix(width, inner),
            f"{layer}.up_proj": matrix(width, inner),
            f"{layer}.down_proj": matrix(inner, width),
        }
    return found


@dataclass
class Graph:
    """Nodes and constants of a graph that is being built."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = value
        return name

    def rms_norm(self, x: str, scale: np.ndarray) -> str:
        mean = self("ReduceMean", self("Mul", x, x), axes=[-1], keepdims=1)
        length = self("Sqrt", self("Add", mean, np.array(CONFIG["rms_norm_eps"], np.float32)))
        return self("Mul", self("Div", x, length), scale)

    def rotate(self, x: str, cosine: str, sine: str) -> str:
        half = CONFIG["head_dim"] // 2
        axes = np.array([3], np.int64)
        left = self("Slice", x, np.array([0], np.int64), np.array([half], np.int64), axes)
        right = self("Slice", x, np.array([half], np.int64), np.array([2 * half], np.int64), axes)
        rotated = self("Concat", self("Neg", right), left, axis=3)
        return self("Add", self("Mul", x, cosine), self("Mul", rotated, sine))


def graph_of(
    w: dict[str, np.ndarray],
    *,
    causal: bool = False,
    pooled: bool = False,
    masked: bool = True,
    placed: bool = False,
    cached: bool = False,
) -> Any:
    """Return the model as an ONNX graph.

    ``causal`` hides later tokens, ``pooled`` returns one vector a text, and without ``masked`` padding is seen. With
    ``placed`` the positions are an input, and with ``cached`` earlier keys are.
    """
    g = Graph()
    head, heads, groups = CONFIG["head_dim"], CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    x = g("Cast", g("Gather", w["embed_tokens"], "input_ids"), to=TensorProto.FLOAT)

    length = g("Squeeze", g("Shape", "input_ids", start=1, end=2), np.array([0], np.int64))
    positions = g("Range", np.array(0, np.int64), length, np.array(1, np.int64))
    if placed:
        positions = g("Gather", "position_ids", np.array(0, np.int64), axis=0)
    places = g("Unsqueeze", g("Cast", positions, to=TensorProto.FLOAT), np.array([1], np.int64))
    frequencies = CONFIG["rope_theta"] ** (-np.arange(0, head, 2) / head)
    angles = g("Mul", places, frequencies.astype(np.float32)[None])
    angles = g("Concat", angles, angles, axis=1)
    cosine, sine = g("Cos", angles), g("Sin", angles)

    bias = None
    if masked:
        hidden = g("Sub", np.array(1, np.float32), g("Cast", "attention_mask", to=TensorProto.FLOAT))
        bias = g("Unsqueeze", g("Mul", hidden, np.array(-1e9, np.float32)), np.array([1, 2], np.int64))
    if causal:
        later = g(
            "Greater",
            g("Unsqueeze", positions, np.array([0], np.int64)),
            g("Unsqueeze", positions, np.array([1], np.int64)),
        )
        ahead = g("Mul", g("Cast", later, to=TensorProto.FLOAT), np.array(-1e9, np.float32))
        bias = ahead if bias is None else g("Add", bias, ahead)

    def split(y: str, count: int) -> str:
        return g("Transpose", g("Reshape", y, np.array([0, 0, count, head], np.int64)), perm=[0, 2, 1, 3])

    def heads_of(y: str) -> str:
        """Repeat the heads of a group: each serves two heads of queries that follow each other."""
        parted = g("Unsqueeze", y, np.array([2], np.int64))
        repeated = g("Concat", *[parted] * (heads // groups), axis=2)
        return g("Reshape", repeated, np.array([0, heads, -1, head], np.int64))

    for layer in range(CONFIG["num_hidden_layers"]):
        y = g.rms_norm(x, w[f"{layer}.input_layernorm"])
        queries = g.rms_norm(split(g("MatMul", y, w[f"{layer}.q_proj"]), heads), w[f"{layer}.q_norm"])
        keys = g.rms_norm(split(g("MatMul", y, w[f"{layer}.k_proj"]), groups), w[f"{layer}.k_norm"])
        values = heads_of(split(g("MatMul", y, w[f"{layer}.v_proj"]), groups))
        queries, keys = g.rotate(queries, cosine, sine), heads_of(g.rotate(keys, cosine, sine))
        scores = g("MatMul", queries, g("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = g("Mul", scores, np.array(head**-0.5, np.float32))
        if bias is not None:
            scores = g("Add", scores, bias)
        mixed = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), values), perm=[0, 2, 1, 3])
        merged = g("Reshape", mixed, np.array([0, 0, heads * head], np.int64))
        x = g("Add", x, g("MatMul", merged, w[f"{layer}.o_proj"]))
        y = g.rms_norm(x, w[f"{layer}.post_attention_layernorm"])
        gate = g("MatMul", y, w[f"{layer}.gate_proj"])
        gated = g("Mul", g("Mul", gate, g("Sigmoid", gate)), g("MatMul", y, w[f"{layer}.up_proj"]))
        x = g("Add", x, g("MatMul", gated, w[f"{layer}.down_proj"]))
    x = g.rms_norm(x, w["norm"])

    name, shape = "last_hidden_state", ["batch", "sequence", CONFIG["hidden_size"]]
    if pooled:
        x = g("ReduceMean", x, axes=[1], keepdims=0)
        name, shape = "sentence_embedding", ["batch", CONFIG["hidden_size"]]
    g.nodes.append(helper.make_node("Identity", [x], [name]))
    inputs = [
        helper.make_tensor_value_info(each, TensorProto.INT64, ["batch", "sequence"])
        for each in ("input_ids", "attention_mask", *["position_ids"] * placed, *["past_key_values.0.key"] * cached)
    ]
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    constants = [numpy_helper.from_array(np.asarray(value), each) for each, value in g.constants.items()]
    graph = helper.make_graph(g.nodes, "tiny_qwen3", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


_REFUSES = 'raise RuntimeError("code of a model folder was executed")\n'


def write_folder(folder: Path, *, external: bool = True, seed: int = 20, **options: bool) -> Path:
    """Write a folder with the files of the vendor's repository; ``options`` are those of :func:`graph_of`."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "1_Pooling").mkdir()
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    modules = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
    modules.append("st_quantize.FlexibleQuantizer")
    files: dict[str, Any] = {
        "config.json": CONFIG,
        "config_sentence_transformers.json": {"prompts": {"query": "", "document": ""}, "similarity_fn_name": "cosine"},
        "tokenizer_config.json": {
            "model_max_length": 131072,
            "pad_token": SEPARATOR,
            "sep_token": SEPARATOR,
            "tokenizer_class": "Qwen2Tokenizer",
        },
        "special_tokens_map.json": {"sep_token": {"content": SEPARATOR, "special": True}},
        "modules.json": [{"idx": i, "name": str(i), "path": "", "type": each} for i, each in enumerate(modules)],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    for name in ("modeling.py", "configuration.py", "st_quantize.py"):
        (folder / name).write_text(_REFUSES, encoding="utf-8")
    where = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 1024} if external else {}
    onnx.save_model(graph_of(weights(seed), **options), folder / "onnx" / "model.onnx", **where)
    return folder


if __name__ == "__main__":
    made = write_folder(Path(sys.argv[1]))
    print(f"{made}: {sum(path.stat().st_size for path in (made / 'onnx').iterdir()):,} bytes of graph and weights")
