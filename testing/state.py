"""What a call leaves behind: in the module, and in memory."""

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
from .cases import Case, Subject
from .report import Finding

__all__ = ["state"]

_HINT = (
    "Do not write to self, a list or a cache in forward: a stored tensor keeps its memory and "
    "graph alive, and threads that share the module overwrite each other's values."
)


def state(subject: Subject) -> None:
    """Running in evaluation changes nothing in it, and it keeps neither input nor output."""
    for variant in subject.variants:
        module = variant.module()
        # A projector caches which grids fit: numbers only.
        own = module.blocks if isinstance(module, Projector) else module
        before = dict(_contents(own))
        for case in variant.cases:
            for context in (nullcontext(), torch.no_grad()):
                with context:
                    held = _held(module, case)
                _compare(before, dict(_contents(own)), case.where)
                if held:
                    found = f"after the call its {held} is still in memory"
                    raise Finding(found, case.where, "no reference to it", _HINT)


def _compare(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> None:
    for name in {**before, **after}:
        if not (name in before and name in after and _equal(before[name], after[name])):
            found = f"{name!r} changes when it runs in evaluation"
            raise Finding(found, where, "an unchanged module", _HINT)


def _held(module: nn.Module, case: Case) -> str:
    """Run the module, drop its input and output, and return which of the two is still alive.

    A storage's Python object lives as long as any tensor that uses the storage.
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
        gc.collect()  # it may be part of a cycle
    return next((name for name, each in alive.items() if each() is not None), "")


def _contents(thing: Any, name: str = "", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield everything a module holds, by path: copies of tensors, other objects themselves.

    Modules and containers are traversed; other objects are only compared by identity.
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
