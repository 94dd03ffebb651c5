"""Build a projector, plan it, or return its specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..blocks.core.feature import check_grid
from .lookup import to_stack
from .plan import MAX_PARAMETERS, Plan
from .projector import Projector
from .stack import Stack

if TYPE_CHECKING:
    import torch

__all__ = ["build_projector", "plan_projector", "spec_of"]


def build_projector(
    spec: str | Mapping[str, Any] | Stack,
    in_: int | None = None,
    out: int | None = None,
    *,
    grid: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    max_parameters: int = MAX_PARAMETERS,
    **options: Any,
) -> Projector:
    """Build a projector from a registered name, a document or a stack.

    >>> projector = build_projector("ldp", 1024, 2048, device="meta")
    >>> projector.tokens(24, 18)
    108

    Args:
        spec: A registered name, a mapping as in a document, or a `Stack`. Never a path: read
            files with `load_spec`.
        in_: The input width, if the document does not give it. ``**{"in": 1024}`` works too.
        out: The output width, if the document does not give it.
        grid: The default token grid (h, w) of `forward` and `plan`.
        device: Where to build; default: torch's current default device.
        dtype: The parameters' dtype or its name, ``"bf16"``; default: torch's default dtype.
        max_parameters: Upper limit on parameters.
        **options: The options of a registered name.

    Raises:
        RegistryError: The name is unknown, or its plugin is broken.
        SpecError: The document, an option or a width does not fit.
        GridError: The grid does not fit.
    """
    stack = to_stack(spec, in_, out, options)
    return Projector(stack, grid=grid, device=device, dtype=dtype, max_parameters=max_parameters)


def plan_projector(
    spec: str | Mapping[str, Any] | Stack,
    in_: int | None = None,
    out: int | None = None,
    *,
    grid: Sequence[int] | None = None,
    max_parameters: int = MAX_PARAMETERS,
    **options: Any,
) -> Plan:
    """Plan a projector: shapes, tokens, parameters and MACs, without allocating it.

    >>> plan_projector("ldp", 1024, 2048, grid=(24, 24)).tokens_out
    144

    Args and errors are those of `build_projector`.
    """
    stack = to_stack(spec, in_, out, options)
    sides = None if grid is None else check_grid(grid)
    return Plan(stack, sides, max_parameters=max_parameters)


def spec_of(name: str, in_: int | None = None, out: int | None = None, **options: Any) -> Stack:
    """Return what a registered name expands to, ready to edit.

    >>> [block["type"] for block in spec_of("mlp", 64, 128).model_dump()["blocks"]]
    ['pointwise', 'norm-act', 'pointwise']

    Args and errors are those of `build_projector`.
    """
    return to_stack(name, in_, out, options)
