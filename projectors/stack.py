"""The stack: the specification of a projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..blocks.core.block import Block, Blocks, Step, label, needs_grid, walk
from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Channels, Feature, check_grid
from ..blocks.core.spec import Spec, shown

__all__ = ["SCHEMA", "PrefixTokens", "Stack", "TokenOrder"]

SCHEMA = 1

PrefixTokens = Annotated[int, Field(ge=0, le=1024)]


TokenOrder = Literal["raster", "blocked", "blocked-3x3", "blocked-4x4"]


def _check_schema(schema: Any) -> Any:
    if type(schema) is int and schema == SCHEMA:
        return schema
    newer = type(schema) is int and schema > SCHEMA
    raise SpecError(
        shown(schema) + (" is newer than this version reads" if newer else ""),
        expected=str(SCHEMA),
        hint="Upgrade mobilevlm." if newer else "",
    )


class Stack(Spec):
    """The specification of a projector: two widths and a chain of blocks.

    A block gives only its output width; its input width is that of the block before it. Presets in
    the chain are expanded when the stack is made.

    Attributes:
        schema_: The version of the document format, written ``"schema"``.
        in_: The input width, written ``"in"``.
        out: The output width.
        prefix_tokens: How many leading tokens (CLS, registers) to drop on entry.
        token_order: The order of the input tokens: ``raster``: row by row; ``blocked``: the four
            tokens of each 2x2 block together, as Qwen's towers return them; ``blocked-3x3`` and
            ``blocked-4x4``: those of larger blocks.
        blocks: The chain.

    Raises:
        SpecError: A key, a value or a block does not fit; the message gives its path.
    """

    schema_: Annotated[Literal[1], BeforeValidator(_check_schema)] = Field(
        default=1, validation_alias="schema", serialization_alias="schema"
    )
    in_: Channels = Field(validation_alias=AliasChoices("in", "in_"), serialization_alias="in")
    out: Channels
    prefix_tokens: PrefixTokens = 0
    token_order: TokenOrder = "raster"
    blocks: Blocks

    @classmethod
    def _root(cls) -> str:
        return ""

    @model_validator(mode="before")
    @classmethod
    def _check_one_in(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and {"in", "in_"} <= data.keys():
            raise SpecError("key 'in' is given twice")
        return data

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Stack:
        """Validate a document; the same as ``Stack(**document)`` for any mapping.

        Raises:
            SpecError: It does not fit.
            GridError: A block leaves less of a fixed grid than the next one needs.
        """
        return cls.model_validate(document)

    @field_validator("blocks")
    @classmethod
    def _expand(cls, blocks: tuple[Block, ...], info: ValidationInfo) -> tuple[Block, ...]:
        if not {"in_", "out"} <= info.data.keys():
            return blocks  # refused for another reason
        ends = (info.data["in_"], info.data["out"])
        steps = walk(blocks, Feature(channels=ends[0], ends=ends), expand=True)
        last = steps[-1]
        if last.y.channels != ends[1]:
            giver = (
                f"blocks[{len(steps) - 2}] ({label(steps[-2].block)})" if steps[1:] else "the input"
            )
            raise SpecError(
                f"it ends the chain with {last.y.channels} channels",
                f"blocks[{len(steps) - 1}] ({label(last.block)})",
                f"{ends[1]}, the projector's 'out'",
                f"It is given {last.x} by {giver}.",
            )
        return tuple(step.block for step in steps)

    @property
    def token_block(self) -> int:
        """The side of the blocks in which the input tokens come; 1 if they come row by row."""
        return {"raster": 1, "blocked": 2}.get(self.token_order) or int(self.token_order[-1])

    @property
    def needs_grid(self) -> bool:
        """Whether any block reads the grid; if none does, any number of tokens will do."""
        return needs_grid(self.blocks)

    def feature(self, grid: tuple[int | None, int | None] = (None, None)) -> Feature:
        """Return the feature that enters the first block."""
        return Feature(channels=self.in_, grid=grid, ends=(self.in_, self.out))

    def walk(self, grid: tuple[int | None, int | None] = (None, None)) -> list[Step]:
        """Compute the features between the blocks, for a grid if it is known.

        Raises:
            GridError: A block does not take the grid.
        """
        return walk(self.blocks, self.feature(grid))

    def tokens(self, h: int, w: int) -> int:
        """Return how many tokens come out for a grid of h x w; arithmetic only.

        Raises:
            GridError: A block does not take the grid.
        """
        tokens = self.walk(check_grid((h, w)))[-1].y.tokens
        if tokens is None:  # a block that returned an unknown grid for a known one
            raise SpecError("the number of tokens is not known after the last block", "blocks")
        return tokens
