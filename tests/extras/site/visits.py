"""What a browser finds when it opens a page."""

import os
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

SITE = Path(os.environ["SITE"]).resolve()
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))

# The theme lets its column scroll where it is too narrow for the text, so the document does not
# say how wide a page is. What scrolls by itself, as a table does, is as wide as it looks.
READ = """() => {
    const full = text => new URL(text, document.baseURI).href;
    const urls = ["href", "src", "data", "action"].flatMap(name =>
        [...document.querySelectorAll(`[${name}]`)].map(each => full(each.getAttribute(name))));
    for (const each of document.querySelectorAll("[srcset]"))
        urls.push(...each.srcset.split(",").map(text => full(text.trim().split(" ")[0])));
    let widest, width = document.scrollingElement.scrollWidth;
    const text = document.querySelector("article");
    const look = element => {
        const style = getComputedStyle(element);
        if (style.position == "fixed") return;
        const box = element.getBoundingClientRect();
        const inside = style.overflowX == "visible" || element.contains(text);
        const right = Math.round(box.left + Math.max(box.width, inside && element.scrollWidth));
        if (right >= width) [widest, width] = [element, right];
        if (inside) [...element.children].forEach(look);
    };
    look(document.body);
    return {
        urls: [...new Set(urls)],
        links: [...document.links].map(each => each.href).concat(
            [...document.forms].map(each => each.action)),
        ids: [...document.querySelectorAll("[id], a[name]")].map(each => each.id || each.name),
        width,
        widest: widest && widest.cloneNode().outerHTML
            + widest.textContent.replace(/\\s+/g, " ").slice(0, 60),
    };
}"""


@dataclass(frozen=True)
class Visit:
    """A page, in a browser: `urls` are all that it names, `links` those that a reader follows."""

    urls: list[str]
    links: list[str]
    ids: list[str]
    width: int
    widest: str
    requests: list[str]
    faults: list[str]


def visit(page: Page, url: str) -> Visit:
    """Open a page, and wait until all that it asks for is there or has failed."""
    requests: list[str] = []
    faults: list[str] = []
    listeners = {
        "request": lambda request: requests.append(request.url),
        "requestfailed": lambda request: faults.append(f"{request.url}: {request.failure}"),
        "response": lambda response: (
            response.status < 400 or faults.append(f"{response.url}: {response.status}")
        ),
        "pageerror": lambda error: faults.append(str(error)),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    page.goto(url, wait_until="load")
    found = page.evaluate(READ)
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return Visit(**found, requests=requests, faults=faults)
