"""Index.save and Index.open: round trips, damaged files, interrupted saves, memory and the format."""

import errno
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from ctxembed import _core as cx
from ctxembed._errors import IndexFileError

from . import mutate_files
from .conftest import int8, packed


def make(kind, rng, *, own_ids, rows=50):
    index = kind(48)
    data = int8(rng, rows, 48) if kind is cx.Index else packed(rng, rows, 6)
    ids = rng.permutation(1000)[:rows].astype(np.int64) - 500
    half = rows // 2
    index.add(data[:half], ids[:half] if own_ids else None)
    index.add(data[half:], ids[half:] if own_ids else None)
    return index, data


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def assert_same_results(a, b, queries):
    x, y = a.search(queries, 1000), b.search(queries, 1000)
    assert np.array_equal(x.ids, y.ids)
    assert np.array_equal(x.scores, y.scores)
    if isinstance(a, cx.Index):
        x, y = a.search(queries, 1000, stage="binary"), b.search(queries, 1000, stage="binary")
        assert np.array_equal(x.ids, y.ids)
        assert np.array_equal(x.scores, y.scores)


@pytest.mark.parametrize("kind", [cx.Index, cx.BinaryIndex])
@pytest.mark.parametrize("own_ids", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("verify", [None, False, True])
def test_a_saved_index_opens_with_the_same_results(tmp_path, rng, kind, own_ids, mmap, verify):
    index, data = make(kind, rng, own_ids=own_ids)
    path = tmp_path / "an index.ctx"
    index.save(path)
    again = kind.open(str(path), mmap, verify)
    assert (len(again), again.dims) == (50, 48)
    assert_same_results(index, again, data[:5])
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", [cx.Index, cx.BinaryIndex])
def test_an_empty_index_can_be_saved(tmp_path, kind):
    kind(16).save(tmp_path / "empty")
    for mmap in (False, True):
        again = kind.open(tmp_path / "empty", mmap=mmap, verify=True)
        assert (len(again), again.dims) == (0, 16)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("own_ids", [False, True])
def test_adding_to_an_open_index_does_not_change_its_file(tmp_path, rng, mmap, own_ids):
    index, data = make(cx.Index, rng, own_ids=own_ids)
    path = tmp_path / "index"
    index.save(path)
    before = path.read_bytes()
    again = cx.Index.open(path, mmap=mmap)
    assert again.add(data[:2]).tolist() == [50, 51] if not own_ids else True
    taken = int(again.search(data[7], 1).ids[0])
    with pytest.raises(ValueError, match=f"= {taken} is already in the index"):
        again.add(data[:1], np.array([taken]))
    again.add(data[:1], np.array([7777]))
    assert path.read_bytes() == before
    again.save(path)  # over the file that it maps
    assert_same_results(again, cx.Index.open(path, mmap=mmap, verify=True), data[:5])


def test_an_open_index_survives_the_deletion_of_its_file(tmp_path, rng):
    index, data = make(cx.Index, rng, own_ids=True)
    path = tmp_path / "index"
    index.save(path)
    again = cx.Index.open(path)
    path.unlink()
    assert_same_results(index, again, data[:5])


def test_opening_with_the_wrong_class_names_the_right_one(tmp_path, rng):
    make(cx.Index, rng, own_ids=False)[0].save(tmp_path / "int8")
    make(cx.BinaryIndex, rng, own_ids=False)[0].save(tmp_path / "bits")
    with pytest.raises(IndexFileError, match=r"bits holds packed binary vectors: open it with BinaryIndex\.open"):
        cx.Index.open(tmp_path / "bits")
    with pytest.raises(IndexFileError, match=r"int8 holds int8 vectors: open it with Index\.open"):
        cx.BinaryIndex.open(tmp_path / "int8")


def test_errors_name_a_missing_file_or_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cx.Index.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"cannot save the index to .*no/such"):
        cx.Index(8).save(tmp_path / "no" / "such" / "place")
    with pytest.raises(IsADirectoryError):
        cx.Index(8).save(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
def test_saving_does_not_replace_pipes_sockets_and_devices(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(path))
    else:
        path.symlink_to(os.devnull)
    before = path.stat()
    with pytest.raises(OSError, match=f"cannot save the index to .*there: it is {kind}, which would be replaced"):
        cx.Index(8).save(path)
    after = path.stat()
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    assert names(tmp_path) == ["there"]


OPEN = """
import sys
from ctxembed import BinaryIndex, Index, IndexFileError
for kind in (Index, BinaryIndex):
    for mmap in (False, True):
        try:
            kind.open(sys.argv[1], mmap)
        except IndexFileError as error:
            print(error)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device", "a directory"])
@pytest.mark.parametrize("linked", [False, True])
def test_opening_anything_but_a_regular_file_raises_at_once(tmp_path, kind, linked):
    path = tmp_path / "there"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(path))
    elif kind == "a device":
        path = Path("/dev/zero")
    else:
        path.mkdir()
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    # In another process: an open of a pipe that waits cannot be interrupted here.
    run = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, check=True, timeout=30)
    assert run.stdout.splitlines() == [f"{path} is not a regular file: it is {kind}"] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an index"),
        (b"CTX", "is truncated: 3 bytes"),
        (b"PK\x03\x04" + bytes(1000), "is not an index: it starts with"),
        (b"CTXEMIDX" + (4).to_bytes(4, "little") + bytes(500), "newer version: its format is 4, known up to 3"),
        (b"CTXEMIDX" + (1).to_bytes(4, "little") + bytes(500), "is damaged: the header's checksum"),
    ],
    ids=["empty", "short", "foreign", "newer", "blank"],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_that_is_not_an_index_is_rejected_with_the_reason(tmp_path, content, message, mmap):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=message) as caught:
        cx.Index.open(path, mmap=mmap)
    assert str(path) in str(caught.value)


def small(rng, path, *, calibrated):
    index, data = make(cx.Index, rng, own_ids=True, rows=4)
    index.remove(index.search(data[0], 1).ids)
    if calibrated:
        index.calibrate(data, 1)
    index.save(path)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
def test_verification_detects_every_changed_byte(tmp_path, rng, mmap, calibrated):
    path = tmp_path / "index"
    small(rng, path, calibrated=calibrated)
    assert path.read_bytes()[8] == (2 if calibrated else 1)
    whole = bytearray(path.read_bytes())
    for at in range(len(whole)):
        whole[at] ^= 0x55
        path.write_bytes(whole)
        with pytest.raises(IndexFileError):
            cx.Index.open(path, mmap=mmap, verify=True)
        whole[at] ^= 0x55


def test_a_changed_file_is_refused_or_has_the_saved_contents(tmp_path):
    """A part of what ``python -m tests.search.mutate_files`` opens."""
    changes = {name: mutate_files.CHANGES[name] for name in ("^ 0x80", "= 0x00")}
    figures = mutate_files.run(tmp_path, step=23, changes=changes)
    assert figures.wrong == []
    assert figures.outcomes["refused"] > 0.6 * figures.mutations
    assert figures.outcomes["unchanged"] > 0


@pytest.mark.parametrize("calibrated", [False, True])
def test_wrong_file_sizes_are_detected_without_verification(tmp_path, rng, calibrated):
    path = tmp_path / "index"
    small(rng, path, calibrated=calibrated)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(IndexFileError, match=r"truncated|is not an index"):
            cx.Index.open(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(IndexFileError, match="excess"):
        cx.Index.open(path)


def test_unverified_damage_affects_nothing_but_results(tmp_path, rng):
    """A mapped file of random bytes behind a valid header can be searched."""
    path = tmp_path / "index"
    index, data = make(cx.Index, rng, own_ids=True)
    index.save(path)
    whole = bytearray(path.read_bytes())
    whole[256:] = rng.bytes(len(whole) - 256)
    path.write_bytes(whole)
    damaged = cx.Index.open(path)
    assert damaged.search(data[:9], 50).ids.shape == (9, 50)
    assert damaged.search(data[:9], 50, stage="binary").ids.shape == (9, 50)
    assert damaged.search(data[:9], 3, stage="two-stage", oversample=4).ids.shape == (9, 3)
    assert damaged.search(data[:9], 50, dimensions=16).ids.shape == (9, 50)
    assert damaged.count(data[:9], -2.0).tolist() == [50] * 9
    assert len(damaged.near_duplicates(-2.0)) == 50 * 49 // 2
    assert 0 < damaged.calibrate(data[:9], 3).recall <= 1
    ids = damaged.search(data[0], 50).ids
    assert damaged.search(data[0], 50, mask=ids[:7]).ids.shape[0] <= 50
    assert damaged.vectors(ids[:3]).shape == (3, 48)
    with pytest.raises(IndexFileError, match="checksum of section 1"):
        cx.Index.open(path, verify=True)


def test_new_files_have_default_permissions_and_existing_ones_keep_theirs(tmp_path, rng):
    path, plain = tmp_path / "index", tmp_path / "plain"
    index, _ = make(cx.Index, rng, own_ids=False)
    index.save(path)
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o600)
    index.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_saving_to_a_symbolic_link_writes_its_target(tmp_path, rng):
    index, data = make(cx.Index, rng, own_ids=False)
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "index"
    cx.Index(48).save(target)
    (tmp_path / "link").symlink_to(target)
    index.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_same_results(index, cx.Index.open(target), data[:3])


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("links", [1, 3])
@pytest.mark.parametrize("existing", [False, True])
def test_saving_through_symbolic_links_keeps_them_and_writes_the_file_at_their_end(
    tmp_path, rng, monkeypatch, relative, links, existing
):
    index, data = make(cx.Index, rng, own_ids=False)
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    target = tmp_path / "real" / "index"
    if existing:
        cx.Index(48).save(target)
    following = target
    for number in range(links):
        link = tmp_path / "links" / str(number)
        link.symlink_to(os.path.relpath(following, link.parent) if relative else following)
        following = link
    monkeypatch.chdir(tmp_path)
    index.save(following.relative_to(tmp_path) if relative else following)
    assert [entry.is_symlink() for entry in (tmp_path / "links").iterdir()] == [True] * links
    assert not target.is_symlink()
    assert_same_results(index, cx.Index.open(target, verify=True), data[:3])
    assert_same_results(index, cx.Index.open(following), data[:3])
    assert names(tmp_path / "real") == ["index"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs another file system")
def test_saving_through_a_link_to_another_file_system_writes_there(tmp_path, rng):
    index, data = make(cx.Index, rng, own_ids=False)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        target = Path(other) / "index"
        (tmp_path / "link").symlink_to(target)
        for _ in range(2):  # a missing file, then an existing one
            index.save(tmp_path / "link")
            assert_same_results(index, cx.Index.open(target), data[:3])
        assert names(Path(other)) == ["index"]
    assert names(tmp_path) == ["link"]


def test_saving_through_a_link_that_leads_nowhere_raises_and_keeps_the_link(tmp_path):
    links = {"loop": tmp_path / "loop", "missing": tmp_path / "no" / "index", "directory": tmp_path}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for name, number in (("loop", errno.ELOOP), ("missing", errno.ENOENT), ("directory", errno.EISDIR)):
        with pytest.raises(OSError, match=f"cannot save the index to {tmp_path / name}") as caught:
            cx.Index(8).save(tmp_path / name)
        assert caught.value.errno == number
        assert (tmp_path / name).is_symlink()
    assert names(tmp_path) == sorted(links)


@pytest.mark.skipif(sys.platform != "linux", reason="needs unnamed temporary files, which only Linux has")
def test_a_process_killed_while_saving_leaves_no_temporary_files(tmp_path, rng):
    path = tmp_path / "index"
    index, data = make(cx.Index, rng, own_ids=True)
    index.save(path)
    code = (
        "import sys, numpy as np; from ctxembed import _core as cx\n"
        "index = cx.Index(1024); index.add(np.ones((200_000, 1024), np.int8)); print('ready', flush=True)\n"
        "while True: index.save(sys.argv[1])"
    )
    path_of_other = tmp_path / "other"
    with subprocess.Popen([sys.executable, "-c", code, str(path_of_other)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05)  # a save takes longer, so this is somewhere in the middle of one
        process.kill()
    assert set(names(tmp_path)) <= {"index", "other"}
    assert_same_results(index, cx.Index.open(path), data[:3])


FULL_DISK = """
import resource, signal, sys
import numpy as np
from ctxembed import _core as cx
index = cx.Index(256)
index.add(np.ones((4000, 256), np.int8))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    index.save(sys.argv[1])
except OSError as error:
    print(error.errno, error)
"""


def test_a_failed_write_keeps_the_old_file(tmp_path, rng):
    path = tmp_path / "index"
    index, data = make(cx.Index, rng, own_ids=True)
    index.save(path)
    before = path.read_bytes()
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.startswith(f"{errno.EFBIG} "), run.stdout
    assert str(path) in run.stdout
    assert path.read_bytes() == before
    assert names(tmp_path) == ["index"]
    assert_same_results(index, cx.Index.open(path), data[:3])


def test_a_full_file_system_keeps_the_old_file(tmp_path):
    """Uses a tmpfs of 1 MB, where this process may mount one."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mount.stderr.decode().strip()}")
    try:
        path = tmp_path / "index"
        index = cx.Index(256)
        index.add(np.ones((1000, 256), np.int8))
        index.save(path)
        before = path.read_bytes()
        index.add(np.ones((4000, 256), np.int8))
        with pytest.raises(OSError, match="cannot save") as caught:
            index.save(path)
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == before
        assert names(tmp_path) == ["index"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_saving_to_a_read_only_directory_raises_permission_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write to any directory")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        cx.Index(8).save(tmp_path / "index")


def test_opening_with_mmap_does_not_read_the_rows_into_memory(tmp_path, rng):
    path = tmp_path / "index"
    index = cx.Index(1024)
    index.add(int8(rng, 60_000, 1024))
    index.save(path)
    del index
    code = (
        "import sys, resource; from ctxembed import _core as cx\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "index = cx.Index.open(sys.argv[1])\n"
        "print(len(index), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    count, kilobytes = map(int, run.stdout.split())
    assert count == 60_000
    assert kilobytes < 8_000
    mapped, read = cx.Index.open(path), cx.Index.open(path, mmap=False)
    queries = int8(rng, 3, 1024)
    assert_same_results(mapped, read, queries)


def test_the_file_format_matches_its_documentation(tmp_path, rng):
    """Read the file by its documentation alone."""
    path = tmp_path / "index"
    index, data = make(cx.Index, rng, own_ids=True)
    index.save(path)
    raw = path.read_bytes()
    assert raw[:8] == b"CTXEMIDX"
    version, kind = np.frombuffer(raw, "<u4", 2, 8)
    dims, rows, added, length, sections = np.frombuffer(raw, "<u8", 5, 16)
    assert (version, kind, dims, rows, added, length, sections) == (1, 1, 48, 50, 50, len(raw), 4)
    assert zlib.crc32(raw[:252]) == int.from_bytes(raw[252:256], "little")
    read = {}
    for at in range(56, 56 + 32 * 4, 32):
        tag, crc = np.frombuffer(raw, "<u4", 2, at)
        offset, size = map(int, np.frombuffer(raw, "<u8", 2, at + 8))
        assert offset % 64 == 0
        assert zlib.crc32(raw[offset : offset + -(-size // 64) * 64]) == crc
        read[int(tag)] = raw[offset : offset + size]
    assert np.array_equal(np.frombuffer(read[1], np.int8).reshape(50, 48), data)
    assert np.array_equal(
        np.frombuffer(read[2], np.uint8).reshape(50, 6), np.packbits(data >= 0, axis=1, bitorder="little")
    )
    assert np.array_equal(np.frombuffer(read[3], "<u4"), np.square(data.astype(np.int64)).sum(axis=1))
    assert len(np.frombuffer(read[4], "<i8")) == 50


def test_these_tests_leave_the_resource_limits_of_this_process_unchanged():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
