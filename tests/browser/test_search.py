"""The search: typing, hits inside their documents, filters, rankings side by side, the address."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import ctxembed
import pytest

from tests.browser.samples import HOSTILE, NAMES, QUESTION

HITS = "[data-hit]"


@pytest.fixture(scope="module")
def oracle(corpus, _session_server):
    """Return a function that searches the collection without server and page."""
    with (
        ctxembed.Client("any", base_url=_session_server.base_url) as client,
        ctxembed.Collection.open(corpus, read_only=True) as collection,
    ):
        yield lambda query, k=10, **options: collection.search(query, k, client=client, **options)


def names(page, scope="#main"):
    """The documents and chunks that are shown, in order."""
    links = page.locator(f"{scope} [data-hits] {HITS}").all()
    found = []
    for link in links:
        chunk = re.search(r"chunk=(\d+)", link.get_attribute("href"))[1]
        found.append((link.inner_text(), int(chunk)))
    return found


def expected(hits):
    return [(hit.document, hit.chunk) for hit in hits]


def wait_for_hits(page):
    page.wait_for_selector(HITS)
    page.wait_for_selector(".results[aria-busy=false]")


def test_typing_searches_and_back_returns(tab, served, oracle):
    one = tab(served)
    page = one.open()
    page.wait_for_selector(".welcome")
    page.keyboard.press("/")
    page.keyboard.type(QUESTION, delay=5)
    wait_for_hits(page)
    page.wait_for_function(
        "(text) => decodeURIComponent(location.hash).replaceAll('+', ' ').includes(text)", arg=QUESTION
    )
    wait_for_hits(page)
    assert names(page) == expected(oracle(QUESTION, neighbours=1))
    assert page.locator("#live").inner_text() == f"10 hits for {QUESTION}"
    assert len(one.bodies()) < len(QUESTION)  # pauses of typing search, not each key
    page.go_back()  # one entry for all that was typed
    page.wait_for_selector(".welcome")
    page.go_forward()
    wait_for_hits(page)
    assert page.input_value("#question") == QUESTION


def test_a_hit_is_marked_inside_its_passage(tab, served, oracle):
    page = tab(served).open(q="zeppelin hull bold", k=3)
    wait_for_hits(page)
    hits = oracle("zeppelin hull bold", 3, neighbours=1)
    assert any("😀" in hit.passage[: hit.passage_offset + 200] for hit in hits)
    for hit, item in zip(hits, page.locator(".hit").all(), strict=True):
        assert item.locator("mark").inner_text() == hit.text
        before, after = hit.passage[: hit.passage_offset], hit.passage[hit.passage_offset + len(hit.text) :]
        beside = item.locator(".passage").evaluate("(e) => [...e.childNodes].map((node) => node.textContent)")
        place = beside.index(hit.text)
        # Long neighbours are cut on the side that is away from the chunk.
        assert before.endswith("".join(beside[:place]).removeprefix("… "))
        assert after.startswith("".join(beside[place + 1 :]).removesuffix(" …"))
        assert (place > 0, place + 1 < len(beside)) == (bool(before), bool(after))


def test_the_mark_stands_at_offsets_in_characters(tab, served, oracle):
    page = tab(served).open(q=HOSTILE[2], k=1)
    wait_for_hits(page)
    [hit] = oracle(HOSTILE[2], 1, neighbours=1)
    assert "😀😀" in hit.passage[: hit.passage_offset]
    assert page.locator("mark").inner_text() == hit.text == HOSTILE[2]


def test_hostile_text_is_text_everywhere(tab, served):
    one = tab(served)
    page = one.open(q=HOSTILE[0], k=1)
    wait_for_hits(page)
    assert HOSTILE[0] in page.locator(".passage").inner_text()
    assert page.locator(f"main script, main img, main .passage b, main style, {HITS} b").count() == 0
    page.locator(HITS).click()
    page.wait_for_selector(".chunk")
    assert page.locator(".document h1").inner_text() == "hostile/<b>\"'&%2F?#"
    texts = page.locator(".chunk p").all_inner_texts()
    assert texts == list(HOSTILE)
    assert "<script>source</script>" in page.locator(".metadata").inner_text()
    assert page.locator("main script, main img, main p b, main style").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_question_of_markup_is_text(tab, served):
    one = tab(served)
    one.expect_errors("422")
    page = one.open(q='<img src=x onerror="window.hacked=1">', where="<b>", f="{broken", k="x", by="no,such")
    page.wait_for_selector(".message")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main .message b").count() == 0


def test_filters_come_from_the_collection(tab, served, oracle):
    one = tab(served)
    page = one.open(q=QUESTION)
    wait_for_hits(page)
    page.get_by_role("group", name="kind").get_by_label("theory").check()
    page.wait_for_selector(".chip:has-text('kind: theory')")
    wait_for_hits(page)
    first = oracle(QUESTION, neighbours=1, where="kind = ?", params=("theory",))
    assert names(page) == expected(first)
    page.get_by_label("year from").fill("1940")
    page.get_by_label("year to").fill("1950")
    page.keyboard.press("Enter")
    page.wait_for_selector(".chip:has-text('year: 1940 to 1950')")
    wait_for_hits(page)
    second = oracle(QUESTION, neighbours=1, where="kind = 'theory' AND year BETWEEN 1940 AND 1950")
    assert names(page) == expected(second) != expected(first)
    body = one.bodies()[-1]
    assert body["where"] == '"kind" IN (?) AND "year" >= ? AND "year" <= ?'
    assert body["params"] == ["theory", 1940, 1950]
    page.reload()
    wait_for_hits(page)
    assert names(page) == expected(second)
    page.get_by_role("button", name="Remove the filter kind: theory").click()
    page.wait_for_selector(".chip:has-text('kind')", state="detached")
    wait_for_hits(page)
    assert one.bodies()[-1]["params"] == [1940, 1950]
    page.go_back()
    page.wait_for_selector(".chip:has-text('kind: theory')")
    assert page.get_by_role("group", name="kind").get_by_label("theory").is_checked()


def test_values_are_parameters_and_names_are_quoted(tab, served):
    one = tab(served)
    page = one.open(q="zeppelin")
    wait_for_hits(page)
    name, value = NAMES
    page.get_by_role("group", name=name).get_by_label(value).check()
    page.wait_for_selector(".chip")
    wait_for_hits(page)
    body = one.bodies()[-1]
    assert body["params"] == [value]
    assert body["where"] == '"na""me <i>" IN (?)'
    assert {document for document, _ in names(page)} == {"hostile/<b>\"'&%2F?#"}


@pytest.mark.parametrize(
    ("text", "documents"),
    [("% _\\", {"hostile/<b>\"'&%2F?#"}), ('"x y', {"other name"}), ("%", {"hostile/<b>\"'&%2F?#"})],
)
def test_contains_takes_wildcards_as_text(tab, served, text, documents):
    one = tab(served)
    filters = json.dumps({NAMES[0]: {"has": text}})
    page = one.open(q="zeppelin", f=filters)
    wait_for_hits(page)
    assert {document for document, _ in names(page)} == documents
    assert text not in one.bodies()[-1]["where"].replace("ESCAPE '\\'", "")


def test_documents_without_a_value_can_be_chosen(tab, served, oracle):
    page = tab(served).open(q="zeppelin", f=json.dumps({"reviewed": {"in": [None, True]}}))
    wait_for_hits(page)
    assert names(page) == expected(oracle("zeppelin", neighbours=1, where="reviewed = 1 OR reviewed IS NULL"))


def test_an_error_of_where_stands_at_the_filter(tab, served, oracle):
    one = tab(served)
    one.expect_errors("422")
    page = one.open(q=QUESTION)
    wait_for_hits(page)
    page.locator("#expression").fill("colour = 'red'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#filter-error:visible")
    assert "colour" in page.locator("#filter-error").inner_text()
    assert page.locator("#expression").get_attribute("aria-invalid") is not None
    page.locator("#expression").fill("year < 1950 OR kind = 'theory'")
    page.keyboard.press("Enter")
    wait_for_hits(page)
    assert page.locator("#filter-error").is_hidden()
    assert names(page) == expected(oracle(QUESTION, neighbours=1, where="year < 1950 OR kind = 'theory'"))


def test_an_expression_is_one_condition_among_the_filters(tab, served, oracle):
    page = tab(served).open(q=QUESTION, where="year < 1940 OR year > 1955", f=json.dumps({"kind": {"in": ["theory"]}}))
    wait_for_hits(page)
    where = "(year < 1940 OR year > 1955) AND kind = 'theory'"
    assert names(page) == expected(oracle(QUESTION, neighbours=1, where=where))


def test_rankings_stand_side_by_side_and_say_where_they_differ(tab, served, oracle):
    page = tab(served).open(q=QUESTION, by="exact,two-stage,bits,hybrid")
    page.wait_for_selector(".results[aria-busy=false] .column >> nth=3")
    wait_for_hits(page)
    ways = {
        "Exact": {},
        "Two-stage": {"stage": "two-stage"},
        "Bits": {"stage": "two-stage", "oversample": 1},
        "Hybrid": {"hybrid": True},
    }
    exact = expected(oracle(QUESTION))
    differing = 0
    for name, options in ways.items():
        column = f".column[aria-label='{name}']"
        hits = expected(oracle(QUESTION, **options))
        assert names(page, column) == hits, name
        assert re.search(r"\d ms", page.locator(f"{column} .time").inner_text())
        new = [hit for hit in hits if hit not in exact]
        lost = [hit for hit in exact if hit not in hits]
        differing += len(new)
        assert page.locator(f"{column} .note.new").count() == len(new), name
        assert page.locator(f"{column} .row.lost").count() == len(lost), name
        if name != "Exact":
            shared = f"{10 - len(lost)} of 10"
            verdict = page.locator(f"{column} .verdict").inner_text()
            assert shared in verdict or (hits == exact and "same order" in verdict)
    assert differing > 0  # else the test compares nothing


def test_switches_add_and_remove_rankings(tab, served):
    page = tab(served).open(q=QUESTION)
    wait_for_hits(page)
    page.get_by_role("checkbox", name="Hybrid").check()
    page.wait_for_selector(".column >> nth=1")
    page.get_by_role("checkbox", name="Exact").uncheck()
    page.wait_for_selector(".columns", state="detached")
    wait_for_hits(page)
    assert "by=hybrid" in page.url
    page.get_by_role("checkbox", name="Hybrid").uncheck()  # one is always on
    page.wait_for_function("() => !location.hash.includes('by=')")
    assert page.get_by_role("checkbox", name="Exact").is_checked()


def test_options_reach_the_search(tab, served, oracle):
    page = tab(served).open(q=QUESTION)
    wait_for_hits(page)
    page.get_by_label("One per document").check()
    page.get_by_label("Number of hits").select_option("20")
    page.get_by_label("Context").select_option("2")
    page.wait_for_selector(".hit >> nth=19")
    wait_for_hits(page)
    assert names(page) == expected(oracle(QUESTION, 20, neighbours=2, group_by_document=True))


def test_the_keyboard_is_enough(tab, served, oracle):
    page = tab(served).open()
    page.wait_for_selector(".welcome")
    page.keyboard.press("/")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    wait_for_hits(page)
    page.wait_for_function("() => document.querySelectorAll('[data-hit]').length === 10")
    focused = "document.activeElement.textContent"
    hits = [hit.document for hit in oracle(QUESTION, neighbours=1)]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == hits[0]
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(focused) == hits[1]
    outline = page.locator(".hit >> nth=1").evaluate("(e) => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector(".chunk.current")
    assert page.locator(".document h1").inner_text() == hits[1]
    page.keyboard.press("Escape")
    page.wait_for_selector(".hits")
    page.wait_for_function(f"(name) => {focused} === name", arg=hits[1])  # where one was
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("/j")  # in the question they are letters
    assert "/j" in page.input_value("#question")


def test_arrows_move_between_columns(tab, served):
    page = tab(served).open(q=QUESTION, by="exact,hybrid")
    page.wait_for_selector(".column >> nth=1")
    wait_for_hits(page)
    page.locator(f".column >> nth=0 >> {HITS} >> nth=2").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('.column').ariaLabel") == "Hybrid"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.closest('.column').ariaLabel") == "Exact"


def test_what_the_page_shows_can_be_shared(tab, served):
    page = tab(served).open(q=QUESTION, by="exact,bits", k=20, f=json.dumps({"kind": {"in": ["survey"]}}))
    page.wait_for_selector(".column >> nth=1")
    wait_for_hits(page)
    other = tab(served)
    other.page.goto(page.url)
    other.page.wait_for_selector(".column >> nth=1")
    wait_for_hits(other.page)
    assert names(other.page) == names(page)
    assert other.bodies() == [
        {"collection": "corpus", "query": QUESTION, "k": 20, "where": '"kind" IN (?)', "params": ["survey"], **more}
        for more in ({}, {"stage": "two-stage", "oversample": 1})
    ]


def test_nothing_leaves_for_another_host(tab, served):
    one = tab(served)
    page = one.open(q=QUESTION)
    wait_for_hits(page)
    page.locator(HITS).first.click()
    page.wait_for_selector(".chunk")
    assert {request.url.split("/")[2] for request in one.requests if request.url.startswith("http")} == {served.url[7:]}
    assert all(QUESTION.split()[0] not in request.url for request in one.requests if "/v1/" not in request.url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_call_finds_the_same(tab, served):
    page = tab(served).open(q='zeppelin\'s "hull" $HOME `id`', f=json.dumps({NAMES[0]: {"in": [NAMES[1]]}}))
    wait_for_hits(page)
    page.locator(".snippets summary").click()
    call = page.locator(".snippets code >> nth=1").inner_text()
    found = subprocess.run(["sh", "-c", f"{call} -sS --noproxy '*'"], capture_output=True, check=True).stdout
    assert [(hit["document"], hit["chunk"]) for hit in json.loads(found)["hits"]] == names(page)


def test_the_python_call_finds_the_same(tab, served):
    page = tab(served).open(q='zeppelin\'s "hull" 😀', f=json.dumps({NAMES[0]: {"in": [NAMES[1]]}}))
    wait_for_hits(page)
    page.locator(".snippets summary").click()
    call = page.locator(".snippets code >> nth=0").inner_text()
    scope = {}
    exec(call, scope)
    assert expected(scope["hits"]) == names(page)
