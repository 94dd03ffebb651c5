"""Processors that have an attribute for how many tokens an image, or a tile of it, takes.

Upstream's own classes count right, here and where this library is not installed.
"""

from __future__ import annotations

from typing import Any

from ...blocks.core.feature import Grid
from ...projectors.stack import Stack
from ..errors import ModelError
from ..forms.form import Slot
from .counter import Counter

__all__ = ["Gemma3", "Idefics3", "Lengths", "Llava", "PaliGemma"]


class Lengths(Counter):
    """The attribute is ``image_seq_length``, and what is made of it."""

    name = "image_seq_length"

    def check(self, processor: Any, slot: Slot) -> None:
        """Refuse images of any size; see `Counter`."""
        self.grid(slot)

    def apply(self, processor: Any, stack: Stack, slot: Slot) -> None:
        """Set the attribute; see `Counter`."""
        super().apply(processor, stack, slot)
        self.set(processor, stack.tokens(*self.grid(slot)))

    def grid(self, slot: Slot) -> Grid:
        """Return the grid of all images.

        Raises:
            ModelError: There is no such grid.
        """
        if slot.grid is None:
            raise ModelError(
                "a vision tower of images of any size",
                "processor",
                f"one {self.name} for all images",
                "Leave out processor, and put as many image tokens in the prompt as "
                "get_image_features gives.",
            )
        return slot.grid

    def set(self, processor: Any, tokens: int) -> None:
        """Set the attribute."""
        setattr(processor, self.name, tokens)


class Idefics3(Lengths):
    """The attribute has another name."""

    name = "image_seq_len"


class PaliGemma(Lengths):
    """The processor reads it off its image processor."""

    def set(self, processor: Any, tokens: int) -> None:
        """Set it there too."""
        super().set(processor, tokens)
        super().set(processor.image_processor, tokens)


class Gemma3(Lengths):
    """The processor makes the sequence of an image once, when it is built."""

    def set(self, processor: Any, tokens: int) -> None:
        """Make that sequence again."""
        super().set(processor, tokens)
        own = processor.tokenizer
        sequence = f"{own.boi_token}{own.image_token * tokens}{own.eoi_token}"
        processor.full_image_sequence = f"\n\n{sequence}\n\n"


class Llava(Lengths):
    """The processor counts the patches of the pixels, and adds an attribute to that."""

    def check(self, processor: Any, slot: Slot) -> None:
        """Compare the patches; see `Counter`."""
        found, grid = self._grid(processor), self.grid(slot)
        if found == grid:
            return
        h, w = (side * processor.patch_size for side in grid)
        raise ModelError(
            f"images of {found[0]}x{found[1]} patches",
            "processor.image_processor.crop_size",
            f"{grid[0]}x{grid[1]}, as the model's config says",
            "Give the processor that was saved with the model, or set that to "
            f"{{'height': {h}, 'width': {w}}}.",
        )

    def set(self, processor: Any, tokens: int) -> None:
        """Set the attribute to the difference."""
        h, w = self._grid(processor)
        dropped = processor.vision_feature_select_strategy == "default"
        processor.num_additional_image_tokens = tokens - h * w + dropped

    def _grid(self, processor: Any) -> Grid:
        """Return the grid of patches that its image processor crops to."""
        size = processor.image_processor.crop_size
        h, w = (size[side] // processor.patch_size for side in ("height", "width"))
        return h, w
