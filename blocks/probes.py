"""What the registries watch while a plugin is imported."""

from __future__ import annotations

from .core.process_state import ENVIRONMENT, STATES

__all__ = ["PROBES"]

# Libraries read variables that their own import set; taking those back would break them.
PROBES = tuple(state for state in STATES if state is not ENVIRONMENT)
