"""The site in a browser: no request leaves this machine, nothing is broken or too wide.

It looks at what `python -m docs build` has built, in an installed Chromium. Where there
is no browser, or nothing is built, the tests say that they skipped.
"""

import functools
import http.server
import pathlib
import shutil
import threading

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "build" / "docs" / "html"
PAGES = sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.html"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESKTOP = 390, 1280
# As in a terminal without a display, and as root.
FLAGS = ["--no-sandbox", "--disable-gpu"]

pytestmark = pytest.mark.slow

# What a newcomer would ask, and a page that answers, which must be among the first two.
QUESTIONS = {
    "orthogonal initializer": "api/initializers.html",
    "why undecided": "faq.html",
    "vanishing gradients": "flags/vanishing.html",
    "dead units": "flags/dead_units.html",
    "how to cite": "faq.html",
    "gpu memory": "faq.html",
    "which method": "faq.html",
    "phase diagram": "sweeps.html",
    "lanczos": "api/isometry.html",
    "custom flag": "flags/README.html",
    "install": "faq.html",
    "kaiming": "initializers.html",
    "spectrum": "api/isometry.html",
    "compare with theory": "api/isometry.html",
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *message):
        """Keep what is asked for to itself."""


@pytest.fixture(scope="module")
def base():
    """The address of the site."""
    if not PAGES:
        pytest.skip("nothing is built: python -m docs build")
    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    driver = pytest.importorskip("playwright.sync_api")
    paths = [path for name in BROWSERS if (path := shutil.which(name))]
    if not paths:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=paths[0], args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page in the browser, and what it asked for and complained about."""

    def __init__(self, chromium, width, scheme):
        self.faults = []
        size = {"width": width, "height": 900}
        self.context = chromium.new_context(viewport=size, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", self.note_message)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("response", self.note_response)

    def note_message(self, message):
        """Keep errors and warnings."""
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def note_response(self, response):
        """Keep what was not found."""
        if response.status >= 400:
            self.faults.append(response.url)


def requests_elsewhere(visit, base):
    """Start a list of requests that leave the site; data: URLs ask nobody."""
    elsewhere = []

    def note(request):
        if not request.url.startswith((base, "data:")):
            elsewhere.append(request.url)

    visit.page.on("request", note)
    return elsewhere


@pytest.mark.parametrize(("width", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_pages_are_whole_and_ask_nobody(chromium, base, width, scheme):
    visit = Visit(chromium, width, scheme)
    elsewhere = requests_elsewhere(visit, base)
    too_wide = {}
    for page in PAGES:
        visit.page.goto(base + page)
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            too_wide[page] = wide
    visit.context.close()
    assert elsewhere == []
    assert visit.faults == []
    assert too_wide == {}


def test_a_request_elsewhere_is_found(chromium, base):
    """The test above can fail: a page of its own asks another machine."""
    visit = Visit(chromium, PHONE, "light")
    elsewhere = requests_elsewhere(visit, base)
    visit.page.goto(base)
    visit.page.set_content(
        "<img src='http://192.0.2.1/x.png'><p style='width: 600px'>wide</p>",
        wait_until="commit",
    )
    visit.page.wait_for_timeout(500)
    assert elsewhere == ["http://192.0.2.1/x.png"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") > PHONE
    visit.context.close()


# Formulas that hold TeX or a message, or take no room.
BROKEN_FORMULAS = r"""
    Array.from(document.querySelectorAll("math"))
        .filter(m => m.textContent.includes("\\") || m.querySelector("merror")
            || m.getBoundingClientRect().height <= 5)
        .map(m => m.textContent)
"""


def test_formulas_are_rendered(chromium, base):
    """As MathML, on every page; and no page has TeX beside its code."""
    visit = Visit(chromium, DESKTOP, "light")
    counted, broken = 0, {}
    for page in PAGES:
        visit.page.goto(base + page)
        counted += visit.page.locator("math").count()
        found = visit.page.evaluate(BROKEN_FORMULAS)
        if found:
            broken[page] = found
    visit.page.goto(base + "isometry.html")
    text = visit.page.inner_text("article")
    visit.page.set_content(r"<math><mtext>fan\_in</mtext></math>")
    planted = visit.page.evaluate(BROKEN_FORMULAS)
    visit.context.close()
    assert counted > 100
    assert broken == {}
    assert "\\sigma" not in text
    assert planted == [r"fan\_in"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_search_answers(chromium, base, question):
    visit = Visit(chromium, DESKTOP, "light")
    visit.page.goto(f"{base}search.html?q={question.replace(' ', '+')}")
    results = visit.page.locator("#search-results ul.search > li > a")
    # Results appear one after another.
    results.nth(1).or_(
        visit.page.locator(".search-summary", has_text="one page")
    ).wait_for()
    visit.page.wait_for_timeout(200)
    links = results.evaluate_all("all => all.slice(0, 2).map(a => a.pathname)")
    visit.context.close()
    assert f"/{QUESTIONS[question]}" in links
