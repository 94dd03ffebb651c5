"""Every page of the site: where its links lead, how wide it is, and what it asks for."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from visits import Visit


def inside(urls: list[str], url: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the fragment of each address that lies in the site."""
    for each in urls:
        parts = urlsplit(each)
        if each.startswith(url):
            path = unquote(parts.path)[1:]
            yield path + "index.html" * (not path or path.endswith("/")), unquote(parts.fragment)


def test_the_site_has_pages(visits: dict[str, Visit]) -> None:
    assert {"index.html", "search.html", "zoo.html"} <= visits.keys()


def test_every_link_and_picture_is_there(visits: dict[str, Visit], site: Path, url: str) -> None:
    broken = [
        f"{page}: {path}" + f"#{fragment}" * bool(fragment)
        for page, visit in visits.items()
        for path, fragment in inside(visit.urls, url)
        if not (site / path).is_file()
        or (fragment and path in visits and fragment not in visits[path].ids)
    ]
    assert not broken, "\n".join(["these lead nowhere:", *broken])


def test_every_page_has_a_way_there_and_back(visits: dict[str, Visit], url: str) -> None:
    links = {page: {path for path, _ in inside(visit.links, url)} for page, visit in visits.items()}
    found, next_ = set(), {"index.html"}
    while next_:
        found |= next_
        next_ = {path for page in next_ for path in links[page] & links.keys()} - found
    lost = sorted(links.keys() - found)
    assert not lost, f"no link leads there from the front page: {lost}"
    stuck = [page for page in links if "index.html" not in links[page]]
    assert not stuck, f"no link leads back to the front page: {stuck}"


def test_no_page_scrolls_sideways_on_a_phone(visits: dict[str, Visit]) -> None:
    wide = [
        f"{page}: {visit.width} px: {visit.widest}"
        for page, visit in visits.items()
        if visit.width > 360
    ]
    assert not wide, "\n".join(["these are wider than 360 px:", *wide])


def test_pages_ask_no_other_host(visits: dict[str, Visit], url: str) -> None:
    asked = {
        f"{page}: {request}"
        for page, visit in visits.items()
        for request in visit.requests
        if not request.startswith((url, "data:"))
    }
    assert not asked


def test_nothing_fails_while_a_page_opens(visits: dict[str, Visit]) -> None:
    faults = {page: visit.faults for page, visit in visits.items() if visit.faults}
    assert not faults
