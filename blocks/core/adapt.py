"""Use any existing module in a block, with its own state-dict keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

from torch import Tensor, nn

from ...registry import quote
from .errors import SpecError

__all__ = ["adapt"]

Takes: TypeAlias = Literal["tokens", "map", "feature"]
Gives: TypeAlias = Literal["tokens", "map", "feature", "sequence"]
CallForward: TypeAlias = Callable[[Callable[..., Any], Tensor], Tensor]

M = TypeVar("M", bound=nn.Module)

_RANKS = {"tokens": 3, "sequence": 3, "map": 4, "feature": 4}
_SHAPES = {
    "tokens": "(b, n, c)",
    "sequence": "(b, n, c)",
    "map": "(b, c, h, w)",
    "feature": "(b, h, w, c)",
}


def adapt(
    module: M, takes: Takes, *, gives: Gives | None = None, call: CallForward | None = None
) -> M:
    """Make an existing module take and return features ``(b, h, w, c)``, as a block's must.

    Returns the same module with its class replaced by a subclass whose `forward` changes the layout
    before and after the module's own. So parameters and state dict keep their names, without a
    prefix; hooks, copies, pickles, compilers and exporters see one ordinary module.

    For example::

        def build(self, x: Feature) -> nn.Module:
            layer = nn.TransformerEncoderLayer(x.channels, self.heads, batch_first=True)
            return adapt(layer, takes="tokens")

    Args:
        module: The module, which is changed, not copied. Pass it as soon as it is made.
        takes: What it takes: ``tokens`` ``(b, n, c)``, a ``map`` ``(b, c, h, w)``, or a ``feature``
            ``(b, h, w, c)``; always contiguous.
        gives: What it returns; default: what it takes. ``tokens`` must be as many as came in, on
            the same grid; a ``sequence`` ``(b, m, d)`` is any number of tokens without a grid,
            ``(b, 1, m, d)`` from then on, which the block's `flow` must say too.
        call: How to call it, where it does not take one tensor and return one. It is given the
            module's forward and the input: ``lambda forward, x: forward(x, x, x)[0]`` for an
            attention. A function defined at a module's top level can also be pickled.

    Raises:
        SpecError: It is not a module, or one that cannot be adapted; or, when it is called, it
            returns something else than `gives` says.
    """
    if not isinstance(module, nn.Module):
        raise SpecError(quote(module), "adapt", "a torch.nn.Module")
    name = type(module).__name__
    for keyword, word, choices in (("takes", takes, Takes), ("gives", gives or takes, Gives)):
        if word not in get_args(choices):
            expected = ", ".join(map(repr, get_args(choices)))
            raise SpecError(quote(word), f"adapt({name}, {keyword}=...)", f"one of {expected}")
    if isinstance(module, _Adapted):
        raise SpecError("it is adapted already", f"adapt({name})")
    if "forward" in module.__dict__:  # compiled or scripted: its class is not asked
        hint = "Adapt it before it is compiled or wrapped."
        raise SpecError("its forward is its own, not its class's", f"adapt({name})", hint=hint)
    own: Any = type(module)
    module.__class__ = _adapted_class(own)  # type: ignore[assignment]
    cast("_Adapted", module)._feature_adapter = takes, gives or takes, call
    return module


class _Adapted(nn.Module):
    """The base that wraps the module's own forward in two changes of layout."""

    _feature_adapter: tuple[Takes, Gives, CallForward | None]

    def forward(self, x: Tensor) -> Tensor:
        """``(b, h, w, c) -> (b, h', w', d)``."""
        takes, gives, call = self._feature_adapter
        h, w = x.shape[1:3]
        if takes == "tokens":
            x = x.flatten(1, 2)
        elif takes == "map":
            x = x.permute(0, 3, 1, 2)
        x = x.contiguous()  # the module may call view
        y: Any = super().forward(x) if call is None else call(super().forward, x)
        if not isinstance(y, Tensor):
            hint = "Say with call=... how to get it."
            raise SpecError(f"it gives a {type(y).__name__}", self._name(), "a Tensor", hint)
        if y.ndim != _RANKS[gives]:
            raise SpecError(f"it gives {tuple(y.shape)}", self._name(), f"{gives} {_SHAPES[gives]}")
        if gives == "map":
            return y.permute(0, 2, 3, 1)
        if gives == "sequence":
            return y.unsqueeze(1)
        if gives == "tokens":
            if y.shape[1] != h * w:
                raise SpecError(
                    f"{h * w} tokens come in, {y.shape[1]} go out",
                    self._name(),
                    "as many",
                    "Say gives='sequence' if they have lost their grid.",
                )
            return y.view(y.shape[0], h, w, y.shape[2])  # splits an axis: always a view
        return y

    def _name(self) -> str:
        return f"adapt({_own_class(type(self)).__name__}, takes={self._feature_adapter[0]!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy by the module's own class, since this one cannot be imported."""
        return _empty_module, (_own_class(type(self)),), self.__getstate__()  # type: ignore[no-untyped-call]


@cache
def _adapted_class(cls: Any) -> type[_Adapted]:
    made: type[_Adapted] = type(cls)(f"Adapted{cls.__name__}", (_Adapted, cls), {})
    return made


def _own_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class that was adapted, which follows ours in the resolution order."""
    own: type[nn.Module] = cls.__mro__[cls.__mro__.index(_Adapted) + 1]
    return own


def _empty_module(cls: Any) -> _Adapted:
    """Return an adapted module of that class, which pickle fills."""
    adapted = _adapted_class(cls)
    return adapted.__new__(adapted)
