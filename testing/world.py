"""The state that a process shares, which no block has any business to change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["DRAWS", "changes", "kept", "snapshot"]


class _Setting(NamedTuple):
    get: Callable[[], Any]
    set: Callable[[Any], Any]


def _deterministic(mode: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])


DRAWS = "torch's random numbers"
"""Drawn on purpose while a module is built; never reseeded."""

_SETTINGS = {
    DRAWS: _Setting(torch.get_rng_state, torch.set_rng_state),
    "Python's random numbers": _Setting(random.getstate, random.setstate),
    "NumPy's random numbers": _Setting(np.random.get_state, np.random.set_state),
    "the default dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "the default device": _Setting(torch.get_default_device, torch.set_default_device),
    "the number of threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "whether gradients are recorded": _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "the precision of matrix products": _Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "whether algorithms are deterministic": _Setting(
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _deterministic,
    ),
}


def snapshot() -> dict[str, Any]:
    """Return every setting's value now."""
    return {name: setting.get() for name, setting in _SETTINGS.items()}


def changes(before: dict[str, Any]) -> list[str]:
    """Return the names of the settings that are no longer what they were."""
    return [name for name, value in snapshot().items() if not _equal(value, before[name])]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, torch.Tensor | np.ndarray):
        return bool((a == b).all())
    return bool(a == b)


@contextmanager
def kept() -> Iterator[None]:
    """Put every setting back afterwards."""
    before = snapshot()
    try:
        yield
    finally:
        for name in changes(before):
            _SETTINGS[name].set(before[name])
