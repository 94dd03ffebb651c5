"""Build a projector, plan it, or return its specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import check_grid
from ..registry import quote
from .lookup import to_stack
from .plan import MAX_PARAMETERS, Plan
from .projector import Projector
from .stack import Stack
from .tokens import with_tokens

if TYPE_CHECKING:
    import torch

__all__ = ["build_projector", "plan_projector", "spec_of"]


def build_projector(
    spec: str | Mapping[str, Any] | Stack,
    in_: int | None = None,
    out: int | None = None,
    *,
    tokens: int | None = None,
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
    >>> plan_projector("internvl", 1024, 2048, tokens=64, grid=(24, 24)).stack.blocks[0].size
    (3, 3)

    Args:
        spec: A registered name, a mapping as in a document, or a `Stack`. Never a path: read
            files with `load_spec`.
        in_: The input width, if the document does not give it. ``**{"in": 1024}`` works too.
        out: The output width, if the document does not give it.
        tokens: How many tokens are to come out, in place of the option of a registered name that
            sets it, such as a number of queries. Where the number depends on the grid, that is
            needed too.
        grid: The default token grid (h, w) of `forward` and `plan`.
        device: Where to build; default: torch's current default device.
        dtype: The parameters' dtype or its name, ``"bf16"``; default: torch's default dtype.
        max_parameters: Upper limit on parameters.
        **options: The options of a registered name.

    Raises:
        RegistryError: The name is unknown, or its plugin is broken.
        SpecError: The document, an option or a width does not fit, or no value of the option gives
            that many tokens.
        GridError: The grid does not fit.
    """
    stack = _stack(spec, in_, out, options, tokens, grid)
    return Projector(stack, grid=grid, device=device, dtype=dtype, max_parameters=max_parameters)


def plan_projector(
    spec: str | Mapping[str, Any] | Stack,
    in_: int | None = None,
    out: int | None = None,
    *,
    tokens: int | None = None,
    grid: Sequence[int] | None = None,
    max_parameters: int = MAX_PARAMETERS,
    **options: Any,
) -> Plan:
    """Plan a projector: shapes, tokens, parameters and MACs, without allocating it.

    >>> plan_projector("ldp", 1024, 2048, grid=(24, 24)).tokens_out
    144

    Args and errors are those of `build_projector`.
    """
    stack = _stack(spec, in_, out, options, tokens, grid)
    sides = None if grid is None else check_grid(grid)
    return Plan(stack, sides, max_parameters=max_parameters)


def spec_of(
    name: str,
    in_: int | None = None,
    out: int | None = None,
    *,
    tokens: int | None = None,
    grid: Sequence[int] | None = None,
    **options: Any,
) -> Stack:
    """Return what a registered name expands to, ready to edit.

    >>> [block["type"] for block in spec_of("mlp", 64, 128).model_dump()["blocks"]]
    ['pointwise', 'norm-act', 'pointwise']

    Args and errors are those of `build_projector`; `grid` only serves `tokens`.
    """
    return _stack(name, in_, out, options, tokens, grid)


def _stack(
    spec: object,
    in_: int | None,
    out: int | None,
    options: dict[str, Any],
    tokens: int | None,
    grid: Sequence[int] | None,
) -> Stack:
    stack = to_stack(spec, in_, out, options)
    if tokens is None:
        return stack
    if not isinstance(spec, str):
        raise SpecError(
            quote(tokens),
            "tokens",
            "a registered name with it",
            "A document says everything itself: edit its blocks.",
        )
    widths = stack.in_, stack.out
    options = {key: value for key, value in options.items() if key != "in"}
    return to_stack(spec, *widths, with_tokens(spec, options, tokens, grid, widths))
