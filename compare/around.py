"""What stands around projectors that are compared: the vision tower and the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid
from ..projectors.tower import Tower, read_tower, read_width
from .lm import LanguageModel, read_lm
from .vision import VisionCost, vision_cost

__all__ = ["Around"]

_ANY_GRID = (16, 16)  # of a tower for images of any size


@dataclass(frozen=True, kw_only=True)
class Around:
    """The widths of projectors, and the models that they stand between.

    Attributes:
        in_: The input width of the call.
        out: The output width of the call.
        tower: What the tower gives to a projector.
        vision: What says how much the tower costs: a config, or a `VisionCost`.
        lm: What the language model costs.
        lm_width: What `read_width` takes of the language model.
        remarks: What could not be read of them.
    """

    in_: int | None
    out: int | None
    tower: Tower | None = None
    vision: object = None
    lm: LanguageModel | None = None
    lm_width: object = None
    remarks: tuple[str, ...] = ()
    # By the grid: projectors for the same images have the same tower, whose config may be a file.
    _tower_macs: dict[Grid, int] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def read(cls, in_: int | None, out: int | None, tower: object, lm: object) -> Around:
        """Read a tower and a language model.

        Their widths have to be known. Where their costs are not, a remark says so, and columns are
        missing.

        Args:
            in_: The input width.
            out: The output width.
            tower: What `read_tower` takes, or a `VisionCost`.
            lm: What `read_width` takes, or a `LanguageModel`.

        Raises:
            SpecError: They cannot be read.
        """
        remarks = []
        given = None if tower is None or isinstance(tower, VisionCost) else read_tower(tower)
        width: object = None
        costs = None
        if isinstance(lm, LanguageModel):
            width, costs = {"hidden_size": lm.width}, lm
        elif lm is not None:
            width = {"hidden_size": read_width(lm)}
            try:
                costs = read_lm(lm)
            except SpecError as error:
                remarks.append(f"without prefill and KV cache: {error}")
        vision = tower
        if vision is not None:
            try:
                vision_cost(vision, (given and given.grid) or _ANY_GRID)
            except SpecError as error:
                vision = None
                if costs is not None:
                    remarks.append(f"without the share of the whole: {error}")
        return cls(
            in_=in_,
            out=out,
            tower=given,
            vision=vision,
            lm=costs,
            lm_width=width,
            remarks=tuple(remarks),
        )

    def tower_macs(self, grids: Sequence[Grid]) -> int | None:
        """Return what the tower costs for images of these grids, if that is known."""
        if self.vision is None:
            return None
        for grid in {*grids} - self._tower_macs.keys():
            self._tower_macs[grid] = vision_cost(self.vision, grid).macs
        return sum(self._tower_macs[grid] for grid in grids)
