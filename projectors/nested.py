"""A preset inside a stack: ``{"type": "preset", "name": "ldp", ...}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict
from torch import nn

from ..blocks.core.block import Block, bodies, walk, with_bodies
from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Feature, Width, is_width
from ..registry import MobileVLMError
from .assemble import assemble
from .lookup import instantiate

__all__ = ["NestedPreset"]


class NestedPreset(Block):
    """The blocks of a preset, from the incoming width to `out`; expanded at load.

    Every further key is an option of the preset.

    Attributes:
        name: The preset's registered name.
        out: Its output width.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    out: Width = "out"

    def expand(self, x: Feature) -> Sequence[Block]:
        out = x.width(self.out)
        try:
            stack = instantiate(self.name, self.model_extra or {}).stack(x.channels, out)
        except MobileVLMError as error:  # its path is inside the preset, not in the document
            found = f"{error.where}: {error.found}" if error.where else error.found
            raise SpecError(found, expected=error.expected, hint=error.hint) from error
        if stack.prefix_tokens:
            raise SpecError(
                "prefix tokens are dropped on entry only",
                hint="Set prefix_tokens of the whole stack.",
            )
        return _with_numeric_widths(stack.blocks, stack.feature(x.grid).replace(layout=x.layout))

    def flow(self, x: Feature) -> Feature:
        return walk(self.expand(x), x, ".blocks")[-1].y

    def build(self, x: Feature) -> nn.Module:
        return assemble(walk(self.expand(x), x, ".blocks"))


def _with_numeric_widths(blocks: Sequence[Block], x: Feature) -> tuple[Block, ...]:
    """Return the blocks with widths as numbers: ``out`` means another width outside."""
    done: list[Block] = []
    for step in walk(blocks, x):
        fields = type(step.block).model_fields
        changes: dict[str, Any] = {
            name: step.x.width(getattr(step.block, name))
            for name, field in fields.items()
            if is_width(field)
        }
        inner = {
            path: _with_numeric_widths(body, step.x) for path, body in bodies(step.block).items()
        }
        done.append(with_bodies(step.block, inner).model_copy(update=changes))
    return tuple(done)
