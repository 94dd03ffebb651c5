"""Choosing among projectors: what each costs, on one ruler."""

from __future__ import annotations

from .comparison import Comparison, Refused, compare_projectors
from .cost import Cost, Measured
from .lm import LanguageModel, read_lm
from .measure import measure
from .suggest import Limit, suggest
from .vision import VisionCost, vision_cost

__all__ = [
    "Comparison",
    "Cost",
    "LanguageModel",
    "Limit",
    "Measured",
    "Refused",
    "VisionCost",
    "compare_projectors",
    "measure",
    "read_lm",
    "suggest",
    "vision_cost",
]
