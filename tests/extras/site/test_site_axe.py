"""What axe-core says of a page, by day and by night."""

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from visits import PAGES

GRAVE = ("serious", "critical")
CONTRAST = "color-contrast"
# One template has made the pages of families: every fifth is enough.
FAMILIES = [path for path in PAGES if path.startswith("zoo/")]
CHECKED = [path for path in PAGES if path not in FAMILIES] + FAMILIES[::5]

# Elements of one kind have the same colours, and axe-core takes long over each: keep the first.
FIRST_OF_EACH_KIND = """() => {
    const look = each => ["class", "style"].map(name => each.getAttribute(name));
    const kind = each => each && [kind(each.parentElement), each.tagName, ...look(each)].join();
    const all = [...document.body.querySelectorAll("*")].map(each => [each, kind(each)]);
    const first = new Map(all.toReversed().map(([each, kind]) => [kind, each]));
    for (const [each, kind] of all.reverse())
        if (!each.childElementCount && first.get(kind) != each) each.remove();
    return document.documentElement.scrollHeight;
}"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 1280, "height": 800})


def faults(page: Page, **options: Any) -> list[str]:
    """A line for each element in which axe-core finds a grave fault."""
    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]}: {node['failureSummary']}"
        for rule in found["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("path", CHECKED)
def test_a_page_has_no_grave_fault(path: str, page: Page, url: str) -> None:
    page.goto(url + path)
    found = faults(page, rules={CONTRAST: {"enabled": False}})
    height = page.evaluate(FIRST_OF_EACH_KIND)
    # What the window cuts through, axe-core takes for covered, and passes over.
    page.set_viewport_size({"width": 1280, "height": height})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += [f"{scheme}: {fault}" for fault in faults(page, runOnly=[CONTRAST])]
    assert not found, "\n".join([path, *found])


def test_the_site_is_dark_where_the_reader_asks_for_it(page: Page, url: str) -> None:
    """So that the test above has seen both."""
    page.goto(url)
    shades = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shades[scheme] = [int(each) for each in re.findall(r"\d+", colour)[:3]]
    assert max(shades["dark"]) < 64 < 192 < min(shades["light"])
