"""A browser, servers of collections, and pages that fail their test on any error."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from urllib.parse import urlencode

import pytest

from tests.browser.samples import fill
from tests.browser.serving import Serving

_REPORTS = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
addEventListener("unhandledrejection", (event) => console.error(`unhandled: ${event.reason?.stack ?? event.reason}`));
"""


def launch():
    """Start Chromium; return it and what ends it. Skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser: make test-browser")
    path = shutil.which(os.environ.get("CTXEMBED_CHROMIUM", "chromium"))
    if path is None:
        pytest.skip("needs chromium, as of Debian's package; or CTXEMBED_CHROMIUM with its path")
    driver = playwright.sync_playwright().start()
    # Its sandbox does not work for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    try:
        return driver.chromium.launch(executable_path=path, args=options), driver.stop
    except BaseException:
        driver.stop()
        raise


@pytest.fixture(scope="session")
def browser():
    """The browser of all tests."""
    found, stop = launch()
    yield found
    found.close()
    stop()


class Tab:
    """A page, with what went wrong in it."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(20_000)
        self.context.add_init_script(_REPORTS)
        self.page = self.context.new_page()
        self.url = url
        self.errors = []
        self.requests = []
        self._expected = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(f"{error} {error.stack}"))
        self.page.on("request", self._request)

    def _request(self, request):  # playwright marks the methods that it calls, which it cannot with those of a list
        self.requests.append(request)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text} {message.location}")

    def expect_errors(self, *patterns):
        """Allow messages of the browser about responses that the test causes."""
        self._expected += patterns

    def unexpected(self):
        """Errors that no pattern allows."""
        return [error for error in self.errors if not any(re.search(pattern, error) for pattern in self._expected)]

    def open(self, view="search", **state):
        """Go to an address of the page."""
        query = urlencode({name: str(value) for name, value in state.items()})
        # A reload: a change of what follows the # alone would keep the document.
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/#/{view}?{query}")
        return self.page

    def bodies(self):
        """The bodies of the searches so far."""
        return [one.post_data_json for one in self.requests if one.url.endswith("/v1/search")]


@pytest.fixture
def tab(browser, serve):
    """Return a function that opens a tab for a server. A test fails if one of its tabs had an error.

    It depends on ``serve``, so that tabs are closed before the servers stop.
    """
    tabs = []

    def open_one(served, **options):
        options.setdefault("viewport", {"width": 1280, "height": 900})
        tabs.append(Tab(browser, served.url, **options))
        return tabs[-1]

    yield open_one
    for one in tabs:
        one.context.close()
    errors = [error for one in tabs for error in one.unexpected()]
    assert errors == []


@pytest.fixture(scope="session")
def corpus(browser, tmp_path_factory, _session_server):  # no browser, no work
    """A collection with everything that the tests look for."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.ctx"
    fill(path, _session_server.base_url)
    return path


@pytest.fixture(scope="session")
def served(corpus):
    """A server of that collection."""
    with Serving(corpus) as server:
        yield server


@pytest.fixture
def serve():
    """Return a function that starts a server for one test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Serving(*args, **options))
