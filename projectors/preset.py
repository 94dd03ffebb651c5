"""The preset: a named projector with options, which expands to a stack."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

from pydantic import Field

from ..blocks.errors import SpecError
from ..blocks.spec import Spec
from .stack import Stack

__all__ = ["Preset"]

_KEYWORDS = {
    "spec",
    "in",
    "in_",
    "out",
    "grid",
    "device",
    "dtype",
    "max_parameters",
    "type",
    "name",
}


class Preset(Spec):
    """A named projector: a small pydantic class of options that expands to a stack.

        class Wide(Preset):
            times: int = 4

            def expand(self, in_: int, out: int) -> Stack:
                blocks = (Pointwise(out=self.times * out), Pointwise())
                return Stack(in_=in_, out=out, blocks=blocks)

    Attributes:
        prefix_tokens: How many leading tokens (CLS, registers) to drop on entry; every preset has
            it, and `stack` passes it on.
    """

    prefix_tokens: Annotated[int, Field(ge=0, le=1024)] = 0

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        taken = sorted(_KEYWORDS & cls.model_fields.keys())
        if taken:
            raise SpecError(f"a preset cannot have an option called {taken[0]!r}", cls.__name__)

    @abstractmethod
    def expand(self, in_: int, out: int) -> Stack:
        """Return the stack for these widths."""

    def stack(self, in_: int, out: int) -> Stack:
        """Return the stack for these widths, with what every preset shares."""
        stack = self.expand(in_, out)
        return stack.model_copy(update={"prefix_tokens": self.prefix_tokens})
