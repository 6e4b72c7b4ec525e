"""``_seal``: raw rows of a file become the index file that ``save`` would write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from ctxembed import _core as cx
from ctxembed._errors import IndexFileError

from .conftest import int8, packed

KINDS = [cx.Index, cx.BinaryIndex]


def random_rows(kind, rng, count, dims):
    return int8(rng, count, dims) if kind is cx.Index else packed(rng, count, dims // 8)


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def row_bytes(kind, dims):
    return dims if kind is cx.Index else dims // 8


@pytest.mark.parametrize("space", [None, "a space"])
@pytest.mark.parametrize(
    ("kind", "dims", "count"),
    [
        *[(kind, dims, count) for kind in KINDS for dims in (8, 64) for count in (0, 1, 7, 500)],
        *[(cx.Index, dims, 333) for dims in (1, 3, 100, 131_071)],
        (cx.Index, 1024, 5000),  # more than one step of reading
        (cx.BinaryIndex, 1024, 40_000),
    ],
)
def test_a_sealed_file_is_the_saved_one_byte_for_byte(tmp_path, rng, kind, dims, count, space):
    rows = random_rows(kind, rng, min(count, 40_000_000 // dims), dims)
    (tmp_path / "tail.rows").write_bytes(rows.tobytes())
    header = kind._seal(tmp_path / "tail.rows", len(rows), tmp_path / "sealed.idx", dims, space=space)
    index = kind(dims, space=space)
    index.add(rows)
    index.save(tmp_path / "saved.idx")
    sealed = (tmp_path / "sealed.idx").read_bytes()
    assert sealed == (tmp_path / "saved.idx").read_bytes()
    assert header == sealed[:256]
    assert len(kind.open(tmp_path / "sealed.idx", verify=True)) == len(rows)
    assert len(kind._open_segments(dims, [(tmp_path / "sealed.idx", header)], space=space)) == len(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_rows_are_ignored(tmp_path, rng, kind):
    rows = random_rows(kind, rng, 20, 64)
    (tmp_path / "tail.rows").write_bytes(rows.tobytes() + b"torn row")
    kind._seal(str(tmp_path / "tail.rows"), 15, str(tmp_path / "sealed.idx"), 64)
    assert np.array_equal(kind.open(tmp_path / "sealed.idx").vectors(np.arange(15)), rows[:15])


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_file_is_refused_with_the_bytes_expected_and_found(tmp_path, rng, kind):
    width = row_bytes(kind, 64)
    (tmp_path / "tail.rows").write_bytes(random_rows(kind, rng, 20, 64).tobytes()[:-1])
    message = rf"tail\.rows is too short: its rows should have {20 * width} bytes, and it has {20 * width - 1}"
    with pytest.raises(IndexFileError, match=message):
        kind._seal(tmp_path / "tail.rows", 20, tmp_path / "sealed.idx", 64)
    with pytest.raises(IndexFileError, match="too short"):
        kind._seal(tmp_path / "tail.rows", 2**63 - 1, tmp_path / "sealed.idx", 64)
    assert names(tmp_path) == ["tail.rows"]


def test_a_file_that_shrinks_meanwhile_is_refused(tmp_path):
    """The interrupt check of the first step runs the handler that truncates the file."""
    path, size = tmp_path / "tail.rows", 512 << 20
    path.touch()
    os.truncate(path, size)
    before = signal.signal(signal.SIGALRM, lambda *_: os.truncate(path, 1000))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(IndexFileError, match=rf"tail\.rows is too short: .* {size} bytes, and it has \d+"):
            cx.Index._seal(path, size // 1024, tmp_path / "sealed.idx", 1024)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert names(tmp_path) == ["tail.rows"]


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("pipe", "a named pipe"), ("", "a directory")):
        with pytest.raises(IndexFileError, match=rf"{name} is not a regular file: it is {what}"):
            cx.Index._seal(tmp_path / name, 0, tmp_path / "sealed.idx", 8)
    with pytest.raises(FileNotFoundError, match=r"cannot read the rows in .*missing"):
        cx.Index._seal(tmp_path / "missing", 0, tmp_path / "sealed.idx", 8)


def test_a_target_is_replaced_atomically_and_kept_on_an_error(tmp_path, rng):
    rows, target = int8(rng, 20, 8), tmp_path / "sealed.idx"
    (tmp_path / "tail.rows").write_bytes(rows.tobytes())
    cx.Index._seal(tmp_path / "tail.rows", 10, target, 8)
    mapped, before = cx.Index.open(target), target.read_bytes()
    with pytest.raises(IndexFileError, match="too short"):
        cx.Index._seal(tmp_path / "tail.rows", 21, target, 8)
    assert target.read_bytes() == before
    cx.Index._seal(tmp_path / "tail.rows", 20, target, 8)
    assert (len(mapped), len(cx.Index.open(target))) == (10, 20)
    with pytest.raises(FileNotFoundError, match=r"cannot save the index to .*nowhere"):
        cx.Index._seal(tmp_path / "tail.rows", 20, tmp_path / "nowhere" / "sealed.idx", 8)
    assert names(tmp_path) == ["sealed.idx", "tail.rows"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": -1}, ValueError, "rows must be at least 0, got -1"),
        ({"rows": 1.5}, TypeError, "rows must be an int, got 1.5"),
        ({"dims": 12}, ValueError, "dims must be a multiple of 8, got 12"),
        ({"space": ""}, ValueError, "space must have 1 to 4096 bytes"),
        ({"target": 5}, TypeError, "path must be a str or os.PathLike, got 5"),
    ],
)
def test_arguments_are_validated(tmp_path, change, error, message):
    (tmp_path / "tail.rows").write_bytes(bytes(8))
    call = {"rows_path": tmp_path / "tail.rows", "rows": 1, "target": tmp_path / "sealed.idx", "dims": 8}
    with pytest.raises(error, match=message):
        cx.BinaryIndex._seal(**call | change)


@pytest.mark.parametrize("kind", KINDS)
def test_sealing_holds_only_bits_and_norms_in_memory(tmp_path, kind):
    """128 MiB of int8 rows have 16 MiB of bits and half a MiB of norms."""
    size = 128 << 20
    (tmp_path / "tail.rows").touch()
    os.truncate(tmp_path / "tail.rows", size)
    program = f"""
import resource
from ctxembed import _core as cx
rows = {size} // {row_bytes(kind, 1024)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cx.{kind.__name__}._seal({str(tmp_path / "tail.rows")!r}, rows, {str(tmp_path / "sealed.idx")!r}, 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    derived = size // 8 + size // 256 if kind is cx.Index else 0
    assert int(run.stdout) * 1024 < derived + (10 << 20)


def test_the_interpreter_is_released(tmp_path):
    size, done, steps = 64 << 20, threading.Event(), 0
    (tmp_path / "tail.rows").touch()
    os.truncate(tmp_path / "tail.rows", size)

    def seal():
        cx.Index._seal(tmp_path / "tail.rows", size // 1024, tmp_path / "sealed.idx", 1024)
        done.set()

    thread = threading.Thread(target=seal)
    thread.start()
    while not done.is_set():
        steps += 1
    thread.join()
    assert steps > 0
