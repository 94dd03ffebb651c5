"""The site's own logic: where links lead, and that each page has its place in the navigation."""

import re
from pathlib import Path

import pytest
from links import FOLDERS, ROOT_PAGES, below, relink
from pictures import by_theme

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text("utf-8")
TOCTREE = re.compile(r"^```\{toctree\}\n((?::.*\n)+)\n((?:.+\n)+)```$", re.MULTILINE)
SUFFIXES = (".md", ".ipynb")


def names() -> set[str]:
    """Return the pages that are in the tree; the reference is made with the site."""
    files = [path for suffix in SUFFIXES for path in DOCS.rglob(f"*{suffix}")]
    return {path.relative_to(DOCS).with_suffix("").as_posix() for path in files}


def listed() -> list[str]:
    return [name for _, entries in TOCTREE.findall(INDEX) for name in entries.split()]


@pytest.mark.parametrize(
    ("page", "written", "expected"),
    [
        ("docs/hub.md", "[a](models.md#the-matrix)", "[a](models.md#the-matrix)"),
        ("docs/hub.md", "[models.md](models.md#the-matrix)", "[](models.md#the-matrix)"),
        ("CHANGELOG.md", "[docs/models.md](docs/models.md)", "[](models.md)"),
        ("docs/hub.md", "[a](#below) [b](https://example.org/x)", None),
        ("docs/export.md", "[serve_onnx.py](../examples/serve_onnx.py)", None),
        ("docs/export.md", "[a](recipes/to_coreml.py)", None),
        (
            "docs/porting.md",
            "see [`examples/ports`](../examples/ports), a",
            "see `examples/ports`, a",
        ),
        ("docs/hub.md", "[a](../CHANGELOG.md)", "[a](changelog.md)"),
        ("docs/hub.md", "[a](../CONTRIBUTING.md#gates)", "[a](contributing.md#gates)"),
        ("docs/hub.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/decisions/own-keys.md", "[a](../../README.md)", "[a](../index.md)"),
        ("docs/decisions/README.md", "[a](own-keys.md)", None),
        ("docs/hub.md", "[a](../examples/acme-blocks/README.md)", "a"),
        ("docs/hub.md", "`layers[0](x)` and\n```python\nlayers[0](x)\n```\n", None),
        ("docs/hub.md", "[`a`](../README.md#install)", "[`a`](index.md)"),
        ("docs/hub.md", "[a](missing.md)", None),
        ("docs/architecture.md", "[a](decisions/)", "[a](decisions/README.md)"),
        ("CONTRIBUTING.md", "[a](docs/decisions/)", "[a](decisions/README.md)"),
        (
            "CONTRIBUTING.md",
            "[a](docs/hub.md#x) [b](SECURITY.md)",
            "[a](hub.md#x) [b](security.md)",
        ),
    ],
)
def test_links_lead_somewhere_on_the_site(page: str, written: str, expected: str | None) -> None:
    """None is: as it is written."""
    folder = DOCS if "/" not in page else None
    assert relink(written, ROOT / page, folder) == (expected or written)


def test_each_page_has_a_place_in_the_navigation() -> None:
    places = [*listed(), "index"]
    for page, folder in FOLDERS.items():
        if below(page):
            places += [
                name for name in names() if Path(name).parent.name == folder and name != page
            ]
    assert len(places) == len(set(places))
    assert set(places) == {*names(), "api/index"}


def test_pages_below_a_page_are_in_its_part_of_the_navigation() -> None:
    assert "\n/decisions/*\n" in below("decisions/README")
    assert below("hub") == ""


@pytest.mark.parametrize("file", sorted(ROOT_PAGES))
def test_the_pages_of_the_root_are_links_on_github(file: str) -> None:
    page = DOCS / ROOT_PAGES[file]
    if page.name != "index.md":
        assert f"](../{file})" in page.read_text("utf-8")
        assert (
            page.read_text("utf-8").splitlines()[0]
            == (ROOT / file).read_text("utf-8").splitlines()[0]
        )


def test_a_picture_with_a_dark_one_is_shown_in_both_themes() -> None:
    shown = by_theme("Above.\n\n![Tokens and cost](compare.svg)\n\nBelow.", DOCS)
    assert re.findall(r"\{image\} (\S+)\n:class: only-(\w+)\n:alt: (.*)\n", shown) == [
        ("compare.svg", "light", "Tokens and cost"),
        ("compare-dark.svg", "dark", "Tokens and cost"),
    ]
    assert shown.startswith("Above.\n\n```{image}")
    assert shown.endswith("```\n\n\nBelow.")
    alone = "![Dark only](compare-dark.svg)"
    assert by_theme(alone, DOCS) == alone
