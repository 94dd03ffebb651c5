"""What a vision tower costs for one image, read off its config."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid, check_grid
from ..projectors.macs import count_macs
from ..projectors.model_config import ModelConfig, open_config
from ..projectors.timm_config import is_timm
from ..projectors.tower import VISION_KEYS, Tower, read_tower
from ..projectors.tower_families import HOSTS
from ..registry import quote
from .defaults import defaults_of
from .vision_families import FAMILIES, REFUSED

__all__ = ["VisionCost", "vision_cost"]

_BY_HAND = "Give what it costs by hand: VisionCost(macs=191_000_000_000, tokens=576)."


@dataclass(frozen=True, kw_only=True)
class VisionCost:
    """What a vision tower costs for one image, or for one tile.

    One of which nothing can be read is written by hand: ``VisionCost(macs=..., tokens=...)``.

    Attributes:
        macs: The multiply-accumulates of its matrix products and convolutions.
        tokens: How many tokens it gives to the projector.
        parameters: How many parameters it has; None if that is not known.
    """

    macs: int
    tokens: int
    parameters: int | None = None


def vision_cost(config: object, grid: Grid | None = None) -> VisionCost:
    """Read what a vision tower costs for one image. Neither weights nor a library are needed.

    What counts is what transformers runs for the tower: every layer, also those behind the one that
    a projector reads; every pair of tokens that its windows let meet; and what pools the tokens
    behind the last layer, if its model has that. A projector or merger that stands inside the tower
    counts neither as work nor as parameters. A model of timm is run up to its last feature, on
    tensors without memory.

    >>> vision_cost({"model_type": "clip_vision_model"}).parameters
    87456000

    Args:
        config: What `read_tower` takes, or a `VisionCost`, which is returned.
        grid: How many patches the image has in height and width; by default what the config says.

    Raises:
        SpecError: It cannot be read; it does not say what must be known, such as the grid of a
            tower that takes images of any size; or towers of this type cannot be counted.
        GridError: The grid is none.
    """
    if isinstance(config, VisionCost):
        return config
    if isinstance(config, Tower):
        hint = "Give its config in place of what read_tower made of it."
        raise SpecError("a Tower does not say what it costs", "tower", hint=hint)
    if grid is not None:
        grid = check_grid(grid)
    tower = read_tower(config)
    vision, kind = _tower(open_config(config, "tower"))
    if isinstance(vision.source, nn.Module):
        return _run(vision.source, tower, grid)
    count = FAMILIES.get(kind)
    if count is None:
        raise _unknown(vision, kind)
    grid = grid or tower.grid
    if grid is None:
        hint = "Give the grid of patches: grid=(24, 24)."
        raise SpecError("the tower takes images of any size", vision.where, hint=hint)
    try:
        work = count(vision.completed(defaults_of(kind)), grid)
    except SpecError as error:
        error.hint = _BY_HAND
        raise
    return VisionCost(macs=work.macs, tokens=prod(grid), parameters=work.parameters)


def _tower(whole: ModelConfig) -> tuple[ModelConfig, str]:
    """Return the config of a tower, and its model type."""
    vision = whole.child(*VISION_KEYS) or whole
    kind = vision.model_type
    if kind in ("", whole.model_type) and whole.model_type in HOSTS:
        kind = HOSTS[whole.model_type].tower
    return vision, kind


class _Features(nn.Module):
    """A model of timm up to its last feature."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)  # type: ignore[operator, no-any-return]


def _run(model: Any, tower: Tower, grid: Grid | None) -> VisionCost:
    """Count a model of timm while it runs on tensors without memory."""
    root = _Features(model)
    size: Any
    if grid not in (None, tower.grid) and tower.patch is not None:
        size = (grid[0] * tower.patch[0], grid[1] * tower.patch[1])
    else:
        size = getattr(getattr(model, "patch_embed", None), "img_size", None)
        size = size or model.pretrained_cfg["input_size"][-2:]
    state = {key: x.to("meta") for key, x in (*root.named_parameters(), *root.named_buffers())}
    image = torch.empty(1, 3, *size, device="meta")
    try:
        with torch.no_grad(), count_macs(root) as macs:
            feature: Tensor = functional_call(root, state, (image,))
    except (AssertionError, RuntimeError) as error:
        found = f"it does not take images of {size[0]}x{size[1]} pixels"
        raise SpecError(found, "tower", hint="Give timm's model for that size.") from error
    return VisionCost(
        macs=macs[""],
        tokens=feature.numel() // tower.channels - tower.prefix_tokens,
        parameters=sum(x.numel() for x in model.parameters()),
    )


def _unknown(config: ModelConfig, kind: str) -> SpecError:
    if is_timm(config):
        found = "timm's config does not say which layers its tower has"
        hint = f"Give timm's model itself, with or without weights. {_BY_HAND}"
        return SpecError(found, config.where, hint=hint)
    found = f"a tower of type {quote(kind)}, {REFUSED[kind]}, cannot be counted"
    return SpecError(found, config.where, hint=_BY_HAND)
