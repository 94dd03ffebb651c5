"""Models that call their projector with one image, or one tile, after the other."""

from __future__ import annotations

from typing import Any

from ...projectors.projector import Projector
from ...projectors.stack import Stack
from .form import Form, Slot
from .sizes import check_sides, check_unsized

__all__ = ["ChannelsLast"]


class ChannelsLast(Form):
    """Each comes with its own grid, as a map with channels last, ``(1, h, w, c)``."""

    def check(self, stack: Stack, slot: Slot, config: Any) -> None:
        """Refuse a projector that takes images of some sizes only; see `Form`."""
        check_unsized(stack)
        check_sides(stack, config.downsample_factor)

    def prepare(self, projector: Projector) -> None:
        """Register on a projector the hooks that adapt it to the model's call."""
        super().prepare(projector)
        projector.register_forward_pre_hook(_flatten, with_kwargs=True)


def _flatten(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if "grid" in kwargs:  # a batch of no image
        return None
    x = args[0]
    return (x.flatten(1, 2),), {"grid": tuple(x.shape[1:3])}
