"""The page of blocks is what its tool writes, and says all about each."""

import re

import pytest
from blocks_page import PAGE, built_in, described, field_rows, kinds, page

from mobilevlm import Block


def test_the_page_is_what_the_tool_writes() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python tools/blocks_page.py"


def test_each_block_has_a_row_and_a_section_with_each_of_its_fields() -> None:
    head, *sections = PAGE.read_text("utf-8").split("\n## ")
    assert re.findall(r"^\| \[`([a-z-]+)`\]", head, re.MULTILINE) == list(built_in())
    said = {name: text for name, _, text in (each.partition("\n") for each in sections)}
    assert [*said] == [*built_in(), "Activations"]
    for name, cls in built_in().items():
        fields = re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+\. \|$", said[name], re.MULTILINE)
        assert fields == list(cls.model_fields), name


def test_a_field_without_a_description_stops_the_tool() -> None:
    class Quiet(Block):
        """Do nothing."""

        times: int = 3

    with pytest.raises(SystemExit, match=r"describe 'times' under Attributes: in Quiet"):
        described(Quiet, "times")
    with pytest.raises(SystemExit):
        list(field_rows(Quiet))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 4096}, ["an integer (1 to 4,096)"]),
        ({"type": "integer", "minimum": 0}, ["an integer (at least 0)"]),
        (
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            ["a number (more than 0, at most 1)"],
        ),
        ({"anyOf": [{"type": "null"}, {"enum": ["in", "out"]}]}, ["`null`", '`"in"`', '`"out"`']),
        ({"type": "array", "items": {"$comment": "block"}}, ["blocks"]),
    ],
)
def test_what_a_schema_allows_in_words(schema: dict[str, object], said: list[str]) -> None:
    assert [*kinds(schema)] == said
