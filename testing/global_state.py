"""Watching the process's state, which no block has any business to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..blocks.core.process_state import STATES, GlobalState

__all__ = ["changes", "kept", "on", "snapshot"]


def snapshot() -> dict[str, Any]:
    """Return every state's value now, by name."""
    return {state.name: state.read() for state in STATES}


def changes(before: dict[str, Any]) -> list[str]:
    """Return the names of the states that are no longer what they were."""
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
def kept() -> Iterator[None]:
    """Put every state back afterwards, but for what cannot be."""
    before = snapshot()
    try:
        yield
    finally:
        for state in _changed(before):
            if state.restore is not None:
                state.restore(before[state.name])


@contextmanager
def on(device: str) -> Iterator[None]:
    """Make tensors on a device by default, and put every state back afterwards.

    ``with torch.device(device)`` cannot: what sets the default device inside it breaks torch's
    stack of modes.
    """
    with kept():
        torch.set_default_device(device)
        yield
