"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_args

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

__all__ = [
    "TRANSFORMERS_NAMES",
    "Act",
    "Gate",
    "QuickGELU",
    "ReLU2",
    "activate_",
    "activation",
    "in_place",
    "keeps_nothing",
]

# fmt: off
Name: TypeAlias = Literal[
    "gelu", "gelu-tanh", "quick-gelu", "silu", "relu", "relu2", "leaky-relu", "hardswish", "mish",
    "tanh", "sigmoid", "softmax", "none",
]
# fmt: on
Gate: TypeAlias = Literal["sigmoid", "hardsigmoid"]

TRANSFORMERS_NAMES: dict[str, Name] = {
    "gelu": "gelu",
    "gelu_accurate": "gelu-tanh",
    "gelu_fast": "gelu-tanh",
    "gelu_new": "gelu-tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "hardswish": "hardswish",
    "leaky_relu": "leaky-relu",
    "linear": "none",
    "mish": "mish",
    "quick_gelu": "quick-gelu",
    "relu": "relu",
    "relu2": "relu2",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Activations as transformers spells them (`ACT2FN`), with our names of those that we compute."""


def _ours(name: Any) -> Any:
    return TRANSFORMERS_NAMES.get(name, name) if isinstance(name, str) else name


_Spelling = Literal[tuple(dict.fromkeys((*get_args(Name), *TRANSFORMERS_NAMES)))]  # type: ignore[valid-type]
Act: TypeAlias = Annotated[Name, BeforeValidator(_ours, json_schema_input_type=_Spelling)]
"""An activation. transformers' spelling is accepted, and stored in ours."""


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, CLIP's approximation of GELU; any shape -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ReLU2(nn.Module):
    """``relu(x) ** 2``; any shape -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


_MODULES: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "leaky-relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "none": nn.Identity,
    "quick-gelu": QuickGELU,
    "relu": nn.ReLU,
    "relu2": ReLU2,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softmax": lambda: nn.Softmax(-1),
    "tanh": nn.Tanh,
}


def activation(name: Act | Gate) -> nn.Module:
    """Return a new module for an activation's name; ``gelu`` is the exact, erf form."""
    return _MODULES[name]()


def in_place(act: nn.Module) -> bool:
    """Return whether `activate_` computes an activation in place."""
    return type(act) in _IN_PLACE


def keeps_nothing(act: nn.Module) -> bool:
    """Return whether an activation is one of those above, which keep no reference to a tensor."""
    return type(act) in _KNOWN


def activate_(act: nn.Module, x: Tensor) -> Tensor:
    """Apply an activation, in place if it can be; any shape -> the same shape."""
    write = _IN_PLACE.get(type(act))
    y: Tensor = act(x) if write is None else write(act, x)
    return y


_IN_PLACE: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.GELU: lambda act, x: torch.ops.aten.gelu_(x, approximate=act.approximate),
    nn.Hardswish: lambda _, x: torch.ops.aten.hardswish_(x),
    nn.LeakyReLU: lambda act, x: torch.ops.aten.leaky_relu_(x, act.negative_slope),
    nn.Mish: lambda _, x: torch.ops.aten.mish_(x),
    nn.ReLU: lambda _, x: torch.relu_(x),
    nn.SiLU: lambda _, x: torch.ops.aten.silu_(x),
    nn.Sigmoid: lambda _, x: torch.sigmoid_(x),
    nn.Tanh: lambda _, x: torch.tanh_(x),
}

_KNOWN = frozenset(type(make()) for make in _MODULES.values())
