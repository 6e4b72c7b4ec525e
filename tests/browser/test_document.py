"""A document's page: its strip, ten thousand chunks, overlaps, and what is not there."""

from __future__ import annotations

import ctxembed
import numpy as np
import pytest

from tests.browser.samples import LONG, QUESTION, documents, long_document

MOST = 240  # chunks in the page at once: blocks of 40 near the window


@pytest.fixture(scope="module")
def scores(corpus, _session_server):
    """The cosine of each chunk of the long document and the question, without server and page."""
    with (
        ctxembed.Client("any", base_url=_session_server.base_url) as client,
        ctxembed.Collection.open(corpus, read_only=True) as collection,
    ):
        rows = collection.vectors(["long"]).astype(float)
        query = client.embed_queries([QUESTION], model=collection.model).vectors[0].astype(float)
    return rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)


def open_long(one, **state):
    page = one.open("document", d="long", **state)
    page.wait_for_selector(".chunk")
    return page


def in_page(page):
    return page.locator(".chunk").count()


def settle(page):
    """Wait until the page has not moved for some frames."""
    page.evaluate(
        """() => new Promise((resolve) => {
          let before = null, same = 0;
          const look = () => {
            const now = `${scrollY} ${document.documentElement.scrollHeight}`;
            same = now === before ? same + 1 : 0;
            before = now;
            same > 20 ? resolve() : requestAnimationFrame(look);
          };
          look();
        })"""
    )


def visible(page):
    """The chunks that can be seen."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.chunk')].filter((e) => {
          const { top, bottom } = e.getBoundingClientRect();
          return bottom > 180 && top < innerHeight;
        }).map((e) => Number(e.dataset.chunk))"""
    )


def test_the_strip_shows_the_scores_of_all_chunks(tab, served, scores):
    page = open_long(tab(served), q=QUESTION)
    order = np.argsort(-scores, kind="stable")[:5]
    nearest = [text.split("\n")[0].replace(",", "") for text in page.locator(".nearest li").all_inner_texts()]
    shown = [(int(button.get_attribute("data-near"))) for button in page.locator("[data-near]").all()]
    assert shown == order.tolist()
    assert nearest[0].startswith(str(order[0]))
    assert page.locator(".extent").inner_text() == f"scores {scores.min():.3f} to {scores.max():.3f}"
    strip = page.get_by_role("slider")
    assert strip.get_attribute("aria-valuemax") == str(LONG - 1)
    painted = page.locator("canvas").evaluate(
        """(canvas) => {
          const { data, width, height } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const heights = [];
          for (let x = 0; x < width; x += 1) {
            let y = 0;
            const clear = (at) => data[at + 3] === 0 || data[at + 1] > 200;
            while (y < height && clear(4 * (y * width + x))) y += 1;
            heights.push(height - y);
          }
          return heights;
        }"""
    )
    each = 2 * LONG / len(painted)  # chunks of a bar, which is two pixels wide
    tops = [scores[int(bar * each) : int((bar + 1) * each)].max() for bar in range(len(painted) // 2)]
    assert np.corrcoef(tops, painted[::2])[0, 1] > 0.95


def test_the_nearest_chunk_is_a_click_away(tab, served, scores):
    one = tab(served)
    page = open_long(one, q=QUESTION)
    best = int(np.argmax(scores))
    page.locator("[data-near]").first.click()
    page.wait_for_selector(f".chunk.current[data-chunk='{best}']")
    settle(page)
    assert best in visible(page)
    assert page.locator(f"[data-chunk='{best}'] p").inner_text() == long_document().chunks[best]
    assert f"chunk={best}" in page.url
    page.keyboard.press("n")
    second = int(np.argsort(-scores, kind="stable")[1])
    page.wait_for_selector(f".chunk.current[data-chunk='{second}']")
    settle(page)
    assert second in visible(page)
    page.keyboard.press("j")
    page.wait_for_function("(chunk) => document.activeElement.dataset.chunk === chunk", arg=str(second + 1))


def test_only_chunks_near_the_window_are_in_the_page(tab, served):
    one = tab(served)
    page = open_long(one)
    settle(page)
    assert in_page(page) <= MOST
    for share in (0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.6):
        page.evaluate("(share) => scrollTo(0, share * document.documentElement.scrollHeight)", share)
        page.mouse.wheel(0, 10)
        settle(page)
        page.wait_for_function(
            """() => [...document.querySelectorAll('.chunk')].some((e) => {
              const { top, bottom } = e.getBoundingClientRect();
              return bottom > 0 && top < innerHeight;
            })"""
        )
        assert in_page(page) <= MOST
        middle = visible(page)[0] / LONG
        assert abs(middle - share) < 0.05
    loaded = [request for request in one.requests if "/v1/documents/" in request.url]
    assert all("limit=40" in request.url for request in loaded)
    assert len(loaded) < 60


def test_the_end_is_reached_and_texts_are_right(tab, served):
    page = open_long(tab(served))
    page.keyboard.press("End")
    page.wait_for_selector(f"[data-chunk='{LONG - 1}']")
    settle(page)
    page.keyboard.press("End")
    settle(page)
    chunks = visible(page)
    assert chunks[-1] == LONG - 1
    assert chunks == list(range(chunks[0], LONG))
    texts = long_document().chunks
    assert [page.locator(f"[data-chunk='{chunk}'] p").inner_text() for chunk in chunks] == texts[chunks[0] :]


def test_a_link_to_a_chunk_shows_it(tab, served):
    page = open_long(tab(served), q=QUESTION, chunk=5_000)
    page.wait_for_selector(".chunk.current")
    settle(page)
    assert 5_000 in visible(page)
    assert page.evaluate("document.activeElement.dataset.chunk") == "5000"


def test_the_strip_works_by_keyboard_and_pointer(tab, served):
    page = open_long(tab(served), q=QUESTION, chunk=100)
    strip = page.get_by_role("slider")
    strip.focus()
    for key, chunk in (("ArrowRight", 101), ("PageUp", 111), ("Home", 0), ("End", LONG - 1)):
        page.keyboard.press(key)
        page.wait_for_selector(f".chunk.current[data-chunk='{chunk}']")
        assert strip.get_attribute("aria-valuenow") == str(chunk)
        settle(page)
        assert chunk in visible(page)
    box = strip.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    page.wait_for_function("() => Math.abs(Number(document.querySelector('[role=slider]').ariaValueNow) - 5000) < 20")


def test_another_question_changes_the_scores_alone(tab, served):
    page = open_long(tab(served), q=QUESTION, chunk=3)
    before = page.locator(".nearest ol").inner_text()
    page.fill("#question", "supersonic flutter of a panel")
    page.keyboard.press("Enter")
    page.wait_for_function("(before) => document.querySelector('.nearest ol')?.innerText !== before", arg=before)
    assert page.locator("[data-chunk='3'] p").inner_text() == long_document().chunks[3]
    assert "d=long" in page.url


def test_text_that_chunks_share_is_grey(tab, served):
    page = tab(served).open("document", d="overlap")
    page.wait_for_selector(".chunk >> nth=2")
    [document] = [one for one in documents(0) if one.id == "overlap"]
    assert page.locator(".chunk p").all_text_contents() == document.chunks
    shared = document.spans[0][1] - document.spans[1][0]
    assert page.locator(".chunk .beside").all_text_contents() == [document.chunks[1][:shared]]


def test_a_document_that_is_not_there_says_so(tab, served):
    one = tab(served)
    one.expect_errors("404")
    page = one.open("document", d="no such <b>", q=QUESTION)
    page.wait_for_selector(".message")
    assert "no such <b>" in page.locator(".message").inner_text()
    page.get_by_role("link", name="Back to the search").click()
    page.wait_for_selector("[data-hit]")
