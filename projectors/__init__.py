"""Blocks put together: presets by name, stacks, plans and projectors. Nothing heavy here either.

To add a built-in preset: write its file, add its line to the table and to pyproject's entry points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..blocks import BLOCKS
from ..registry import Registry

if TYPE_CHECKING:
    from .preset import Preset

__all__ = ["BLOCKS", "PROJECTORS"]


def _accepts(thing: object) -> bool:
    from .preset import Preset

    if isinstance(thing, type):
        return issubclass(thing, Preset) and not getattr(thing, "__abstractmethods__", None)
    return isinstance(thing, Preset)


PROJECTORS: Registry[Preset | type[Preset]] = Registry(
    "projector",
    group="mobilevlm.projectors",
    builtins={
        "identity": "mobilevlm.projectors.identity:Identity",
        "ldp": "mobilevlm.projectors.ldp:Ldp",
        "ldpnet": "mobilevlm.projectors.ldpnet:LdpNet",
        "ldpnetv2": "mobilevlm.projectors.ldpnetv2:LdpNetV2",
        "linear": "mobilevlm.projectors.linear:Linear",
        "mlp": "mobilevlm.projectors.mlp:Mlp",
        # LLaVA's own strings, by exact match.
        **{f"mlp{n}x-gelu": f"mobilevlm.projectors.mlp:MLP{n}X_GELU" for n in range(1, 9)},
    },
    accepts=_accepts,
    expected="a subclass of mobilevlm.Preset with an expand method, or an instance of one",
    sibling=BLOCKS,
)
