"""`ctxembed demo` as a reader runs it: all modules of this Python, six processes and a model, for half a minute."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.cli.process import environment


@pytest.mark.timeout(300)
def test_the_demo_is_killed_goes_on_and_finds_the_right_modules(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ctxembed", "demo"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
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
    assert "server stopped\n" in done.stdout
    assert "all-MiniLM-L6-v2 on this machine" in done.stdout
    assert re.search(r"^shade and hue of paint   \[2 of 2 .*\]\n  0\.\d+  colorsys\[", done.stdout, re.MULTILINE)
    for within, alone in re.findall(r"(0\.\d+) in context, (0\.\d+) alone", done.stdout):
        assert float(within) > float(alone)
    assert list(tmp_path.iterdir()) == []
