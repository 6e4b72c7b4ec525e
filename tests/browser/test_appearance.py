"""How the page looks: phone width, dark, contrast, and what assistive technology meets."""

from __future__ import annotations

import json

import pytest

from tests.browser.samples import QUESTION

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
VIEWS = {
    "welcome": ("search", {}, ".welcome"),
    "hits": ("search", {"q": QUESTION}, "[data-hit]"),
    "columns": (
        "search",
        {"q": QUESTION, "by": "exact,two-stage,bits,hybrid"},
        ".column >> nth=3 >> [data-hit] >> nth=9",
    ),
    "hostile": ("search", {"q": "zeppelin", "f": json.dumps({"kind": {"in": ["survey"]}})}, "[data-hit]"),
    "long names": ("document", {"d": "x" * 300, "q": "zeppelin"}, ".chunk"),
    "document": ("document", {"d": "long", "q": QUESTION, "chunk": 7}, ".chunk"),
    "collection": ("collection", {}, "table"),
}

CONTRAST = """() => {
  const channel = (value) => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
      if (colour[3] > 0) throw new Error(`half transparent: ${one.className}`);
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const visible = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!walker.currentNode.data.trim() || !visible) continue;
    if (element.closest("option, script, style, noscript, .lost, :disabled, .modes label:has(:disabled)")) continue;
    const a = light(numbers(getComputedStyle(element).color)), b = light(behind(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const text = walker.currentNode.data.slice(0, 40);
    if (ratio < 4.5) low.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}: ${text}`);
  }
  return [...new Set(low)];
}"""


def show(one, name):
    view, state, ready = VIEWS[name]
    page = one.open(view, **state)
    page.wait_for_selector(ready)
    page.wait_for_selector("[aria-busy=true]", state="detached")
    return page


@pytest.mark.parametrize("name", VIEWS)
def test_nothing_is_wider_than_a_phone(tab, served, name):
    page = show(tab(served, **PHONE), name)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.evaluate(
        """() => [...document.querySelectorAll('body *')]
          .filter((e) => e.checkVisibility() && !e.closest('.sr, .skip, .placeholder'))
          .filter((e) => e.getBoundingClientRect().right > 361)
          .map((e) => e.className || e.tagName)"""
    )
    assert wide == []


def test_filters_are_folded_on_a_phone_and_work(tab, served):
    page = show(tab(served, **PHONE), "hits")
    assert page.get_by_label("theory").is_hidden()
    page.locator(".filters > details > summary").tap()
    page.get_by_role("group", name="kind").get_by_label("theory").tap()
    page.wait_for_selector(".chip:has-text('kind: theory')")
    assert page.locator(".badge").inner_text() == "1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", VIEWS)
def test_text_has_contrast(tab, served, name, scheme):
    page = show(tab(served, color_scheme=scheme), name)
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 150) == (scheme == "dark")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("name", VIEWS)
def test_controls_have_names_and_ids_are_unique(tab, served, name):
    page = show(tab(served), name)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('a, button, input, select, [role=slider], [role=img]')]
          .filter((e) => e.checkVisibility())
          .filter((e) => !(e.ariaLabel || e.innerText?.trim() || e.labels?.length || e.title))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("main").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"


def test_the_focus_is_visible_on_every_stop(tab, served):
    page = show(tab(served), "hits")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const e = document.activeElement;
              const outlined = (one) => {
                const { outlineStyle, outlineWidth } = getComputedStyle(one);
                return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1;
              };
              const shown = [e, e.nextElementSibling, e.closest('.hit')].some((one) => one && outlined(one));
              return [e.outerHTML.slice(0, 200), shown || e === document.body]; // after the last stop
            }"""
        )
        assert found[1], found[0]
        seen.add(found[0])
    assert len(seen) > 15


def test_motion_stops_where_it_is_not_wanted(tab, served):
    page = show(tab(served, reduced_motion="reduce"), "hits")
    moving = page.evaluate("document.getAnimations().length")
    assert moving == 0
