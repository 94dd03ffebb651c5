"""What the forms share: what reaches a slot, and what a model asks of the projector there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...blocks.core.feature import Grid
from ...projectors.projector import Projector
from ...projectors.stack import Stack
from ...projectors.tower import read_tower, read_width
from ..errors import ModelError
from ..host import Host

__all__ = ["Form", "Slot", "empty_batch"]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What reaches a model's projector, and what has to come out.

    Attributes:
        channels: The width of the features.
        out: The width of the language model.
        grid: The grid of an image, or of a tile of it; None where it differs from image to image.
        prefix_tokens: How many tokens come before the grid's.
        token_order: The order of the grid's tokens.
    """

    channels: int
    out: int
    grid: Grid | None
    prefix_tokens: int = 0
    token_order: str = "raster"

    def seen_by(self, stack: Stack) -> Slot:
        """Return what a projector sees of it: one that keeps prefix tokens sees a single row.

        Only one that does not read the grid can, as most models' own: they project all tokens.
        """
        kept = self.prefix_tokens - stack.prefix_tokens
        if self.grid is None or kept <= 0 or stack.needs_grid:
            return self
        h, w = self.grid
        return replace(self, grid=(1, kept + h * w), prefix_tokens=stack.prefix_tokens)

    def check(self, stack: Stack) -> None:
        """Refuse a specification that does not fit what it sees of what reaches the slot.

        Raises:
            ModelError: Its widths, prefix tokens or token order are others.
        """
        for name, found, expected in (
            ("widths", f"{stack.in_} -> {stack.out}", f"{self.channels} -> {self.out}"),
            ("prefix_tokens", str(stack.prefix_tokens), str(self.prefix_tokens)),
            ("token_order", stack.token_order, self.token_order),
        ):
            if found != expected:
                raise ModelError(
                    found,
                    f"projector.{name}",
                    f"{expected}, as the model's config says",
                    ""
                    if name == "widths"
                    else f"Write it in the document; load_projector takes {name}= too.",
                )


class Form:
    """How a model calls its projector: with tokens ``(b, n, c)``, and takes what comes out.

    A subclass says what differs. It holds nothing: what is asked of it comes with each call.
    """

    def slot(self, config: Any, host: Host) -> Slot:
        """Read off a model's config what reaches its projector."""
        facts = {**config.to_dict(), "model_type": host.model_type}
        tower = read_tower(facts)
        return Slot(
            channels=tower.channels,
            out=read_width(facts),
            grid=tower.grid,
            prefix_tokens=tower.prefix_tokens,
            token_order=tower.token_order,
        )

    def check(self, stack: Stack, slot: Slot, config: Any) -> None:
        """Refuse a projector that the model cannot take; widths have been compared.

        Raises:
            ModelError: It says what the model needs.
            GridError: A block does not take the grid.
        """
        if slot.grid is not None:
            stack.tokens(*slot.grid)
        elif stack.needs_grid:
            raise ModelError(
                "no one grid for all images",
                "config.vision_config",
                "one, as this projector reads it and the model passes none",
                "'mlp' takes tokens of any number.",
            )

    def prepare(self, projector: Projector) -> None:
        """Register on a projector the hooks that adapt it to the model's call."""
        projector.register_forward_hook(empty_batch)

    def bind(self, core: nn.Module, host: Host) -> None:
        """Bind to the base model the methods that have to differ from upstream's."""

    def idle(self, core: nn.Module, projector: nn.Module, x: Tensor) -> Tensor:
        """Call a projector with no image, ``(0, c) -> (0, d)``, as often as for a batch of some.

        Processes that share its parameters wait for each other at each call.
        """
        y: Tensor = projector(x, grid=[])
        return y


def empty_batch(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
    """Let a batch without an image reach every parameter, each with a gradient of zero.

    Else a process without images would have gradients of None, and wait for others for ever.
    """
    if y.numel() or not torch.is_grad_enabled():
        return y
    zeros = [p.flatten()[:1].sum() * 0 for p in module.parameters() if p.requires_grad]
    return y + sum(zeros)
