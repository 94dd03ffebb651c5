"""Models that call their projector with a map, ``(b, c, h, w)``."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...projectors.projector import Projector
from .form import Form

__all__ = ["Maps"]


class Maps(Form):
    """Tokens ``(b, m, d)`` have to come out, as of upstream's own projector."""

    def prepare(self, projector: Projector) -> None:
        """Let the projector take maps as tokens; see `Form`."""
        super().prepare(projector)
        projector.register_forward_pre_hook(_as_tokens, with_kwargs=True)


def _as_tokens(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, *rest = args
    if x.ndim != 4:  # a batch without an image
        return None
    grid = tuple(x.shape[2:])
    return (x.flatten(2).transpose(1, 2), *rest), {**kwargs, "grid": grid}
