"""`ctxembed demo` as a reader runs it: it reads all modules of this Python and starts six processes, for 15 seconds."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.cli.process import environment


def test_the_demo_is_killed_goes_on_and_finds_the_right_modules(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ctxembed", "demo"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "killed: " in done.stdout
    assert done.stdout.count("verified: every document whole") == 2
    counts = re.search(
        r"server: (\d+) before the kill, (\d+) in flight at the kill, (\d+) after it; (\d+)", done.stdout
    )
    before, _, after, planned = map(int, counts.groups())
    # With a concurrency of 2, two responses before the kill may not have been stored yet.
    assert (before >= planned // 2, after <= planned - before + 2) == (True, True)
    assert "responses of the server: 0\n" in done.stdout
    assert "[package = 'email']\n" in done.stdout
    assert "tempfile[" in done.stdout
    assert "getopt[" in done.stdout
    assert re.search(r"ranks +cosine +BM25\n  0\.03\d+ +0\.\d+ +\d+\.\d+  wsgiref", done.stdout)
    assert re.search(r"^wsgiref\S*, docstrings \d+ to \d+:\n    \S", done.stdout, re.MULTILINE)
    assert "USD 0.00" in done.stdout
    assert done.stdout.endswith("server stopped\n")
    assert list(tmp_path.iterdir()) == []
