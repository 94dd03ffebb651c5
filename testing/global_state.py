"""The process's global state, which no block may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..blocks.core.process_state import STATES, GlobalState

__all__ = ["changes", "default_device", "preserve_global_state", "snapshot"]


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
