"""Run every module of `zeta.nn`: does it work as a block, how, and if not, why?

``python tools/zeta_probe.py`` writes what it finds to `zeta/table.json`, and what follows from it.
Nothing is said about a module by hand: its arguments are guessed by their names, it is built, given
tokens and maps, and what comes out is looked at. Each module has a process of its own, so that it
can do no harm.
"""

from __future__ import annotations

import dataclasses
import inspect
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
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zeta_checks import CASES, GRID, build, check, check_graph, runs_in_bf16
from zeta_signatures import (
    VALUES,
    Fault,
    Guess,
    guesses,
    inputs_of,
    kind_of,
    parameters_of,
    said,
    signature,
)

from mobilevlm.projectors.document import _format_json
from mobilevlm.zeta.load import zeta_nn
from mobilevlm.zeta.module import enter, leave
from mobilevlm.zeta.table import MAX_COUNT, Layout, Option, Row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import torchvision_operators

ROOT = Path(__file__).parent.parent
SECONDS = 300  # for one module
LAYOUTS: tuple[Layout, ...] = ("tokens", "map", "lines", "video")


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
        (ROOT / "zeta" / "table.json").write_text(_format_json(table, "") + "\n", "utf-8")
        subprocess.run([sys.executable, ROOT / "tools" / "zeta_page.py"], check=True)
