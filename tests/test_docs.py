"""The documentation is complete and true: examples run, commands and links exist."""

from __future__ import annotations

import asyncio
import configparser
import doctest
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import ctxembed
import numpy as np
import pytest
from ctxembed._server import ServerProcess
from ctxembed._server.faults.plan import parse_plan

from .tokens.conftest import definition as tokenizer_definition

ROOT = Path(__file__).parents[1]
HERON = {"id": "heron", "chunks": ["The heron caught a fish.", "It flew."], "year": 2021, "lang": "en"}


def name_of(page: Path) -> str:
    """Return the path of a page below the repository."""
    return page.relative_to(ROOT).as_posix()


SEARCH_URL = "http://127.0.0.1:8765"
"""Where pages and docstrings search: the port of ``ctxembed serve``, which may be taken on this machine."""
GENERATED = ("docs/_build/", "docs/api/", "docs/project/")
PAGES = [
    page
    for page in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    if not name_of(page).startswith(GENERATED)
]
NOT_RUN = "<!-- not run: "
"""Marks a block that cannot run, with the reason."""


def docstrings():
    """Yield the docstring of every public function, class and method that has an example."""
    public = {name: getattr(ctxembed, name) for name in ctxembed.__all__}
    public |= {f"backends.{name}": getattr(ctxembed.backends, name) for name in ctxembed.backends.__all__}
    for name, value in public.items():
        members = [(name, value)]
        if inspect.isclass(value):
            members += [(f"{name}.{member}", getattr(value, member)) for member in vars(value) if member[0] != "_"]
        for label, member in members:
            text = inspect.getdoc(member)
            if text and ">>>" in text:
                yield pytest.param(text, id=label)


@pytest.fixture(scope="module")
def search_url(_session_server, tmp_path_factory):
    """The URL of a server that searches the document of :data:`HERON`."""
    folder = tmp_path_factory.mktemp("served") / "corpus.ctx"
    metadata = {name: HERON[name] for name in ("year", "lang")}
    with (
        ctxembed.Client("any", base_url=_session_server.base_url) as client,
        ctxembed.Collection.create(folder) as collection,
    ):
        collection.ingest([ctxembed.Document(HERON["id"], HERON["chunks"], metadata)], client)
    with ServerProcess(f"--collection={folder}") as process:
        yield process.base_url


@pytest.fixture
def with_search_server(request):
    """Return a function that replaces the URL of a search server in a text by that of one that runs."""

    def replace(text: str) -> str:
        searches = SEARCH_URL in text and re.search(r"SearchClient\(|ctxembed search|/v1/search", text)
        return text.replace(SEARCH_URL, request.getfixturevalue("search_url")) if searches else text

    return replace


@pytest.mark.parametrize("text", [*docstrings()])
def test_docstring_examples_print_what_they_show(text, server, with_search_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    names = {name: getattr(ctxembed, name) for name in ctxembed.__all__}
    names |= {"ctxembed": ctxembed, "np": np, "asyncio": asyncio}
    example = doctest.DocTestParser().get_doctest(with_search_server(text), names, "docstring", None, 0)
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


_BLOCK = re.compile(rf"^({NOT_RUN}[^\n]+ -->\n)?```(\{{?[\w-]*\}}?)[^\n]*\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a language, but those that are marked as not run."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for not_run, of, text in found if of == language and not not_run]


def commands(page: Path) -> list[str]:
    """Every command that a page shows, without its remark."""
    lines = re.findall(r"^\$ ([^\n]*)", "\n".join(blocks(page, "console")), flags=re.MULTILINE)
    return [line.split("#", 1)[0].strip() for line in lines]


def pages_with(found) -> list:
    return [pytest.param(page, id=name_of(page)) for page in PAGES if found(page)]


def write_old_output(folder: Path) -> None:
    """Write what `ctxembed embed` wrote before it wrote collections."""
    folder.mkdir()
    np.save(folder / "vectors.npy", np.ones((1, 1024), np.int8))
    (folder / "chunks.jsonl").write_text('{"id": "a", "chunk": 0, "text": "one"}\n')
    options = {"model": "pplx-embed-context-v1-0.6b", "dimensions": 1024, "encoding_format": "base64_int8"}
    (folder / "meta.json").write_text(json.dumps({"version": 1, "chunks": 1, **options}))


def write_judged(folder: Path) -> None:
    """Write a judged collection in the layout of BEIR, and its files for a collection with :data:`HERON`."""
    (folder / "cranfield" / "qrels").mkdir(parents=True)
    queries = json.dumps({"_id": "q1", "text": "which bird caught a fish?"}) + "\n"
    text = "The heron stood in the reeds. It caught a fish. It flew away over the water."
    judgements = "query-id\tcorpus-id\tscore\nq1\theron\t1\n"
    (folder / "cranfield" / "corpus.jsonl").write_text(
        json.dumps({"_id": "heron", "title": "Birds", "text": text}) + "\n"
    )
    for place in (folder / "queries.jsonl", folder / "cranfield" / "queries.jsonl"):
        place.write_text(queries)
    for place in (folder / "judgements.tsv", folder / "cranfield" / "qrels" / "test.tsv"):
        place.write_text(judgements)


@pytest.fixture
def reader(server, tmp_path, monkeypatch):
    """A reader's folder, with the files that the pages name, and the local server in place of the API."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    (tmp_path / "docs.jsonl").write_text(json.dumps(HERON) + "\n")
    write_old_output(tmp_path / "old-output")
    write_judged(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_definition()))
    return tmp_path


# `make test` does not install their packages: tests of the stores, of the integrations and at scale run these pages.
# The tutorial is followed by `test_tutorial.py`.
ELSEWHERE = {"haystack.md", "langchain.md", "leaving.md", "llama-index.md", "scale.md", "tutorial.md"}


@pytest.mark.parametrize("page", pages_with(lambda page: blocks(page, "python") and page.name not in ELSEWHERE))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, reader, with_search_server, capsys):
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(with_search_server(block), page.name, "exec"), names)
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", pages_with(lambda page: commands(page) and page.name != "tutorial.md"))
def test_the_commands_of_a_page_run(page, reader, with_search_server):
    """In order, as a reader would type them, each a process. Servers and the demo have tests of their own."""
    for command in commands(page):
        if command.startswith("curl ") and shutil.which("curl"):
            done = subprocess.run(
                with_search_server(command), shell=True, capture_output=True, text=True, timeout=60, check=False
            )
            assert json.loads(done.stdout)["hits"], (command, done.stdout, done.stderr)
        if not command.startswith("ctxembed ") or command.split()[1] in {"serve", "limiter", "demo"}:
            continue
        shell = with_search_server(command).replace("ctxembed", f"{sys.executable} -m ctxembed", 1)
        done = subprocess.run(
            shell,
            shell=True,
            cwd=reader,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)


def test_the_page_of_the_command_line_shows_every_command():
    from ctxembed._cli.commands import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = {command.split()[1] for command in commands(ROOT / "docs" / "cli.md") if command.startswith("ctxembed ")}
    assert shown == names


def test_the_page_of_the_server_shows_a_fault_plan_that_the_server_takes():
    (plan,) = blocks(ROOT / "docs" / "server.md", "toml")
    assert len(parse_plan(tomllib.loads(plan)).steps) == 2


def make_targets(page: Path) -> set[str]:
    shown = "\n".join(commands(page)) + page.read_text(encoding="utf-8")
    return set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", shown, flags=re.MULTILINE))


@pytest.mark.parametrize("page", pages_with(make_targets))
def test_the_make_targets_of_a_page_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert make_targets(page) <= set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, flags=re.MULTILINE))


@pytest.mark.parametrize("page", pages_with(commands))
def test_the_modules_that_a_page_runs_exist(page):
    for command in commands(page):
        if module := re.match(r"python -m (benches\.\w+)", command):
            assert (ROOT / f"{module[1].replace('.', '/')}.py").exists(), command


def test_heavy_targets_are_documented_and_fit_into_a_run_of_ci():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (heavy,) = re.findall(r"^heavy=\((.*?)^\)", script, flags=re.DOTALL | re.MULTILINE)
    minutes = {target: int(limit) for target, limit in re.findall(r'"([a-z0-9-]+) (\d+)"', heavy)}
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `make ([a-z0-9-]+)`.* (\d+) min \|$", guide, flags=re.MULTILINE)
    limits = {target: int(limit) for target, limit in rows}
    assert minutes.items() <= limits.items()
    assert limits["test"] + sum(minutes.values()) <= 80


def test_the_readme_names_the_two_commands():
    assert {"make demo", "make test"} <= set(commands(ROOT / "README.md"))


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in prose.splitlines() if not line.startswith("|")]
    assert len("\n".join(lines).split()) < 900


def test_each_claim_of_the_readme_links_to_its_page_or_record():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    claims = text.partition("## What you can rely on\n")[2].partition("## ")[0]
    items = re.split(r"^- ", claims, flags=re.MULTILINE)[1:]
    assert len(items) > 5
    for item in items:
        assert re.search(r"\]\(docs/[\w/-]+\.md(#[\w-]+)?\)", item), item
    results = text.partition("## Results\n")[2].partition("## ")[0]
    for record in re.findall(r"\]\((benches/records/[^)]+)\)", results):
        assert (ROOT / record).exists()
    date = re.findall(r"Medians measured (\d{4}-\d\d-\d\d) ", results)
    assert date == re.findall(r"\]\(benches/records/[\w-]+?-(\d{4}-\d\d-\d\d)\.json\)", results)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_of_the_documentation_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)]+)", page.read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), (page.name, link)
            assert not anchor or anchor in anchors(target), (page.name, link)


def test_links_to_elsewhere_are_well_formed():
    for page in PAGES:
        for link in re.findall(r"\]\((https?:[^)]*)\)|<(https?:[^>]*)>", page.read_text(encoding="utf-8")):
            parts = urlsplit("".join(link))
            assert parts.scheme == "https", (page.name, link)
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), (page.name, link)


def test_the_navigation_has_every_page_once():
    """An index has its pages as links in lists, from which ``docs/conf.py`` makes the navigation of the site."""
    docs = ROOT / "docs"
    item = re.compile(r"^- \[[^\]]+\]\(([^)#:]+\.md)\)", flags=re.MULTILINE)
    seen = [
        (index.parent / link).resolve()
        for index in [docs / "index.md", *sorted(docs.glob("*/index.md"))]
        for link in item.findall(index.read_text(encoding="utf-8"))
    ]
    listed = [page for page in seen if page.parent != ROOT]
    assert sorted(listed) == sorted(page for page in PAGES if docs in page.parents and page != docs / "index.md")
    assert {page.name for page in seen if page.parent == ROOT} == {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}


NOT_RUN_COMMANDS = {
    "make": "the targets are compared with the Makefile",
    "python": "benches run for hours; that their modules exist is a test",
    "pip": "installs",
    "docker": "needs Docker",
    "cargo": "needs a nightly toolchain, or takes minutes",
    "pytest": "stands for the reader's tests",
    "ctxembed serve": "servers have tests of their own",
    "ctxembed limiter": "servers have tests of their own",
    "ctxembed demo": "has a test of its own",
}


def test_every_block_is_run_or_says_why_not():
    for page in PAGES:
        if page.name == "tutorial.md":
            continue
        for not_run, language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
            if not_run or language == "python":
                continue
            match language:
                case "console":
                    for command in re.findall(r"^\$ (?:[A-Z_]+=\S+ )*([^\n]*)", text, flags=re.MULTILINE):
                        is_run = command.startswith(("ctxembed ", "curl "))
                        assert is_run or command.split()[0] in NOT_RUN_COMMANDS, (page.name, command)
                case "json":
                    for line in text.splitlines() if text.startswith('{"') else [text]:
                        json.loads(line)
                case "toml":
                    tomllib.loads(text)
                case "ini":
                    configparser.RawConfigParser(strict=False).read_string(text)
                case "{literalinclude}":
                    pass  # the examples have tests of their own
                case _:
                    pytest.fail(f"{page.name}: a block of {language!r} that nothing checks")


def test_the_page_of_serving_names_options_that_there_are():
    from ctxembed._cli.commands import app

    (serve,) = (each for each in app.registered_commands if each.callback.__name__ == "serve")
    known = {"--" + name.replace("_", "-") for name in inspect.signature(serve.callback).parameters}
    lines = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").splitlines()
    of_serve = [
        line for line in lines if re.search(r'ctxembed serve|"serve"', line) or line.startswith(("|", "    --"))
    ]
    named = {option for line in of_serve for option in re.findall(r"--[a-z][a-z-]+", line)}
    assert len(named) > 10
    assert named <= known
