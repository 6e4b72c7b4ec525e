"""The pages of the configuration and of HTTP name all that there is."""

from __future__ import annotations

import re
import tomllib

import ctxembed

from tests.test_docs import ROOT

CONFIGURATION = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
HTTP = (ROOT / "docs" / "reference" / "http.md").read_text(encoding="utf-8")
FOR_DEVELOPERS = {"dev", "bench", "browser", "docs", "frameworks", "scale", "stores"}
OF_OTHER_PROGRAMS = {"HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HOME"}


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def first_cells(text: str) -> set[str]:
    return {name for row in re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE) for name in names(row)}


def test_every_environment_variable_is_named():
    """Names of variables stand in the sources as whole strings; those of proxies are made of a scheme."""
    found = set()
    for path in (ROOT / "python" / "ctxembed").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"\"((?:PERPLEXITY|PPLX|CTXEMBED|SSL|SSLKEYLOG)_?[A-Z_]+)\"", text))
        found |= {f"OTEL_PYTHON_{kind}_PROVIDER" for kind in ("TRACER", "METER") if "OTEL_PYTHON_" in text}
    proxies = {"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"}
    assert len(found) > 8
    assert first_cells(section(CONFIGURATION, "Environment variables")) == found | proxies | OF_OTHER_PROGRAMS


def test_every_option_of_a_client_is_named():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:`(\w+)`)? ?\|", CONFIGURATION, flags=re.MULTILINE)
    named = {name for row in rows for name in row if name}
    assert named == set(ctxembed.ClientOptions.__annotations__)


def test_every_extra_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - FOR_DEVELOPERS
    assert first_cells(section(CONFIGURATION, "Extras")) == extras


def each_route(routes):
    """Yield routes, also those of routers that recent versions of FastAPI keep whole."""
    for route in routes:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else each_route(router.routes)


def test_every_endpoint_is_named(tmp_path, server):
    from ctxembed._server import ServerConfig, create_app

    folder = tmp_path / "corpus.ctx"
    with (
        ctxembed.Client("any", base_url=server.base_url) as client,
        ctxembed.Collection.create(folder) as collection,
    ):
        collection.ingest([("heron", ["The heron stood."])], client)
    app = create_app(ServerConfig(collections=(folder,)), None)
    there = set()
    for route in each_route(app.routes):
        path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
        there |= {f"{method} {path}" for method in route.methods or () if method != "HEAD"}
    own_files = {endpoint for endpoint in there if endpoint.startswith("GET /page/")}
    assert first_cells(HTTP.partition("\n## ")[0]) == there - own_files
