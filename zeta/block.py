"""A module of Zeta's as a block: its options checked and its features walked by the table alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from pydantic import ConfigDict, model_validator
from torch import nn

from ..blocks.core.block import Block
from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Feature, Width
from ..blocks.core.spec import Refused, shown
from ..registry import did_you_mean, quote
from .module import make
from .table import MAX_COUNT, Option, Row, Scalar

__all__ = ["ZetaBlock", "ZetaOutBlock"]

MAX_FLOAT = sys.float_info.max

_EXPECTED = {
    "bool": "true or false",
    "int": "an integer from {least} to {most}",
    "float": "a finite number",
    "str": "{choices}",
}


def _describe(schema: dict[str, Any], cls: type[ZetaBlock]) -> None:
    """Write the options into the JSON schema, as fields would be."""
    names = {"bool": "boolean", "int": "integer", "float": "number", "str": "string"}
    for name, option in cls.row.options.items():
        kind = names[option.type]
        about: dict[str, Any] = {"type": kind}
        if option.type == "int":
            about |= {"minimum": option.least, "maximum": option.most}
        elif option.type == "str":
            about["enum"] = [*option.choices]
        if option.required:
            schema.setdefault("required", []).append(name)
        else:
            about["default"] = option.default
            if option.default is None:
                about["type"] = [kind, "null"]
        schema.setdefault("properties", {})[name] = about
    schema["additionalProperties"] = False


class ZetaBlock(Block):
    """A module of ``zeta.nn``; every key is one of its arguments.

    A subclass of it per module is made from a row of the table. The width that comes in is never
    written; of the arguments, only those that a document may set are options.

    Attributes:
        row: The module's row.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra=_describe)

    row: ClassVar[Row]

    @model_validator(mode="before")
    @classmethod
    def _options(cls, data: Any) -> Any:
        """Check the options and write their defaults out."""
        if not isinstance(data, Mapping):
            return data
        options = cls.row.options
        for key, value in data.items():
            if key in options:
                _check(cls.row, key, options[key], value)
            elif key not in cls.model_fields:
                _refuse(cls.row, key, [*cls.model_fields, *options])
        for name, option in options.items():
            if option.required and name not in data:
                raise SpecError(f"key {name!r} is missing", hint=_signature(cls.row))
        fields = {key: value for key, value in data.items() if key not in options}
        return fields | {name: data.get(name, o.default) for name, o in options.items()}

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
        over = self.row.sides[1]
        if any(side is not None and side % over for side in x.grid):
            raise GridError(_grid(x), expected=f"sides that are multiples of {over}")
        y = x.resize(self.row.resize(self.model_extra or {}))
        if any(side is not None and side < 1 for side in y.grid):
            raise GridError(f"nothing is left of {_grid(x)}")
        return y.replace(channels=self._out(x))

    def build(self, x: Feature) -> nn.Module:
        return make(self.row, self.model_extra or {}, x.channels, self._out(x))


class ZetaOutBlock(ZetaBlock):
    """A module of ``zeta.nn`` that takes the width of what goes out.

    Attributes:
        out: The output width.
    """

    out: Width = "out"

    def _out(self, x: Feature) -> int:
        return x.width(self.out)


def _grid(x: Feature) -> str:
    return f"a grid of {x.grid[0]}x{x.grid[1]}"


def _signature(row: Row) -> str:
    return f"It is zeta.nn.{row.signature}."


def _check(row: Row, key: str, option: Option, value: Scalar) -> None:
    """Refuse a value that is not of the option's type."""
    kind = type(value)
    if value is None and option.default is None and not option.required:
        return
    if option.type == "int":
        fits = kind is int and option.least <= value <= option.most  # type: ignore[operator]
    elif option.type == "float":
        fits = kind in (int, float) and abs(value) <= MAX_FLOAT  # type: ignore[arg-type]
    elif option.type == "bool":
        fits = kind is bool
    else:
        fits = value in option.choices
    if not fits:
        choices = " or ".join(", ".join(map(repr, option.choices)).rsplit(", ", 1))
        expected = _EXPECTED[option.type].format(
            least=option.least, most=option.most, choices=choices
        )
        raise SpecError(shown(value), key, expected, _signature(row))


def _refuse(row: Row, key: object, known: list[str]) -> NoReturn:
    """Say why a key is no option."""
    if key in row.widths:
        found = f"{key!r} is inferred: it is the width that comes in"
    elif key == row.out:
        found = f"{key!r} is written 'out'"
    elif key in row.arguments:
        found = f"argument {key!r} cannot be set from a document"
    else:
        found = f"unknown key {quote(key)}"
    expected = f"one of {', '.join(known)}" if known else "no keys"
    refused = SpecError(
        found,
        expected=expected,
        hint=lambda: f"{did_you_mean(key, known)} {_signature(row)}".strip(),
    )
    raise Refused(refused)
