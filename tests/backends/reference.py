"""The model of :mod:`tests.backends.tiny_qwen3` in NumPy and float64, written from the papers, not from the graph."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from tests.backends.tiny_qwen3 import CONFIG, SEPARATOR, TOKENIZER


def states(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Return the last hidden states of one text, (tokens, width)."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    head, heads, groups = CONFIG["head_dim"], CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    n = len(ids)
    x = w["embed_tokens"][ids]
    for layer in range(CONFIG["num_hidden_layers"]):
        y = rms(x, w[f"{layer}.input_layernorm"])
        queries = rms((y @ w[f"{layer}.q_proj"]).reshape(n, heads, head), w[f"{layer}.q_norm"])
        keys = rms((y @ w[f"{layer}.k_proj"]).reshape(n, groups, head), w[f"{layer}.k_norm"])
        values = (y @ w[f"{layer}.v_proj"]).reshape(n, groups, head)
        mixed = np.empty((n, heads, head))
        for one in range(heads):
            group = one // (heads // groups)
            scores = rotary(queries[:, one]) @ rotary(keys[:, group]).T / np.sqrt(head)  # no mask: all see all
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, one] = shares / shares.sum(axis=1, keepdims=True) @ values[:, group]
        x = x + mixed.reshape(n, heads * head) @ w[f"{layer}.o_proj"]
        y = rms(x, w[f"{layer}.post_attention_layernorm"])
        gate = y @ w[f"{layer}.gate_proj"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w[f"{layer}.up_proj"])) @ w[f"{layer}.down_proj"]
    return rms(x, w["norm"])


def rms(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Root mean square normalisation (Zhang and Sennrich, 2019)."""
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + CONFIG["rms_norm_eps"]) * scale


def rotary(x: np.ndarray) -> np.ndarray:
    """Rotary position embeddings (Su et al., 2021): dimension i turns with i + half, as a complex number."""
    half = x.shape[1] // 2
    frequencies = CONFIG["rope_theta"] ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * np.outer(np.arange(len(x)), frequencies))
    return np.concatenate([turned.real, turned.imag], axis=1)


def means(weights: dict[str, np.ndarray], chunks: list[str]) -> np.ndarray:
    """Return the mean of each chunk's states: the chunks joined by text, spans by the ids of separators."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    ids = tokenizer.encode(SEPARATOR.join(chunks)).ids
    ends = [at for at, token in enumerate(ids) if token == tokenizer.token_to_id(SEPARATOR)] + [len(ids)]
    assert len(ends) == len(chunks)
    found, start = states(weights, ids), 0
    rows = []
    for end in ends:
        rows.append(found[start:end].mean(axis=0))
        start = end + 1
    return np.array(rows)


def codes(values: np.ndarray) -> np.ndarray:
    """Return the int8 values that the vendor publishes for means."""
    return np.clip(np.round(127 * np.tanh(values)), -127, 127).astype(np.int8)
