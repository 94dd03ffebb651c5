"""Special values: each replaced kernel has NaNs and infinities where the plain form has them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevlm import BLOCKS, Feature, build_projector, fast_paths
from mobilevlm.blocks.core.activation import Act, activate_, activation
from mobilevlm.blocks.core.linear import products
from mobilevlm.blocks.core.packed import run_once
from mobilevlm.blocks.pool import AdaptiveAvgPool, BilinearPool
from mobilevlm.export.rewrites import with_exact_pools, with_sliced_merges

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ACTS: list[Act] = [
    *("gelu", "gelu-tanh", "quick-gelu", "silu", "relu", "relu2", "hardswish", "softmax", "none"),
    *("leaky-relu", "mish", "tanh", "sigmoid"),
]
GRIDS = [(5, 7), (4, 4), (3, 6)]


def specials(dtype: torch.dtype) -> dict[str, float]:
    numbers = torch.finfo(dtype)
    return {
        "nan": float("nan"),
        "inf": float("inf"),
        "-inf": -float("inf"),
        "max": numbers.max,
        "-max": -numbers.max,
        "sqrt(max)": numbers.max**0.5,
        "1e18": 1e18,  # an infinity in fp16
        "1e-38": 1e-38,
        "tiny": numbers.tiny,
        "-denormal": -numbers.tiny * numbers.eps,
    }


def inputs(shape: Sequence[int], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Random features ``(..., c)``, with special values in them, few and many."""
    base = torch.randn(*shape).to(dtype)
    for name, value in specials(dtype).items():
        for where in ("a number", "a token", "several", "both signs"):
            x = base.clone()
            tokens = x.view(-1, shape[-1])
            if where == "a number":
                tokens[8, 1] = value
            elif where == "a token":
                tokens[5] = value
            elif where == "several":
                tokens[7:10, :3] = value
                tokens[-1] = value
            else:
                tokens[3, 1], tokens[4, 1], tokens[3, 2] = value, -value, -value
            yield f"{name}, {where}", x


def placed(y: Tensor, expected: Tensor, what: str) -> None:
    """NaNs and infinities stand in the same places."""
    assert y.dtype == expected.dtype, what
    assert torch.equal(y.isnan(), expected.isnan()), f"{what}: NaN"
    for infinite in (torch.isposinf, torch.isneginf):
        assert torch.equal(infinite(y), infinite(expected)), f"{what}: infinity"


def hold(y: Tensor, expected: Tensor, what: str, *, exact: bool = False) -> None:
    """So they do, and all else is the same up to rounding."""
    placed(y, expected, what)
    limits = {"rtol": 0, "atol": 0} if exact else {}
    torch.testing.assert_close(
        y, expected, equal_nan=True, msg=lambda text: f"{what}: {text}", **limits
    )


def gradients(
    call: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """Of a loss whose gradient is as special as the output is."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(call(x).square().sum(), [x, *parameters])


@dtypes
@pytest.mark.parametrize("name", ACTS)
def test_activations_in_place(name: Act, dtype: torch.dtype) -> None:
    act = activation(name)
    for what, x in inputs((1, 5, 7, 33), dtype):
        hold(activate_(act, x.clone()), act(x), what, exact=True)


BLOCK_FORMS: list[dict[str, Any]] = [
    *({"type": "norm-act", "norm": "layer", "act": act} for act in ("gelu", "relu", "hardswish")),
    {"type": "norm-act", "norm": "rms", "act": "silu"},
    {"type": "norm-act", "norm": "rms", "act": "none", "eps": 1e-12},
    {"type": "norm-act", "norm": "rms", "act": "none", "weight": "offset", "cast": "after"},
    {"type": "norm-act", "norm": "rms", "act": "none", "weight": "none"},
    {"type": "depthwise-residual"},
    {"type": "depthwise-residual", "stride": 2},
    {"type": "residual", "body": ["depthwise"]},
    {"type": "residual", "body": ["norm-act"]},
]


def build(block: dict[str, Any], channels: int, dtype: torch.dtype) -> nn.Module:
    fields = {key: value for key, value in block.items() if key != "type"}
    x = Feature(channels=channels, ends=(channels, channels))
    module = BLOCKS.get(block["type"])(**fields).build(x).to(dtype)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@dtypes
@pytest.mark.parametrize("channels", [3, 33])
@pytest.mark.parametrize("block", BLOCK_FORMS, ids=str)
def test_forms_in_place(block: dict[str, Any], channels: int, dtype: torch.dtype) -> None:
    module = build(block, channels, dtype)
    # Convolutions of half precision may go through fp32, where sums run in another order.
    reordered = "depthwise" in str(block) and products().get(dtype) == "through fp32"
    for what, x in inputs((1, 5, 7, channels), dtype):
        if reordered and "max," in what:  # it alone decides what overflows on the way
            continue
        with torch.no_grad():
            y = module(x)
            with fast_paths(False):
                expected = module(x)
        hold(y, expected, what)


@dtypes
@pytest.mark.parametrize("weight", ["plain", "offset"])
def test_the_gradient_of_a_norms_weight_alone(weight: str, dtype: torch.dtype) -> None:
    """Its input needs none, so its mean square is the fast one."""
    block = {"type": "norm-act", "norm": "rms", "act": "none", "weight": weight}
    module = build(block, 33, dtype)
    for what, x in inputs((1, 5, 7, 33), dtype):
        [gradient] = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
        with fast_paths(False):
            [expected] = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
        hold(gradient, expected, what)


PACKED: list[dict[str, Any]] = [
    {"type": "pool", "stride": 2},
    {"type": "pool", "stride": 3, "ceil": True},
    {"type": "pool", "mode": "max", "stride": 2},
    {"type": "pool", "mode": "max", "stride": 3, "ceil": True},
    {"type": "patch-merge", "odd": "drop"},
    {"type": "patch-merge", "odd": "pad", "order": "chw", "transpose": True},
    {"type": "attention-pool", "heads": 2, "stride": 2},
    {"type": "attention-pool", "heads": 6, "stride": 2, "ceil": True},
]


@dtypes
@pytest.mark.parametrize("block", PACKED, ids=str)
def test_packed_windows(block: dict[str, Any], dtype: torch.dtype) -> None:
    module: Any = build(block, 6, dtype)
    sizes = [h * w for h, w in GRIDS]
    # Sums of other shapes, or of large numbers that cancel, differ by more than one rounding.
    exact = block["type"] == "patch-merge" or block.get("mode") == "max"
    compare = partial(hold, exact=True) if exact else placed

    def packed(x: Tensor) -> Tensor:
        y: Tensor = run_once(module, x, GRIDS)
        return y

    def singly(x: Tensor) -> Tensor:
        pairs = zip(x.split(sizes), GRIDS, strict=True)
        return torch.cat([module(part.view(1, *grid, 6)).flatten(0, 2) for part, grid in pairs])

    for what, x in inputs((sum(sizes), 6), dtype):
        for fast in (True, False):
            with torch.no_grad(), fast_paths(fast):
                compare(packed(x), singly(x), what)
        if block["type"] == "attention-pool" and ("max" in what or "1e18" in what):
            continue  # whether a gradient's sum overflows depends on the order
        parameters = tuple(module.parameters())
        ours, theirs = gradients(packed, x, parameters), gradients(singly, x, parameters)
        for one, other in zip(ours, theirs, strict=True):
            compare(one, other, f"gradient of {what}")


def test_a_value_that_overflows_in_a_window_cut_off_by_the_border() -> None:
    module: Any = build({"type": "attention-pool", "heads": 1, "ceil": True}, 1, torch.float16)
    for name, weight in (("q_proj", 0.0), ("k_proj", 1.0), ("v_proj", 2.0), ("out_proj", 1.0)):
        nn.init.constant_(module.attention.get_submodule(name).weight, weight)
        nn.init.zeros_(module.attention.get_submodule(name).bias)
    x = torch.ones(9, 1, dtype=torch.float16)
    x[8] = 40_000  # twice that is an infinity, and zero times that a NaN
    with torch.no_grad():
        y = module(x.view(1, 3, 3, 1))
        assert y.flatten().tolist() == [2, 2, 2, float("inf")]
        assert torch.equal(run_once(module, x, [(3, 3)]), y.view(4, 1))


@dtypes
@pytest.mark.parametrize("block", ["conv", "depthwise"])
@pytest.mark.parametrize("channels", [3, 8])
def test_a_strided_kernel_of_one(block: str, channels: int, dtype: torch.dtype) -> None:
    """Against a linear layer on the tokens that it reads: torch's own in bf16 reads others too."""
    module: Any = build({"type": block, "kernel": 1, "stride": 2}, channels, dtype)
    weight = module.weight[:, :, 0, 0]

    def plain(x: Tensor) -> Tensor:
        x = x[:, ::2, ::2]
        return (
            F.linear(x, weight, module.bias) if block == "conv" else x * weight[:, 0] + module.bias
        )

    for what, x in inputs((1, 5, 7, channels), dtype):
        if "max" in what or "1e18" in what:  # sums in another order overflow, or cancel
            continue
        placed(module(x), plain(x), what)
        for one, other in zip(gradients(module, x), gradients(plain, x), strict=True):
            placed(one, other, f"gradient of {what}")


@dtypes
def test_the_mean_of_squeeze_excite(dtype: torch.dtype) -> None:
    module: Any = build({"type": "squeeze-excite"}, 8, dtype)

    def plain(x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)
        y: Tensor = x * module.gate(module.fc2(module.act(module.fc1(mean))))
        return y

    for what, x in inputs((1, 5, 7, 8), dtype):
        placed(module(x), plain(x), what)
    x = torch.full((1, 24, 24, 8), 200.0).to(dtype)  # their sum is past the end of fp16
    hold(module(x), plain(x), "a large mean")


@dtypes
@pytest.mark.parametrize(
    "pool",
    [
        {"stride": 2},
        {"stride": 3, "ceil": True},
        {"mode": "adaptive", "size": [3, 3]},
        {"mode": "bilinear", "stride": 2},
    ],
    ids=str,
)
def test_a_pool_before_the_linear_layer(pool: dict[str, Any], dtype: torch.dtype) -> None:
    blocks = ["pointwise", {"type": "pool", **pool}]
    projector = build_projector({"in": 8, "out": 12, "blocks": blocks}, dtype=dtype).eval()
    for what, x in inputs((1, 35, 8), dtype):
        if "max" in what:  # what overflows depends on the order
            continue
        y = {}
        for fast in (True, False):
            with fast_paths(fast):
                y[fast] = (projector(x, grid=(5, 7)).detach(),)
                y[fast] += gradients(lambda x: projector(x, grid=(5, 7)), x)
        for one, other in zip(y[True], y[False], strict=True):
            placed(one, other, what)


@pytest.mark.parametrize("grid", [(5, 7), (6, 6), (3, 12)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_exporters_rewrite(dtype: torch.dtype, grid: tuple[int, int]) -> None:
    adaptive = [AdaptiveAvgPool((2, 3), None), AdaptiveAvgPool((1, 1), None)]
    # By a step of 1 nothing changes; torch makes a NaN of an infinity then, in fp32 only.
    pools = [*adaptive, AdaptiveAvgPool(None, 2), BilinearPool(2), BilinearPool(3)]
    merges = [
        build({"type": "patch-merge", "odd": odd, "order": order}, 8, dtype)
        for odd in ("pad", "drop")
        for order in ("hwc", "chw")
    ]
    for what, x in inputs((1, *grid, 8), dtype):
        if "max" in what:  # a sum that overflows does so in any order, or not
            continue
        for pool in pools:
            placed(with_exact_pools(nn.Sequential(pool))(x), pool(x), f"{pool}, {what}")
        for merge in merges:
            hold(with_sliced_merges(nn.Sequential(merge))(x), merge(x), what, exact=True)
