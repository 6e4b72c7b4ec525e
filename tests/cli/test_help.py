"""Help, version and facts of the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.process import environment


def test_help_does_not_import_the_http_stack():
    code = "import sys, ctxembed._cli.commands; print('httpx' in sys.modules, 'fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "name",
    [
        *("", "embed", "plan", "search", "show", "delete", "snapshot", "sql", "export", "import", "mcp", "serve"),
        *("limiter", "demo", "eval"),
    ],
)
def test_every_command_has_help_with_and_without_docstrings(tmp_path, name):
    shown = [
        subprocess.run(
            [sys.executable, *flags, "-m", "ctxembed", *filter(None, [name]), "--help"],
            env=environment(PYTHONPYCACHEPREFIX=str(tmp_path)), capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for flags in ([], ["-OO"])
    ]  # fmt: skip
    assert "--help" in shown[0]
    assert len(shown[0].split("\n\n")) >= 3  # usage, a description, options
    assert shown[1] == shown[0]


def test_version_is_printed(ctxembed):
    from ctxembed import __version__

    done = ctxembed("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ctxembed {__version__}\n", "")
    assert ctxembed().returncode == 2  # without a command: the list of them


def test_info_shows_the_paths_that_the_environment_lowers(ctxembed):
    assert "hamming:" in ctxembed("info").stdout
    facts = json.loads(ctxembed("info", "--json", CTXEMBED_ISA="scalar").stdout)
    assert facts["paths"] == {"codec": "scalar", "hamming": "scalar", "dot": "scalar"}


def test_an_unknown_instruction_set_is_rejected_by_name(ctxembed):
    done = ctxembed("info", CTXEMBED_ISA="avx1024")
    assert done.returncode != 0
    assert "avx1024" in done.stderr
