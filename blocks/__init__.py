"""The reusable parts: one file per block, its data and its module. Nothing heavy is imported here.

To add a built-in block: write its file, add its line to the table and to pyproject's entry points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:
    from .block import Block

__all__ = ["BLOCKS"]


def _accepts(thing: object) -> bool:
    from .block import Block

    return (
        isinstance(thing, type)
        and issubclass(thing, Block)
        and not getattr(thing, "__abstractmethods__", None)
    )


BLOCKS: Registry[type[Block]] = Registry(
    "block",
    group="mobilevlm.blocks",
    builtins={
        "depthwise": "mobilevlm.blocks.depthwise:Depthwise",
        "depthwise-residual": "mobilevlm.blocks.depthwise_residual:DepthwiseResidual",
        "identity": "mobilevlm.blocks.identity:Identity",
        "norm-act": "mobilevlm.blocks.norm_act:NormAct",
        "pointwise": "mobilevlm.blocks.pointwise:Pointwise",
        "pool": "mobilevlm.blocks.pool:Pool",
        "preset": "mobilevlm.projectors.nested:NestedPreset",
        "residual": "mobilevlm.blocks.residual:Residual",
        "squeeze-excite": "mobilevlm.blocks.squeeze_excite:SqueezeExcite",
    },
    accepts=_accepts,
    expected="a subclass of mobilevlm.Block with a build method",
)
