"""How a module of `zeta.nn` might be built: guessed from the names of its arguments."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mobilevlm import MobileVLMError
from mobilevlm.zeta.table import Layout

WIDTH = object()  # stands for the width that comes in
IN = [
    "dim",
    "dim_in",
    "in_dim",
    "in_channels",
    "in_features",
    "input_dim",
    "input_width",
    "chan_in",
    "channels",
    "n_channels",
    "num_features",
    "num_channels",
    "embed_dim",
    "embed_size",
    "d_model",
    "dim_model",
    "hidden_size",
    "hidden_dim",
    "normalized_shape",
    "features",
]
OUT = [
    "dim_out",
    "out_channels",
    "out_features",
    "output_dim",
    "output_width",
    "chan_out",
    "out_dim",
]
SIZE = re.compile(r"dim|features|channels|width|size")
SHARE = re.compile(r"drop|eps|rate|prob|fraction|alpha")
NUMBER = re.compile(r"dim|heads|num|max|top|size|depth|past|coef|ratio|factor|scale|base|layer")
VALUES: dict[str, list[Any]] = {
    "activation": ["gelu", "relu", "tanh"],
    "activation_fn": ["gelu", "relu", "swish"],
    "attn_mode": ["all", "local", "strided"],
    "combine": ["add", "concat"],
    "depth": [2],
    "dim_head": [16],
    "dropout": [0.1],
    "kernel_size": [3],
    "max": [10.0],
    "mechanism": ["softmax", "gumbel"],
    "min": [-10.0],
    "norm_type": ["low_precision_layernorm", "layernorm", "rmsnorm", "low_precision_rmsnorm"],
    "pad_mode": ["constant", "reflect", "replicate", "circular"],
    "padding": [1],
    "padding_mode": ["zeros", "reflect", "replicate", "circular"],
    "stride": [1],
    "window_size": [4],
}
OBJECTS = re.compile(
    r"fn|fns|(sub)?modules?\d?|sb\d|model\d|config|block|.*_(module|linear|embed|functions|sizes|dims)"
)
SEVERAL = {"q", "k", "v", "query", "key", "value", "queries", "keys", "values", "x", "context"}


class Fault(Exception):
    """Why a module is no block; `stage` says how far it came, in that layout."""

    layout: Layout | None = None

    def __init__(self, stage: int, text: str) -> None:
        super().__init__(stage, text)
        self.stage = stage

    def __str__(self) -> str:
        return str(self.args[1])


def said(error: BaseException) -> str:
    """An error as one short line that is the same in every run."""
    if isinstance(error, MobileVLMError):
        return error.found
    line = " ".join(re.sub(r"\b0x[0-9a-f]{6,}", "...", str(error)).split())
    line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line if len(line) <= 120 else line[:117] + "..."


@dataclass
class Guess:
    """How a module might be built, with values for its arguments."""

    widths: list[str]
    out: str | None
    required: dict[str, Any]


def parameters_of(cls: type) -> list[inspect.Parameter]:
    if cls.__init__ is nn.Module.__init__:
        return []
    found = inspect.signature(cls).parameters.values()
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def signature(cls: type) -> str:
    parts = []
    for parameter in parameters_of(cls):
        default = parameter.default
        if default is parameter.empty:
            parts.append(parameter.name)
        elif isinstance(default, nn.Module):
            parts.append(f"{parameter.name}={type(default).__name__}()")
        elif isinstance(default, type):
            parts.append(f"{parameter.name}={default.__name__}")
        else:
            parts.append(f"{parameter.name}={default!r}")
    return f"{cls.__name__}({', '.join(parts)})"


def kind_of(parameter: inspect.Parameter) -> str | None:
    """The JSON type of an argument, by its annotation or its default."""
    default = parameter.default
    written = str(parameter.annotation)
    for kind in ("bool", "float", "int", "str"):
        if re.search(rf"\b{kind}\b", written):
            return kind
    if default is None and parameter.annotation is parameter.empty:
        return "int" if NUMBER.search(parameter.name) else None
    if type(default) in (bool, int, float, str):
        return type(default).__name__
    return None


def candidates(parameter: inspect.Parameter) -> list[Any]:
    """Values to try for an argument without a usable default."""
    name = parameter.name
    if name in VALUES:
        return VALUES[name]
    if OBJECTS.fullmatch(name) and kind_of(parameter) is None:
        return []
    kind = kind_of(parameter)
    if parameter.annotation is parameter.empty and parameter.default is parameter.empty:
        kind = "float" if SHARE.search(name) else "int"
    if kind == "int" and "context" in name:
        return [WIDTH]
    if kind == "int" and SIZE.search(name) and "heads" not in name:
        return [48, WIDTH]
    return {"int": [4, 2], "float": [0.1], "bool": [False]}.get(kind or "", [])


def guesses(cls: type) -> Iterator[Guess]:
    """Ways to build it: by its defaults, then with values for those that are None."""
    parameters = parameters_of(cls)
    names = [parameter.name for parameter in parameters]
    width = next(([name] for name in IN if name in names), [])
    out = next((name for name in OUT if name in names), None)
    taken = {*width, out}
    needed = {p.name: candidates(p) for p in parameters if p.default is p.empty}
    needed = {name: pool for name, pool in needed.items() if name not in taken}
    if objects := [name for name, pool in needed.items() if not pool]:
        raise Fault(0, f"it needs what no document can hold: {', '.join(objects)}")
    empty = {p.name: candidates(p) for p in parameters if p.default is None and kind_of(p) == "int"}
    empty = {name: pool for name, pool in empty.items() if name not in taken and pool}
    roles: list[dict[str, list[Any]]] = [{}]
    if out:
        roles = [{}, {out: [WIDTH]}, {out: [48]}]
    for role, more in itertools.product(roles, [{}, empty] if empty else [{}]):
        pools = needed | more | role
        for values in itertools.islice(itertools.product(*pools.values()), 32):
            named = dict(zip(pools, values, strict=True))
            yield Guess(
                [*width, *(name for name, value in named.items() if value is WIDTH)],
                None if role else out,
                {name: value for name, value in named.items() if value is not WIDTH},
            )


def inputs_of(cls: type) -> int:
    """How many tensors its forward takes, if they may all be the same one."""
    found = [*inspect.signature(cls.forward).parameters.values()][1:]
    needed = [
        parameter.name
        for parameter in found
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(needed) > 1 and not set(needed) <= SEVERAL:
        raise Fault(0, f"it takes more than one input: {', '.join(needed)}")
    return max(1, len(needed))
