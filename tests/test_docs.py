"""The documentation is complete and true: examples run, commands and links exist."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import ctxembed
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def docstrings():
    """Yield the docstring of every public function, class and method that has an example."""
    for name in ctxembed.__all__:
        value = getattr(ctxembed, name)
        members = [(name, value)]
        if inspect.isclass(value):
            members += [(f"{name}.{member}", getattr(value, member)) for member in vars(value) if member[0] != "_"]
        for label, member in members:
            text = inspect.getdoc(member)
            if text and ">>>" in text:
                yield pytest.param(text, id=label)


@pytest.mark.parametrize("text", [*docstrings()])
def test_docstring_examples_print_what_they_show(text, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    names = {name: getattr(ctxembed, name) for name in ctxembed.__all__} | {"ctxembed": ctxembed, "np": np}
    example = doctest.DocTestParser().get_doctest(text, names, "docstring", None, 0)
    output: list[str] = []
    failures, attempts = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=output.append)
    assert attempts > 0
    assert failures == 0, "".join(output)


@pytest.mark.parametrize(
    "name", [n for n in ctxembed.__all__ if inspect.isclass(v := getattr(ctxembed, n)) or inspect.isroutine(v)]
)
def test_every_public_class_and_function_has_a_summary(name):
    text = inspect.getdoc(getattr(ctxembed, name))
    assert text
    assert len(text.splitlines()[0]) > 10


@pytest.mark.parametrize("name", [n for n in ctxembed.__all__ if inspect.isroutine(getattr(ctxembed, n))])
def test_every_public_function_has_a_signature(name):
    assert inspect.signature(getattr(ctxembed, name)).parameters or name == "models"


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", readme_blocks("python"), ids=lambda block: block.split("\n", 1)[0][:30])
def test_the_readmes_python_runs_against_the_local_server(block, server, monkeypatch, capsys):
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_readmes_commands_run(server, monkeypatch, tmp_path):
    """Each `ctxembed` line of the README, in order, as a reader would type it; `serve` alone is left out."""
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    (tmp_path / "docs.jsonl").write_text('{"id": "heron", "chunks": ["The heron caught a fish.", "It flew."]}\n')
    lines = re.findall(r"^\$ (ctxembed [^\n]*)", "\n".join(readme_blocks("console")), flags=re.MULTILINE)
    commands = [line.split("#", 1)[0].strip() for line in lines]
    assert {command.split()[1] for command in commands} == {"plan", "embed", "search", "info", "bench", "serve"}
    for command in commands:
        if command.split()[1] == "serve":
            continue
        shell = command.replace("ctxembed", f"{sys.executable} -m ctxembed", 1)
        done = subprocess.run(shell, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stderr)


def test_the_readmes_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\$ make (\S+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_of_the_documentation_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)
