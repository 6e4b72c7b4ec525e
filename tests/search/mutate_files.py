"""Open index files of every kind with one byte changed, cut short or extended.

``python -m tests.search.mutate_files`` changes every byte to several values and prints the figures. A file must be
refused, or be opened with exactly the contents that were saved. Where the header has a new checksum too, the rows must
be the same.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ctxembed import _core as cx
from ctxembed._errors import IndexFileError

HEADER = 256
CHANGES: dict[str, Callable[[int], int]] = {
    "^ 0x01": lambda byte: byte ^ 0x01,
    "^ 0x80": lambda byte: byte ^ 0x80,
    "^ 0xff": lambda byte: byte ^ 0xFF,
    "= 0x00": lambda byte: 0x00,
    "= 0xff": lambda byte: 0xFF,
}


def indexes() -> Iterator[tuple[str, cx.Index | cx.BinaryIndex]]:
    """Yield small indexes that give every kind of file."""
    rng = np.random.default_rng(3)
    for kind in (cx.Index, cx.BinaryIndex):
        for ids in ("default ids", "own ids", "removed rows", "no rows"):
            for calibrated in (False, True):
                index = kind(24)
                vectors = rng.integers(-128, 128, (5, 24), dtype=np.int8)
                rows = vectors if kind is cx.Index else np.packbits(vectors >= 0, axis=1, bitorder="little")
                index.add(rows, [7, -3, 2**40, 0, 9] if ids == "own ids" else None)
                if calibrated:
                    index.calibrate(vectors, 2)
                if ids == "removed rows":
                    index.remove([1, 4])
                elif ids == "no rows":
                    index.remove(list(range(5)))
                yield f"{kind.__name__}, {ids}{', calibrated' * calibrated}", index


def contents(index: cx.Index | cx.BinaryIndex) -> tuple[object, ...]:
    """Return all that an index holds. Scores show the bits and norms that are stored beside the rows."""
    query = (np.arange(index.dims) % 120).astype(np.int8)
    searches: tuple[dict[str, object], ...] = ({}, {"metric": "asymmetric"}, {"stage": "two-stage"})
    if isinstance(index, cx.Index):
        searches += ({"stage": "binary"}, {"metric": "dot"})
    found = [index.search(query, 100, **options) for options in searches]
    count = len(index)
    order = [index.search(query, 1, mask=np.arange(count) == row).ids.tolist() for row in range(count)]
    vectors = index.vectors(found[0].ids)
    following = index.add(np.zeros((1, vectors.shape[1]), vectors.dtype)).tolist()
    scores = [(each.ids.tolist(), each.scores.tolist()) for each in found]
    return index.dims, count, order, vectors.tolist(), index.oversample, scores, following


@dataclass
class Figures:
    """What happened to the changed files."""

    files: int = 0
    mutations: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def changed(whole: bytes, step: int, changes: dict[str, Callable[[int], int]]) -> Iterator[tuple[str, bytes]]:
    """Yield each change and the bytes it gives: every ``step``-th byte changed, every such length, and more bytes."""
    for at in range(0, len(whole), step):
        for name, change in changes.items():
            yield f"byte {at} {name}", whole[:at] + bytes([change(whole[at])]) + whole[at + 1 :]
            # With the checksum of the changed header. Such a file may state another calibration, more rows ever added,
            # or, without rows, other dimensions.
            if at < HEADER - 4:
                header = whole[:at] + bytes([change(whole[at])]) + whole[at + 1 : HEADER - 4]
                resealed = header + zlib.crc32(header).to_bytes(4, "little") + whole[HEADER:]
                yield f"byte {at} {name}, header resealed", resealed
        yield f"cut to {at} bytes", whole[:at]
    for more in (b"\0", b"\xff", bytes(64), whole):
        yield f"{len(more)} bytes more", whole + more


def run(directory: Path, step: int = 1, changes: dict[str, Callable[[int], int]] = CHANGES) -> Figures:
    """Open every changed file, read and mapped, with all checksums compared."""
    figures, path = Figures(), directory / "index"
    for name, index in indexes():
        index.save(path)
        whole, kind = path.read_bytes(), type(index)
        expected = contents(index)
        figures.files += 1
        for change, damaged in changed(whole, step, changes):
            path.write_bytes(damaged)
            for mmap in (False, True):
                figures.mutations += 1
                try:
                    opened = kind.open(path, mmap=mmap, verify=True)
                except IndexFileError as error:
                    figures.outcomes["refused"] += 1
                    if str(path) not in str(error):
                        figures.wrong.append(f"{name}: {change}: the error names no file: {error}")
                    continue
                if damaged == whole:
                    figures.outcomes["unchanged"] += contents(opened) == expected
                elif "resealed" in change and contents(opened)[1:4] == expected[1:4]:
                    figures.outcomes["opened with the same rows"] += 1
                else:
                    figures.wrong.append(f"{name}: {change}: opened with mmap={mmap}")
                del opened
    return figures


def main() -> None:
    """Run on every byte and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="change every STEP-th byte only")
    with tempfile.TemporaryDirectory() as directory:
        figures = run(Path(directory), parser.parse_args().step)
    print(f"{figures.files} files, {figures.mutations} openings of changed files: {dict(figures.outcomes)}")
    print(*figures.wrong or ["none opened with other contents"], sep="\n")
    raise SystemExit(bool(figures.wrong))


if __name__ == "__main__":
    main()
