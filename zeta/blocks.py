"""Zeta's modules as block classes, each made from its row of the table when it is asked for.

Options are checked and shapes are computed from the table alone, without zetascale.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import new_class
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator
from torch import nn

from ..blocks.core.block import Block
from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Feature, Width
from ..blocks.core.spec import Refused, shown
from ..registry import did_you_mean, quote
from .module import make
from .table import MAX_COUNT, Row, table

__all__ = ["ZetaBlock", "ZetaOutBlock", "block_class"]


def _describe(schema: dict[str, Any], cls: type[ZetaBlock]) -> None:
    """Write the options into the JSON schema, as pydantic does for fields."""
    properties = schema.setdefault("properties", {})
    properties |= {name: option.json_schema() for name, option in cls.row.options.items()}
    required = [name for name, option in cls.row.options.items() if option.required]
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False


class ZetaBlock(Block):
    """A module of ``zeta.nn``; every key is one of its arguments.

    `block_class` makes a subclass per module from a row of the table. The input width is inferred;
    of the other arguments, those that a document may set are options.

    Attributes:
        row: The module's row.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=_describe)

    row: ClassVar[Row]

    @model_validator(mode="before")
    @classmethod
    def _check_options(cls, data: Any) -> Any:
        """Check the options, and add the defaults of those that are not given."""
        if not isinstance(data, Mapping):
            return data
        options = cls.row.options
        for key, value in data.items():
            if key not in options and key not in cls.model_fields:
                raise Refused(cls._unknown_key(key))
            if key in options and not options[key].accepts(value):
                raise SpecError(shown(value), key, options[key].expected, cls._signature())
        for name, option in options.items():
            if option.required and name not in data:
                raise SpecError(f"key {name!r} is missing", hint=cls._signature())
        fields = {key: value for key, value in data.items() if key not in options}
        return fields | {name: data.get(name, o.default) for name, o in options.items()}

    @classmethod
    def _unknown_key(cls, key: object) -> SpecError:
        row, known = cls.row, [*cls.model_fields, *cls.row.options]
        if key in row.widths:
            found = f"{key!r} is inferred: it is the input width"
        elif key == row.out:
            found = f"{key!r} is written 'out'"
        elif key in row.arguments:
            found = f"argument {key!r} cannot be set from a document"
        else:
            found = f"unknown key {quote(key)}"
        return SpecError(
            found,
            expected=f"one of {', '.join(known)}" if known else "no keys",
            hint=lambda: f"{did_you_mean(key, known)} {cls._signature()}".strip(),
        )

    @classmethod
    def _signature(cls) -> str:
        return f"It is zeta.nn.{cls.row.signature}."

    @property
    def counts_as(self) -> int:
        options = self.model_extra or {}
        counts = (name for name, option in self.row.options.items() if option.most == MAX_COUNT)
        return 1 + sum(options[name] or 0 for name in counts)

    def _out(self, x: Feature) -> int:
        times, over = self.row.ratio
        if x.channels * times % over:
            raise SpecError(f"{x.channels} channels", expected=f"a multiple of {over}")
        return x.channels * times // over

    def flow(self, x: Feature) -> Feature:
        if self.row.needs_grid:
            x.raster()
        over, grid = self.row.sides[1], f"a grid of {x.grid[0]}x{x.grid[1]}"
        if any(side is not None and side % over for side in x.grid):
            raise GridError(grid, expected=f"sides that are multiples of {over}")
        y = x.resize(self.row.resize(self.model_extra or {}))
        if any(side is not None and side < 1 for side in y.grid):
            raise GridError(f"nothing is left of {grid}")
        return y.replace(channels=self._out(x))

    def build(self, x: Feature) -> nn.Module:
        return make(self.row, self.model_extra or {}, x.channels, self._out(x))


class ZetaOutBlock(ZetaBlock):
    """A module of ``zeta.nn`` that has an argument for its output width.

    Attributes:
        out: The output width.
    """

    out: Width = "out"

    def _out(self, x: Feature) -> int:
        return x.width(self.out)


def block_class(row: Row) -> type[ZetaBlock]:
    """Make the block class of a row."""
    facts = {
        "row": row,
        "needs_grid": row.needs_grid,
        "mixes_tokens": row.mixes_tokens,
        "__doc__": f"``zeta.nn.{row.signature}``.",
        "__module__": __name__,
        "__qualname__": row.module,
    }
    base = ZetaBlock if row.out is None else ZetaOutBlock
    made: type[ZetaBlock] = new_class(
        row.module, (base,), exec_body=lambda body: body.update(facts)
    )
    return made


def __getattr__(name: str) -> Any:
    for row in table().blocks.values():
        if row.module == name:
            return globals().setdefault(name, block_class(row))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
