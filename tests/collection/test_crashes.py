"""What is committed survives: kills at random moments and at every change of a file, errors of the disk, a full disk.

``python -m tests.collection.test_crashes --kills 200`` kills a job of 20,000 chunks 200 times; ``--steps`` kills or
fails every change of a file of one run of create, ingest, delete and compact.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from ctxembed import Client, Collection, CollectionError
from ctxembed._collection import rows as row_files
from ctxembed._collection import store, vector_files
from ctxembed._server import ServerConfig, ServerProcess

from tests.collection.fault_steps import MODES, build_faults, run_steps
from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected

KEY = "key-for-tests"
DOCUMENTS = 8_000  # of one to four chunks: 20,000
SEAL_ROWS = 1500

_CHILD = """
import sys
from ctxembed import Client, Collection, Limits
from tests.collection.samples import document, seal_often

path, url, count, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
seal_often(rows)
limits = Limits(chunks=400)
with Collection.open(path) as collection, Client(api_key="key-for-tests", base_url=url, limits=limits) as client:
    print("begins", flush=True)
    documents = (document(number) for number in range(count))
    report = collection.ingest(documents, client, progress=lambda now: print(now.chunks, flush=True))
    print(report.added, report.unchanged, flush=True)
"""


def child(path, url, count):
    """Start a process that ingests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path), url, str(count), str(SEAL_ROWS)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def chunks_embedded(server):
    """Return how many chunks a server has embedded, once it has no request any more."""
    with httpx.Client(base_url=server.base_url, trust_env=False) as http:
        while (stats := http.get("/stats").json())["in_flight"]:
            time.sleep(0.02)
        return stats["chunks"]


def kill_often(folder, server, kills, count=DOCUMENTS, seed=1, report=lambda *_: None):
    """Kill jobs at random moments until ``kills`` have been killed, and check the collection after each.

    When a job ends before its kill, the next one begins with an empty collection.
    """
    rng = random.Random(seed)
    path = folder / "killed.ctx"
    Collection.create(path, dimensions=DIMENSIONS).close()
    with Collection.create(folder / "whole.ctx", dimensions=DIMENSIONS) as whole:
        whole_client = Client(api_key=KEY, base_url=server.base_url)
        with whole_client:
            whole.ingest((document(number) for number in range(count)), whole_client)
        want = contents(whole)
    embedded = chunks_embedded(server)
    done, killed, most_in_flight, stored = 0, 0, 0, 0
    while killed < kills:
        process = child(path, server.base_url, count)
        first = process.stdout.readline()
        assert first == "begins\n", process.stderr.read()
        for _ in range(rng.randrange(5)):  # responses
            process.stdout.readline()
        time.sleep(rng.expovariate(1 / 0.02))
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if ended:
            assert process.returncode == 0, errors
            shutil.rmtree(path)
            Collection.create(path, dimensions=DIMENSIONS).close()
            assert stored <= sum(len(chunks) for chunks, *_ in want.values())
            done, stored = done + 1, 0
            chunks_embedded(server)
            continue
        killed += 1
        now = chunks_embedded(server)
        with Collection.open(path, read_only=True) as reader:
            found = contents(reader)
            assert reader.verify() == []
        with Collection.open(path) as writer:
            assert len(writer) == len(found)
        assert all(want[name] == held for name, held in found.items())
        after = sum(len(chunks) for chunks, *_ in found.values())
        assert after >= stored, "committed documents are gone"
        # What was embedded and not stored was in flight: a job sends nothing again that is stored.
        most_in_flight = max(most_in_flight, now - embedded - (after - stored))
        embedded, stored = now, after
        report(killed, done, len(found), most_in_flight)
    process = child(path, server.base_url, count)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    now = chunks_embedded(server)
    total = sum(len(chunks) for chunks, *_ in want.values())
    assert now - embedded == total - stored, "the last job sends what is missing, and nothing else"
    with Collection.open(path, read_only=True) as reader:
        assert contents(reader) == want
        assert reader.verify() == []
    assert f"{count - len(found)} {len(found)}" in output
    return {
        "killed": killed,
        "jobs that ended": done,
        "documents stored before the last job": len(found),
        "most chunks in flight at a kill": most_in_flight,
    }


@pytest.mark.timeout(300)
def test_a_job_that_is_killed_at_random_moments_loses_nothing_and_pays_nothing_twice(tmp_path, fresh_server):
    server = fresh_server(latency=0.03)
    found = kill_often(tmp_path, server, kills=6, count=2400)
    assert found["most chunks in flight at a kill"] <= 16 * 400
    assert found["documents stored before the last job"] > 100


# --- every change of a file ---


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    """The library that fails system calls."""
    return build_faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(("mode", "stride"), [("kill", 9), ("torn", 17)])
def test_a_kill_at_any_change_of_a_file_leaves_every_committed_document_whole(faults, tmp_path, mode, stride):
    found = run_steps(faults, "steps", tmp_path, mode, f"--stride={stride}")
    assert found["run"] > 20
    assert found["failed"] == {}


@pytest.mark.parametrize(("mode", "stride"), [("no-space", 19), ("io-error", 19), ("disk-full", 19)])
def test_an_error_at_any_change_of_a_file_is_named_and_the_same_collection_goes_on(faults, tmp_path, mode, stride):
    found = run_steps(faults, "steps", tmp_path, mode, f"--stride={stride}", "--first=4")
    assert found["run"] > 20
    assert found["failed"] == {}


def test_a_file_that_could_not_be_deleted_is_not_forgotten_by_the_next_rewrite(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 12 * DIMENSIONS)
    unlink = Path.unlink

    def refused(path, missing_ok=False):
        if path.name.startswith("tail-"):
            raise OSError(5, "Input/output error", str(path))
        unlink(path, missing_ok)

    documents = [document(number) for number in range(30)]
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        with monkeypatch.context() as failing:
            failing.setattr(Path, "unlink", refused)
            collection.ingest(documents, LocalEmbedder())
        left = sorted((tmp_path / "a.ctx").glob("tail-*"))
        assert len(left) > 1
        collection.delete(["doc-3"])
        collection.compact()
    with Collection.open(tmp_path / "a.ctx") as collection:
        assert len(list((tmp_path / "a.ctx").glob("tail-*"))) <= 1
        assert contents(collection) == expected([one for one in documents if one.id != "doc-3"])
        assert collection.verify() == []


# --- a database or disk that is full ---


def test_a_database_that_is_full_stops_the_job_and_the_rest_is_stored_later(tmp_path):
    documents = [document(number) for number in range(400)]
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(documents[:100], LocalEmbedder())
        connection = collection._store._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(OSError, match=r"No space left on device: '.*catalogue\.sqlite'") as caught:
            collection.ingest(documents, LocalEmbedder())
        assert caught.value.errno == 28
        held = contents(collection)
        assert len(held) >= 100
        assert held == expected(documents[: len(held)])
        assert collection.verify() == []
        connection.execute("PRAGMA max_page_count = 1000000")
        client = LocalEmbedder()
        report = collection.ingest(documents, client)
        assert (report.added, report.unchanged) == (400 - len(held), len(held))
        assert len(client.sent) == report.added
        assert contents(collection) == expected(documents)
        assert collection.verify() == []


def test_fields_of_a_commit_that_failed_can_be_filtered_once_it_succeeds(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        connection = collection._store._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        many = [document(number, lang="en") for number in range(60)]
        with pytest.raises(OSError, match="No space left"):
            collection.ingest(many, LocalEmbedder())
        connection.execute("PRAGMA max_page_count = 1000000")
        collection.ingest(many, LocalEmbedder())
        assert len(list(collection.documents("lang = 'en' AND number < 10"))) == 10


def test_a_writer_that_fails_to_compact_goes_on_and_the_next_one_opens(tmp_path, monkeypatch):
    """The files that the compaction would have written have the names of the tails that follow."""
    seal_often_here(monkeypatch)
    documents = [document(number) for number in range(30)]
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(documents, LocalEmbedder())
        collection.delete(["doc-4"])
        with monkeypatch.context() as patch:
            patch.setattr(vector_files, "renumber", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("no")))
            with pytest.raises(CollectionError, match=r"catalogue\.sqlite: no"):
                collection.compact()
        more = [document(number) for number in range(40, 80)]
        collection.ingest(more, LocalEmbedder())
    with Collection.open(tmp_path / "a.ctx") as collection:
        assert contents(collection) == expected([*documents[:4], *documents[5:], *more])
        assert collection.verify() == []
        assert collection.compact() == 1
        assert collection.verify() == []


def seal_often_here(monkeypatch):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 12 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 18 * DIMENSIONS)


def test_a_folder_without_room_for_a_segment_is_refused_before_anything_is_paid(tmp_path, monkeypatch):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        monkeypatch.setattr(store, "free_bytes", lambda _: 1 << 20)
        client = LocalEmbedder()
        with pytest.raises(OSError, match="needs 40 MiB for its next segment, and 1 MiB are free"):
            collection.ingest([document(1)], client)
        assert client.sent == []
        assert len(collection) == 0


_FULL_DISK = """
import os, sys
from ctxembed import Collection
from ctxembed._collection import store
from tests.collection.samples import *
import ctxembed._jobs.run as run

store._RESERVE = 0
run._DOCUMENTS = 16
seal_often(200)
path, filler = sys.argv[1], sys.argv[2]
documents = [document(number) for number in range(1500)]
with Collection.create(path, dimensions=DIMENSIONS) as collection:
    try:
        collection.ingest(documents, LocalEmbedder())
    except OSError as error:
        assert error.errno == 28 and path in str(error), error
    else:
        raise SystemExit("the disk did not fill")
    held = contents(collection)
    assert held and held == expected(documents[:len(held)]), len(held)
    assert collection.verify() == []
with Collection.open(path, read_only=True) as reader:
    assert contents(reader) == held
os.unlink(filler)
client = LocalEmbedder()
with Collection.open(path) as collection:
    assert contents(collection) == held
    report = collection.ingest(documents, client)
    assert report.unchanged == len(held) and len(client.sent) == 1500 - len(held), report
    assert contents(collection) == expected(documents)
    assert collection.verify() == []
print("all stored after", len(held))
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_job_on_a_full_disk_stops_and_goes_on_when_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr}")
    try:
        (disk / "filler").write_bytes(bytes(15 << 20))
        done = subprocess.run(
            [sys.executable, "-c", _FULL_DISK, str(disk / "a.ctx"), str(disk / "filler")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "all stored after" in done.stdout
    finally:
        subprocess.run(["umount", disk], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", action="store_true", help="every change of a file, in place of random kills")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.steps:
            library = build_faults(folder)
            for mode in [mode for mode in MODES if mode != "count"]:
                found = run_steps(library, "steps", folder, mode)
                print(f"{mode}: {found['run']} of {found['total']} steps, {len(found['failed'])} failed")
                for step, error in found["failed"].items():
                    print(f"--- step {step}\n{error}")
            return
        with ServerProcess(config=ServerConfig(latency=0.03)) as server:

            def show(killed, done, documents, in_flight):
                if killed % 20 == 0:
                    print(f"{killed} kills, {done} jobs ended, {documents} documents, {in_flight} chunks in flight")

            print(kill_often(folder, server, given.kills, seed=given.seed, report=show))


if __name__ == "__main__":
    main()
