"""The global state that importing a plugin should leave alone: random numbers and torch's defaults.

torch is loaded before a plugin is, so neither its state nor its loading time is blamed on one.
"""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import torch

from ..registry import Probe

__all__ = ["PROBES"]


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


def _restore_device(device: torch.device) -> None:
    # "cpu" set by hand would stay on torch's stack of modes and slow down every call.
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _bytes(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()


def _read_numpy() -> Any:
    return np.random.get_state(legacy=False)


PROBES = (
    Probe("Python's random state", random.getstate, random.setstate, key=tuple),
    Probe("NumPy's random state", _read_numpy, np.random.set_state, key=pickle.dumps),
    Probe(
        "torch's random state",
        _read_torch,
        _restore_torch,
        key=lambda state: (state[0], _bytes(state[1])),
    ),
    Probe(
        "CUDA's random state",
        _read_cuda,
        lambda states: torch.cuda.set_rng_state_all(states),
        key=lambda states: [_bytes(state) for state in states],
    ),
    Probe("whether CUDA is in use", _uses_cuda),
    Probe("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Probe("torch's default device", torch.get_default_device, _restore_device),
    Probe("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Probe("torch's number of inter-op threads", torch.get_num_interop_threads),
    Probe("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Probe(
        "torch's deterministic mode",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    Probe(
        "torch's matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
)
