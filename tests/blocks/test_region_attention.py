"""Region attention against one window at a time, and what it and `take-channels` refuse."""

from typing import Any

import pytest
import torch
from helpers.budgets import WIDTH, at_budget, build, check_fake, held, packed, singly
from torch import Tensor, nn

from mobilevlm import MobileVLMError, build_projector, plan_projector

TAKEN = {"type": "take-channels", "first": 5, "count": 3}
LINEAR = {"type": "pointwise", "out": 4, "bias": False}
DETAIL = [{"type": "pointwise", "out": 6}, "norm-act"]
# Queries by scaling, by windows and by a convolution; token-wise and spatial keys.
BLOCKS: list[dict[str, Any]] = [
    {
        "query": [TAKEN, {"type": "pool", "mode": "bilinear", "stride": 2}, LINEAR],
        "key": DETAIL,
        "value": DETAIL,
        "heads": 2,
    },
    {
        "query": [{"type": "pool", "stride": 3}],
        "key": ["depthwise", *DETAIL],
        "value": DETAIL,
        "heads": 4,
        "stride": 3,
    },
    {
        "query": [{"type": "conv", "stride": 2, "out": 10}],
        "key": ["identity"],
        "value": [{"type": "scale", "by": 2.0}],
        "heads": 1,
    },
]
BLOCKS = [{"type": "region-attention", **fields} for fields in BLOCKS]
GRIDS = [(6, 6), (6, 12), (12, 6), (6, 6)]
each = pytest.mark.parametrize("block", BLOCKS, ids=["scaled", "pooled", "convolved"])


def window_by_window(module: Any, x: Tensor) -> Tensor:
    """Attend in one window after the other, head by head."""
    q, k, v = module.query(x), module.key(x), module.value(x)
    attention, s = module.attention, module.stride
    y = torch.empty_like(q)
    for row in range(q.shape[1]):
        for column in range(q.shape[2]):
            inside = (slice(None), slice(row * s, row * s + s), slice(column * s, column * s + s))
            one = attention.q_proj(q[:, row, column])
            keys = attention.k_proj(k[inside].flatten(1, 2))
            values = attention.v_proj(v[inside].flatten(1, 2))
            heads = []
            for head in range(one.shape[1] // attention.head_dim):
                own = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
                scores = torch.einsum("bc,bnc->bn", one[:, own], keys[..., own])
                share = (scores / attention.head_dim**0.5).softmax(1)
                heads.append(torch.einsum("bn,bnc->bc", share, values[..., own]))
            y[:, row, column] = attention.out_proj(torch.cat(heads, 1))
    return y


@each
@pytest.mark.parametrize("grid", GRIDS[:3], ids=str)
def test_each_query_sees_its_window(block: dict[str, Any], grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = build(block).double()
    x = torch.randn(2, *grid, WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), window_by_window(module, x), rtol=1e-10, atol=1e-12)


@each
@pytest.mark.parametrize("spare", [(0, 0), (9, 0), (0, 2), (40, 3)], ids=str)
def test_images_within_a_budget_equal_each_alone(
    block: dict[str, Any], spare: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    module = build(block).double()
    x = torch.randn(held(GRIDS), WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        y, expected = packed(module, x, GRIDS, spare), singly(module, x, GRIDS)
    assert y.isfinite().all()
    torch.testing.assert_close(y[: len(expected)], expected, rtol=1e-10, atol=1e-12)


@each
def test_a_budget_alone_gives_the_shapes(block: dict[str, Any]) -> None:
    module = build(block)
    check_fake(module, at_budget(GRIDS, held(GRIDS) + 10, 7))
    assert module.pack(at_budget([], 77, 7))[0].rows == 77 // module.stride**2


def test_gradients_reach_every_parameter_and_the_input() -> None:
    torch.manual_seed(0)
    module: nn.Module = build(BLOCKS[0])
    x = torch.randn(1, 4, 6, WIDTH, requires_grad=True)
    module(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).all()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        if key != "attention.k_proj.bias":  # added to every key alike, it changes no attention
            assert parameter.grad.abs().max() > 1e-6, key


def test_taken_channels_are_a_view() -> None:
    x = torch.arange(24.0).view(1, 1, 3, WIDTH)
    y = build(TAKEN)(x)
    assert torch.equal(y, x[..., 5:8])
    assert y.data_ptr() == x[..., 5].data_ptr()


def refused(block: dict[str, Any], grid: tuple[int, int] | None = None) -> str:
    document = {"in": WIDTH, "out": 4, "blocks": [block, {"type": "pointwise"}]}
    with pytest.raises(MobileVLMError) as caught:
        plan_projector(document, grid=grid)
    return str(caught.value)


IDENTITY = {"type": "region-attention", "key": ["identity"], "value": ["identity"], "heads": 2}
POOLED = {**IDENTITY, "query": [{"type": "pool", "stride": 2}]}
GIVEN = "It is given 4x7 x 8 by the input."


@pytest.mark.parametrize(
    ("block", "grid", "message"),
    [
        (
            POOLED,
            (4, 7),
            f"blocks[0] (region-attention): a grid of 4x7 does not divide into windows of 2x2. "
            f"{GIVEN}",
        ),
        (
            {**IDENTITY, "query": ["identity"]},
            (4, 6),
            "blocks[0] (region-attention): its query ends on a grid of 4x6; expected 2x3. It is "
            "given 4x6 x 8 by the input.",
        ),
        (
            {**POOLED, "key": ["newline"]},
            (4, 6),
            "blocks[0] (region-attention): its key ends on a grid of 4x7; expected 4x6. It is "
            "given 4x6 x 8 by the input.",
        ),
        (
            {**POOLED, "value": [LINEAR]},
            None,
            "blocks[0] (region-attention): its keys have 8 channels, its values 4; expected the "
            "same of both. It is given ?x? x 8 by the input.",
        ),
        (
            {**POOLED, "heads": 3},
            None,
            "blocks[0] (region-attention): 3 heads do not share 8 channels evenly; expected a "
            "number of heads that divides them. It is given ?x? x 8 by the input.",
        ),
        (
            {**POOLED, "query": [{"type": "cross-attention", "queries": 4, "heads": 2}]},
            (4, 4),
            "blocks[0] (region-attention): it works on a grid, and the tokens have lost theirs. It "
            "is given ?x? x 8 by the input.",
        ),
        (
            {"type": "take-channels", "first": 6, "count": 3},
            None,
            "blocks[0] (take-channels): channels 6 to 8 of 8. It is given ?x? x 8 by the input.",
        ),
    ],
)
def test_what_is_refused(block: dict[str, Any], grid: tuple[int, int] | None, message: str) -> None:
    assert refused(block, grid) == message


def test_token_packer_needs_as_many_levels_as_divide_the_width() -> None:
    with pytest.raises(MobileVLMError) as caught:
        build_projector("token-packer", 1023, 64, device="meta")
    assert str(caught.value) == (
        "levels: 1023 channels do not divide into 4 levels; expected a number that divides the "
        "input width"
    )


@pytest.mark.parametrize(("merge", "tokens"), [(2, 144), (3, 64), (4, 36)])
def test_token_packer_by_tokens(merge: int, tokens: int) -> None:
    plan = plan_projector("token-packer", 4096, 4096, tokens=tokens, grid=(24, 24))
    assert plan.stack.blocks[0].stride == merge
    assert plan.tokens_out == tokens
