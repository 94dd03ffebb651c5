"""The preset: a named projector with options, which expands to a stack."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import MAX_WIDTH
from ..blocks.core.spec import Spec
from ..registry import MobileVLMError, describe_error, quote
from .stack import PrefixTokens, Stack
from .upstream import Upstream

__all__ = ["Aliases", "Channels", "Preset", "UpTo16", "UpTo64"]

Aliases: TypeAlias = Mapping[str, Mapping[str, Any]]

# What options are, in many families.
Channels: TypeAlias = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
UpTo16: TypeAlias = Annotated[int, Field(ge=1, le=16)]
UpTo64: TypeAlias = Annotated[int, Field(ge=1, le=64)]

_ARGUMENTS = {"spec", "in", "in_", "out", "grid", "device", "dtype", "max_parameters"}
_RESERVED = _ARGUMENTS | {"type", "name", "expand", "stack", "upstream", "aliases"}


class Preset(Spec):
    """A named projector: a pydantic class of options that expands to a stack.

        class Wide(Preset):
            times: int = 4

            def expand(self, in_: int, out: int) -> Stack:
                blocks = (Pointwise(out=self.times * out), Pointwise())
                return Stack(in_=in_, out=out, blocks=blocks)

    Attributes:
        prefix_tokens: How many leading tokens (CLS, registers) to drop on entry. Every preset has
            this option; `stack` sets it.
        upstream: How checkpoints of other projects are recognised and name the weights. Those of
            presets that are not built in are looked up after ours.
        aliases: Other names of the projector, each with the options that it stands for. Not looked
            up yet for presets that are not built in.
    """

    upstream: ClassVar[Sequence[Upstream]] = ()
    aliases: ClassVar[Aliases] = {}

    prefix_tokens: PrefixTokens = 0

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        taken = sorted(_RESERVED & cls.model_fields.keys())
        if taken:
            raise SpecError(f"a preset cannot have an option called {taken[0]!r}", cls.__name__)

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
