"""Blocks on packed images at a budget: the numbers of each image alone, the budget's shapes."""

from typing import Any

import pytest
import torch
from helpers.budgets import (
    SETS,
    WIDTH,
    Grids,
    at_budget,
    build,
    check_fake,
    held,
    packed,
    singly,
    tensors,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from mobilevlm import GridError

# torch has no second derivative of the default gate, hardsigmoid.
SQUEEZE: dict[str, Any] = {"type": "squeeze-excite", "gate": "sigmoid"}
CASES: list[dict[str, Any]] = [
    {"type": "conv"},
    {"type": "conv", "stride": 2},
    {"type": "conv", "kernel": 1, "stride": 2, "bias": False},
    {"type": "conv", "kernel": 5, "stride": 3},
    {"type": "depthwise"},
    {"type": "depthwise", "kernel": 5, "stride": 2},
    {"type": "depthwise", "kernel": 1, "stride": 3, "bias": False},
    {"type": "depthwise-residual"},
    {"type": "depthwise-residual", "stride": 2},
    {"type": "depthwise-residual", "kernel": 1, "stride": 3},
    SQUEEZE,
    {"type": "newline"},
    {"type": "extra-tokens", "at": "begin", "count": 3},
    {"type": "extra-tokens", "at": "end", "count": 2},
    {"type": "extra-tokens", "at": "begin", "kind": "mean"},
    {"type": "extra-tokens", "at": "end", "kind": "mean"},
    {"type": "position", "kind": "axes", "size": [9, 9]},
    {"type": "position", "kind": "axes", "size": [9, 9], "join": "cat"},
    {"type": "position", "kind": "sincos"},
    {"type": "position", "kind": "frame"},
    {"type": "residual", "body": ["depthwise", "norm-act", SQUEEZE]},
    {"type": "parallel", "branches": [["newline"], ["newline", "conv"]], "join": "cat"},
    {"type": "parallel", "branches": [["depthwise-residual"], ["identity"]], "join": "mul"},
    {"type": "repeat", "times": 2, "body": [{"type": "depthwise-residual", "stride": 2}]},
    {"type": "repeat", "times": 2, "body": ["newline", SQUEEZE]},
]
LEARNED = {"type": "position", "kind": "learned"}
cases = pytest.mark.parametrize("block", CASES, ids=str)
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
# How many rows and images a budget has to spare.
SPARES = [(0, 0), (9, 3)]
MIXED = SETS[6]
# Of the cases of all blocks, those of each kind of index.
FEW = [CASES[1], CASES[8], SQUEEZE, CASES[14], CASES[21]]


@pytest.mark.quick(f"{CASES[0]}-[]-(9, 3)", *(f"{block}-{MIXED}-(9, 3)" for block in CASES))
@pytest.mark.parametrize("spare", SPARES, ids=str)
@pytest.mark.parametrize("grids", SETS, ids=str)
@cases
def test_images_within_a_budget_equal_each_alone(
    block: dict[str, Any], grids: Grids, spare: tuple[int, int]
) -> None:
    module = build(block).double()
    x = torch.randn(held(grids), WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        y, expected = packed(module, x, grids, spare), singly(module, x, grids)
    assert y.isfinite().all()
    if grids:
        torch.testing.assert_close(y[: len(expected)], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spare", SPARES, ids=str)
@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (6, 2)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_a_learned_table_is_added_to_each_image(
    grid: tuple[int, int], count: int, spare: tuple[int, int]
) -> None:
    module, grids = build(LEARNED, grid).double(), [grid] * count
    x = torch.randn(held(grids), WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        y, expected = packed(module, x, grids, spare), singly(module, x, grids)
    torch.testing.assert_close(y[: len(expected)], expected, rtol=0, atol=0)


@pytest.mark.quick(*(f"{block}-1.0" for block in FEW))
@pytest.mark.parametrize("scale", [1e-3, 1.0])
@cases
def test_fp32_equals_each_image_alone(block: dict[str, Any], scale: float) -> None:
    module = build(block)
    x = torch.randn(held(MIXED), WIDTH) * scale
    with torch.inference_mode():
        y, expected = packed(module, x, MIXED, (9, 3)), singly(module, x, MIXED)
    torch.testing.assert_close(y[: len(expected)], expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.quick(*(f"{block}-torch.bfloat16-False" for block in FEW))
@pytest.mark.parametrize("recording", [False, True])
@HALVES
@cases
def test_half_precision_is_as_close_to_the_truth_as_forward(
    block: dict[str, Any], dtype: torch.dtype, recording: bool
) -> None:
    """Both round the same values; sums of different orders may round a few of them differently."""
    module, grids = build(block).to(dtype), [*MIXED, (9, 9), (9, 8)]
    x = (torch.randn(held(grids), WIDTH) + 1).to(dtype).requires_grad_(recording)
    with torch.set_grad_enabled(recording):
        y, plain = packed(module, x, grids, (9, 3)), singly(module, x, grids)
    with torch.no_grad():
        truth = singly(module.double(), x.double(), grids)
    assert y.dtype == dtype
    errors = [(each.double() - truth).norm().item() for each in (y[: len(plain)], plain)]
    assert errors[0] <= 1.02 * errors[1], errors


@pytest.mark.parametrize(
    "block",
    [
        SQUEEZE,
        {"type": "extra-tokens", "at": "end", "kind": "mean"},
        {"type": "depthwise-residual", "stride": 3, "kernel": 1},
    ],
    ids=str,
)
def test_sums_past_the_end_of_fp16_are_not_rounded_to_it(block: dict[str, Any]) -> None:
    module, x = build(block).half(), torch.full((9 * 9, WIDTH), 6e4, dtype=torch.float16)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        y, truth = packed(module, x, [(9, 9)]), singly(module.double(), x.double(), [(9, 9)])
    torch.testing.assert_close(y[: len(truth)].double(), truth, rtol=1e-3, atol=0)


@pytest.mark.quick(*map(str, FEW))
@cases
def test_gradients_and_their_gradients_are_those_of_each_image_alone(block: dict[str, Any]) -> None:
    module = build(block).double()
    x = torch.randn(held(MIXED), WIDTH, dtype=torch.float64, requires_grad=True)
    inputs = (x, *module.parameters())
    tangents = [torch.randn_like(each) for each in inputs]
    weights = torch.randn_like(singly(module, x, MIXED))

    def derivatives(y: Tensor) -> list[Tensor]:
        # Cubic, so that the first ones are not linear either.
        loss = (y[: len(weights)] ** 3 * weights).sum()
        firsts = torch.autograd.grad(loss, inputs, create_graph=True)
        along = sum((a * b).sum() for a, b in zip(firsts, tangents, strict=True))
        assert isinstance(along, Tensor)
        return [*firsts, *torch.autograd.grad(along, inputs)]

    have = derivatives(packed(module, x, MIXED, (9, 3)))
    for one, other in zip(have, derivatives(singly(module, x, MIXED)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.quick(*(f"{block}-nan" for block in CASES))
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300])
@cases
def test_an_image_that_is_not_finite_reaches_no_other(block: dict[str, Any], number: float) -> None:
    module = build(block).double()
    x = torch.randn(held(MIXED), WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        expected = singly(module, x, MIXED)
        x[48:57] = number  # the second image
        y = packed(module, x, MIXED, (9, 3), padding=number)[: len(expected)]
    lengths = module.pack(at_budget(MIXED, len(x), len(MIXED)))[0].lengths
    for place, (part, alone) in enumerate(
        zip(y.split(lengths), expected.split(lengths), strict=True)
    ):
        if place != 1:
            torch.testing.assert_close(part, alone, rtol=1e-10, atol=1e-12)


@cases
def test_shapes_at_a_budget_are_those_of_the_budget(block: dict[str, Any]) -> None:
    module = build(block)
    found = set()
    for grids in SETS:
        after, index = module.pack(at_budget(grids, 200, 9))
        nesting = pytree.tree_structure(index)
        found.add(
            (after.rows, after.images, str(nesting), *(each.shape for each in tensors(index)))
        )
    assert len(found) == 1, found


@pytest.mark.parametrize("block", [*CASES, LEARNED], ids=str)
def test_no_value_is_read_back(block: dict[str, Any]) -> None:
    grids = [(5, 7)] * 2
    module = build(block, (5, 7)).requires_grad_(False)
    check_fake(module, at_budget(grids, 80, 3))


@st.composite
def filled(draw: st.DrawFn) -> Grids:
    """Images of all kinds, of which many are one row or one column."""
    side = st.integers(1, 9)
    return draw(
        st.lists(st.tuples(side, side) | st.tuples(side, st.just(1)), min_size=1, max_size=6)
    )


ROWS = [block for block in CASES if block["type"] not in ("squeeze-excite", "position")]


@pytest.mark.quick(str(CASES[1]), str(CASES[11]))
@pytest.mark.parametrize("block", ROWS, ids=str)
@given(grids=filled())
def test_a_budget_has_room_for_all_that_comes_out(block: dict[str, Any], grids: Grids) -> None:
    """Also if the images fill it."""
    after, _ = build(block).pack(at_budget(grids, held(grids), len(grids)))
    assert sum(after.lengths) <= after.rows


@pytest.mark.parametrize(
    ("block", "grids"),
    [
        ({"type": "conv", "stride": 2}, [(1, 5), (1, 3), (7, 1)]),
        ({"type": "depthwise", "stride": 3}, [(1, 4), (1, 1)]),
        ({"type": "depthwise-residual", "stride": 2}, [(1, 1), (1, 1)]),
        ({"type": "newline"}, [(5, 1), (2, 1)]),
        ({"type": "extra-tokens", "at": "end", "count": 3}, [(5, 1), (2, 4)]),
    ],
    ids=str,
)
def test_a_budget_has_no_more_room_than_images_can_need(
    block: dict[str, Any], grids: Grids
) -> None:
    after, _ = build(block).pack(at_budget(grids, held(grids), len(grids)))
    assert sum(after.lengths) == after.rows


@pytest.mark.parametrize(
    ("block", "grid", "message"),
    [
        (
            LEARNED,
            (3, 4),
            "position: a grid of 5x4, but its table is for 3x4; expected the grid given at build",
        ),
        (
            {"type": "position", "kind": "axes", "size": [4, 4]},
            (None, None),
            "a grid of 5x4, but its tables are for 4x4; expected a grid no larger",
        ),
    ],
)
def test_a_grid_that_a_table_is_not_for_is_refused(
    block: dict[str, Any], grid: Any, message: str
) -> None:
    module = build(block, grid)
    with pytest.raises(GridError) as caught:
        module.pack(at_budget([(5, 4)], 20, 1))
    assert str(caught.value) == message
    with pytest.raises(GridError) as caught:
        module(torch.zeros(1, 5, 4, WIDTH))
    assert str(caught.value) == message
