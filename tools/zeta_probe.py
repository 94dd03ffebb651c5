"""Run every module of `zeta.nn`: does it work as a block, how, and if not, why?

``python tools/zeta_probe.py`` writes what it finds to `zeta/table.json`, and what follows from it.
Nothing is said about a module by hand: its arguments are guessed by their names, it is built, given
tokens and maps, and what comes out is looked at. Each module has a process of its own, so that it
can do no harm.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import itertools
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import torchvision_operators

from mobilevlm import MobileVLMError
from mobilevlm.projectors.document import _format
from mobilevlm.zeta.load import zeta_nn
from mobilevlm.zeta.module import enter, leave, make
from mobilevlm.zeta.table import MAX_COUNT, Layout, Option, Row

ROOT = Path(__file__).parent.parent
SECONDS = 300  # for one module

# ---------------------------------------------------------------- what an argument's name says

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
LAYOUTS: tuple[Layout, ...] = ("tokens", "map", "lines", "video")
CASES = ((64, 40), (96, 56))  # widths in and out
GRID = (5, 7)


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


# ---------------------------------------------------------------- signatures and guesses


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


# ---------------------------------------------------------------- from a guess to a row


def looked_at(
    cls: type, guess: Guess, layout: Layout, inputs: int, grid: tuple[int, int] = GRID
) -> Row:
    """Build the module by a guess, run it once, and read a row off what comes out."""
    c, out = CASES[0]
    arguments = {**guess.required, **dict.fromkeys(guess.widths, c)}
    if guess.out:
        arguments[guess.out] = out
    torch.manual_seed(0)
    try:
        module = cls(**arguments).eval()
    except Exception as error:
        raise Fault(1, f"it cannot be built: {said(error)}") from None
    x = torch.randn(2, math.prod(grid), c)
    if layout in ("map", "video"):
        x = x.transpose(1, 2).unflatten(2, grid).contiguous()
    try:
        with torch.no_grad():
            y = module(*[enter(layout, x)] * inputs)
    except Exception as error:
        if layout == "map" and grid == GRID:  # even sides may be all it wants
            return looked_at(cls, guess, layout, inputs, (2 * GRID[0], 2 * GRID[1]))
        raise Fault(2, said(error)) from None
    first = isinstance(y, tuple | list)
    if first:
        y, *others = y
        if any(isinstance(other, Tensor) and other.ndim >= 3 for other in others):
            raise Fault(3, f"it gives {1 + len(others)} features")
    given = enter(layout, x).shape
    if not isinstance(y, Tensor):
        raise Fault(3, f"it gives a {type(y).__name__}")
    fault = Fault(3, f"it makes {tuple(y.shape)} of {tuple(given)}")
    if y.ndim != len(given) or y.shape[0] != 2:
        raise fault
    z = leave(layout, y)
    if z.ndim != x.ndim:
        raise fault
    row = Row(
        module=cls.__name__,
        signature=signature(cls),
        layout=layout,
        inputs=inputs,
        first=first,
        widths=tuple(guess.widths),
        out=guess.out,
        example=guess.required,
    )
    channels = z.shape[1] if z.ndim == 4 else z.shape[2]
    if guess.out and channels != out:
        raise Fault(3, f"its {guess.out} is not the width of what it gives")
    if not guess.out:
        ratio = Fraction(channels, c)
        row = dataclasses.replace(row, ratio=(ratio.numerator, ratio.denominator))
    if z.ndim == 3:
        if z.shape[1] != x.shape[1]:
            raise fault
        return row
    values = {p.name: p.default for p in parameters_of(cls)} | dict(row.example)
    if type(values.get("kernel_size")) is int:
        convolution = dataclasses.replace(row, convolves=True)
        if z.shape[2:] == tuple(map(convolution.resize(values), grid)):
            return convolution
    ratios = {Fraction(after, before) for after, before in zip(z.shape[2:], grid, strict=True)}
    if len(ratios) > 1:
        raise fault
    ratio = ratios.pop()
    return dataclasses.replace(row, sides=(ratio.numerator, ratio.denominator))


def build(row: Row, options: Mapping[str, Any], c: int, out: int, device: str = "cpu") -> nn.Module:
    """Build it as a document would."""
    torch.manual_seed(1)
    out = out if row.out else c * row.ratio[0] // row.ratio[1]
    with torch.device(device):
        return make(row, {**row.example, **options}, c, out).eval()


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def world() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        sorted(os.environ.items()),
    )


def check(row: Row, options: Mapping[str, Any], *, thorough: bool = True) -> Row:
    """Put a module to every test that a block has to pass; return its row with what was seen.

    Raises:
        Fault: It fails one.
    """
    idle = 0
    mixes = False
    for c, out in CASES if thorough else CASES[:1]:
        try:
            module = build(row, options, c, out)
        except Exception as error:
            raise Fault(1, f"it cannot be built for {c} channels: {said(error)}") from None
        over = row.sides[1]
        check_eval(module, c, over, thorough)
        x = torch.randn(2, GRID[0] * over, GRID[1] * over, c)
        mixes |= mixes_tokens(module, x)
        check_state(row, options, module, x, out)
        idle = check_training(module, x)
    return dataclasses.replace(row, mixes_tokens=row.mixes_tokens or mixes, idle=idle)


def run(module: nn.Module, x: Tensor) -> Tensor:
    try:
        y: Tensor = module(x)
    except Exception as error:
        raise Fault(4, f"it fails for {tuple(x.shape)} (b, h, w, c): {said(error)}") from None
    return y


@torch.no_grad()
def check_eval(module: nn.Module, c: int, over: int, thorough: bool) -> None:
    """Look at what it computes."""
    keys = {key: value.clone() for key, value in module.state_dict().items()}
    for b, (h, w) in [(2, GRID), (3, (8, 6)), (1, (8, 8))] + [(1, (36, 36))] * thorough:
        for scale in (1.0, 1e-3):
            torch.manual_seed(2)
            x = torch.randn(b, h * over, w * over, c) * scale
            kept, before, seed = x.clone(), world(), torch.random.get_rng_state()
            with redirect_stdout(io.StringIO()) as printed:
                y = run(module, x)
            if printed.getvalue():
                raise Fault(5, "it prints when it runs")
            if not torch.equal(torch.random.get_rng_state(), seed):
                raise Fault(5, "it draws random numbers in eval mode")
            if world() != before:
                raise Fault(5, "it changes torch's settings or the environment")
            if not torch.equal(x, kept):
                raise Fault(5, "it changes its input")
            if y.dtype != x.dtype:
                raise Fault(5, f"it gives {y.dtype} for {x.dtype}")
            if not y.isfinite().all():
                raise Fault(5, f"it gives NaN or infinities for inputs of scale {scale}")
            if not torch.equal(y, run(module, x)):
                raise Fault(5, "it does not give the same twice in eval mode")
            if b > 1 and not same(y[:1], run(module, x[:1])):
                raise Fault(5, "what it makes of an image depends on the others in the batch")
    after = module.state_dict()
    if keys.keys() != after.keys() or any(not torch.equal(keys[k], after[k]) for k in keys):
        raise Fault(5, "it changes its state in eval mode")


def mixes_tokens(module: nn.Module, x: Tensor) -> bool:
    """Return whether tokens meet, or know their place.

    Follows gradients, which are exactly 0 where there is no way at all, through random weights,
    since those that start at 0 hide one.
    """
    module = copy.deepcopy(module)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    x = x.clone().requires_grad_()
    y = run(module, x)
    spot = y[0, 0, -1] @ torch.randn(y.shape[-1])
    way = torch.autograd.grad(spot, x, allow_unused=True)[0] if spot.grad_fn else None
    if way is None or not way.any():
        raise Fault(5, "no gradient reaches its input")
    if way[1].any():
        raise Fault(5, "what it makes of an image depends on the others in the batch")
    if y.shape[1:3] != x.shape[1:3] or way[0].flatten(0, 1).any(1).sum() > 1:
        return True
    with torch.no_grad():
        place = run(module, torch.ones_like(x))[0].flatten(0, 1)
    return not same(place, place[:1].expand_as(place))


def check_state(
    row: Row, options: Mapping[str, Any], module: nn.Module, x: Tensor, out: int
) -> None:
    """Plan it on the meta device, move it, save and load it, copy and pickle it."""
    c = x.shape[3]
    y = run(module, x)
    state = module.state_dict()
    storages = [tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()]
    if len(storages) != len(set(storages)):
        raise Fault(6, "tensors in its state dict share memory")
    for name, other in (
        ("it cannot be planned on the meta device", lambda: build(row, options, c, out, "meta")),
        ("it does not move to another device", lambda: copy.deepcopy(module).to("meta")),
    ):
        try:
            built = other()
            if any(not tensor.is_meta for tensor in built.state_dict().values()):
                raise Fault(6, f"{name}: it allocates there")
            built(x.to("meta"))
        except Fault:
            raise
        except Exception as error:
            raise Fault(6, f"{name}: {said(error)}") from None
    try:
        loaded = build(row, options, c, out, "meta")
        loaded.load_state_dict(state, strict=True, assign=True)
        if any(buffer.is_meta for buffer in loaded.buffers()):  # as load_projector does
            loaded = build(row, options, c, out)
            loaded.load_state_dict(state)
        for other in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            if not torch.equal(other(x), y):
                raise Fault(6, "loaded or copied, it gives something else")
    except Fault:
        raise
    except Exception as error:
        raise Fault(6, f"it cannot be loaded or copied: {said(error)}") from None


def check_training(module: nn.Module, x: Tensor) -> int:
    """Train it a step; return how many parameters get no gradient."""
    x = torch.cat([x, x + 1]).requires_grad_()
    module.train()
    try:
        y = module(x)
        (y * torch.randn_like(y)).sum().backward()
    except Exception as error:
        raise Fault(7, f"it does not train: {said(error)}") from None
    if x.grad is None:
        raise Fault(7, "no gradient reaches its input")
    gradients = [x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]
    if not all(gradient.isfinite().all() for gradient in gradients):
        raise Fault(7, "its gradients are NaN or infinite")
    return sum(p.grad is None for p in module.parameters())


# ---------------------------------------------------------------- options


def others(parameter: inspect.Parameter, kind: str, default: Any) -> list[Any]:
    """Values to try instead of an argument's default."""
    if kind == "bool":
        return [not default]
    if kind == "str":
        return [value for value in VALUES.get(parameter.name, []) if value != default]
    if kind == "int":
        number = default if type(default) is int else 4
        values = [number * 2, number + 1, max(1, number // 2), 1, 4, 2, 8, 16]
        return [value for value in dict.fromkeys(values) if value != default]
    number = float(default or 0)
    return [value for value in (number / 2, 0.1, 0.5, 2.0) if value != default]


def passes(row: Row, options: Mapping[str, Any]) -> Row | None:
    try:
        return check(row, options, thorough=False)
    except Fault:
        return None


def kinds_of(parameter: inspect.Parameter, default: Any, required: bool) -> list[str]:
    """The JSON types that an option may have; annotations are not always true."""
    own = type(default).__name__
    if required or own == "float":
        return [own]
    found = [kind_of(parameter), own if own in ("bool", "int", "str") else None]
    return [kind for kind in dict.fromkeys(found) if kind]


def with_options(cls: type, row: Row) -> Row:
    """Add the arguments that work at another value than their default, each tried alone."""
    found: dict[str, Option] = {}
    mixes = row.mixes_tokens
    for parameter in parameters_of(cls):
        name = parameter.name
        required = name in row.example
        default = row.example[name] if required else parameter.default
        if name in (*row.widths, row.out) or not name.isascii():
            continue
        if type(default) not in (bool, int, float, str, type(None)):
            continue
        for kind in kinds_of(parameter, default, required):
            works: list[Any] = []
            for value in others(parameter, kind, default):
                if passed := passes(row, {name: value}):
                    mixes |= passed.mixes_tokens
                    works.append(value)
                    if kind != "str":
                        break
            negative = type(default) is int and default < 0
            if (works or required) and not negative:
                found[name] = option_of(row, name, kind, default, required, works)
                break
    return dataclasses.replace(row, options=found, mixes_tokens=mixes)


def option_of(
    row: Row, name: str, kind: str, default: Any, required: bool, works: list[Any]
) -> Option:
    """Describe an option of which these values work, and its default."""
    option = Option(kind, None if required else default, required)
    tried = [value for value in (default, *works) if value is not None]
    if kind == "str":
        return dataclasses.replace(option, choices=tuple(sorted(tried)))
    if kind != "int":
        return option
    if default != 0 and not passes(row, {name: 0}):
        option = dataclasses.replace(option, least=1)
    counts = {len([*build(row, {name: value}, *CASES[0]).modules()]) for value in tried}
    return dataclasses.replace(option, most=MAX_COUNT) if len(counts) > 1 else option


def runs_in_bf16(row: Row, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            y = build(row, {}, *CASES[0]).bfloat16()(x.bfloat16())
    except Exception:
        return False
    return y.dtype == torch.bfloat16 and bool(y.isfinite().all())


@torch.no_grad()
def check_graph(row: Row, x: Tensor) -> None:
    """Export it, and compile it in one graph."""
    module = build(row, {}, *CASES[0])
    try:
        exported = torch.export.export(module, (x,)).module()
    except Exception as error:
        raise Fault(8, f"torch.export does not take it: {said(error)}") from None
    if not same(exported(x), module(x)):
        raise Fault(8, "exported, it gives something else")
    try:
        compiled = torch.compile(module, fullgraph=True, backend="eager")(x)
    except Exception as error:
        line = said(error).partition(" Explanation")[0]
        raise Fault(8, f"torch.compile does not take it in one graph: {line}") from None
    if not same(compiled, module(x)):
        raise Fault(8, "compiled, it gives something else")


# ---------------------------------------------------------------- all of them


def examine(cls: type) -> Row:
    """Find out how a module works as a block.

    Raises:
        Fault: It does not; of what was tried, this came furthest.
    """
    inputs = inputs_of(cls)
    faults: list[Fault] = []
    layouts = LAYOUTS if inputs == 1 else ("tokens",)
    for guess in itertools.islice(guesses(cls), 256):
        for layout in layouts:
            try:
                row = check(looked_at(cls, guess, layout, inputs), {})
                x = torch.randn(2, *(side * row.sides[1] for side in GRID), CASES[0][0])
                check_graph(row, x)
            except Fault as fault:
                fault.layout = layout
                faults.append(fault)
                if fault.stage < 2 and "built" in str(fault):
                    break
            else:
                return dataclasses.replace(with_options(cls, row), bf16=runs_in_bf16(row, x))
    plain = [fault for fault in faults if fault.layout in ("tokens", "map") and fault.stage > 2]
    furthest = max(plain or faults, key=lambda fault: fault.stage)
    if furthest.stage != 2:
        raise furthest
    texts = {fault.layout: str(fault) for fault in reversed(faults) if fault.stage == 2}
    tokens, a_map = texts["tokens"], texts.get("map")
    if a_map is None:
        raise Fault(2, f"it does not take tokens: {tokens}")
    if tokens == a_map:
        raise Fault(2, f"it takes neither tokens nor a map: {tokens}")
    raise Fault(2, f"it does not take tokens ({tokens}) nor a map ({a_map})")


def start(cls: type) -> tuple[int, int]:
    """Examine a module in a process of its own; return that and the end of a pipe to read."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    signal.alarm(SECONDS)
    warnings.simplefilter("ignore")  # also where pytest makes errors of them
    answer: Row | Fault
    try:
        answer = examine(cls)
    except Fault as fault:
        answer = fault
    except BaseException as error:
        answer = Fault(0, f"probing it fails: {said(error)}")
    with os.fdopen(writer, "wb") as pipe:
        pickle.dump(answer, pipe)
    os._exit(0)


def finish(child: int, reader: int) -> Row | Fault:
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    answer: Row | Fault = Fault(0, "its process dies, or takes too long")
    return pickle.loads(data) if data else answer


def classes() -> dict[str, type]:
    """Every module that `zeta.nn` offers."""
    found = vars(zeta_nn())
    return {
        name: found[name]
        for name in sorted(found)
        if isinstance(found[name], type) and issubclass(found[name], nn.Module)
    }


def probe(names: Sequence[str] = (), *, at_once: int = 2) -> dict[str, Any]:
    """Examine all modules, or those named; return the table as JSON types."""
    torch.set_num_threads(1)
    waiting = {name: cls for name, cls in classes().items() if name in names or not names}
    found: dict[str, Row | Fault] = {}
    running: dict[str, tuple[int, int]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name = next(iter(waiting))
            running[name] = start(waiting.pop(name))
        name = next(iter(running))
        found[name] = finish(*running.pop(name))
    blocks = {block_name(name): row for name, row in found.items() if isinstance(row, Row)}
    others = {
        name: {"signature": signature(classes()[name]), "why": str(fault)}
        for name, fault in found.items()
        if isinstance(fault, Fault)
    }
    document = {
        "zetascale": version("zetascale"),
        "blocks": {name: as_json(row) for name, row in sorted(blocks.items())},
        "others": others,
    }
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read


def block_name(module: str) -> str:
    """``SwiGLUStacked`` -> ``zeta-swiglu-stacked``."""
    for word in ("SwiGLU", "ReLU", "RELU", "MoE"):
        module = module.replace(word, word.capitalize())
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", module)
    return f"zeta-{words.lower()}"


def as_json(thing: Row | Option) -> dict[str, Any]:
    """The fields that are not at their default."""
    found = {}
    for each in dataclasses.fields(thing):
        value = getattr(thing, each.name)
        default = each.default_factory() if callable(each.default_factory) else each.default
        if value != default:
            found[each.name] = value
    if isinstance(thing, Row) and thing.options:
        found["options"] = {name: as_json(option) for name, option in thing.options.items()}
    return found


if __name__ == "__main__":
    torchvision_operators.declare()
    table = probe(sys.argv[1:])
    if sys.argv[1:]:
        print(json.dumps(table, indent=2))
    else:
        (ROOT / "zeta" / "table.json").write_text(_format(table, "") + "\n", "utf-8")
        subprocess.run([sys.executable, ROOT / "tools" / "zeta_page.py"], check=True)
