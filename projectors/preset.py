"""The preset: a named projector with options, which expands to a stack."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from ..blocks.attention import square_side
from ..blocks.core.errors import SpecError
from ..blocks.core.feature import MAX_WIDTH
from ..blocks.core.spec import Spec
from ..registry import MobileVLMError, describe_error, quote
from .stack import PrefixTokens, Stack, TokenOrder
from .upstream import Upstream

__all__ = [
    "MERGES",
    "Aliases",
    "Channels",
    "Preset",
    "TokensBy",
    "UpTo16",
    "UpTo64",
    "square",
    "token_order",
]

Aliases: TypeAlias = Mapping[str, Mapping[str, Any]]
TokensBy: TypeAlias = Mapping[str, Sequence[int] | Callable[[int, Any], Any]]

# What options are, in many families.
Channels: TypeAlias = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
UpTo16: TypeAlias = Annotated[int, Field(ge=1, le=16)]
UpTo64: TypeAlias = Annotated[int, Field(ge=1, le=64)]

MERGES = range(1, 17)
"""The sides of windows that `tokens_by` tries."""

# The arguments of the functions that take options, and what a preset has.
_ARGUMENTS = {
    *("spec", "in", "in_", "out", "tokens", "grid", "device", "dtype", "max_parameters"),
    *("tower", "lm", "root", "family", "module_names", "check_values"),
    *("processor", "slot", "init", "replace"),
}
_RESERVED = _ARGUMENTS | {
    "type",
    "name",
    "expand",
    "stack",
    "upstream",
    "aliases",
    "models",
    "tokens_by",
}
_ALIAS = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_ALIAS_RULE = "ASCII letters, digits, '_', '-' and '.', at most 64"


class Preset(Spec):
    """A named projector: a pydantic class of options that expands to a stack.

    For example::

        class Wide(Preset):
            times: int = 4

            def expand(self, in_: int, out: int) -> Stack:
                blocks = (Pointwise(out=self.times * out), Pointwise())
                return Stack(in_=in_, out=out, blocks=blocks)

    Attributes:
        prefix_tokens: How many leading tokens (CLS, registers) to drop on entry; for every preset.
        upstream: How checkpoints of other projects are recognised and name the weights. Those of
            presets that are not built in are looked up after ours.
        aliases: Other names of the projector, each with the options that it stands for: other
            engines' and upstream's classes. A plugin's are not looked up, as that would import
            it: it registers an instance, ``Wide(times=8)``, under each further name.
        models: The models that use the projector, by the names that people write, each with the
            options that it stands for. Searches find them in built-in families.
        tokens_by: The options that set the number of tokens, for ``tokens=n``. Each has the values
            to try on a grid; or, where no grid matters, a function of n and of a preset with the
            other options, which returns the value.
    """

    upstream: ClassVar[Sequence[Upstream]] = ()
    aliases: ClassVar[Aliases] = {}
    models: ClassVar[Aliases] = {}
    tokens_by: ClassVar[TokensBy] = {}

    prefix_tokens: PrefixTokens = 0

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        taken = sorted(_RESERVED & cls.model_fields.keys())
        if taken:
            raise SpecError(f"a preset cannot have an option called {taken[0]!r}", cls.__name__)
        _check_names(cls)

    @abstractmethod
    def expand(self, in_: int, out: int) -> Stack:
        """Return the stack for these widths."""

    def stack(self, in_: int, out: int) -> Stack:
        """Return the stack for these widths, with the options that every preset has.

        Raises:
            SpecError: The options do not fit these widths, or `expand` fails or returns something
                else than a stack of them.
        """
        where = type(self).__name__
        try:
            stack = self.expand(in_, out)
        except MobileVLMError:
            raise
        except Exception as error:  # a plugin's preset: name it
            raise SpecError(f"expand failed: {describe_error(error)}", where) from error
        if not isinstance(stack, Stack) or (stack.in_, stack.out) != (in_, out):
            raise SpecError(f"expand returned {quote(stack)}", where, f"a Stack {in_} -> {out}")
        if not self.prefix_tokens:
            return stack
        return stack.model_copy(update={"prefix_tokens": self.prefix_tokens})


def square(tokens: int, preset: Preset) -> int:
    """Return the side of a square of so many tokens, for `tokens_by`.

    Raises:
        SpecError: It is not a square number.
    """
    return square_side(tokens, "tokens")


def token_order(order: Literal["raster", "blocked"], merge: int) -> TokenOrder:
    """Return a stack's token order for a merge of windows: ``blocked`` means window by window.

    Raises:
        SpecError: Tokens cannot come in blocks of that side.
    """
    orders: dict[int, TokenOrder] = {2: "blocked", 3: "blocked-3x3", 4: "blocked-4x4"}
    if order == "raster" or merge == 1:
        return "raster"
    if merge not in orders:
        hint = "Set token_order='raster' if the tokens come row by row."
        raise SpecError(f"blocks of {merge}x{merge}", "token_order", "a merge of at most 4", hint)
    return orders[merge]


def _check_names(cls: type[Preset]) -> None:
    """Refuse what the class says of its names and options, if it has no such options."""
    fields = ", ".join(cls.model_fields)
    for option in cls.tokens_by:
        if option not in cls.model_fields:
            raise SpecError(f"no option {quote(option)}", f"{cls.__name__}.tokens_by", fields)
    for attribute in ("aliases", "models"):
        where, names = f"{cls.__name__}.{attribute}", getattr(cls, attribute)
        if not isinstance(names, Mapping):
            raise SpecError(quote(names), where, 'a mapping such as {"name": {"option": 2}}')
        for name, options in names.items():
            if attribute == "aliases" and not (isinstance(name, str) and _ALIAS.fullmatch(name)):
                raise SpecError(quote(name), where, _ALIAS_RULE)
            if not isinstance(name, str) or not isinstance(options, Mapping):
                expected = "the options that the name stands for, as a mapping"
                raise SpecError(quote(options), f"{where}[{quote(name)}]", expected)
            unknown = sorted(map(quote, options.keys() - cls.model_fields.keys()))
            if unknown:
                raise SpecError(f"no option {unknown[0]}", f"{where}[{quote(name)}]", fields)
