"""The reusable parts: one file per block, its data and its module. Nothing heavy is imported here.

To add a built-in block: write its file, add its line to the table and to pyproject's entry points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _BLOCK_TABLES, _BLOCKS_ELSEWHERE, _PROJECTORS
from ..registry import INSTALLED, Registry

if TYPE_CHECKING:
    from .core.block import Block

__all__ = ["BLOCKS"]


def _accepts(thing: object) -> bool:
    from .core.block import Block

    return (
        isinstance(thing, type)
        and issubclass(thing, Block)
        and not getattr(thing, "__abstractmethods__", None)
    )


BLOCKS: Registry[type[Block]] = Registry(
    "block",
    group="mobilevlm.blocks",
    builtins={
        "attention-pool": "mobilevlm.blocks.attention_pool:AttentionPool",
        "conv": "mobilevlm.blocks.conv:Conv",
        "cross-attention": "mobilevlm.blocks.cross_attention:CrossAttention",
        "depthwise": "mobilevlm.blocks.depthwise:Depthwise",
        "depthwise-residual": "mobilevlm.blocks.depthwise_residual:DepthwiseResidual",
        "extra-tokens": "mobilevlm.blocks.extra_tokens:ExtraTokens",
        "glu": "mobilevlm.blocks.glu:Glu",
        "identity": "mobilevlm.blocks.identity:Identity",
        "newline": "mobilevlm.blocks.newline:Newline",
        "norm-act": "mobilevlm.blocks.norm_act:NormAct",
        "pad-channels": "mobilevlm.blocks.pad_channels:PadChannels",
        "parallel": "mobilevlm.blocks.parallel:Parallel",
        "patch-merge": "mobilevlm.blocks.patch_merge:PatchMerge",
        "pointwise": "mobilevlm.blocks.pointwise:Pointwise",
        "pool": "mobilevlm.blocks.pool:Pool",
        "position": "mobilevlm.blocks.position:Position",
        "qformer": "mobilevlm.blocks.qformer:QFormer",
        "query-resampler": "mobilevlm.blocks.query_resampler:QueryResampler",
        "region-attention": "mobilevlm.blocks.region_attention:RegionAttention",
        "repeat": "mobilevlm.blocks.repeat:Repeat",
        "resampler": "mobilevlm.blocks.resampler:Resampler",
        "residual": "mobilevlm.blocks.residual:Residual",
        "scale": "mobilevlm.blocks.scale:Scale",
        "squeeze-excite": "mobilevlm.blocks.squeeze_excite:SqueezeExcite",
        "take-channels": "mobilevlm.blocks.take_channels:TakeChannels",
        **_BLOCKS_ELSEWHERE,
    },
    more_builtins=_BLOCK_TABLES,
    accepts=_accepts,
    expected="a subclass of mobilevlm.Block with a build method",
    installed=INSTALLED,
    other=_PROJECTORS,
)
"""The registry of blocks: their classes by name, built in, registered and of plugins."""
