"""The examples of docs/scale.md, run from top to bottom as one program, with Ray and Daft; and Daft's batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ctxembed._server import ServerProcess

from tests.test_docs import blocks

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_the_python_of_the_page_runs_from_top_to_bottom(tmp_path):
    for name, extra in (("ray", "ctxembed[ray]"), ("daft", "daft")):
        pytest.importorskip(name, reason=f"needs {name}: pip install '{extra}', or make test-scale")
    program = "\n\n".join(blocks(ROOT / "docs" / "scale.md", "python"))
    records = ({"id": f"d{n}", "chunks": [f"document {n}", "end"]} for n in range(300))
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with ServerProcess() as server:
        environment = {
            "PERPLEXITY_API_KEY": "any",
            "PERPLEXITY_BASE_URL": server.base_url,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "DAFT_ANALYTICS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    printed = done.stdout
    assert "fixed_size_list<item: int8>[1024]" in printed
    assert "[None, 'DocumentError: the document has no chunks']" in printed
    assert "100 2" in printed  # documents that were adopted, and requests
    assert "True\nFalse" in printed
    assert printed.rstrip().endswith("300 None")


@pytest.mark.parametrize(("batches", "expected"), [(None, range(1, 10)), (256, range(100, 257))])
def test_daft_hands_over_small_batches_unless_told(tmp_path, batches, expected):
    """What the page says of ``into_batches``."""
    daft = pytest.importorskip("daft", reason="needs daft, or make test-scale")
    import pyarrow as pa

    @daft.func.batch(return_dtype=daft.DataType.int64())
    def size(chunks):
        return pa.array([len(chunks)] * len(chunks))

    for file in range(100):
        lines = [json.dumps({"id": f"{file}-{n}", "chunks": ["x" * 200] * 2}) + "\n" for n in range(3)]
        (tmp_path / f"{file}.jsonl").write_text("".join(lines))
    frame = daft.read_json(f"{tmp_path}/*.jsonl")
    if batches is not None:
        frame = frame.into_batches(batches)
    sizes = frame.with_column("size", size(frame["chunks"])).to_pydict()["size"]
    assert len(sizes) == 300
    assert max(sizes) in expected
