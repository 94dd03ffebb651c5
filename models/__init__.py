"""Projectors inside whole models of transformers.

Importing this module makes the Auto classes of transformers know the models that `swap_projector`
has made.
"""

from __future__ import annotations

from .auto import register
from .check import check_image_tokens
from .load import load_model
from .swap import swap_projector
from .training import freeze_except_projector, parameter_groups, trainable_summary

__all__ = [
    "check_image_tokens",
    "freeze_except_projector",
    "load_model",
    "parameter_groups",
    "swap_projector",
    "trainable_summary",
]

register()
