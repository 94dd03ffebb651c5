"""Attention and scaling at a budget: the numbers of each image alone, the budget's shapes."""

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
from torch import nn
from torch.utils import _pytree as pytree

from mobilevlm import GridError, build_projector
from mobilevlm.blocks.core.masks import pack_queries

GROUPED: dict[str, Any] = {"type": "resampler", "queries": 5, "depth": 2, "heads": 4, "head_dim": 4}
GROUPED |= {"kv_heads": 2, "norm": "rms", "ffn": "swiglu", "qk_norm": True}
ATTENTION: list[dict[str, Any]] = [
    {"type": "cross-attention", "queries": 3, "heads": 2},
    {"type": "cross-attention", "queries": 1, "heads": 4, "self_keys": True},
    {"type": "resampler", "queries": 3, "depth": 2, "heads": 2, "head_dim": 3},
    GROUPED,
    {"type": "qformer", "queries": 3, "depth": 3, "heads": 2},
    {"type": "qformer", "queries": 2, "depth": 2, "heads": 2, "cross_every": 1, "out": 12},
    {"type": "query-resampler", "queries": 3, "heads": 2},
    {"type": "query-resampler", "queries": 4, "heads": 2, "places": "both"},
    {"type": "query-resampler", "queries": 9, "heads": 2, "places": "resized"},
    {"type": "query-resampler", "queries": 1, "heads": 2, "places": "resized", "out": 12},
]
POOLS: list[dict[str, Any]] = [
    {"type": "pool", "mode": "adaptive", "size": [1, 1]},
    {"type": "pool", "mode": "adaptive", "size": [3, 2]},
    {"type": "pool", "mode": "adaptive", "size": [4, 4]},
    {"type": "pool", "mode": "adaptive", "stride": 1},
    {"type": "pool", "mode": "adaptive", "stride": 2},
    {"type": "pool", "mode": "adaptive", "stride": 3},
    {"type": "pool", "mode": "bilinear", "stride": 1},
    {"type": "pool", "mode": "bilinear", "stride": 2},
    {"type": "pool", "mode": "bilinear", "stride": 3},
    {"type": "pool", "mode": "bilinear", "stride": 8},
]
RESIZED = ATTENTION[8]
cases = pytest.mark.parametrize("block", [*ATTENTION, *POOLS], ids=str)
attention = pytest.mark.parametrize("block", ATTENTION, ids=str)
pools = pytest.mark.parametrize("block", POOLS, ids=str)
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
# How many rows and images a budget has to spare.
SPARES = [(0, 0), (11, 0), (0, 2), (9, 3)]
# Wide, tall, odd, even, equal ones: of sides that all blocks take.
MIXED = [(6, 8), (4, 9), (13, 4), (5, 5), (6, 8)]
SECOND = slice(48, 48 + 36)


def taken(block: dict[str, Any], grids: Grids) -> Grids:
    """Return those grids that a block does not refuse as too small."""
    if block.get("mode") != "adaptive":
        return grids
    h, w = block.get("size") or [block["stride"]] * 2
    return [grid for grid in grids if grid[0] >= h and grid[1] >= w]


def trained(block: dict[str, Any]) -> Any:
    """Return a block's module, its table another than at first."""
    module = build(block)
    for name, parameter in module.named_parameters():
        if name == "places.table":
            nn.init.normal_(parameter)
    return module


@pytest.mark.quick(*(f"{block}-{MIXED}" for block in [*ATTENTION, *POOLS]))
@pytest.mark.parametrize("grids", [*SETS, MIXED], ids=str)
@cases
def test_images_within_a_budget_equal_each_alone(block: dict[str, Any], grids: Grids) -> None:
    module, grids = trained(block).double(), taken(block, grids)
    x = torch.randn(held(grids), WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        expected = singly(module, x, grids)
        for spare in SPARES:
            y = packed(module, x, grids, spare)
            assert y.isfinite().all()
            if grids:
                torch.testing.assert_close(y[: len(expected)], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("self_keys", [False, True])
@pytest.mark.parametrize("spare", SPARES, ids=str)
def test_queries_see_their_image_and_those_of_none_see_everything(
    spare: tuple[int, int], self_keys: bool
) -> None:
    """Attention to no key at all is zero or NaN, as the kernel has it."""
    images = at_budget([(1, 2), (1, 1)], 3 + spare[0], 2 + spare[1])
    _, queries = pack_queries(images, 2, self_keys=self_keys)
    see = [{0, 1}, {2}]
    if self_keys:
        see = [see[0] | {images.rows, images.rows + 1}, see[1] | {images.rows + 2, images.rows + 3}]
    see += [{*range(images.rows + (2 * images.images if self_keys else 0))}] * spare[1]
    found = [[{*row.nonzero().flatten().tolist()} for row in image] for image in queries.mask]
    assert found == [[keys, keys] for keys in see]


@pytest.mark.quick(*(f"{block}-1.0" for block in [*ATTENTION, *POOLS]))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@cases
def test_fp32_equals_each_image_alone(block: dict[str, Any], scale: float) -> None:
    module = trained(block)
    x = torch.randn(held(MIXED), WIDTH) * scale
    with torch.inference_mode():
        y, expected = packed(module, x, MIXED, (9, 3)), singly(module, x, MIXED)
    largest = expected.abs().max().item()
    torch.testing.assert_close(y[: len(expected)], expected, rtol=1e-5, atol=1e-6 * largest)


@pytest.mark.quick(f"{ATTENTION[0]}-torch.bfloat16")
@HALVES
@attention
def test_attention_in_half_precision_is_as_close_to_the_truth_as_forward(
    block: dict[str, Any], dtype: torch.dtype
) -> None:
    """Other orders of summation round differently, but over many weights no worse.

    The mean of the ratios' logarithms: a sum of errors is that of the few largest.
    """
    module, exact = trained(block).to(dtype), build(block).double()
    logarithms = torch.zeros(2, dtype=torch.float64)
    for _ in range(40):
        for parameter in module.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.3)
        exact.load_state_dict(module.state_dict())
        x = (torch.randn(held(MIXED), WIDTH) + 1).to(dtype)
        with torch.inference_mode():
            y, plain = packed(module, x, MIXED, (9, 3), padding=6e4), singly(module, x, MIXED)
            truth = singly(exact, x.double(), MIXED)
        assert y.dtype == dtype
        errors = [(each - truth).square().sum() for each in (y[: len(plain)], plain)]
        logarithms += torch.stack(errors).log()
    ratio = (logarithms[0] - logarithms[1]).div(40).exp()
    assert ratio <= 1.1


@HALVES
@pools
def test_pools_in_half_precision_round_once(block: dict[str, Any], dtype: torch.dtype) -> None:
    module = build(block)
    x = (torch.randn(held(MIXED), WIDTH) + 1).to(dtype)
    y, expected = packed(module, x, MIXED, (9, 3), padding=6e4), singly(module, x, MIXED)
    truth = singly(module, x.double(), MIXED)
    assert y.dtype == dtype
    errors = [(each.double() - truth).norm() for each in (y[: len(expected)], expected)]
    assert errors[0] <= 1.001 * errors[1], errors


@cases
def test_gradients_are_those_of_each_image_alone(block: dict[str, Any]) -> None:
    module = trained(block).double().requires_grad_()  # also of the table that is not trained
    x = torch.randn(held(MIXED), WIDTH, dtype=torch.float64, requires_grad=True)
    inputs = (x, *module.parameters())
    expected = singly(module, x, MIXED)
    weights = torch.randn_like(expected)
    y = packed(module, x, MIXED, (9, 3))[: len(weights)]
    have = torch.autograd.grad((y**2 * weights).sum(), inputs)
    others = torch.autograd.grad((expected**2 * weights).sum(), inputs)
    for one, other in zip(have, others, strict=True):
        # The gradient of a key's bias is zero, and what is computed is a rounding error.
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.quick(*(f"{block}-nan" for block in [*ATTENTION, *POOLS]))
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@cases
def test_an_image_that_is_not_finite_spoils_what_forward_does(
    block: dict[str, Any], number: float
) -> None:
    """One token of it, or all; and no other image."""
    module = trained(block).double()
    for where in (slice(60, 61), SECOND):
        x = torch.randn(held(MIXED), WIDTH, dtype=torch.float64)
        x[where] = number
        with torch.inference_mode():
            y = packed(module, x, MIXED, (9, 3), padding=float("nan"))
            expected = singly(module, x, MIXED)
        assert expected.isfinite().all(1).any()
        same = {"rtol": 1e-10, "atol": 1e-12, "equal_nan": True}
        if block.get("stride") != 1:  # torch makes a NaN of an infinity then, in some dtypes
            torch.testing.assert_close(y[: len(expected)], expected, **same)


@cases
def test_shapes_at_a_budget_are_those_of_the_budget(block: dict[str, Any]) -> None:
    module = build(block)
    found = set()
    for grids in [*SETS, MIXED]:
        after, index = module.pack(at_budget(taken(block, grids), 220, 9))
        nesting = pytree.tree_structure(index)
        found.add(
            (after.rows, after.images, str(nesting), *(each.shape for each in tensors(index)))
        )
    assert len(found) == 1, found


@pytest.mark.quick(*map(str, [*ATTENTION[::4], *POOLS[1::6]]))
@cases
def test_no_value_is_read_back(block: dict[str, Any]) -> None:
    module = build(block).requires_grad_(False)
    check_fake(module, at_budget(MIXED, 230, 8))


@st.composite
def filled(draw: st.DrawFn) -> Grids:
    """Images of all kinds, of which many are one row or one column."""
    side = st.integers(1, 17)
    return draw(
        st.lists(st.tuples(side, side) | st.tuples(side, st.just(1)), min_size=1, max_size=5)
    )


@pytest.mark.quick(str(POOLS[1]), str(POOLS[7]))
@pools
@given(grids=filled())
def test_pools_of_any_sides_that_fill_a_budget(block: dict[str, Any], grids: Grids) -> None:
    """`packed` compares how many rows come out with what `pack` says at most will."""
    module, grids = build(block), taken(block, grids)
    if grids:
        x = torch.randn(held(grids), WIDTH, dtype=torch.float64)
        y, expected = packed(module, x, grids), singly(module, x, grids)
        torch.testing.assert_close(y[: len(expected)], expected, rtol=1e-10, atol=1e-12)


def test_a_grid_smaller_than_the_pool_is_refused() -> None:
    module = build({"type": "pool", "mode": "adaptive", "size": [3, 2]})
    with pytest.raises(GridError) as caught:
        module.pack(at_budget([(5, 5), (2, 9)], 50, 2))
    assert str(caught.value) == (
        "a grid of 2x9 cannot be pooled to 3x2; expected an output no larger than the input grid"
    )


def test_a_table_that_is_loaded_after_packing_counts() -> None:
    module = build(RESIZED).double()
    x = torch.randn(held(MIXED), WIDTH, dtype=torch.float64)
    _, index = module.pack(at_budget(MIXED, len(x), len(MIXED)))
    nn.init.normal_(module.places.table)
    with torch.inference_mode():
        y, expected = module.forward_packed(x, index), singly(module, x, MIXED)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_does_not_round_the_positions_more_than_forward(dtype: torch.dtype) -> None:
    places = trained(RESIZED).places.to(dtype)
    x, q = torch.zeros(held(MIXED), WIDTH, dtype=dtype), torch.zeros(9, WIDTH, dtype=dtype)
    index = places.pack(at_budget(MIXED, len(x), len(MIXED)))
    with torch.autocast("cpu", torch.bfloat16):
        _, y = places(q, x[None], index)
        alone = [places(q, x[: h * w].view(1, h, w, -1))[1].flatten(0, 2) for h, w in MIXED]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y[0], torch.cat(alone), rtol=2 * eps, atol=4 * eps)


@attention
def test_modules_inside_are_called_so_that_their_hooks_run(block: dict[str, Any]) -> None:
    module = build(block)
    called: set[str] = set()

    def hook_of(name: str) -> Any:
        return lambda *_: called.add(name)

    for name, inner in module.named_modules():
        if name:
            inner.register_forward_hook(hook_of(name))
    x = torch.randn(held(MIXED), WIDTH)
    singly(module, x, MIXED)
    expected = {*called}
    called.clear()
    packed(module, x, MIXED)
    assert called == expected


CHAINS: list[list[Any]] = [
    # The pool runs before the layer, on as many tokens as there are then.
    ["pointwise", {"type": "pool", "mode": "adaptive", "size": [2, 3]}, {"type": "norm-act"}],
    ["pointwise", {"type": "pool", "mode": "bilinear", "stride": 2}, "norm-act"],
    [{"type": "pool", "mode": "bilinear", "stride": 2}, RESIZED, GROUPED, "pointwise"],
    [
        {"type": "parallel", "join": "cat", "branches": [[ATTENTION[0]], [ATTENTION[2]]]},
        ATTENTION[4],
    ],
]


@pytest.mark.parametrize("blocks", CHAINS, ids=str)
def test_chains_of_them_in_a_projector(blocks: list[Any]) -> None:
    document = {"in": WIDTH, "out": 12, "blocks": blocks}
    projector = build_projector(document, dtype=torch.float64)
    packing = projector.pack_grids(MIXED, budget=(300, 9))
    x = torch.randn(held(MIXED), WIDTH, dtype=torch.float64)
    y = projector(torch.cat([x, x.new_full((300 - len(x), WIDTH), 1e30)]), grid=packing)
    expected = projector(x, grid=MIXED)
    assert list(packing.lengths) == projector.tokens(MIXED)
    torch.testing.assert_close(y[: packing.total], expected, rtol=1e-10, atol=1e-12)
