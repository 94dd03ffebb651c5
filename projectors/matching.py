"""Which built-in name a document is, if it is one."""

from __future__ import annotations

from ..blocks.core.errors import SpecError
from .index import aliases, upstream_index
from .lookup import instantiate
from .stack import Stack

__all__ = ["matching_preset"]


def matching_preset(stack: Stack) -> str:
    """Return the built-in name whose defaults are just these blocks; empty if there is none.

    >>> from mobilevlm import build_projector
    >>> matching_preset(build_projector("mlp", 64, 128, prefix_tokens=1, device="meta").spec)
    'mlp'
    """
    models = {
        family: sum(len(entry.model_types) for entry in entries)
        for family, entries in upstream_index().items()
    }
    # Of families that compute the same, the one that most models use; aliases come last.
    for name in [*sorted(models, key=models.__getitem__, reverse=True), *aliases()]:
        try:
            if instantiate(name, {}).stack(stack.in_, stack.out).blocks == stack.blocks:
                return name
        except SpecError:  # it has not these widths
            continue
    return ""
