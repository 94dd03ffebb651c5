"""The values that configs may leave out; ``tools/config_defaults.py`` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["DEFAULTS", "defaults_of", "hosts"]

DEFAULTS = Path(__file__).with_suffix(".json")


@cache
def _read() -> Mapping[str, Any]:
    return json.loads(DEFAULTS.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def defaults_of(model_type: str) -> Mapping[str, object]:
    """Return the values that a model type's class of transformers has for what is read of it."""
    return _read()["models"].get(model_type, {})  # type: ignore[no-any-return]


def hosts() -> Mapping[str, Mapping[str, Any]]:
    """Return the language model's type of whole models, and whether they share its embeddings."""
    return _read()["hosts"]  # type: ignore[no-any-return]
