"""The picture at the top of the README: as the tool draws it, and legible on a phone."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import overview_picture
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from readme import README

PHONE = 360
THEMES = list(overview_picture.PICTURES)
Box = tuple[float, float, float, float]


def svg(theme: str) -> ET.Element:
    return ET.fromstring(overview_picture.picture(theme))


def texts(theme: str) -> dict[str, Box]:
    """Return what is written, with the box of its letters, in a wide font."""
    root = svg(theme)
    found: dict[str, Box] = {}
    for number, element in enumerate(root.findall("{*}text")):
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        size = float(element.get("font-size", root.attrib["font-size"]))
        family = "DejaVu Sans Mono" if "font-family" in element.attrib else "DejaVu Sans"
        font = FontProperties(family=family, weight=element.get("font-weight", "normal"), size=size)
        words = "".join(element.itertext())
        width = float(text_to_path.get_text_width_height_descent(words, font, False)[0])
        left = x - width / 2 if element.get("text-anchor") == "middle" else x
        found[f"{number} {words}"] = (left, y - 0.75 * size, left + width, y + 0.2 * size)
    return found


@pytest.mark.parametrize("theme", THEMES)
def test_it_is_as_the_tool_draws_it(theme: str) -> None:
    drawn = overview_picture.PICTURES[theme].read_text("utf-8")
    assert drawn == overview_picture.picture(theme), "run: python tools/overview_picture.py"


def test_the_readme_begins_with_it_and_says_what_it_shows() -> None:
    text = README.read_text("utf-8")
    pictures = re.findall(r'="(docs/[\w-]+\.svg)"', text)
    assert set(pictures) == {f"docs/{path.name}" for path in overview_picture.PICTURES.values()}
    assert text.index("<picture>") < text.index("\n## ")
    [said] = re.findall(r'alt="(.*?)"', text, re.DOTALL)
    plan = overview_picture.plan()
    counts = [len(plan.rows), plan.tokens_out, plan.stack.out, plan.tokens_in, plan.stack.in_]
    assert re.findall(r"\d+", said) == [str(count) for count in counts]


@pytest.mark.parametrize("theme", THEMES)
def test_it_is_legible_on_a_phone(theme: str) -> None:
    root = svg(theme)
    assert root.attrib["viewBox"].split()[2] == root.attrib["width"] == str(PHONE)
    sizes = [element.get("font-size") for element in root.iter()]
    assert all(float(size) >= 11 for size in sizes if size is not None)
    boxes = texts(theme)
    assert len(boxes) > 20
    for words, (left, _, right, _) in boxes.items():
        assert 0 < left < right < PHONE, words
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


def test_both_themes_show_the_same() -> None:
    light, dark = (re.sub("#[0-9a-f]{6}", "", overview_picture.picture(theme)) for theme in THEMES)
    assert light == dark
