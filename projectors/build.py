"""Build a projector, plan it, or return its specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import check_grid
from ..registry import quote
from . import PROJECTORS
from .lookup import name_of, to_stack
from .plan import MAX_PARAMETERS, Plan
from .projector import Projector
from .stack import Stack
from .tokens import with_tokens
from .tower import read_tower, read_width

if TYPE_CHECKING:
    import torch

__all__ = ["build_projector", "plan_projector", "resolve", "spec_of"]


def build_projector(
    spec: str | Mapping[str, Any] | Stack,
    in_: int | None = None,
    out: int | None = None,
    *,
    tower: object = None,
    lm: object = None,
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
    >>> clip = {"model_type": "clip_vision_model", "hidden_size": 1024, "patch_size": 14}
    >>> build_projector("ldp", tower=clip, lm={"hidden_size": 2048}, device="meta").tokens(16, 16)
    64

    Args:
        spec: A registered name, a mapping as in a document, or a `Stack`. Never a path: read
            files with `load_spec`.
        in_: The input width, if the document does not give it. ``**{"in": 1024}`` works too.
        out: The output width, if the document does not give it.
        tower: The vision tower, as `read_tower` takes it: a config of transformers or timm, or a
            model's folder. It gives the input width and, where neither the call nor the document
            does, the grid, `prefix_tokens` and the order of the tokens.
        lm: The language model, as `read_width` takes it. It gives the output width.
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
        SpecError: The document, an option or a width does not fit, no value of the option gives
            that many tokens, or the config of `tower` or `lm` cannot be read.
        GridError: The grid does not fit.
    """
    stack, grid = resolve(spec, in_, out, tower, lm, options, tokens, grid)
    return Projector(
        stack,
        grid=grid,
        device=device,
        dtype=dtype,
        max_parameters=max_parameters,
        name=name_of(spec),
    )


def plan_projector(
    spec: str | Mapping[str, Any] | Stack,
    in_: int | None = None,
    out: int | None = None,
    *,
    tower: object = None,
    lm: object = None,
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
    stack, grid = resolve(spec, in_, out, tower, lm, options, tokens, grid)
    sides = None if grid is None else check_grid(grid)
    return Plan(stack, sides, max_parameters=max_parameters, name=name_of(spec))


def spec_of(
    name: str,
    in_: int | None = None,
    out: int | None = None,
    *,
    tower: object = None,
    lm: object = None,
    tokens: int | None = None,
    grid: Sequence[int] | None = None,
    **options: Any,
) -> Stack:
    """Return what a registered name expands to, ready to edit.

    >>> [block["type"] for block in spec_of("mlp", 64, 128).model_dump()["blocks"]]
    ['pointwise', 'norm-act', 'pointwise']

    Args and errors are those of `build_projector`; `grid` only serves `tokens`.
    """
    return resolve(name, in_, out, tower, lm, options, tokens, grid)[0]


def resolve(
    spec: object,
    in_: int | None,
    out: int | None,
    tower: object,
    lm: object,
    options: dict[str, Any],
    tokens: int | None,
    grid: Sequence[int] | None,
) -> tuple[Stack, Sequence[int] | None]:
    """Return the stack and the default grid, with what the two models say."""
    if lm is not None:
        out = _agree("out", out, "lm", read_width(lm))
    if tower is None:
        return _stack(spec, in_, out, options, tokens, grid), grid
    facts = read_tower(tower)
    in_ = _agree("in", options.get("in", in_), "tower", facts.channels)
    options = {key: value for key, value in options.items() if key != "in"}
    grid = facts.grid if grid is None else grid
    stack = _stack(spec, in_, out, options, tokens, grid)
    own = {"prefix_tokens": facts.prefix_tokens, "token_order": facts.token_order}
    said = _said(spec, options)
    update = {key: value for key, value in own.items() if key not in said}
    return stack.model_copy(update=update), grid


def _said(spec: object, options: Mapping[str, Any]) -> set[str]:
    """Return the fields that a stack, a document, or a name with its options says itself."""
    if isinstance(spec, Stack):
        return spec.model_fields_set
    if isinstance(spec, Mapping):
        return {*spec}
    entry = PROJECTORS.get(str(spec))
    fixed = set() if isinstance(entry, type) else entry.model_fields_set
    return fixed | options.keys()


def _agree(key: str, given: int | None, argument: str, width: int) -> int:
    """Return a width that a model gives, unless the call gives another one."""
    if given is None or given == width:
        return width
    raise SpecError(
        f"{argument} has {width} channels, the call says {quote(given)}",
        key,
        "the same",
        f"Leave out {key} or {argument}.",
    )


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
