"""The folder of a collection: what it may be, what is never touched, and where a collection cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ctxembed import Collection, CollectionError
from ctxembed._collection import folder as folders
from ctxembed._collection import rows as row_files

from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected, vectors_of

is_root = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(sys.platform != "linux" or not is_root, reason="mounts a file system")


def create(path):
    return Collection.create(path, dimensions=DIMENSIONS)


def tree(folder):
    """Return path -> content of all files below a folder, and None for folders."""
    return {
        str(entry.relative_to(folder)): entry.read_bytes() if entry.is_file() else None for entry in folder.rglob("*")
    }


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "segments/notes.txt", "catalogue.sqlite", "lock.txt"])
def test_a_folder_with_files_of_others_is_refused_and_not_touched(tmp_path, name):
    folder = tmp_path / "a.ctx"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"mine")
    before = tree(folder)
    with pytest.raises(FileExistsError) as caught:
        create(folder)
    assert str(folder) in str(caught.value)
    assert tree(folder) == before
    with pytest.raises(CollectionError, match=r"a\.ctx"):
        Collection.open(folder)
    assert tree(folder).keys() - {"lock"} == before.keys()


def test_a_collection_is_not_created_twice(tmp_path):
    create(tmp_path / "a.ctx").close()
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="is a collection already: open it"):
        create(tmp_path / "a.ctx")
    assert tree(tmp_path) == before


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError):
        create(tmp_path / "file")
    with pytest.raises(CollectionError, match="is not a collection"):
        Collection.open(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="there is no such collection"):
        Collection.open(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        create(tmp_path / "none" / "a.ctx")
    assert not (tmp_path / "none").exists()
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_paths_that_are_none(tmp_path):
    for call in (create, Collection.open):
        with pytest.raises(TypeError, match="path must be a str or os.PathLike"):
            call(5)
        with pytest.raises(ValueError, match="is empty"):
            call("")
        with pytest.raises(ValueError, match="null character"):
            call("a\0b")
    with pytest.raises(TypeError, match="read_only must be a bool"):
        Collection.open(tmp_path, read_only=1)


def test_an_earlier_output_is_named_as_such(tmp_path):
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "vectors.npy").write_bytes(b"")
    with pytest.raises(CollectionError, match="an earlier ctxembed wrote it"):
        Collection.open(tmp_path)


def test_an_empty_folder_and_an_empty_file_system_are_used(tmp_path):
    (tmp_path / "empty.ctx").mkdir()
    create(tmp_path / "empty.ctx").close()
    (tmp_path / "mounted.ctx" / "lost+found").mkdir(parents=True)
    with create(tmp_path / "mounted.ctx") as collection:
        collection.ingest([document(1)], LocalEmbedder())
        collection.delete(["doc-1"])
        collection.compact()
    assert (tmp_path / "mounted.ctx" / "lost+found").is_dir()


def test_files_of_others_inside_a_collection_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 12 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 18 * DIMENSIONS)
    folder = tmp_path / "a.ctx"
    create(folder).close()
    names = [
        "tail-000009.rows.bak", "tail-1.rows", "tail-000001.rows~", "segments/notes.txt", "segments/000001.idx.bak",
        "segments/.ctxembed-x.tmp", "catalogue.sqlite.bak", "notes/deep/file", ".hidden", "lock.bak",
    ]  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    with Collection.open(folder) as collection:
        collection.ingest([document(number) for number in range(20)], LocalEmbedder())
        collection.delete(["doc-3", "doc-4"])
        assert collection.compact() > 0
        assert collection.verify() == []
    with Collection.open(folder) as collection:
        assert len(collection) == 18
    assert {name: (folder / name).read_text() for name in names} == {name: name for name in names}


def test_own_files_that_are_not_needed_are_gone_after_compaction(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 12 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 18 * DIMENSIONS)
    with create(tmp_path / "a.ctx") as collection:
        collection.ingest([document(number) for number in range(20)], LocalEmbedder())
        collection.delete([f"doc-{number}" for number in range(20)])
        collection.compact()
        assert len(collection) == 0
        assert collection.verify() == []
    assert [entry.name for entry in (tmp_path / "a.ctx" / "segments").iterdir()] == []
    assert len(list((tmp_path / "a.ctx").glob("tail-*.rows"))) == 1


def test_a_symbolic_link_to_the_folder_and_to_the_folder_above(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with create(tmp_path / "link" / "a.ctx") as collection:
        assert collection.path == str(tmp_path / "real" / "a.ctx")
        collection.ingest([document(1)], LocalEmbedder())
    (tmp_path / "direct.ctx").symlink_to(tmp_path / "real" / "a.ctx")
    with Collection.open(tmp_path / "direct.ctx") as collection:
        collection.ingest([document(2)], LocalEmbedder())
        assert contents(collection) == expected([document(1), document(2)])
    assert (tmp_path / "direct.ctx").is_symlink()


@pytest.mark.parametrize("name", ["with space", "ünï-😀", "100%?#&.ctx", "a;b'c\"d", b"\xff\xfe.ctx"])
def test_names_that_are_special_in_urls_shells_and_sql(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + (name if isinstance(name, bytes) else name.encode())
    try:
        collection = create(os.fsdecode(path))
    except OSError as error:
        pytest.skip(f"the file system does not take the name: {error}")
    with collection:
        collection.ingest([document(1)], LocalEmbedder())
        assert collection.verify() == []
    with Collection.open(os.fsdecode(path), read_only=True) as collection:
        assert len(collection) == 1


def test_a_collection_that_was_moved_or_copied_is_the_same(tmp_path):
    with create(tmp_path / "a.ctx") as collection:
        collection.ingest([document(1)], LocalEmbedder())
    shutil.copytree(tmp_path / "a.ctx", tmp_path / "copy.ctx")
    (tmp_path / "a.ctx").rename(tmp_path / "moved.ctx")
    for name in ("copy.ctx", "moved.ctx"):
        with Collection.open(tmp_path / name) as collection:
            collection.ingest([document(2)], LocalEmbedder())
            assert contents(collection) == expected([document(1), document(2)])
            assert collection.verify() == []


_UNPRIVILEGED = """
import os, sys
from ctxembed import Collection
from tests.collection.samples import DIMENSIONS, vectors_of

closed, collection = sys.argv[1:]
try:
    Collection.create(closed + "/a.ctx", dimensions=DIMENSIONS)
except PermissionError as error:
    assert closed in str(error), error
else:
    raise SystemExit("created")
try:
    Collection.open(collection)
except PermissionError as error:
    assert collection in str(error), error
else:
    raise SystemExit("opened for writing")
with Collection.open(collection, read_only=True) as reader:
    assert len(reader) == 3 and reader.verify() == []
    assert len(reader.search(vectors_of(["query"])[0], 2, where="number < 5")) == 2
"""


def test_folders_without_permission_to_write(tmp_path):
    prefix = []
    if is_root:
        if shutil.which("setpriv") is None:
            pytest.skip("root writes everywhere, and setpriv is not installed")
        rights = "-dac_override,-dac_read_search,-fowner"
        prefix = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    with create(tmp_path / "a.ctx") as collection:
        collection.ingest([document(number) for number in range(3)], LocalEmbedder())
    closed = tmp_path / "closed"
    closed.mkdir()
    places = [closed, *(tmp_path / "a.ctx").rglob("*"), tmp_path / "a.ctx"]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        done = subprocess.run(
            [*prefix, sys.executable, "-c", _UNPRIVILEGED, str(closed), str(tmp_path / "a.ctx")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert list(closed.iterdir()) == []
    finally:
        for place in reversed(places):
            place.chmod(0o755)


@needs_root
@pytest.mark.parametrize("was_killed", [False, True])
def test_a_collection_on_a_read_only_medium_is_read(tmp_path, was_killed):
    with create(tmp_path / "a.ctx") as collection:
        collection.ingest([document(number) for number in range(20)], LocalEmbedder())
        if was_killed:  # the log was not folded into the database
            shutil.copytree(tmp_path / "a.ctx", tmp_path / "b.ctx")
    source, medium = tmp_path / ("b.ctx" if was_killed else "a.ctx"), tmp_path / "medium.ctx"
    medium.mkdir()
    for command in (["mount", "--bind", source, medium], ["mount", "-o", "remount,bind,ro", medium]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("cannot mount")
    try:
        if was_killed:
            try:
                collection = Collection.open(medium)
            except (CollectionError, OSError) as error:
                assert "medium.ctx" in str(error)  # noqa: PT017
                return
        else:
            collection = Collection.open(medium)
        with collection:
            assert collection.read_only
            assert contents(collection) == expected([document(number) for number in range(20)])
            assert collection.verify() == []
            assert collection.search(vectors_of(["q"])[0], 3, where="number > 3") != []
    finally:
        subprocess.run(["umount", medium], check=True)


MOUNTS = """
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:40 / {nfs} {options},relatime shared:2 - {kind} server:/export rw
41 22 0:41 / {nfs}/local\\040disk rw shared:3 - ext4 /dev/vdb rw
42 22 0:42 / /proc rw shared:4 - proc proc rw
strange line
"""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.s3fs", "ceph", "lustre", "9p"])
def test_network_file_systems_are_refused_before_anything_is_written(tmp_path, monkeypatch, kind):
    share = tmp_path / "share"
    (share / "local disk").mkdir(parents=True)
    create(share / "old.ctx").close()
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(folders, "_MOUNTS", mounts)
    mounts.write_text(MOUNTS.format(nfs=share, kind=kind, options="rw"))
    if kind == "9p":  # also the file system of a virtual machine, on one machine
        create(share / "a.ctx").close()
        return
    before = tree(share)
    with pytest.raises(CollectionError, match=rf"network file system \({kind}, mounted at {share}\)"):
        create(share / "a.ctx")
    for read_only in (True, False):
        with pytest.raises(CollectionError, match="Keep the collection on a local disk, or mount it read-only"):
            Collection.open(share / "old.ctx", read_only=read_only)
    assert tree(share) == before
    create(share / "local disk" / "a.ctx").close()
    create(tmp_path / "beside.ctx").close()
    mounts.write_text(MOUNTS.format(nfs=share, kind=kind, options="ro"))
    Collection.open(share / "old.ctx", read_only=True).close()


def test_a_system_without_a_list_of_mounts_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_MOUNTS", Path("/nowhere/mountinfo"))
    create(tmp_path / "a.ctx").close()
