"""A projector's own tensors, held against its specification before anything is made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..projectors.projector import Projector
from ..registry import quote
from .errors import CheckpointError

__all__ = ["FLOATS", "own_state"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What weights may be."""


def own_state(projector: Projector) -> dict[str, Tensor]:
    """Return a projector's tensors by its document's keys: those its specification builds.

    Raises:
        CheckpointError: Something else stands in a layer's place, or a tensor is of another shape
            or another kind of numbers.
    """
    projector = projector.native()
    state: dict[str, Tensor] = projector.blocks.state_dict(prefix="blocks.")
    wanted: dict[str, Tensor] = projector.plan().modules().state_dict(prefix="blocks.")
    missing = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted]
    if missing or extra:
        some = ", ".join(map(quote, [*missing[:2], *extra[:2]]))
        raise CheckpointError(
            f"{len(missing)} tensors missing and {len(extra)} left over for its specification, "
            f"such as {some}",
            "projector",
            hint="Undo what wraps its layers first: merge adapters, remove parametrizations.",
        )
    for key, expected in wanted.items():
        tensor = state[key]
        if type(tensor) is not Tensor or tensor.layout is not torch.strided:
            raise CheckpointError(
                f"a {type(tensor).__name__} of {tensor.layout}",
                key,
                "a plain tensor",
                "Make one of it first: gather what is sharded, undo quantisation.",
            )
        if tensor.shape != expected.shape:
            raise CheckpointError(
                f"a tensor of {tuple(tensor.shape)}", key, str(tuple(expected.shape))
            )
        if not expected.is_floating_point():
            if tensor.dtype != expected.dtype:
                raise CheckpointError(f"a tensor of {tensor.dtype}", key, str(expected.dtype))
        elif tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"a tensor of {tensor.dtype}",
                key,
                "floating-point weights of 16 bits or more",
                "Convert it first: projector.to(torch.float32).",
            )
    return state
