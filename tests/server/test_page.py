"""The files of the page: how they are served, and what they may not contain."""

from __future__ import annotations

import asyncio
import re
from importlib import resources

import ctxembed
import httpx
import pytest
from ctxembed._backends.hashed import HashedEmbedder
from ctxembed._server import ServerConfig, create_app

FOLDER = resources.files("ctxembed._server.page")
FILES = {
    file.name: file.read_text() for file in FOLDER.iterdir() if file.name.endswith((".html", ".css", ".js", ".svg"))
}
SCRIPTS = [name for name in FILES if name.endswith(".js")]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@pytest.fixture
def get(tmp_path):
    """Return a function that gets paths from a server of an empty collection that wants a key."""
    ctxembed.Collection.create(tmp_path / "corpus.ctx").close()

    async def get_all(paths, headers):
        config = ServerConfig(collections=(tmp_path / "corpus.ctx",), key="a-key")
        app = create_app(config, HashedEmbedder(config.models))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        ):
            return [await client.get(path, headers=headers) for path in paths]

    def run(*paths, **headers):
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(get_all(paths, given))

    return run


def path_of(name):
    return "/" if name == "index.html" else f"/page/{name}"


def test_every_file_is_served_whole_without_a_key_under_the_policy(get):
    for (name, text), response in zip(FILES.items(), get(*map(path_of, FILES)), strict=True):
        assert response.status_code == 200
        assert response.text == text
        assert response.headers["content-type"] == TYPES[name.rpartition(".")[2]]
        assert response.headers["content-security-policy"] == POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-cache"


def test_a_file_that_a_browser_has_is_not_sent_again(get):
    [first] = get("/page/main.js")
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        [again] = get("/page/main.js", if_none_match=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["content-security-policy"] == POLICY
    [changed] = get("/page/main.js", if_none_match='"other"')
    assert changed.status_code == 200


def test_nothing_else_is_served(get):
    paths = (
        "/page/",
        "/page/__init__.py",
        "/page/index.html",
        "/page/..%2Fapp.py",
        "/page/%2e%2e/app.py",
        "/index.html",
    )
    assert [response.status_code for response in get(*paths)] == [404] * len(paths)


def test_a_server_without_collections_has_no_page(in_process):
    root, script = in_process(("GET", "/", {}), ("GET", "/page/main.js", {}))
    assert (root.status_code, script.status_code) == (404, 404)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_never_parse_texts_as_markup_or_code(name):
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|DOMParser|createContextualFragment|eval\(|"
        r"new Function|localStorage|document\.cookie|\.style\s*=|\"style\"|srcdoc",
        FILES[name],
    )
    assert found == []


@pytest.mark.parametrize("name", FILES)
def test_files_are_small_and_name_no_other_site(name):
    text = FILES[name]
    assert text.count("\n") < 600
    assert name.endswith((".css", ".svg")) or max(map(len, text.splitlines())) <= 120
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
    assert addresses <= {"//www.w3.org/2000/svg", "http://www.w3.org/2000/svg"}
    assert not re.search(r"\sstyle=|\son\w+=\"", text) or not name.endswith(".html")


def test_modules_import_what_there_is_and_in_one_direction():
    edges = {name: set(re.findall(r'from "\./([\w.]+)"', FILES[name])) for name in SCRIPTS}
    assert set().union(*edges.values()) | {"main.js"} == set(SCRIPTS)
    for name, targets in edges.items():
        for target in targets:
            wanted = re.search(rf'import \{{([^}}]*)\}} from "\./{target}"', FILES[name])[1].split(",")
            for one in filter(None, map(str.strip, wanted)):
                assert re.search(rf"export (async )?(function|class|const) {one}\b", FILES[target]), (name, one)
    left = dict(edges)
    while left:  # a module that imports none of those left, until none is left
        lowest = [name for name, targets in left.items() if not targets & left.keys()]
        assert lowest, f"a circle among {sorted(left)}"
        for name in lowest:
            del left[name]


def test_all_modules_are_fetched_at_once():
    """Else each is known only when the one that imports it has come."""
    preloaded = re.findall(r'rel="modulepreload" href="/page/([\w.]+)"', FILES["index.html"])
    assert sorted([*preloaded, "main.js"]) == sorted(SCRIPTS)
