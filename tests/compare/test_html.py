"""The table for notebooks: well-formed, escaped, and in the colours of the notebook."""

from dataclasses import replace

import pytest
from helpers.html import parse, unstyled

from mobilevlm import compare_projectors
from mobilevlm.compare import Comparison

LM = {"model_type": "llama", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def found() -> Comparison:
    specs = ["linear", "ldp", "identity", "deco"]
    return compare_projectors(specs, 32, 48, grid=(12, 12), lm=LM)


def test_it_shows_what_the_text_shows(found: Comparison) -> None:
    root = parse(found._repr_html_())
    header, rows = found.table()
    head, *body = root.all("tr")
    assert [cell.words() for cell in head.all("th", "td")] == header
    shown = [[cell.words() for cell in row.all("th", "td")] for row in body]
    assert [[first.removesuffix(" Pareto front"), *rest] for first, *rest in shown] == rows
    assert [note.words() for note in root.all("p")] == found.notes()


def test_rows_on_the_front_say_so(found: Comparison) -> None:
    names = [row.all("th")[0].words() for row in parse(found._repr_html_()).all("tr")[1:]]
    marked = [name for name in names if name.endswith(" Pareto front")]
    assert marked == [f"{row.name} Pareto front" for row in found.pareto()]
    assert 0 < len(marked) < len(names)


def test_numbers_stand_to_the_right(found: Comparison) -> None:
    for row in parse(found._repr_html_()).all("tr"):
        sides = [
            "right" if "text-align: right" in (cell.attributes["style"] or "") else "left"
            for cell in row.all("th", "td")
        ]
        assert sides == ["left", "left", *["right"] * (len(sides) - 2)]


def test_it_takes_the_colours_and_fonts_of_the_notebook(found: Comparison) -> None:
    unstyled(parse(found._repr_html_()))


def test_text_is_escaped(found: Comparison) -> None:
    name = "<script>alert('x')</script> & \"more\" \x1b[31m"
    row = replace(found.rows[0], name=name, note="<b>")
    text = Comparison((row,), ("<i>&amp;",))._repr_html_()
    assert "<script" not in text
    root = parse(text)
    shown = root.all("th")[-1].words().removesuffix(" Pareto front")
    assert shown == "<script>alert('x')</script> & \"more\" \\x1b[31m"
    notes = [note.words() for note in root.all("p")]
    assert "<i>&amp;" in notes
    assert any(note.endswith(": <b>") for note in notes)
