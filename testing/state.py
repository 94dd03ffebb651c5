"""What using a module leaves behind in it, and of its input and output in memory."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..projectors.projector import Projector
from .report import Finding
from .subject import Case, Subject

__all__ = ["state"]

_HINT = (
    "Write nothing to self in forward, nor to a list or a cache elsewhere: a kept tensor holds its "
    "memory and its graph, and threads that share the module write over each other's."
)


def state(subject: Subject) -> None:
    """Being used in evaluation changes nothing in it, and it keeps neither input nor output."""
    for target in subject.targets:
        module = target.module()
        # A projector remembers which grids fit: numbers, and its own affair.
        own = module.blocks if isinstance(module, Projector) else module
        before = dict(_contents(own))
        for case in target.cases:
            for context in (nullcontext(), torch.no_grad()):
                with context:
                    held = _held(module, case)
                _compare(before, dict(_contents(own)), case.where)
                if held:
                    found = f"after the call its {held} is still in memory"
                    raise Finding(found, case.where, "nothing kept", _HINT)


def _compare(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> None:
    for name in {**before, **after}:
        if name not in before:
            value = after[name]
            what = f"{name!r} appears"
            what += f", a tensor {tuple(value.shape)}," if isinstance(value, Tensor) else ""
        elif name not in after:
            what = f"{name!r} disappears"
        elif not _equal(before[name], after[name]):
            what = f"{name!r} changes"
        else:
            continue
        raise Finding(f"{what} when it is used in evaluation", where, "the module as it was", _HINT)


def _held(module: nn.Module, case: Case) -> str:
    """Run it, drop its input and output, and say which of the two somebody holds.

    A storage's Python object lives as long as any tensor on that memory does.
    """
    x = case.input()
    y = case.run(module, x)
    weights = [*module.parameters(), *module.buffers()]
    own = {each.untyped_storage().data_ptr() for each in weights}
    storages = {"input": x.untyped_storage(), "output": y.untyped_storage()}
    alive = {
        name: weakref.ref(storage)
        for name, storage in storages.items()
        if storage.data_ptr() not in own
    }
    del x, y, storages
    if any(each() is not None for each in alive.values()):
        gc.collect()  # it may hang in a cycle
    return next((name for name, each in alive.items() if each() is not None), "")


def _contents(thing: Any, name: str = "", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield whatever a module holds, by path: tensors as copies, other things as they are.

    Modules and containers are looked into; other objects are only told apart.
    """
    if id(thing) in seen:
        return
    seen = (*seen, id(thing))
    if isinstance(thing, nn.Module):
        for key, value in vars(thing).items():
            if key in ("_parameters", "_buffers", "_modules"):
                for own, each in value.items():
                    yield from _contents(each, f"{name}.{own}".lstrip("."), seen)
            else:
                yield from _contents(value, f"{name}.{key}".lstrip("."), seen)
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from _contents(value, f"{name}[{key!r}]", seen)
    elif isinstance(thing, list | tuple | deque):
        for index, value in enumerate(thing):
            yield from _contents(value, f"{name}[{index}]", seen)
    elif isinstance(thing, Tensor):
        yield name, thing.detach().clone()
        yield f"{name}.requires_grad", thing.requires_grad
    elif isinstance(thing, np.ndarray | set | frozenset):
        yield name, thing.copy()
    else:
        yield name, thing


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
        return same and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    plain = (bool, int, float, str, bytes, set, frozenset)
    return a is b or (type(a) is type(b) and isinstance(a, plain) and a == b)
