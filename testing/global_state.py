"""The process's global state, which importing, building and running a block should leave alone.

torch is imported before it is read for the first time, so no block is blamed for what torch does.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

__all__ = ["DRAWS", "STATES", "changes", "default_device", "preserve_global_state", "snapshot"]


@dataclass(frozen=True)
class GlobalState:
    """A piece of the process's global state.

    Attributes:
        name: What a message calls it.
        read: Return it; None where there is none yet, which is never compared.
        restore: Put it back; None where that cannot be done.
        key: What to compare it by, where it cannot be compared itself.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object] | None = None
    key: Callable[[Any], object] | None = None


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _read_torch() -> tuple[int, torch.Tensor]:
    return torch.initial_seed(), torch.get_rng_state()


def _restore_torch(state: tuple[int, torch.Tensor]) -> None:
    seed, generator = state
    if torch.initial_seed() != seed and not _uses_cuda():
        torch.manual_seed(seed)  # it waits for CUDA too, until that is in use
    torch.set_rng_state(generator)


def _read_cuda() -> list[torch.Tensor] | None:
    return torch.cuda.get_rng_state_all() if _uses_cuda() else None


def _read_device() -> str:
    """Return the default device; "cpu" is another state than "None", which is none set at all.

    It stays on torch's stack of modes and slows down every call.
    """
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return str(getattr(context, "device", None))


def _restore_device(device: str) -> None:
    torch.set_default_device(None if device == "None" else device)


def _read_autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")


def _restore_autocast(state: tuple[bool, torch.dtype]) -> None:
    torch.set_autocast_enabled("cpu", state[0])
    torch.set_autocast_dtype("cpu", state[1])


_CUDNN = ("enabled", "benchmark", "deterministic")


def _read_cudnn() -> tuple[bool, ...]:
    return tuple(getattr(torch.backends.cudnn, name) for name in _CUDNN)


def _restore_cudnn(flags: tuple[bool, ...]) -> None:
    for name, flag in zip(_CUDNN, flags, strict=True):
        setattr(torch.backends.cudnn, name, flag)


def _restore_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _bytes(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()


DRAWS = GlobalState(
    "torch's random state",
    _read_torch,
    _restore_torch,
    key=lambda state: (state[0], _bytes(state[1])),
)
"""Drawn on purpose while a module is built; never reseeded."""

STATES = (
    GlobalState("Python's random state", random.getstate, random.setstate, key=tuple),
    GlobalState(
        "NumPy's random state",
        partial(np.random.get_state, legacy=False),
        np.random.set_state,
        key=pickle.dumps,
    ),
    DRAWS,
    GlobalState(
        "CUDA's random state",
        _read_cuda,
        torch.cuda.set_rng_state_all,
        key=lambda states: [_bytes(state) for state in states],
    ),
    GlobalState("whether CUDA is in use", _uses_cuda),
    GlobalState("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    GlobalState("torch's default device", _read_device, _restore_device),
    GlobalState("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    GlobalState("torch's number of inter-op threads", torch.get_num_interop_threads),
    GlobalState("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    GlobalState("torch's autocast", _read_autocast, _restore_autocast),
    GlobalState(
        "torch's deterministic mode",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    GlobalState(
        "torch's matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    GlobalState("cuDNN's switches", _read_cudnn, _restore_cudnn),
    # Not torch.backends.mkldnn.flags, which sets more and warns of it.
    GlobalState(
        "oneDNN's switch",
        torch._C._get_mkldnn_enabled,
        torch._C._set_mkldnn_enabled,
    ),
    GlobalState("the environment's variables", lambda: dict(os.environ), _restore_environment),
)


def snapshot() -> dict[str, Any]:
    """Return the current value of every state, by name."""
    return {state.name: state.read() for state in STATES}


def changes(before: dict[str, Any]) -> list[str]:
    """Return the names of the states that have changed."""
    return [state.name for state in _changed(before)]


def _changed(before: dict[str, Any]) -> list[GlobalState]:
    changed = []
    for state in STATES:
        old, new = before[state.name], state.read()
        key = state.key or (lambda value: value)
        if old is not None and key(old) != key(new):
            changed.append(state)
    return changed


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Restore every state after the body, as far as it can be restored."""
    before = snapshot()
    try:
        yield
    finally:
        for state in _changed(before):
            if state.restore is not None:
                state.restore(before[state.name])


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """Set the default device for the body, and restore every state afterwards.

    Trap: within ``with torch.device(device)``, code that sets the default device breaks torch's
    stack of modes.
    """
    with preserve_global_state():
        torch.set_default_device(device)
        yield
