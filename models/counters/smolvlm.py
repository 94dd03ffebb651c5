"""SmolVLM's processor, which upstream gives no way to count before it has seen an image."""

from __future__ import annotations

from typing import Any

from ..processing import SwappedProcessor
from ..upstream import load_class
from .lengths import Idefics3

__all__ = ["SmolVLM"]


class _Processor(SwappedProcessor):
    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Count as Idefics 3's processor does, whose template is the same."""
        counted = load_class("Idefics3Processor")._get_num_multimodal_tokens
        return counted(self, image_sizes, **kwargs)


class SmolVLM(Idefics3):
    """As Idefics 3's, but for that."""

    mixin = _Processor
