"""The report in a browser: it opens from disk, asks for nothing, sorts and fits.

Skipped where Playwright or Chromium is missing; `.ci/nightly browser` installs both.
"""

import dataclasses
import os
import shutil

import pytest

import isometry
from tests.verdicts.pages import EVIL, malicious, report, row

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jinja2")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    # Each test opens a page in a browser of its own.
    pytest.mark.xdist_group("browser"),
]

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1200, "height": 800}

# The gradients of five layers, of which one is not known.
GRADIENTS = {"a": 10.0, "b": 0.5, "c": None, "d": 2.0, "e": 0.0}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Chromium refuses to run as root inside of its sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages on disk: of one network, and of many whose names are markup."""
    folder = tmp_path_factory.mktemp("pages")
    rows = tuple(row(name, gradient=value) for name, value in GRADIENTS.items())
    report(rows=rows).to_html(folder / "one.html")
    reports = malicious()
    long = dataclasses.replace(report(), network="x" * 400)
    named = {**reports.reports, "y" * 300: long}
    isometry.Reports(named, reports.undefined).to_html(folder / "many.html")
    return folder


class Watched:
    """A page, and all that it asked for or complained of."""

    def __init__(self, browser, path, **context):
        self.requests = []
        self.complaints = []
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self.dismiss)
        self.address = path.as_uri()
        self.page.goto(self.address)

    def dismiss(self, dialog):
        self.complaints.append("a dialog")
        dialog.dismiss()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()


@pytest.mark.parametrize("name", ["one", "many"])
def test_it_opens_from_disk_without_requests_or_errors(name, browser, pages):
    with Watched(browser, pages / f"{name}.html", viewport=DESK) as seen:
        seen.page.mouse.move(100, 300)
        assert seen.page.locator("h1").count() == 1
        assert seen.requests == [seen.address]
        assert seen.complaints == []
        # Nothing of the names has become an element.
        assert seen.page.locator("img, iframe, svg[onload], [onmouseover]").count() == 0


# A picture beside the page, and what someone may add to the page to show it.
PICTURE = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>"
ADDED = "<script>console.log('ran'); alert(2)</script><img src='other.svg'>"


def width_of_picture(page):
    return page.evaluate("document.querySelector('img').naturalWidth")


def test_the_watch_can_fail(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(ADDED)
    (tmp_path / "other.svg").write_text(PICTURE)
    with Watched(browser, path) as seen:
        assert seen.complaints == ["ran", "a dialog"]
        assert len(seen.requests) == 2
        assert width_of_picture(seen.page) == 9


def test_the_policy_stops_what_was_not_escaped(browser, pages, tmp_path):
    """A script and a picture that someone adds to the page do nothing."""
    text = (pages / "one.html").read_text(encoding="utf-8")
    path = tmp_path / "added.html"
    path.write_text(text.replace("<main>", f"<main>{ADDED}"), encoding="utf-8")
    (tmp_path / "other.svg").write_text(PICTURE)
    with Watched(browser, path) as seen:
        assert width_of_picture(seen.page) == 0
        assert len(seen.complaints) == 2
        assert all("Content Security Policy" in text for text in seen.complaints)


def names_in_order(page):
    return page.locator("#layers tbody th").all_text_contents()


def test_the_table_of_layers_sorts_by_click_and_by_keyboard(browser, pages):
    with Watched(browser, pages / "one.html", viewport=DESK) as seen:
        button = seen.page.get_by_role("button", name="sort by gradient")
        assert names_in_order(seen.page) == list("abcde")
        button.click()
        # What is not known is last in both directions.
        assert names_in_order(seen.page) == list("ebdac")
        head = seen.page.locator("#layers th[aria-sort=ascending]")
        assert "gradient" in head.text_content()
        button.focus()
        seen.page.keyboard.press("Enter")
        assert names_in_order(seen.page) == list("adbec")
        seen.page.get_by_role("button", name="sort by layer").click()
        assert names_in_order(seen.page) == list("abcde")
        assert seen.complaints == []


def test_it_is_read_without_scripts(browser, pages):
    path = pages / "one.html"
    with Watched(browser, path, viewport=DESK, java_script_enabled=False) as seen:
        assert seen.page.locator("button").count() == 0
        assert names_in_order(seen.page) == list("abcde")
        term = seen.page.locator("#numbers .term").first
        assert not term.locator(".tip").is_visible()
        term.hover()
        assert term.locator(".tip").is_visible()


def test_a_definition_opens_by_focus_and_by_tap(browser, pages):
    with Watched(browser, pages / "one.html", viewport=PHONE, has_touch=True) as seen:
        term = seen.page.locator("#numbers .term").first
        term.focus()
        assert term.locator(".tip").is_visible()
        seen.page.keyboard.press("Escape")
        assert not term.locator(".tip").is_visible()
        term.tap()
        assert "singular value" in term.locator(".tip").inner_text()
        # It stands at the foot of the window, and is whole.
        box = term.locator(".tip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "many"])
def test_nothing_scrolls_sideways_on_a_phone(name, scheme, browser, pages):
    path = pages / f"{name}.html"
    with Watched(browser, path, viewport=PHONE, color_scheme=scheme) as seen:
        widths = "[document.documentElement.scrollWidth, window.innerWidth]"
        for opened in (
            "",
            "for (const d of document.querySelectorAll('details')) d.open = true",
        ):
            seen.page.evaluate(opened)
            scrolled, window = seen.page.evaluate(widths)
            assert scrolled <= window == PHONE["width"]


def luminance(page, kind):
    """The luminance of the text or the page by sRGB, from 0 to 1."""
    style = f"getComputedStyle(document.body).{kind}"
    digits = page.evaluate(f"{style}.match(/[0-9.]+/g).slice(0, 3).map(Number)")
    linear = [((value / 255 + 0.055) / 1.055) ** 2.4 for value in digits]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_readers_need(scheme, browser, pages):
    """At least 7:1, the enhanced contrast of WCAG 2.2, criterion 1.4.6."""
    with Watched(browser, pages / "one.html", color_scheme=scheme) as seen:
        text, page = (
            luminance(seen.page, kind) for kind in ("color", "backgroundColor")
        )
        assert (text < page) == (scheme == "light")
        low, high = sorted((text, page))
        assert (high + 0.05) / (low + 0.05) >= 7


def test_a_screenshot_and_a_print_are_not_empty(browser, pages):
    with Watched(browser, pages / "many.html", viewport=DESK) as seen:
        assert len(seen.page.screenshot(full_page=True)) > 20_000
        # Names that are markup are text in the pictures too.
        texts = seen.page.locator("svg title").all_text_contents()
        assert any(EVIL[0] in text for text in texts)
        seen.page.emulate_media(media="print")
        assert seen.page.locator("button.sort").first.is_hidden()
        assert len(seen.page.pdf(format="A4")) > 20_000
