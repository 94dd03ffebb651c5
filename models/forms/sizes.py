"""Models whose images have any size, which comes with them as ``image_sizes``, in pixels."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from ...projectors.projector import Projector
from ...projectors.stack import Stack
from ...registry import MobileVLMError
from ..errors import ModelError
from ..host import Host
from ..slots import projector_in
from .deferred import Deferred, as_asked
from .form import Slot

__all__ = ["Sizes", "check_sides", "check_unsized", "round_sides"]

# Prime to what a block may ask of a side. What pools to a fixed size takes the large one, what has
# tables for a largest grid the small one.
_SIDES = ((13, 17), (61, 67))
_MAX_ROUND = 16


class Sizes(Deferred):
    """The tower gives the tokens of all images, one after the other; upstream splits them again."""

    def check(self, stack: Stack, slot: Slot, config: Any) -> None:
        """Refuse a projector that takes images of some sizes only; see `Form`."""
        check_unsized(stack)
        round_sides(stack, 1)

    def bind(self, core: nn.Module, host: Host) -> None:
        """Let the base model split by the projector's counts."""
        bound: Any = core
        upstream = type(bound).get_image_features

        @functools.wraps(upstream)  # generate() reads its signature
        def get_image_features(self: Any, *args: Any, **kwargs: Any) -> Any:
            names = list(inspect.signature(upstream).parameters)[1:]
            return _project(self, upstream, dict(zip(names, args, strict=False)) | kwargs)

        bound.get_image_features = MethodType(get_image_features, core)


def _project(core: Any, upstream: Callable[..., Any], call: dict[str, Any]) -> Any:
    """Project the features that upstream's method splits; ``pooler_output`` has them by image."""
    sizes = call.get("image_sizes")
    if sizes is None:  # then all images are as large as the pixels
        b, _, h, w = call["pixel_values"].shape
        sizes = [(h, w)] * b
    outputs = upstream(core, **{**call, "image_sizes": sizes, "return_dict": True})
    patch = core.vision_tower.patch_size
    grids = [(h // patch, w // patch) for h, w in torch.as_tensor(sizes).tolist()]
    slot = core.multi_modal_projector
    y = slot(torch.cat(list(outputs.pooler_output)), grid=grids)
    outputs.pooler_output = y.split(projector_in(slot).tokens(grids))
    return as_asked(outputs, core, call.get("return_dict"))


def check_unsized(stack: Stack) -> None:
    """Check that a stack has no weights for the places of one grid.

    Raises:
        ModelError: It has.
    """
    try:
        Projector(stack, device="meta")
    except MobileVLMError as error:
        bare = MobileVLMError(error.found, error.where)  # its hint is to give the grid
        raise _refused(bare, "weights that do not depend on the grid") from error


def check_sides(stack: Stack, sides: int) -> None:
    """Check that a stack takes grids whose sides are multiples of a number.

    A grid that is too small or too large for a block is not looked for: that is told of the image
    that has it.

    Raises:
        ModelError: It does not; the message has what a block says to the first that was tried.
    """
    errors = []
    for h, w in _SIDES:
        try:
            stack.tokens(sides * h, sides * w)
        except MobileVLMError as error:
            errors.append(error)
        else:
            return
    any_side = "any number" if sides == 1 else f"any multiple of {sides}"
    raise _refused(errors[0], f"a grid whose sides are {any_side}") from errors[0]


def round_sides(stack: Stack, sides: int) -> int:
    """Return the smallest multiple of `sides` such that a stack takes all grids of its multiples.

    Raises:
        ModelError: There is none; the message has what a block says to a grid of multiples of
            `sides`.
    """
    multiples = range(sides, sides * _MAX_ROUND + 1, sides)
    found = next((multiple for multiple in multiples if _takes(stack, multiple)), sides)
    check_sides(stack, found)
    return found


def _takes(stack: Stack, sides: int) -> bool:
    try:
        check_sides(stack, sides)
    except ModelError:
        return False
    return True


def _refused(error: MobileVLMError, expected: str) -> ModelError:
    return ModelError(
        error.found,
        f"projector.{error.where}" if error.where else "projector",
        f"{expected}, as the images of this model differ in size",
        f"{error.hint} 'ldp' and 'c-abstractor' are made for them.".strip(),
    )
