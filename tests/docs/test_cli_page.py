"""docs/cli.md has every verb of the command, and its examples are such that it takes them."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from mobilevlm.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
ROWS = dict(
    re.findall(r"^\| `(\w+)` \| .+ \| `mobilevlm (.+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
)
COMMAND = typer.main.get_command(app)


def test_every_verb_has_a_row_in_the_order_of_the_help() -> None:
    assert list(ROWS) == list(COMMAND.commands)


@pytest.mark.parametrize("verb", ROWS)
def test_the_example_is_parsed(verb: str) -> None:
    name, *arguments = shlex.split(ROWS[verb])
    assert name == verb
    COMMAND.commands[verb].make_context(verb, arguments)


def test_an_option_that_is_not_there_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        COMMAND.commands["bench"].make_context("bench", ["ldp", "--batches", "8"])
