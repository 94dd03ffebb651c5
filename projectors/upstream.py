"""How a family's weights are named in checkpoints of other projects; no family is known here.

A family's file lists `Upstream` entries. A config leaves out what equals transformers' default, so
their readers name the default of each setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..blocks.core.activation import TRANSFORMERS_NAMES
from ..registry import quote
from .errors import CheckpointError

if TYPE_CHECKING:
    from ..blocks.core.block import Block
    from .stack import Stack

__all__ = [
    "Axes",
    "Checkpoint",
    "Fused",
    "Match",
    "Name",
    "Names",
    "Upstream",
    "count_blocks",
    "refused",
    "with_norm",
]


@dataclass(frozen=True)
class Name:
    """Where upstream keeps the parameters of one of our modules.

    Attributes:
        path: Upstream's module, or its parameter where the form is not ``plain`` or ``conv``.
        form: ``plain``: a module with parameters of the same shapes; ``bare``: one parameter of
            the same shape; ``batch``: a parameter with a leading axis of 1; ``vector``: a
            parameter without our leading axis of 1; ``matrix``: our linear layer's weight, stored
            (in, out); ``conv``: a convolution, which is a linear layer here.
        kernel: The sides of the convolution's kernel.
        order: How our linear layer's inputs stand where upstream has a convolution: ``chw``, as in
            its weight, or ``hwc``, position after position.
        skip: How many unused rows stand before ours in a ``batch``.
        axes: How many leading axes of 1 a ``batch`` has.
        join: What stands between the path and the parameter's name.
    """

    path: str
    form: Literal["plain", "bare", "batch", "vector", "matrix", "conv"] = "plain"
    kernel: tuple[int, int] = (1, 1)
    order: Literal["chw", "hwc"] = "chw"
    skip: int = 0
    axes: int = 1
    join: str = "."


@dataclass(frozen=True)
class Fused:
    """Several of our modules in one layer upstream, such as the value and the gate of a GLU.

    Attributes:
        path: Upstream's module.
        order: The indices of our modules, in the order of their rows upstream. In a GLU of ours
            the gate stands before the value.
        join: What stands between the path and ``weight`` or ``bias``.
    """

    path: str
    order: tuple[int, ...] = (1, 0)
    join: str = "."


@dataclass(frozen=True)
class Axes:
    """The tables of a `position` block of kind ``axes``.

    Attributes:
        rows: Upstream's parameter with a vector for each row.
        columns: The one with a vector for each column; if it is the same, it is (n, 2, c), the
            columns before the rows.
    """

    rows: str
    columns: str


Names: TypeAlias = (
    Sequence[str | Name | Fused | Axes]
    | Callable[["Stack"], Sequence[str | Name | Fused] | Sequence[str | Name | Fused | Axes]]
)
"""Upstream's names of a projector's modules that hold parameters, in order of use."""


@dataclass(frozen=True)
class Match:
    """What a reader found in a checkpoint: the widths and the options of the preset.

    Attributes:
        in_: The input width.
        out: The output width.
        options: The preset's options.
        grid: The grid, where the weights have a row for each of its cells.
        preset: The registered name, if it is not the family's own, such as one of its aliases.
    """

    in_: int
    out: int
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[int, int] | None = None
    preset: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """What a reader sees of a checkpoint.

    Attributes:
        config: The model's config.json.
        shapes: The shapes of the tensors below the root, by their keys without it.
        root: What stands before those keys.
        family: The registered name of the family whose reader it is.
        asked: Whether the caller named the family, whatever the config names.
        given: The preset's options that the caller gave; the config is not asked for these.
        notes: What a reader has to say of the checkpoint; it may add sentences.
    """

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    root: str = ""
    family: str = ""
    asked: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def setting(self, path: str, default: Any) -> Any:
        """Return a setting of the config, such as ``vision_config.hidden_size``."""
        config = self.config
        *sections, name = path.split(".")
        for section in sections:
            config = config.get(section) or {}
        return config.get(name, default)

    def option(self, name: str, path: str, default: Any) -> Any:
        """Return an option of the preset: as the caller gave it, else a setting of the config."""
        return self.given[name] if name in self.given else self.setting(path, default)

    def only(self, path: str, expected: Any, default: Any = ...) -> None:
        """Refuse a setting that upstream has and the preset does not.

        Args:
            path: Where the setting is.
            expected: The one value that the preset computes.
            default: Upstream's default; if not given, the expected value.
        """
        value = self.setting(path, expected if default is ... else default)
        if value != expected and not (self.asked and value is None):
            raise CheckpointError(quote(value), f"config.json: {path}", quote(expected))

    def check_type(
        self, pattern: str, means: str, path: str = "mm_projector_type", default: str = "linear"
    ) -> None:
        """Refuse a setting that names another projector than the tensors are of.

        Where the caller names the family it is noted instead, and so is upstream's default, which
        many configs keep beside another projector's weights.

        Args:
            pattern: What the setting may be.
            means: What the tensors are, in the setting's own words.
            path: Where the setting is.
            default: Upstream's default.
        """
        value = self.setting(path, None)
        if value is None or (isinstance(value, str) and re.fullmatch(pattern, value)):
            return
        if value != default and not self.asked:
            raise CheckpointError(
                f"{quote(value)}, and the tensors are those of {means}",
                f"config.json: {path}",
                "the same of both",
                f"If the tensors are right, ask for their family, family={self.family!r}, and give "
                "the options that it means, such as act=.",
            )
        self.notes.append(f"config.json says {path} {value!r}, and the tensors are {means}'s")

    def act(self, path: str = "projector_hidden_act", default: str = "gelu") -> str:
        """Return our name of the activation that a setting names; by default transformers' one."""
        if "act" in self.given:
            return str(self.given["act"])
        name = self.setting(path, default)
        if not isinstance(name, str) or name not in TRANSFORMERS_NAMES:
            expected = f"one of {', '.join(TRANSFORMERS_NAMES)}"
            raise CheckpointError(quote(name), f"config.json: {path}", expected)
        return TRANSFORMERS_NAMES[name]

    def matrix(self, key: str) -> tuple[int, int]:
        """Return the two sides of a weight, (out, in)."""
        shape = self.shapes[key]
        if len(shape) != 2:
            raise CheckpointError(f"a tensor of {shape}", key, "two axes (out, in)")
        return shape[0], shape[1]

    def count(self, pattern: str) -> int:
        """Return how many keys match a pattern."""
        return sum(re.fullmatch(pattern, key) is not None for key in self.shapes)

    def layers(self, path: str) -> int:
        """Return how many numbered modules there are at a path, by the largest number."""
        found = (re.match(rf"{re.escape(path)}\.(\d+)\.", key) for key in self.shapes)
        return 1 + max((int(match[1]) for match in found if match), default=-1)


@dataclass(frozen=True)
class Upstream:
    """One way in which checkpoints name a family's weights.

    An entry without `read` is for writing only: `to_upstream` takes its layout.

    Attributes:
        layout: A name for these names. Families may share one if they share the names.
        names: Upstream's module names in order of use; or a function of the stack.
        prefix: A pattern of the module's name in the models, the end of its path; empty where its
            parts stand at the top.
        needs_prefix: Whether the prefix must be there, because `names` alone say too little.
        tensors: The keys below the prefix that must be there; by default the weights of `names`.
        read: Reads the widths and options from the config and the shapes.
        model_types: The model types of the configs that it is for. Without any, the names are
            distinctive, and it is tried whatever the config says.
        prefixes: Where, below the prefix, the projector's tensors are; others are left alone.
        names_suffice: Whether it is tried where there is no config, too.
        secondary: Whether it stands beside the model's main projector. The main one is loaded
            unless a root is given.
    """

    layout: str
    names: Names = ()
    prefix: str = ""
    tensors: tuple[str, ...] = ()
    read: Callable[[Checkpoint], Match] | None = None
    model_types: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    names_suffice: bool = False
    secondary: bool = False
    needs_prefix: bool = False

    def __post_init__(self) -> None:
        if self.read is not None and not self.tensors and not callable(self.names):
            plain = [name for name in self.names if isinstance(name, str)]
            weights = tuple(f"{name}.weight".removeprefix(".") for name in plain)
            object.__setattr__(self, "tensors", weights)


def count_blocks(stack: Stack, kind: type[Block]) -> int:
    """Return how many of a stack's blocks are of a kind."""
    return sum(type(block) is kind for block in stack.blocks)


def with_norm(norm: str, *names: str | Fused) -> Names:
    """Return the names, with the norm's first where the stack has a norm."""

    def names_of(stack: Stack) -> Sequence[str | Fused]:
        has = any(getattr(block, "norm", "none") != "none" for block in stack.blocks)
        return (norm, *names) if has else names

    return names_of


def refused(why: str) -> Callable[[Checkpoint], Match]:
    """Return a reader that says why the projector of a known model cannot be a preset."""

    def read(ckpt: Checkpoint) -> Match:
        raise CheckpointError(
            f"{quote(ckpt.config.get('model_type'))}, whose {why}",
            "config.json: model_type",
            "a projector of one image's features alone",
            "Run it with the model's own code.",
        )

    return read
