"""Embedding of Ray datasets by actors, against a server process; drivers and workers are killed."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed._server import ServerProcess
from ctxembed.distributed import ray as cray

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # Ray's own

KEY = "pplx-0123456789abcdefghijklmnopqrstuvwxyz"
ROOT = Path(__file__).parents[2]


def documents_of(count):
    return [[f"document {number}, chunk {chunk}" for chunk in range(1 + number % 3)] for number in range(count)]


def rows_of(documents):
    return [{"id": f"d{number}", "chunks": chunks, "year": number} for number, chunks in enumerate(documents)]


def stats(server):
    with urllib.request.urlopen(f"{server.base_url}/stats") as response:
        return json.load(response)


def options_of(server, **more):
    return {"api_key": KEY, "base_url": server.base_url, **more}


def stat_of(pid):
    """Return state, parent and start of a process, or None."""
    try:
        state, parent, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent), others[17]


def descendants(pid):
    """Return id and start of all processes below one."""
    below = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := stat_of(entry.name)):
            below.setdefault(found[1], []).append((int(entry.name), found[2]))
    todo, result = [pid], []
    while todo:
        children = below.get(todo.pop(), [])
        result += children
        todo += [child for child, _ in children]
    return result


def is_running(process):
    pid, began = process
    found = stat_of(pid)
    return found is not None and found[2] == began and found[0] not in "ZX"


@pytest.fixture
def server():
    with ServerProcess() as server:
        yield server


def test_rows_get_the_vectors_that_a_client_returns(ray, server):
    documents = documents_of(300)
    rows = rows_of(documents)
    rows[7]["chunks"] = []
    rows[9]["chunks"] = ["", "x"]
    dataset = ray.data.from_items(rows, override_num_blocks=3)
    embedded = cray.embed(dataset, dimensions=128, client_options=options_of(server), concurrency=(1, 2), batch_size=64)
    found = sorted(embedded.take_all(), key=lambda row: row["year"])
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["year"] for row in found if row["error"] is not None] == [7, 9]
    assert found[7]["error"] == "DocumentError: the document has no chunks"
    assert found[7]["vectors"] is None
    good = [number for number in range(300) if number not in {7, 9}]
    with ctxembed.Client(**options_of(server)) as client:
        expected = client.embed([documents[number] for number in good], dimensions=128)
    for place, number in enumerate(good):
        assert np.array_equal(np.array([*found[number]["vectors"]], dtype=np.int8), expected[place])
    assert sum(row["tokens"] for row in found) == expected.usage.total_tokens
    assert sum(row["cost_usd"] for row in found) == pytest.approx(float(expected.usage.cost_usd))


def test_bits_go_to_parquet_and_back(ray, server, tmp_path):
    import pyarrow.parquet

    dataset = ray.data.from_items(rows_of(documents_of(20)))
    embedded = cray.embed(dataset, encoding_format="base64_binary", client_options=options_of(server), concurrency=1)
    embedded.write_parquet(str(tmp_path))
    table = pyarrow.parquet.read_table(tmp_path)
    assert table.num_rows == 20
    row = table.sort_by("year").slice(4, 1).to_pylist()[0]
    with ctxembed.Client(**options_of(server)) as client:
        expected = client.embed([row["chunks"]], encoding_format="base64_binary")
    assert np.array_equal(np.array(row["vectors"], np.uint8), expected.vectors)


def test_wrong_arguments_are_refused_before_anything_starts(ray):
    dataset = ray.data.from_items(rows_of(documents_of(2)))
    with pytest.raises(TypeError, match=r"must be a ray\.data\.Dataset, got list"):
        cray.embed([])
    with pytest.raises(ValueError, match="nothing"):
        cray.embed(dataset, model="nothing")
    with pytest.raises(ValueError, match="dimensions"):
        cray.embed(dataset, dimensions=5)
    with pytest.raises(ValueError, match="journal is given twice"):
        cray.embed(dataset, journal=object(), client_options={"journal": object()})
    with pytest.raises(ValueError, match="already has a column 'error'"):
        cray.embed(ray.data.from_items([{"id": "a", "chunks": ["x"], "error": "y"}]).materialize())


class TestKills:
    def test_a_killed_worker_pays_again_for_what_was_in_flight_alone(self, ray, tmp_path):
        """The pool starts another actor. What the lost one had received is in the journal."""
        documents = documents_of(600)
        pids = tmp_path / "pids"
        pids.mkdir()

        class Journal(cray.JournalFolder):
            """Says which process it is in, and is killed once, after some responses."""

            puts = 0

            def put(self, rows, usage):
                super().put(rows, usage)
                (pids / str(os.getpid())).touch()
                self.puts += 1
                if self.puts > 12 and not (pids / "killed").exists():
                    (pids / "killed").touch()
                    os.kill(os.getpid(), signal.SIGKILL)

            def __reduce__(self):
                return Journal, (str(tmp_path / "journal"),)

        with ServerProcess() as server:
            options = options_of(server, limits=ctxembed.Limits(documents=8), max_concurrency=4)
            dataset = ray.data.from_items(rows_of(documents), override_num_blocks=4)
            embedded = cray.embed(
                dataset,
                dimensions=128,
                client_options=options,
                journal=lambda: Journal(tmp_path / "journal"),
                concurrency=1,
                batch_size=50,
            )
            found = sorted(embedded.take_all(), key=lambda row: row["year"])
            received = stats(server)["documents"]
            with ctxembed.Client(**options_of(server)) as client:
                expected = client.embed(documents, dimensions=128)
        assert (pids / "killed").exists()
        assert len(list(pids.iterdir())) >= 3
        assert [row["id"] for row in found] == [f"d{number}" for number in range(600)]
        for number, row in enumerate(found):
            assert np.array_equal(np.array([*row["vectors"]], dtype=np.int8), expected[number])
        # Documents of four requests in flight, and of as many whose responses were not stored yet.
        assert received - 600 <= (4 + 4) * 8

    PROGRAM = """
import os, sys
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
import ctxembed, ray
from ctxembed.distributed import ray as cray
from ray.data.checkpoint import CheckpointConfig
url, folder = sys.argv[1:]
ray.init(num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
    id_column="id", checkpoint_path=f"{folder}/checkpoint", delete_checkpoint_on_success=False
)
dataset = ray.data.read_parquet(f"{folder}/input")
options = {"api_key": "KEY", "base_url": url, "limits": ctxembed.Limits(documents=8), "max_concurrency": 2}
embedded = cray.embed(
    dataset, dimensions=128, client_options=options, journal=cray.JournalFolder(f"{folder}/journal"),
    concurrency=1, batch_size=50,
)
embedded.write_parquet(f"{folder}/output")
ray.shutdown()
print("done")
"""

    def test_a_killed_driver_goes_on_from_its_checkpoint_and_the_journal(self, tmp_path):
        """Ray's checkpoint drops the rows that were written; the journal has those that were only paid for."""
        pytest.importorskip("ray", reason="needs Ray: pip install 'ctxembed[ray]', or make test-scale")
        import pyarrow as pa
        import pyarrow.parquet

        documents = documents_of(900)
        (tmp_path / "input").mkdir()
        for part in range(9):
            rows = rows_of(documents)[part * 100 : part * 100 + 100]
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "input" / f"{part}.parquet")
        with ServerProcess("--latency", "0.2") as server:
            command = [sys.executable, "-c", self.PROGRAM.replace("KEY", KEY), server.base_url, str(tmp_path)]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as driver:
                deadline = time.monotonic() + 400
                while stats(server)["documents"] < 300 and time.monotonic() < deadline and driver.poll() is None:
                    time.sleep(0.1)
                assert driver.poll() is None, "the driver ended early"
                started = descendants(driver.pid)
                os.killpg(driver.pid, signal.SIGKILL)
            # Ray ends its processes when it notices. Until then a worker embeds what it was handed.
            while any(map(is_running, started)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not [process for process in started if is_running(process)]
            known = len(cray.JournalFolder(tmp_path / "journal"))
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            assert done.stdout.endswith("done\n"), done.stderr[-3000:]
            received = stats(server)["documents"]
            with ctxembed.Client(**options_of(server)) as client:
                expected = client.embed(documents, dimensions=128)
        assert 200 <= known < 900
        # Documents of two requests in flight, and of as many whose responses were not stored yet.
        assert 900 <= received <= 900 + (2 + 2) * 8
        table = pyarrow.parquet.read_table(tmp_path / "output").sort_by("year")
        assert table["id"].to_pylist() == [f"d{number}" for number in range(900)]
        for number, vectors in enumerate(table["vectors"].to_pylist()):
            assert np.array_equal(np.array(vectors, dtype=np.int8), expected[number])
