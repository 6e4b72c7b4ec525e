"""`ctxembed demo`."""

from __future__ import annotations

import subprocess
import sys

from tests.cli.process import environment


def test_the_demo_finds_the_right_modules(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ctxembed", "demo"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "csv[0]" in done.stdout
    assert "tempfile[" in done.stdout
    assert "getopt[" in done.stdout
    assert "USD 0.00" in done.stdout
    assert done.stdout.endswith("server stopped\n")
    assert list(tmp_path.iterdir()) == []
