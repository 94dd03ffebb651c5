"""Each block against plain torch, and what it says on paper against what it does."""

import ctypes.util
import itertools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mobilevlm import BLOCKS, Block, Feature, GridError, SpecError, build_projector
from mobilevlm.blocks.core.activation import TRANSFORMERS_NAMES, activation
from mobilevlm.blocks.core.block import chains, mixes_tokens, needs_grid
from mobilevlm.blocks.core.feature import check_grid
from mobilevlm.blocks.pointwise import Pointwise


def make(name: str, **fields: object) -> Block:
    return BLOCKS.get(name)(**fields)


def feature(h: int = 5, w: int = 7, channels: int = 16) -> Feature:
    return Feature(channels=channels, grid=(h, w), ends=(channels, 32))


def run(block: Block, x: Tensor) -> tuple[nn.Module, Tensor]:
    """Build for this tensor, with every parameter random, and run; flow must have said so."""
    before = Feature(channels=x.shape[3], grid=(x.shape[1], x.shape[2]), ends=(x.shape[3], 32))
    module = block.build(before)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        y = module(x)
    after = block.flow(before)
    assert tuple(y.shape) == (x.shape[0], *after.grid, after.channels)
    return module, y


def nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous()


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 7, 16, generator=torch.Generator().manual_seed(0))


def test_pointwise_is_a_1x1_convolution_and_a_linear_layer(x: Tensor) -> None:
    for bias in (True, False):
        module, y = run(make("pointwise", out=24, bias=bias), x)
        assert isinstance(module, nn.Linear)
        expected = F.conv2d(nchw(x), module.weight[:, :, None, None], module.bias)
        torch.testing.assert_close(y, nhwc(expected), rtol=1e-5, atol=1e-5)
        assert (module.bias is not None) == bias


@pytest.mark.parametrize(("word", "width"), [("in", 16), ("out", 32), ("same", 8), (24, 24)])
def test_the_width_words(word: str | int, width: int) -> None:
    x = Feature(channels=8, ends=(16, 32))
    assert make("pointwise", out=word).flow(x).channels == width


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_layer_norm(x: Tensor, eps: float, scale: float) -> None:
    x = x * scale
    module, y = run(make("norm-act", norm="layer", eps=eps, act="none"), x)
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    expected = (x - mean) / (variance + eps).sqrt() * module.norm.weight + module.norm.bias
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_rms_norm(x: Tensor, eps: float, scale: float) -> None:
    x = x * scale
    module, y = run(make("norm-act", norm="rms", eps=eps, act="none"), x)
    expected = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * module.norm.weight
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_rms_norm_casts_before_the_weight(x: Tensor) -> None:
    block = make("norm-act", norm="rms", act="none")
    module = block.build(feature()).bfloat16()
    with torch.no_grad():
        module.norm.weight.normal_()
        x = x.bfloat16()
        y = module(x)
        z = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
        assert torch.equal(y, module.norm.weight * z.bfloat16())


def test_rms_norm_keeps_fp64(x: Tensor) -> None:
    module = make("norm-act", norm="rms", act="none").build(feature()).double()
    x = x.double()
    with torch.no_grad():
        expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(module(x), expected, rtol=1e-14, atol=1e-14)


ACTS = {
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "gelu-tanh": lambda x: (
        0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    ),
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": lambda x: x * torch.sigmoid(x),
    "relu": lambda x: x.clamp(min=0),
    "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "leaky-relu": lambda x: x.clamp(min=0) + 0.01 * x.clamp(max=0),
    "mish": lambda x: x * torch.tanh(torch.log1p(x.exp())),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "softmax": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    "none": lambda x: x,
}


@pytest.mark.parametrize("act", ACTS)
def test_activations(x: Tensor, act: str) -> None:
    module, y = run(make("norm-act", norm="none", act=act), 3 * x)
    torch.testing.assert_close(y, ACTS[act](3 * x), rtol=1e-5, atol=1e-6)
    assert list(module.state_dict()) == []


@pytest.mark.parametrize("name", TRANSFORMERS_NAMES)
def test_activations_as_transformers_spells_them(name: str, quiet: None) -> None:
    from transformers.activations import ACT2FN

    block = make("norm-act", norm="none", act=name)
    assert block == make("norm-act", norm="none", act=TRANSFORMERS_NAMES[name])
    assert block.act == TRANSFORMERS_NAMES[name]
    x = 4 * torch.randn(3, 5, 16, dtype=torch.float64)
    for scale in (1.0, 1e-3):
        y = activation(block.act)(scale * x)
        torch.testing.assert_close(y, ACT2FN[name](scale * x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_depthwise(x: Tensor, kernel: int, stride: int) -> None:
    module, y = run(make("depthwise", kernel=kernel, stride=stride), x)
    expected = F.conv2d(nchw(x), module.weight, module.bias, stride, kernel // 2, groups=16)
    torch.testing.assert_close(y, nhwc(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("channels", [1, 3, 6, 16])
@pytest.mark.parametrize("name", ["conv", "depthwise", "depthwise-residual"])
def test_a_strided_kernel_of_one_is_the_strided_convolution(
    name: str, channels: int, stride: int
) -> None:
    """And reaches torch without its stride, which oneDNN's gradients do not bear."""
    block = make(name, kernel=1, stride=stride)
    module = block.build(Feature(channels=channels, ends=(channels, 5))).double()
    weight, bias = module.weight, module.bias
    x = torch.randn(2, 5, 7, channels, dtype=torch.float64, requires_grad=True)
    with Strides() as strides:
        y = module(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, weight, bias])
    assert strides.seen == [[1, 1]] * 2
    groups = 1 if name == "conv" else channels
    expected = nhwc(F.conv2d(nchw(x), weight, bias, stride, groups=groups))
    if name == "depthwise-residual":
        expected = expected + loop_average(x, stride)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(
        gradients,
        torch.autograd.grad(expected.square().sum(), [x, weight, bias]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


class Strides(TorchDispatchMode):
    """Note the strides of convolutions and of their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append(args[3])
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append(args[4])
        return func(*args, **(kwargs or {}))


STEPS = """
import torch
from mobilevlm import BLOCKS, Feature
torch.manual_seed(0)
for name in ("conv", "depthwise", "depthwise-residual"):
    for channels in (1, 2, 3, 4, 5, 6):
        for stride in (2, 3):
            block = BLOCKS.get(name)(kernel=1, stride=stride)
            module = block.build(Feature(channels=channels, ends=(channels, 16)))
            for step in range(60):
                x = torch.randn(1 + step % 3, 8, 8, channels, requires_grad=True)
                module(x).square().sum().backward()
"""


def test_gradients_of_a_strided_kernel_of_one_keep_to_their_memory() -> None:
    """In a process of its own, which would die, as one without AVX-512 whose memory is watched."""
    watch = ctypes.util.find_library("c_malloc_debug")
    environment = {
        **os.environ,
        **({"LD_PRELOAD": watch, "MALLOC_CHECK_": "3"} if watch else {}),
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run([sys.executable, "-c", STEPS], env=environment, check=True)


def loop_average(x: Tensor, stride: int) -> Tensor:
    """The s x s average of a feature; windows at the border hold less."""
    h, w = x.shape[1:3]
    rows = [
        torch.stack(
            [x[:, i : i + stride, j : j + stride].mean((1, 2)) for j in range(0, w, stride)],
            1,
        )
        for i in range(0, h, stride)
    ]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_depthwise_residual(x: Tensor, stride: int) -> None:
    module, y = run(make("depthwise-residual", stride=stride, bias=False), x)
    expected = nhwc(F.conv2d(nchw(x), module.weight, None, stride, 1, groups=16))
    torch.testing.assert_close(y, expected + loop_average(x, stride), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 9])
def test_depthwise_residual_on_small_and_odd_grids(side: int) -> None:
    x = torch.randn(1, side, side, 4)
    _, y = run(make("depthwise-residual", stride=4), x)
    assert y.shape[1:3] == (-(-side // 4), -(-side // 4))


def test_squeeze_excite(x: Tensor) -> None:
    module, y = run(make("squeeze-excite", mid=5, act="silu", gate="sigmoid"), x)
    z = F.silu(F.linear(x.mean((1, 2)), module.fc1.weight, module.fc1.bias))
    z = torch.sigmoid(F.linear(z, module.fc2.weight, module.fc2.bias))
    torch.testing.assert_close(y, x * z[:, None, None, :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "mid"), [(16, 8), (44, 16), (64, 16), (2048, 512)])
def test_squeeze_excite_default_width(channels: int, mid: int) -> None:
    module = make("squeeze-excite").build(feature(channels=channels))
    assert module.fc1.out_features == mid


@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pool_windows(x: Tensor, stride: int, ceil: bool) -> None:
    _, average = run(make("pool", mode="avg", stride=stride, ceil=ceil), x)
    _, maximum = run(make("pool", mode="max", stride=stride, ceil=ceil), x)
    h, w = average.shape[1:3]
    torch.testing.assert_close(average, loop_average(x, stride)[:, :h, :w])
    expected = F.max_pool2d(nchw(x), stride, ceil_mode=ceil)
    assert torch.equal(maximum, nhwc(expected))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (4, 5)])
def test_pool_adaptive(x: Tensor, size: tuple[int, int]) -> None:
    _, y = run(make("pool", mode="adaptive", size=size), x)
    torch.testing.assert_close(y, nhwc(F.adaptive_avg_pool2d(nchw(x), size)))


def test_residual(x: Tensor) -> None:
    body = [
        {"type": "pointwise", "out": "same"},
        {"type": "norm-act", "norm": "none", "act": "relu"},
    ]
    module, y = run(make("residual", body=body), x)
    expected = x + F.relu(F.linear(x, module.body[0].weight, module.body[0].bias))
    torch.testing.assert_close(y, expected)
    assert list(module.state_dict()) == ["body.0.weight", "body.0.bias"]


def test_identity(x: Tensor) -> None:
    _, y = run(make("identity"), x)
    assert y is x


@pytest.mark.parametrize(
    "name",
    ["attention-pool", "depthwise", "depthwise-residual", "squeeze-excite", "pool", "residual"],
)
def test_spatial_blocks_refuse_a_sequence(name: str) -> None:
    fields: dict[str, object] = {"pool": {"stride": 2}, "residual": {"body": ["depthwise"]}}.get(
        name, {}
    )
    with pytest.raises(SpecError) as caught:
        make(name, **fields).flow(feature(h=1, w=35).replace(layout="sequence"))
    assert caught.value.found == "it works on a grid, and the tokens have lost theirs"


def test_needs_grid_is_what_the_blocks_say() -> None:
    ours = [name for name in BLOCKS.names() if not name.startswith("zeta-")]
    free = {name for name in ours if not BLOCKS.get(name).needs_grid}
    assert free == {
        "cross-attention",
        "extra-tokens",
        "glu",
        "identity",
        "norm-act",
        "pad-channels",
        "parallel",
        "pointwise",
        "qformer",
        "repeat",
        "resampler",
        "residual",
        "scale",
        "take-channels",
    }
    mixing = {name for name in free if BLOCKS.get(name).mixes_tokens}
    assert mixing == {"cross-attention", "extra-tokens", "qformer", "resampler"}


@pytest.mark.parametrize(
    ("fields", "grid", "message"),
    [
        (
            {"stride": 8},
            (5, 9),
            "a grid of 5x9 holds no window of 8x8. Set ceil=True to keep windows cut off by the "
            "border.",
        ),
        (
            {"mode": "adaptive", "size": (6, 2)},
            (5, 9),
            "a grid of 5x9 cannot be pooled to 6x2; expected an output no larger than the "
            "input grid",
        ),
    ],
)
def test_pool_refuses_a_grid_that_is_too_small(
    fields: dict[str, object], grid: tuple[int, int], message: str
) -> None:
    with pytest.raises(GridError) as caught:
        make("pool", **fields).flow(feature(*grid))
    assert str(caught.value) == message


def test_the_adaptive_pool_module_refuses_by_itself() -> None:
    module = make("pool", mode="adaptive", size=(6, 2)).build(feature(6, 9))
    with pytest.raises(GridError):
        module(torch.randn(1, 5, 9, 4))


def test_standardization_is_in_fp32_and_not_trained() -> None:
    """The difference of numbers of Gemma 4's size, which bf16 holds to the nearest 256."""
    module = make("scale", by="root-channels", standardize=True).build(feature(2, 2))
    module.bias.fill_(5e4)
    module.scale.fill_(1e-2)
    module.bfloat16()
    torch.manual_seed(0)
    x = (1.25e4 + 256 * torch.randn(1, 2, 2, 16)).bfloat16()
    expected = (4 * x.double() - module.bias.double()) * module.scale.double()
    assert torch.equal(module(x), expected.to(torch.bfloat16))
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_features_are_readable() -> None:
    x = Feature(channels=8, ends=(8, 8))
    assert str(x) == "?x? x 8"
    assert x.tokens is None
    assert str(x.replace(grid=(3, None))) == "3x? x 8"
    assert str(x.replace(grid=(3, 4))) == "3x4 x 8"
    assert str(x.replace(grid=(1, 64), layout="sequence")) == "64 x 8"
    with pytest.raises(TypeError):
        Feature(8, (3, 4))  # type: ignore[call-arg, misc]


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")  # pydantic's, about the same thing
def test_reserved_field_names_are_refused() -> None:
    for name in ("type", "flow", "build", "expand", "counts_as"):
        namespace = {"__annotations__": {name: int}, name: 3, "__module__": "m"}
        with pytest.raises(SpecError) as caught:
            type("Bad", (Block,), namespace)
        assert str(caught.value) == f"Bad: a block cannot have a field called {name!r}"


@pytest.mark.parametrize(
    ("block", "grid", "mixes"),
    [
        ("identity", False, False),
        ({"type": "depthwise", "kernel": 3}, True, True),
        ({"type": "resampler", "queries": 4}, False, True),
    ],
)
def test_a_block_tells_of_those_inside_it(block: object, grid: bool, mixes: bool) -> None:
    for blocks in ([block], [{"type": "repeat", "times": 2, "body": ["identity", block]}]):
        made = make("repeat", times=1, body=blocks).body
        assert (needs_grid(made), mixes_tokens(made)) == (grid, mixes)


def test_the_chains_inside_a_block_follow_one_another() -> None:
    body = ["identity", {"type": "pool", "stride": 2}, "identity"]
    found = list(chains(make("repeat", times=2, body=body), feature(8, 12)))
    assert [path for path, _ in found] == ["0.body", "1.body"]
    assert [[step.y.grid for step in steps] for _, steps in found] == [
        [(8, 12), (4, 6), (4, 6)],
        [(4, 6), (2, 3), (2, 3)],
    ]
    found = list(chains(make("residual", body=["identity"]), feature()))
    assert [path for path, _ in found] == ["body"]


def test_grids_have_limits() -> None:
    assert check_grid((1, 65_536)) == (1, 65_536)
    assert check_grid([np.int64(2), 3]) == (2, 3)
    for grid in (
        (0, 1),
        (1, 0),
        (1, 65_537),
        (1,),
        (1, 2, 3),
        (True, 2),
        (1.0, 2),
        "12",
        3,
        "\u0430",
    ):
        with pytest.raises(GridError) as caught:
            check_grid(grid)
        assert str(caught.value) == (
            f"grid: {grid!a} is not a grid; expected (height, width), two integers from 1 to 65536"
        )


def test_widths_have_limits() -> None:
    assert [Pointwise(out=width).out for width in (1, 1 << 20)] == [1, 1 << 20]
    for width in (0, (1 << 20) + 1):
        with pytest.raises(SpecError) as caught:
            Pointwise(out=width)
        assert str(caught.value) == f"Pointwise.out: {width}; expected a width from 1 to 1048576"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "sincos", "join": "cat"}, "'join' is an option of kind 'axes', not 'sincos'"),
        ({"kind": "frame", "size": [4, 4]}, "kind 'frame' takes no 'size'"),
        ({"kind": "frame"}, "15 channels have no halves; expected an even number"),
        (
            {"kind": "axes", "size": [4, 4], "join": "cat"},
            "15 channels have no halves; expected an even number",
        ),
    ],
)
def test_positions_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_projector({"in": 15, "out": 15, "blocks": [{"type": "position", **fields}]})
    assert message in str(caught.value)


def test_positions_of_halves_and_of_the_first_frame() -> None:
    blocks = [{"type": "position", "kind": "axes", "size": [3, 4], "join": "cat"}]
    ours = build_projector({"in": 6, "out": 6, "blocks": blocks})
    rows, columns = ours.blocks[0].rows, ours.blocks[0].columns
    assert (rows.shape, columns.shape) == ((3, 3), (4, 3))
    y = ours(torch.zeros(1, 6, 6), grid=(2, 3)).view(2, 3, 6)
    for row, column in itertools.product(range(2), range(3)):
        assert torch.equal(y[row, column], torch.cat([columns[column], rows[row]]))
    frame = build_projector({"in": 6, "out": 6, "blocks": [{"type": "position", "kind": "frame"}]})
    assert frame(torch.zeros(1, 1, 6)).tolist() == [[[0.0, 1.0] * 3]]


def test_padded_channels_are_zeros_after_the_others() -> None:
    pad = build_projector({"in": 2, "out": 5, "blocks": [{"type": "pad-channels", "count": 3}]})
    assert pad(torch.ones(1, 1, 2)).tolist() == [[[1.0, 1.0, 0.0, 0.0, 0.0]]]
