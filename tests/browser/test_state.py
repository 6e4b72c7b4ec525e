"""The state of a collection and of the server: empty, filling, failing, away, locked."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys

import ctxembed
import pytest

from tests.browser.samples import QUESTION, documents, fill

HITS = "[data-hit]"
AWAY = (
    "ERR_CONNECTION_REFUSED",
    "ERR_CONNECTION_RESET",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    "ERR_EMPTY_RESPONSE",
    "50[23]",
)
"""What the browser itself writes to the console when a server ends."""


@pytest.fixture
def small(tmp_path, server):
    """A collection of a few documents, for one test."""
    path = tmp_path / "small.ctx"
    fill(path, server.base_url, long=False, most=20)
    return path


@pytest.fixture
def empty(tmp_path):
    """A collection without documents."""
    path = tmp_path / "empty.ctx"
    ctxembed.Collection.create(path).close()
    return path


def test_an_empty_collection_says_how_to_fill_it_and_fills(tab, serve, empty, server):
    one = tab(serve(empty))
    page = one.open()
    page.wait_for_selector(".message")
    assert page.locator(".message code").inner_text() == "ctxembed embed FOLDER empty.ctx"
    assert page.locator(".filters").is_hidden()
    with ctxembed.Client("any", base_url=server.base_url) as client, ctxembed.Collection.open(empty) as collection:
        collection.ingest(documents(5), client)
    page.wait_for_selector(".welcome")  # by itself
    page.get_by_role("group", name="kind").wait_for()
    page.fill("#question", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(HITS)


@pytest.fixture
def job(small, tmp_path, fresh_server):
    """Return a function that starts ``ctxembed embed`` with 400 documents: some slow requests, one after the other."""
    source = tmp_path / "more.jsonl"
    lines = [json.dumps({"id": f"new/{n}", "chunks": [f"new {n} " + 1_000 * "word "]}) for n in range(400)]
    source.write_text("\n".join(lines))
    api = fresh_server(latency=2.0)
    environment = {**os.environ, "PERPLEXITY_BASE_URL": api.base_url, "PERPLEXITY_API_KEY": "any"}
    command = [sys.executable, "-m", "ctxembed", "embed", str(source), str(small), "--concurrency", "1"]
    started = []

    def start():
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return started[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_job_is_followed_live(tab, serve, small, job):
    page = tab(serve(small)).open("collection")
    page.wait_for_selector(".figures")
    with ctxembed.Collection.open(small, read_only=True) as collection:
        before = len(collection)
    shown = "Number(document.querySelector('.figures dd').innerText)"
    assert page.evaluate(shown) == before
    assert page.locator(".job").is_hidden()
    process = job()
    page.wait_for_selector(".job:visible")
    assert f"process {process.pid}" in page.locator(".job").inner_text()
    # While it runs, what it has stored so far:
    page.wait_for_function(f"([least, most]) => {shown} > least && {shown} < most", arg=[before, before + 400])
    assert page.locator(".bar .pulse").is_visible()
    assert "more since you came" in page.locator(".job").inner_text()
    page.wait_for_function(f"(all) => {shown} === all", arg=before + 400)
    page.wait_for_selector(".job", state="hidden")
    assert page.locator("#collection-link").inner_text().startswith(f"{before + 400} documents")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def test_the_state_shows_cost_and_failures_with_causes(tab, serve, small):
    page = tab(serve(small)).open("collection")
    page.wait_for_selector("table")
    with ctxembed.Collection.open(small, read_only=True) as collection:
        stats = collection.stats()
        [failure] = collection.failures()
    figures = dict(
        zip(page.locator(".figures dt").all_inner_texts(), page.locator(".figures dd").all_inner_texts(), strict=True)
    )
    assert figures["Documents"] == str(stats.documents)
    assert figures["Chunks"] == str(stats.chunks)
    assert figures["Failed"] == "1"
    assert float(figures["Cost so far"].removeprefix("$")) == pytest.approx(float(stats.usage.cost_usd), rel=0.05)
    row = page.locator("tbody tr")
    assert row.locator("th").inner_text() == failure.id == "broken <i>"
    assert row.locator("td").first.inner_text() == str(failure.error)
    facts = page.locator(".facts").inner_text()
    assert stats.model in facts
    assert f"{stats.dimensions:,} dimensions" in facts


def test_the_server_goes_away_and_comes_back(tab, serve, small):
    served = serve(small)
    one = tab(served)
    one.expect_errors(*AWAY)
    page = one.open(q=QUESTION)
    page.wait_for_selector(HITS)
    before = page.locator(HITS).all_inner_texts()
    served.stop(kill=True)
    page.wait_for_selector("#notice:visible")
    assert page.locator(HITS).all_inner_texts() == before  # what was found stays
    page.fill("#question", "a heron in the reeds")  # asked while nobody responds
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('heron')")
    served.start()
    page.wait_for_selector("#notice", state="hidden")
    page.wait_for_function(
        """(before) => {
          const now = [...document.querySelectorAll('[data-hit]')].map((hit) => hit.innerText);
          return now.length > 0 && now.join() !== before.join();
        }""",
        arg=before,
    )
    # The stream of events is back, too.
    page.get_by_role("link", name=re.compile("document")).click()
    page.wait_for_selector(".figures")


def test_a_page_that_is_opened_before_the_server_is_back_recovers(tab, serve, small):
    served = serve(small)
    one = tab(served)
    one.expect_errors(*AWAY)
    page = one.open("collection")
    page.wait_for_selector(".figures")
    served.stop()
    page.wait_for_selector("#notice:visible")
    page.evaluate("location.hash = '#/document?d=overlap'")
    page.wait_for_selector(".document")
    served.start()
    page.wait_for_selector(".chunk >> nth=2")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(tab, serve, small):
    one = tab(serve(small, key="the-secret"))
    one.expect_errors("401")
    page = one.open(q=QUESTION)
    page.wait_for_selector("dialog[open]")
    page.fill("#key-input", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] >> text=does not accept")
    assert page.input_value("#key-input") == ""
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_visible()
    page.fill("#key-input", "the-secret")
    page.keyboard.press("Enter")
    page.wait_for_selector(HITS)
    assert page.locator("dialog").is_hidden()
    page.reload()
    page.wait_for_selector(HITS)
    assert page.evaluate("Object.keys(localStorage).length") == 0
    assert page.evaluate("document.cookie") == ""
    assert "the-secret" not in page.content()
    assert all("the-secret" not in request.url for request in one.requests)
    page.locator(".snippets summary").click()
    assert "$CTXEMBED_SERVER_KEY" in page.locator(".snippets").inner_text()
    page.get_by_role("link", name=re.compile("document")).click()
    page.get_by_role("button", name="Forget the key").click()
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("sessionStorage.length") == 0


def test_several_collections_are_switched(tab, serve, small, empty, tmp_path):
    other = tmp_path / "other name.ctx"
    shutil.copytree(small, other)
    page = tab(serve(small, empty, other)).open(q=QUESTION)
    page.wait_for_selector(HITS)
    box = page.get_by_label("Collection", exact=True)
    assert box.locator("option").all_inner_texts() == ["small", "empty", "other name"]
    box.select_option("empty")
    page.wait_for_selector(".message code")
    box.select_option("other name")
    page.wait_for_selector(HITS)
    assert page.input_value("#question") == QUESTION
    page.go_back()
    page.wait_for_selector(".message code")
    assert box.input_value() == "empty"


def test_a_collection_that_is_not_served_says_so(tab, serve, small):
    page = tab(serve(small)).open(c="nothing <b>", q=QUESTION)
    page.wait_for_selector(".message")
    assert "“nothing <b>”" in page.locator(".message").inner_text()


class PlainApi:
    """A transport whose responses name no space: the collection then has that of the API's model."""

    async def send(self, request):
        vector = base64.b64encode(bytes(range(1, 129)) * 8).decode()
        documents = json.loads(request.body)["input"]
        data = [
            {"index": i, "data": [{"index": j, "embedding": vector} for j in range(len(chunks))]}
            for i, chunks in enumerate(documents)
        ]
        return PlainResponse(json.dumps({"data": data}).encode())

    async def aclose(self):
        pass


class PlainResponse:
    status = 200

    def __init__(self, body):
        self.headers = {"content-type": "application/json"}
        self.pieces = [body, b""]

    async def read(self):
        return self.pieces.pop(0)

    async def aclose(self):
        pass


def test_questions_that_cost_money_are_sent_by_enter_alone(tab, serve, tmp_path, server, monkeypatch):
    path = tmp_path / "paid.ctx"
    with ctxembed.Client("any", transport=PlainApi()) as client, ctxembed.Collection.create(path) as collection:
        collection.ingest([("one", ["a chunk"])], client)
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    one = tab(serve(path))
    one.expect_errors("502")
    page = one.open()
    page.wait_for_selector(".welcome >> text=paid for")
    page.fill("#question", "a chunk")
    page.wait_for_timeout(600)
    assert one.bodies() == []
    page.keyboard.press("Enter")
    # The stand-in's vectors are of another space, and the server says so instead of ranking by them.
    page.wait_for_selector("[role=alert] >> text=could not be embedded")
    assert len(one.bodies()) == 1
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => performance.getEntriesByName(`${location.origin}/v1/search`).length === 2")


def test_a_server_without_an_embedder_says_so(tab, serve, tmp_path):
    path = tmp_path / "paid.ctx"
    with ctxembed.Client("any", transport=PlainApi()) as client, ctxembed.Collection.create(path) as collection:
        collection.ingest([("one", ["a chunk"])], client)
    page = tab(serve(path)).open(q="a chunk")
    page.wait_for_selector(".message >> text=PERPLEXITY_API_KEY")


def test_a_busy_server_is_asked_again(tab, served):
    one = tab(served)
    one.expect_errors("503")
    refused = []

    def refuse(route):
        refused.append(route)
        body = json.dumps({"error": {"message": "The model is loading"}})
        route.fulfill(status=503, headers={"retry-after": "1"}, content_type="application/json", body=body)

    one.page.route("**/v1/search", refuse, times=2)
    page = one.open(q=QUESTION)
    page.wait_for_selector("[role=alert] >> text=The model is loading")
    page.wait_for_selector(HITS)  # by itself
    assert len(refused) == 2


def test_a_hidden_tab_keeps_no_stream(tab, served):
    one = tab(served)
    ended = []
    one.page.on("requestfailed", lambda request: ended.append(request.url))
    page = one.open(q=QUESTION)
    page.wait_for_selector(HITS)
    hide = """(hidden) => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    streams = [request.url for request in one.requests if request.url.endswith("/events")]
    assert len(streams) == 1
    with page.expect_event("requestfailed"):
        page.evaluate(hide, True)
    assert ended == streams
    with page.expect_request("**/events"):
        page.evaluate(hide, False)
