"""The search, as a reader uses it: with a server and without."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect


@pytest.fixture(params=["served", "opened"])
def front(request: pytest.FixtureRequest, browser: Browser, site: Path, url: str) -> Page:
    """The front page, from the server or from the folder."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(10_000)
    page.goto({"served": url, "opened": f"{site.as_uri()}/"}[request.param] + "index.html")
    return page


def test_pages_have_their_styles(front: Page) -> None:
    """The sidebar stands beside the text; without styles it is above it."""
    sidebar, text = (front.locator(each).first.bounding_box() for each in ("aside", "article"))
    assert sidebar
    assert text
    assert sidebar["x"] + sidebar["width"] <= text["x"]


@pytest.mark.parametrize("words", ["smolvlm", "CLS token", "block-major"])
def test_the_search_finds(words: str, front: Page) -> None:
    field = front.get_by_role("textbox", name="Search")
    field.fill(words)
    field.press("Enter")
    first = front.locator("#search-results a").first
    first.click()
    front.wait_for_url(lambda address: "/search.html" not in address)
    expect(front.locator("article")).to_contain_text(words, ignore_case=True)
