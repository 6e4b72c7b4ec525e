"""Fit the weights of ``src/tokens/estimate.rs`` against the real tokenizer, and say how well they do.

    python tests/packing/calibrate_estimate.py ../shared/data > weights.txt

The weights are those of the least sum of estimates under which no document of the corpora (four folders and
Cranfield) is underestimated, kept near a least-squares fit over paragraphs so that they mean what they say. Scripts
that the corpora lack keep fixed weights. A second fit on every other document tells what to expect of new ones.
Needs ``tokenizers`` and ``scipy``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
from ctxembed import _core
from scipy.optimize import linprog, lsq_linear
from tokenizers import Tokenizer

FOLDERS = ("pep_en", "rustbook_en", "rustbook_zh", "react_ko")

# Where the fit may go: exact counts, scripts that the corpora lack (from short texts in some thirty languages), and
# classes that the corpora hold too few of for the fit to be trusted.
RANGES = {
    "DIGIT": (1, 1),
    "SPACE_BEFORE_DIGIT": (1, 1),
    "PROSE_1": (1, 1.3),
    "PROSE_EXTRA": (0.15, 0.7),
    "INNER_1": (0.4, 1),
    "INNER_2": (0.4, 1.2),
    "INNER_EXTRA": (0.2, 0.7),
    "UPPER_2": (1, 2),
    "UPPER_EXTRA": (0.2, 1),
    "RARE_PAIR": (0.4, 1.2),
    "FOREIGN": (0.5, 0.8),
    "MARK_BEFORE_LETTER": (0.2, 1),
    "MARK": (0.8, 1),
    "MARKS_TWO": (0.8, 2),
    "MARKS_MORE": (1, 3),
    "MARKS_CHANGE": (0.2, 1),
    "MARKS_LONG": (0.2, 1),
    "LINE_AFTER_MARK": (0.1, 1),
    "LINE": (0.9, 1),
    "SPACES": (0.5, 1),
    "SPACES_LONG": (0.1, 1),
    "LATIN": (0.7, 0.9),
    "CYRILLIC": (0.3, 0.3),
    "CYRILLIC_RUN": (1.4, 1.4),
    "GREEK": (1.12, 1.12),
    "ARABIC": (0.65, 0.65),
    "INDIC": (1.32, 1.32),
    "SYMBOL": (1, 1.4),
    "CJK_MARK": (0.3, 1),
    "KANA": (0.65, 0.8),
    "HAN": (0.55, 0.8),
    "HAN_RUN": (0, 1.3),
    "HANGUL": (0.5, 0.85),
    "HANGUL_RUN": (0, 0.8),
    "OTHER": (0.8, 0.8),
    "ASTRAL": (2.4, 2.4),
}


def read(data: Path) -> dict[str, list[str]]:
    """Return the documents of each folder."""
    found = {name: [path.read_text() for path in sorted((data / "corpus" / name).iterdir())] for name in FOLDERS}
    lines = (data / "ir" / "cranfield" / "corpus.jsonl").read_text().splitlines()
    found["cranfield"] = [f"{entry['title']}\n{entry['text']}" for entry in map(json.loads, lines)]
    return {name: [text for text in texts if text.strip()] for name, texts in found.items()}


def paragraphs(texts: list[str]) -> list[str]:
    """Return the paragraphs of all texts."""
    return [part for text in texts for part in re.split(r"\n\s*\n", text) if part.strip()]


def count(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Return the exact counts."""
    return np.array([len(entry) for entry in tokenizer.encode_batch(texts, add_special_tokens=False)], dtype=float)


def central(names: list[str], parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Fit least squares over paragraphs: what each class costs on the average."""
    rows, values = [], []
    for features, exact in parts.values():
        scale = 1 / np.sqrt(exact * exact.sum())
        rows.append(features * scale[:, None])
        values.append(exact * scale)
    low = np.array([RANGES.get(name, (0, 4))[0] for name in names], dtype=float)
    high = np.array([RANGES.get(name, (0, 4))[1] for name in names], dtype=float)
    return lsq_linear(np.vstack(rows), np.concatenate(values), bounds=(low, high + 1e-9)).x


def covering(names: list[str], middle: np.ndarray, docs: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Fit the least weights that underestimate no document."""
    rows = [-features / exact[:, None] for features, exact in docs.values()]
    limits = [-np.ones(len(exact)) for _, exact in docs.values()]
    goal = sum((features / exact[:, None]).mean(axis=0) for features, exact in docs.values())
    for i, name in enumerate(names[:-1]):
        stem = name.rsplit("_", 1)[0]
        if stem in {"PROSE", "INNER", "UPPER"} and names[i + 1] in {f"{stem}_LONG"} | {
            f"{stem}_{length}" for length in range(1, 13)
        }:
            step = np.zeros(len(names))
            step[i], step[i + 1] = 1, -1  # a longer word costs no less
            rows.append(step[None])
            limits.append(np.zeros(1))
    bounds = [RANGES.get(name, (0.85 * w, max(2.5 * w, w + 0.15))) for name, w in zip(names, middle, strict=True)]
    found = linprog(goal, A_ub=np.vstack(rows), b_ub=np.concatenate(limits), bounds=bounds, method="highs")
    if found.status:
        sys.exit(f"no weights cover every document: {found.message}")
    return found.x


def report(title: str, weights: np.ndarray, docs: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Print by folder: the ratio of the sums, the least and the largest of a document."""
    print(title, file=sys.stderr)
    for name, (features, exact) in docs.items():
        ratio = np.ceil(features @ weights) / exact
        whole = np.ceil(features @ weights).sum() / exact.sum()
        print(f"  {name:12} sum {whole:.3f}  least {ratio.min():.3f}  largest {ratio.max():.3f}", file=sys.stderr)


def main() -> None:
    """Fit, report, and print the weights as Rust."""
    data = Path(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(data / "tokenizer" / "tokenizer.json"))
    texts = read(data)
    names = _core.token_classes([])[0]
    docs, parts = {}, {}
    for name, found in texts.items():
        docs[name] = (_core.token_classes(found)[1].astype(float), count(tokenizer, found))
        pieces = paragraphs(found)
        parts[name] = (_core.token_classes(pieces)[1].astype(float), count(tokenizer, pieces))
    middle = central(names, parts)
    weights = np.ceil(covering(names, middle, docs) * 1024) / 1024
    report("fitted on all", weights, docs)
    report("paragraphs", weights, parts)
    for half in (0, 1):
        known = {name: (x[half::2], y[half::2]) for name, (x, y) in docs.items()}
        new = {name: (x[1 - half :: 2], y[1 - half :: 2]) for name, (x, y) in docs.items()}
        report(f"documents of the other half, fitted on half {half}", covering(names, middle, known), new)
    for name, weight in zip(names, weights, strict=True):
        print(f"    {round(weight * 1024)}, // {name}")


if __name__ == "__main__":
    main()
