"""Models that go on from their projector by counts of their own."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ...projectors.projector import Projector
from .form import Form

__all__ = ["Deferred", "Held", "as_asked"]


class Deferred(Form):
    """What upstream's call gives back is the features; a method bound here projects them after it.

    A call without ``grid=`` is upstream's. In it the modules run on no image, so that their hooks
    too see a call, and the features come back as they came. A call with ``grid=`` is ours.

    Attributes:
        tower: Where the base model has its vision tower.
    """

    tower: ClassVar[str] = "vision_tower"

    def prepare(self, projector: Projector) -> None:
        """Register on a projector the hooks that give back the features."""
        super().prepare(projector)
        projector.register_forward_pre_hook(_hold, with_kwargs=True)
        projector.register_forward_hook(_give_back, with_kwargs=True)

    def idle(self, core: nn.Module, projector: nn.Module, x: Tensor) -> Tensor:
        """Call it twice, and with features that have gradients where the tower is trained."""
        own = set(projector.parameters())
        rest = (p for p in core.get_submodule(self.tower).parameters() if p not in own)
        features = projector(x.requires_grad_(any(p.requires_grad for p in rest)))
        return super().idle(core, projector, features.view(x.shape))


def as_asked(outputs: Any, core: Any, return_dict: bool | None) -> Any:
    """Return the outputs of a bound method as its caller, or else the config, wants them."""
    wants_dict = core.config.return_dict if return_dict is None else return_dict
    return outputs if wants_dict else outputs.to_tuple()


class Held(list[Any]):
    """The grids of no image, and beside them the features that wait for theirs."""

    x: Tensor


def _hold(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if "grid" in kwargs:
        return None
    held = Held()
    held.x = args[0]
    return (held.x.flatten(0, -2)[:0],), {"grid": held}


def _give_back(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
    grid = kwargs.get("grid")
    return grid.x if isinstance(grid, Held) else y
