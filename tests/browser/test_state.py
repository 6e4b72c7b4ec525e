"""The state of a collection and of the server: empty, filling, failing, away, locked."""

from __future__ import annotations

import os
import re
import shutil
import threading

import ctxembed
import pytest

from tests.browser.samples import QUESTION, documents, fill

HITS = "[data-hit]"
AWAY = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE", "50[23]")
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


class Slow:
    """Documents that come when a test lets them."""

    def __init__(self, made):
        self.made = made
        self.released = threading.Semaphore(0)

    def __iter__(self):
        for document in self.made:
            assert self.released.acquire(timeout=60)
            yield document


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


def test_a_job_is_followed_live(tab, serve, small, server):
    one = tab(serve(small))
    page = one.open("collection")
    page.wait_for_selector(".figures")
    figure = ".figures div:has(dt:text-is('Documents')) dd"
    with ctxembed.Collection.open(small, read_only=True) as collection:
        before = len(collection)
    assert page.locator(figure).inner_text() == str(before)
    assert page.locator(".job").is_hidden()
    more = [ctxembed.Document(f"new/{n}", [f"new {n}"]) for n in range(1_300)]
    source = Slow(more)

    def ingest():
        with ctxembed.Client("any", base_url=server.base_url) as client, ctxembed.Collection.open(small) as collection:
            collection.ingest(source, client)

    job = threading.Thread(target=ingest, daemon=True)
    job.start()
    page.wait_for_selector(".job:visible")
    assert f"process {os.getpid()}" in page.locator(".job").inner_text()
    source.released.release(700)  # more than one request takes
    page.wait_for_function("([where, count]) => Number(document.querySelector(where).innerText.replace(',', '')) > count", arg=[".figures dd", before])
    assert page.locator(".bar .pulse").is_visible()
    assert "more since you came" in page.locator(".job").inner_text()
    source.released.release(600)
    page.wait_for_function("([where, count]) => Number(document.querySelector(where).innerText.replace(',', '')) === count", arg=[".figures dd", before + 1_300])
    job.join(60)
    page.wait_for_selector(".job", state="hidden")
    assert page.locator("#collection-link").inner_text().startswith(f"{before + 1_300:,} documents")


def test_the_state_shows_cost_and_failures_with_causes(tab, serve, small):
    page = tab(serve(small)).open("collection")
    page.wait_for_selector("table")
    with ctxembed.Collection.open(small, read_only=True) as collection:
        stats = collection.stats()
        [failure] = collection.failures()
    figures = dict(zip(page.locator(".figures dt").all_inner_texts(), page.locator(".figures dd").all_inner_texts(), strict=True))
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
    page.wait_for_function("(before) => { const now = [...document.querySelectorAll('[data-hit]')].map((e) => e.innerText); return now.length && now.join() !== before.join(); }", arg=before)
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
