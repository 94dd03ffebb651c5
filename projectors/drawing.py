"""The drawing of a chain, as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TypeAlias

from ..blocks.core.block import Block, Step, bodies, chains, label, walk_cache
from ..blocks.core.feature import Feature, is_width
from ..blocks.residual import Residual
from .search import with_options
from .stack import Stack

__all__ = ["draw"]

# Options to show even if they have their default; others only where they differ from it.
_ALWAYS = {"act", "depth", "heads", "kernel", "mode", "norm", "queries", "size", "stride"}
_NARROWEST = 12  # columns of text, however deep the blocks are nested


_Line: TypeAlias = tuple[str, str, str]
"""What precedes a text, what precedes its further lines, and the text."""


def draw(stack: Stack, steps: Sequence[Step], columns: int) -> str:
    """Return a chain with the features between its blocks, along lines that show what flows where.

    Args:
        stack: The specification.
        steps: Its blocks with the features around them.
        columns: The width to which lines are wrapped.
    """
    lines = [("", "", _end(steps[0].x)), ("│", "│", "")]
    lines += [("│  ", "│  ", said) for said in _door(stack)]
    with walk_cache():
        lines += _chain(steps, "")
    lines += [("▼", "", ""), ("", "", _end(steps[-1].y))]
    return "\n".join(line for each in lines for line in _wrapped(*each, columns))


def _wrapped(first: str, further: str, text: str, columns: int) -> Iterator[str]:
    width = max(columns, len(further) + _NARROWEST)
    lines = wrap(
        text, width, initial_indent=first, subsequent_indent=further, break_on_hyphens=False
    )
    yield from (line.rstrip() for line in lines or [first])


def _end(feature: Feature) -> str:
    """Return a feature at one end of the projector."""
    return str(feature) if feature.tokens is None else f"{feature}, {feature.tokens:,} tokens"


def _door(stack: Stack) -> Iterator[str]:
    """Say what is done with the tokens before the first block."""
    if stack.prefix_tokens:
        first = "token is" if stack.prefix_tokens == 1 else f"{stack.prefix_tokens} tokens are"
        yield f"(the first {first} dropped)"
    if stack.token_block > 1 and stack.needs_grid:
        side = stack.token_block
        yield f"(the tokens come in blocks of {side}x{side})"


def _chain(steps: Sequence[Step], rail: str) -> Iterator[_Line]:
    """Draw a chain to the right of `rail`, without the feature that leaves it."""
    for step, later in zip(steps, [*steps[1:], None], strict=True):
        block, x, y = step
        inside = [*chains(block, x)]
        if not inside:
            yield f"{rail}├─ ", f"{rail}│    ", with_options(label(block), _options(block))
        elif isinstance(block, Residual):
            yield f"{rail}├─┐ ", f"{rail}│ │ ", label(block)
            yield from _chain(inside[0][1], f"{rail}│ ")
            yield f"{rail}├─┘ ", f"{rail}│   ", "+"
        elif len(bodies(block)) == 1:
            yield from _inside(block, inside[0][1], rail)
        else:
            yield from _branches(block, inside, rail)
        if later is not None and str(y) != str(x):
            yield f"{rail}│    ", f"{rail}│    ", str(y)


def _inside(block: Block, steps: Sequence[Step], rail: str) -> Iterator[_Line]:
    """Draw a block that runs one chain, once or several times; the first time is drawn."""
    text = with_options(label(block), _options(block))
    x, y = steps[0].x, steps[-1].y
    if block.chain_copies not in (None, 1) and str(y) != str(x):
        text += ": the first"
    yield f"{rail}└─┐ ", f"{rail}  │ ", text
    yield from _chain(steps, f"{rail}  ")
    if str(y) != str(x):
        yield f"{rail}  │    ", f"{rail}  │    ", str(y)
    yield f"{rail}┌─┘", f"{rail}│", ""


def _branches(
    block: Block, inside: Sequence[tuple[str, Sequence[Step]]], rail: str
) -> Iterator[_Line]:
    """Draw a block that gives its input to several chains, one below the other."""
    for number, (path, steps) in enumerate(inside):
        text = path if number else f"{label(block)}: {path}"
        corner, side = ("└─┐", "  ") if number == len(inside) - 1 else ("├─┐", "│ ")
        yield f"{rail}{corner} ", f"{rail}{side}│ ", text
        yield from _chain(steps, f"{rail}{side}")
        yield f"{rail}{side}└─ ", f"{rail}{side}   ", str(steps[-1].y)
    yield f"{rail}┌─ ", f"{rail}│  ", with_options(label(block), _options(block))


def _options(block: Block) -> dict[str, object]:
    """Return the options of a block that tell it from others of its type, without widths."""
    inner = {path.partition(".")[0] for path in bodies(block)}
    options = block.model_dump(mode="json", exclude=inner)
    fields = type(block).model_fields
    return {
        name: value
        for name, value in options.items()
        if value not in (None, "none")
        and not (name in fields and is_width(fields[name]))
        and (name in _ALWAYS or name not in fields or value != fields[name].default)
    }
