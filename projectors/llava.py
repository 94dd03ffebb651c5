"""LLaVA's and MobileVLM's factory function, by the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..blocks.errors import SpecError
from .build import build_projector
from .projector import Projector

__all__ = ["build_vision_projector"]


def build_vision_projector(config: Any, delay_load: bool = False, **kwargs: Any) -> Projector:
    """Build the projector that a LLaVA or MobileVLM config names.

    Reads ``mm_projector_type`` (missing: ``linear``), ``mm_hidden_size`` and ``hidden_size``. The
    type is any registered name, by exact match.

    Args:
        config: An object with those attributes, or a mapping with those keys.
        delay_load: Accepted and without effect, as upstream.
        **kwargs: Accepted and without effect, as upstream.

    Raises:
        SpecError: A width is missing or does not fit.
        RegistryError: The type is not known.
    """
    name = _read(config, "mm_projector_type", "linear")
    widths = [_read(config, key) for key in ("mm_hidden_size", "hidden_size")]
    return build_projector(name, *widths)


def _read(config: Any, key: str, default: Any = None) -> Any:
    value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    if value is None:
        value = default
    if value is None:
        raise SpecError(f"{key!r} is missing", "config")
    return value
