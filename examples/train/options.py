"""What the programs of this folder have in common on their command lines."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import Any


def parse_projector(text: str) -> tuple[str, dict[str, Any]]:
    """Read a projector's name with options, such as ``c-abstractor(queries=16,hidden=128)``.

    Returns:
        The name, and the options: numbers, true or false, and else words.

    Raises:
        argparse.ArgumentTypeError: It is written in another way.
    """
    found = re.fullmatch(r"([\w.-]+)(?:\((.*)\))?", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a name such as ldp or ldp(kernel=5)")
    name, inner = found.groups()
    options = {}
    for part in filter(None, (inner or "").split(",")):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key.isidentifier():
            raise argparse.ArgumentTypeError(f"{part.strip()!r} in {text!r}; expected option=value")
        options[key] = parse_value(value)
    return name, options


def parse_value(text: str) -> Any:
    """Read a number, true, false or none; anything else is a word."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all programs take."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--tokens", type=int, metavar="N", help="tokens an image; default: the projector's own")
    add(
        "--steps",
        type=int,
        nargs=2,
        default=(500, 400),
        metavar="N",
        help="of both stages; 500 400",
    )
    add(
        "--questions",
        type=int,
        default=12000,
        metavar="N",
        help="questions to train with; %(default)s",
    )
    add("--unseen", type=int, default=400, metavar="N", help="questions to test with; %(default)s")
    add(
        "--out", type=Path, default=Path("out/train"), metavar="FOLDER", help="default: %(default)s"
    )
    return result
