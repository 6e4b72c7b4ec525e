"""Mutations of a tokenizer.json, and what reading each of them does.

``python -m tests.tokens.fuzz_files --cases 3000`` reads so many and fails at the first that does not end with a counter
or an error that names the file.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ctxembed

from .conftest import HERON

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**32,
    2**63,
    2**64,
    10**400,
    0.5,
    -0.0,
    "",
    " ",
    "a",
    "h e",
    "\u0120",
    "\ud800",
    "\U0001f600",
    "[",
    "(?",
    "(" * 500,
    "\\p{Nothing}",
    [],
    {},
    [[]],
    [None],
    ["h", "e"],
    {"h": 0},
    {"id": "A"},
    {"type": "BPE"},
]
MOST_SECONDS = 10.0


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each part of a JSON value; of long lists and objects only a few parts."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key in dict.fromkeys([*list(value)[:12], *list(value)[-6:]]):
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for position in range(min(len(value), 6)):
            found += places(value[position], (*path, position))
    return found


def mutate(contents: Any, rng: random.Random) -> None:
    """Change one part of a tokenizer.json."""
    paths = places(contents)
    if not paths:
        return
    *parents, last = rng.choice(paths)
    holder = contents
    for key in parents:
        holder = holder[key]
    match rng.randrange(8):
        case 0 if isinstance(holder, dict):
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(["unknown", "type", "id", "", "h"])] = copy.deepcopy(rng.choice(VALUES))
        case 2 if isinstance(holder, list):
            holder.insert(last, copy.deepcopy(holder[last]))
        case 3:
            deep: Any = holder[last]
            for _ in range(rng.choice([1, 5, 120, 200, 400])):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            holder[last] = deep
        case 4 if isinstance(holder[last], str):
            holder[last] = holder[last] * rng.choice([0, 2, 1000]) + rng.choice(["", "\u4e2d", "(", "\x00"])
        case 5 if isinstance(holder[last], int):
            holder[last] = rng.choice([-1, 0, 7, 2**31, 2**32 - 1, 2**32, 2**63, -(2**63), 10**30])
        case _:
            holder[last] = copy.deepcopy(rng.choice(VALUES))


def spelled(contents: Any, rng: random.Random) -> bytes:
    """Return the JSON; now and then with a byte changed, a part cut off, or a key twice."""
    text = json.dumps(contents, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    chance = rng.random()
    if chance < 0.05:
        return text[: rng.randrange(len(text))]
    if chance < 0.1:
        at = rng.randrange(len(text))
        return text[:at] + rng.randbytes(1) + text[at + 1 :]
    if chance < 0.13:
        return text.replace(b'"model": {', b'"model": {"type": "BPE", ', 1)
    return text


def check_reading(path: Path) -> str:
    """Read a file, and count with it if it can be read; return what happened."""
    started = time.monotonic()
    try:
        counter = ctxembed.TokenCounter.from_file(path)
    except ValueError as error:
        outcome = "refused" if str(path) in str(error) else f"refused without its path: {error}"
    else:
        try:
            counts = counter.count_batch(["heron <end> e\u0301", "", "the \u4e2d\u6587"])
        except Exception:  # noqa: BLE001 - the tokenizers package raises nothing more specific
            assert counter.backend == "tokenizers"  # its model may lack what the text needs
            outcome = "tokenizers, no counts"
        else:
            assert (counts >= 0).all()
            outcome = counter.backend
    assert time.monotonic() - started < MOST_SECONDS
    assert "without" not in outcome, outcome
    return outcome


def run(cases: int, seed: int) -> dict[str, int]:
    """Read ``cases`` mutated files; return how many had each outcome."""
    rng = random.Random(seed)
    outcomes: dict[str, int] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        for case in range(cases):
            contents = copy.deepcopy(HERON)
            for _ in range(rng.choice([1, 1, 1, 2, 4])):
                mutate(contents, rng)
            path.write_bytes(spelled(contents, rng))
            try:
                outcome = check_reading(path)
            except BaseException as error:
                error.add_note(f"case {case} of seed {seed}: {path.read_bytes()[:2000]!r}")
                raise
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(run(arguments.cases, arguments.seed))
