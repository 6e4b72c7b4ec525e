"""Fit the weights of ``src/tokens/estimate.rs`` and ``letter_pairs.rs`` to the real tokenizer, and report the errors.

    python tests/packing/calibrate_estimate.py ../shared/data FOLDER...

Least squares over passages of some 2,000 bytes, each weighted so that its relative error counts, with a small penalty
on weights that the texts hardly determine. The texts are the corpora (four folders and Cranfield), and, with less mass,
those of further folders, for other languages and for code: catalogues of messages (``.po``, by language) and sources
(``.rs``, ``.md``, ``.py``, ``.js``, ``.html``). The committed weights were fitted with the package Django 5.2.19,
which has messages in some hundred languages (those of more than 8,000 characters are taken), and with the sources of
some two hundred crates: those of ``Cargo.lock`` and others in cargo's cache. Other crates give other weights.

Fits without one kind, judged on that kind, show what to expect of new kinds of text. The last lines are the weights.
Needs ``tokenizers``.
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from ctxembed import _core
from tokenizers import Tokenizer

FOLDERS = ("pep_en", "rustbook_en", "rustbook_zh", "react_ko")
CORPORA = (*FOLDERS, "cranfield")
SUFFIXES = {".rs": 6, ".md": 1, ".py": 4, ".js": 1, ".html": 1}  # one in so many files is read
PASSAGE = 2_000
SYMBOLS = 32
ONE, UNIT, ROWS = 1024, 128, 28  # tokens in units of classes, of pairs; rows of the table

# Scripts whose languages differ much are not fitted, and their texts are left out. Their weights are close to those of
# the language with more tokens a character.
FIXED = {
    "CYRILLIC": 0.35,
    "CYRILLIC_RUN": 1.4,
    "GREEK": 1.12,
    "ARMENIAN": 1.6,
    "ARABIC": 0.7,
    "INDIC": 1.4,
    "GEORGIAN": 1.6,
    "KANA": 0.65,
    "ASTRAL": 2.4,
}
PENALTY = 1e-4


def read(data: Path, folders: list[Path]) -> dict[str, list[str]]:
    """Return the documents of each kind."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in FOLDERS:
        kinds[name] = [path.read_text() for path in sorted((data / "corpus" / name).iterdir())]
    lines = (data / "ir" / "cranfield" / "corpus.jsonl").read_text().splitlines()
    kinds["cranfield"] = [f"{entry['title']}\n{entry['text']}" for entry in map(json.loads, lines)]
    for folder in folders:
        for path in sorted(folder.rglob("django.po")):
            quoted = r'"(?:[^"\\]|\\.)*"\n?'
            found = re.findall(rf"^msgstr(?:\[\d\])? ((?:{quoted})+)", path.read_text(), re.MULTILINE)[1:]
            messages = ["".join(re.findall('"(.*)"', text)).replace(r"\n", "\n").replace(r"\"", '"') for text in found]
            kinds[f"po_{path.parts[-3]}"].append("\n\n".join(filter(None, messages)))
        for suffix, share in SUFFIXES.items():
            for path in sorted(folder.rglob(f"*{suffix}"))[::share]:
                text = path.read_text(errors="replace")
                if 2_000 < len(text) < 200_000:
                    kinds[suffix].append(text)
    # Random letters and base64, so that long words of no language get many tokens.
    rng = np.random.default_rng(1)
    for letters in ("abcdefghijklmnopqrstuvwxyz", "ACDEFGHIKLMNPQRSTVWY", string.ascii_letters + string.digits + "+/"):
        kinds["random"] += ["".join(rng.choice(list(letters), 4_000)) for _ in range(10)]
    kinds = {kind: [text for text in texts if len(text.strip()) > 50] for kind, texts in kinds.items()}
    return {kind: texts for kind, texts in kinds.items() if sum(map(len, texts)) > 8_000}


def passages(text: str) -> list[str]:
    """Return a text's paragraphs, short ones together."""
    found: list[str] = []
    for part in re.split(r"\n\s*\n", text):
        if not part.strip():
            continue
        if found and len((found[-1] + part).encode()) < PASSAGE:
            found[-1] += "\n\n" + part
        else:
            found.append(part)
    return found


def count(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Return the exact counts."""
    return np.array([len(entry) for entry in tokenizer.encode_batch(texts, add_special_tokens=False)], dtype=float)


def features(texts: list[str]) -> np.ndarray:
    """Return the counts of the classes, then of the pairs of letters (or of a letter and something else)."""
    classes = _core.token_classes(texts)[1]
    symbol = np.zeros(256, dtype=np.int64)
    for letters in (b"abcdefghijklmnopqrstuvwxyz", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        symbol[list(letters)] = range(1, 27)
    pairs = np.zeros((len(texts), SYMBOLS**2))
    for i, text in enumerate(texts):
        symbols = symbol[np.frombuffer(f" {text} ".encode(), dtype=np.uint8)]
        pairs[i] = np.bincount(SYMBOLS * symbols[:-1] + symbols[1:], minlength=SYMBOLS**2)
    pairs[:, 0] = 0
    return np.hstack([classes, pairs])


class Kind:
    """The normal equations of the texts of one kind, and its whole documents to judge a fit by."""

    def __init__(self, name: str, names: list[str], tokenizer: Tokenizer, texts: list[str]) -> None:
        parts = [part for text in texts for part in passages(text)]
        x, y = features(parts), count(tokenizer, parts)
        mass = 1.0 if name in CORPORA else 0.05 if name.startswith(("po_", "random")) else 0.3
        used = x[:, [name in FIXED for name in names] + [False] * SYMBOLS**2].sum(axis=1) < 0.05 * y
        weighted = x.T * (used * mass / y / y.sum())
        self.square, self.product = weighted @ x, weighted @ y
        self.documents, self.exact = features(texts), count(tokenizer, texts)


def fit(kinds: list[Kind], names: list[str]) -> np.ndarray:
    """Return the weights in tokens."""
    square, product = sum(kind.square for kind in kinds), sum(kind.product for kind in kinds)
    penalty = np.full(len(square), PENALTY)
    penalty[: len(names)] /= 30
    weights = np.zeros(len(square))
    weights[: len(names)] = [FIXED.get(name, 0.0) for name in names]
    free = np.ones(len(square), dtype=bool)
    free[: len(names)] = [name not in FIXED for name in names]
    rest = (product - square @ weights)[free]
    weights[free] = np.linalg.solve(square[np.ix_(free, free)] + np.diag(penalty[free]), rest)
    return weights


def rounded(weights: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the weights of the classes, those of the pairs as bytes, and the byte that stands for weight 0."""
    pairs = np.round(weights[classes:] * UNIT).astype(int)
    zero = -pairs.min()
    return np.round(weights[:classes] * ONE).astype(int), np.clip(pairs + zero, 0, 255), zero


def report(title: str, kind: Kind, weights: np.ndarray) -> None:
    """Print the ratio of the sums, its deviation over the tokens, the least and the largest of a document."""
    estimate = kind.documents @ weights
    ratio, whole = estimate / kind.exact, estimate.sum() / kind.exact.sum()
    deviation = np.sqrt(np.average((ratio - whole) ** 2, weights=kind.exact))
    print(f"  {title:24} sum {whole:.3f} +- {deviation:.3f}  least {ratio.min():.3f}  largest {ratio.max():.3f}")


def main() -> None:
    """Fit, report, and print the weights as Rust."""
    data = Path(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(data / "tokenizer" / "tokenizer.json"))
    names = _core.token_classes([])[0]
    texts = read(data, [Path(folder) for folder in sys.argv[2:]])
    kinds = {name: Kind(name, names, tokenizer, found) for name, found in texts.items()}
    weights = fit(list(kinds.values()), names)
    for name, kind in kinds.items():
        report(name, kind, weights)
    for name, kind in kinds.items():
        others = [other for key, other in kinds.items() if key.split("_")[:2] != name.split("_")[:2]]
        report(f"{name}, fitted without", kind, fit(others, names))
    classes, pairs, zero = rounded(weights, len(names))
    for name, weight in zip(names, classes, strict=True):
        print(f"    {weight}, // {name}")
    print(f"ZERO: {zero}")
    for row in pairs.reshape(SYMBOLS, SYMBOLS)[:ROWS]:
        print(f"    {', '.join(map(str, row))},")


if __name__ == "__main__":
    main()
