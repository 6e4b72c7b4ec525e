"""A journal in a folder: shared by processes, whole after kills, and never wrong after damage."""

import os
import pickle
import signal
import subprocess
import sys

import ctxembed
import numpy as np
import pytest
from ctxembed._collection.journal_folder import JournalFolder
from ctxembed._server import ServerProcess
from ctxembed.distributed.ray import JournalFolder as PublicJournalFolder

from .conftest import KEY

NO_USAGE = ctxembed.Usage()


def keys_of(*names):
    return [name.encode().ljust(32, b".") for name in names]


def rows(seed, count=3, width=16, dtype=np.int8):
    return np.random.default_rng(seed).integers(0, 100, (count, width)).astype(dtype)


def test_rows_come_back_in_this_and_in_other_processes(tmp_path):
    a, b, c = keys_of("a", "b", "c")
    journal, other = JournalFolder(tmp_path), JournalFolder(tmp_path)
    assert PublicJournalFolder is JournalFolder
    assert journal.get([a]) == {}
    journal.put({a: rows(1), b: rows(2, 1, 8, np.uint8)}, NO_USAGE)
    other.put({c: rows(3)}, NO_USAGE)
    for reader in (journal, other, pickle.loads(pickle.dumps(journal))):
        found = reader.get([a, b, c, *keys_of("unknown")])
        assert set(found) == {a, b, c}
        assert np.array_equal(found[a], rows(1))
        assert np.array_equal(found[b], rows(2, 1, 8, np.uint8))
        assert found[b].dtype == np.uint8
        assert np.array_equal(found[c], rows(3))
        assert len(reader) == 3
    journal.put({keys_of("d")[0]: rows(4)}, NO_USAGE)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(other) == 4


def test_a_record_that_is_cut_anywhere_is_ignored_until_it_is_whole(tmp_path):
    a, b = keys_of("a", "b")
    journal = JournalFolder(tmp_path / "whole")
    journal.put({a: rows(1)}, NO_USAGE)
    journal.put({b: rows(2)}, NO_USAGE)
    (file,) = (tmp_path / "whole").iterdir()
    content = file.read_bytes()
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / file.name
    reader = JournalFolder(tmp_path / "cut")
    for end in range(len(content) + 1):
        cut.write_bytes(content[:end])
        found = reader.get([a, b])
        assert set(found) == {key for key, whole in ((a, len(content) // 2), (b, len(content))) if end >= whole}
        assert all(np.array_equal(found[key], rows(seed)) for key, seed in ((a, 1), (b, 2)) if key in found)


def test_damage_costs_a_request_and_gives_no_wrong_rows(tmp_path):
    a, b = keys_of("a", "b")
    JournalFolder(tmp_path).put({a: rows(1), b: rows(2)}, NO_USAGE)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x40
        file.write_bytes(damaged)
        found = JournalFolder(tmp_path).get([a, b])
        assert len(found) < 2
        assert all(np.array_equal(found[key], rows(seed)) for key, seed in ((a, 1), (b, 2)) if key in found)


def test_other_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match="int8 or uint8 rows by keys of 32 bytes, got float32"):
        JournalFolder(tmp_path).put({keys_of("a")[0]: rows(1, dtype=np.float32)}, NO_USAGE)
    with pytest.raises(ValueError, match="keys of 32 bytes"):
        JournalFolder(tmp_path).put({b"short": rows(1)}, NO_USAGE)


PROGRAM = """
import sys, ctxembed
from ctxembed._collection.journal_folder import JournalFolder
url, folder = sys.argv[1:]
documents = [[f"document {n}", "second chunk"] for n in range(400)]
options = {"limits": ctxembed.Limits(documents=4), "max_concurrency": 4}
with ctxembed.Client("KEY", base_url=url, journal=JournalFolder(folder), **options) as client:
    for number, part in enumerate(client.stream(documents)):
        print(number, flush=True)
"""


def test_a_killed_process_pays_again_for_what_was_in_flight_alone(tmp_path):
    documents = [[f"document {n}", "second chunk"] for n in range(400)]
    with ServerProcess("--latency", "0.01") as server:
        command = [sys.executable, "-c", PROGRAM.replace("KEY", KEY), server.base_url, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(20):
            assert process.stdout.readline(), "the process ended early"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        done = len(JournalFolder(tmp_path))
        assert 80 <= done < 400
        with ctxembed.Client(KEY, base_url=server.base_url, journal=JournalFolder(tmp_path)) as client:
            again = client.embed(documents)
        with ctxembed.Client(KEY, base_url=server.base_url) as client:
            fresh = client.embed(documents)
    assert np.array_equal(again.vectors, fresh.vectors)
    # Every document has as many tokens: those of the documents that the journal lacked.
    assert again.usage.total_tokens * 400 == pytest.approx(fresh.usage.total_tokens * (400 - done), rel=0.05)
