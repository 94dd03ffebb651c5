"""Presets against the real thing: golden vectors of upstream, and plain formulas in torch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.golden import golden
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevlm import (
    LDP,
    Projector,
    RegistryError,
    SpecError,
    build_projector,
    build_vision_projector,
    spec_of,
)


def load_upstream(
    projector: Projector, renames: dict[str, str], vectors: dict[str, Tensor]
) -> None:
    """Load upstream's weights; a 1x1 convolution is a linear layer of the same numbers."""
    weights = {key.removeprefix("w."): w for key, w in vectors.items() if key.startswith("w.")}
    state = projector.state_dict()
    loaded = {
        key: weights.pop(upstream).reshape(state[key].shape) for key, upstream in renames.items()
    }
    assert weights == {}
    projector.load_state_dict(loaded, strict=True)


def inverted_residual(ours: str, start: int, theirs: str) -> dict[str, str]:
    parts = {
        f"{ours}{start}.weight": "0.0.weight",
        f"{ours}{start + 1}.norm.weight": "0.1.weight",
        f"{ours}{start + 1}.norm.bias": "0.1.bias",
        f"{ours}{start + 2}.fc1.weight": "1.fc1.weight",
        f"{ours}{start + 2}.fc1.bias": "1.fc1.bias",
        f"{ours}{start + 2}.fc2.weight": "1.fc2.weight",
        f"{ours}{start + 2}.fc2.bias": "1.fc2.bias",
        f"{ours}{start + 3}.weight": "2.0.weight",
        f"{ours}{start + 4}.norm.weight": "2.1.weight",
        f"{ours}{start + 4}.norm.bias": "2.1.bias",
    }
    return {key: f"{theirs}.block.{value}" for key, value in parts.items()}


LDPNET = {
    "blocks.0.weight": "mlp.1.weight",
    "blocks.0.bias": "mlp.1.bias",
    "blocks.2.weight": "mlp.3.weight",
    "blocks.2.bias": "mlp.3.bias",
    **inverted_residual("blocks.3.body.", 0, "mb_block.1"),
    **inverted_residual("blocks.", 4, "mb_block.2"),
}
LDPNETV2 = {
    "blocks.0.weight": "mlp.mlp.0.weight",
    "blocks.0.bias": "mlp.mlp.0.bias",
    "blocks.2.weight": "mlp.mlp.2.weight",
    "blocks.2.bias": "mlp.mlp.2.bias",
    "blocks.4.weight": "peg.peg.0.weight",
    "blocks.4.bias": "peg.peg.0.bias",
}


GOLDENS = {"ldpnet": LDPNET, "ldpnetv2": LDPNETV2}


@pytest.mark.parametrize("name", GOLDENS)
def test_upstream_golden_vectors(name: str) -> None:
    vectors = golden(name)
    projector = build_projector(name, 16, 24)
    load_upstream(projector, GOLDENS[name], vectors)
    with torch.inference_mode():
        for scale, key in ((1.0, "y"), (1e-3, "y_small")):
            y, expected = projector(vectors["x"] * scale), vectors[key]
            error = (y - expected).abs().max() / expected.abs().max()
            assert error < 1e-6, (key, error)


def layer_norm_2d(x: Tensor, norm: nn.Module) -> Tensor:
    """The channels' LayerNorm of a map (b, c, h, w), from its definition."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    y = (x - mean) / torch.sqrt(variance + 1e-5)
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


def average_skip(x: Tensor) -> Tensor:
    """The 2 x 2 average, a window at the border averaged over what it holds, by a plain loop."""
    h, w = x.shape[2:]
    rows = [
        torch.stack([x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in range(0, w, 2)], -1)
        for i in range(0, h, 2)
    ]
    return torch.stack(rows, -2)


def eleven_steps(ldp: Projector, x: Tensor) -> Tensor:
    """The LDP layer's description on a map, step by step, with the weights of `ldp`."""
    b = ldp.blocks

    def pointwise(x: Tensor, layer: nn.Module) -> Tensor:
        return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)

    def depthwise(x: Tensor, layer: nn.Module, stride: int) -> Tensor:
        pad = layer.weight.shape[-1] // 2
        return F.conv2d(x, layer.weight, layer.bias, stride, pad, groups=x.shape[1])

    x = F.gelu(pointwise(x, b[0]))  # 1, 2
    x = depthwise(x, b[2], 1) + x  # 3, 4
    x = pointwise(x, b[3])  # 5
    x = F.gelu(layer_norm_2d(x, b[4].norm))  # 6, 7
    x = depthwise(x, b[5], 2) + average_skip(x)  # 8, 9
    x = pointwise(x, b[6])  # 10
    return layer_norm_2d(x, b[7].norm)  # 11


def randomize(module: nn.Module) -> nn.Module:
    """Give every parameter, norms and biases too, values that show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            fan = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(values / fan**0.5 + offset)
    return module


@pytest.mark.compares("ldp", "its description in plain torch")
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(
    ("widths", "grid", "kernel"),
    [((12, 20), (8, 8), 3), ((20, 12), (7, 5), 3), ((8, 8), (1, 1), 5), ((6, 10), (1, 6), 7)],
)
def test_ldp_follows_its_description(
    widths: tuple[int, int], grid: tuple[int, int], kernel: int, scale: float
) -> None:
    ldp = build_projector("ldp", *widths, kernel=kernel, dtype=torch.float64)
    randomize(ldp)
    x = torch.randn(2, widths[0], *grid, dtype=torch.float64) * scale
    with torch.inference_mode():
        torch.testing.assert_close(ldp(x), eleven_steps(ldp, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(("widths", "grid"), [((6, 6), (8, 6)), ((6, 10), (5, 7))])
def test_ldp_with_the_skip_from_its_input(
    widths: tuple[int, int], grid: tuple[int, int], scale: float
) -> None:
    ldp = randomize(build_projector("ldp", *widths, skip="input", dtype=torch.float64))
    main, skip = ldp.blocks[0].branches
    x = torch.randn(2, widths[0], *grid, dtype=torch.float64) * scale
    with torch.inference_mode():
        y = F.gelu(F.conv2d(x, main[0].weight[:, :, None, None], main[0].bias))
        y = F.conv2d(y, main[2].weight, main[2].bias, 1, 1, groups=widths[1]) + y
        y = F.conv2d(y, main[3].weight[:, :, None, None], main[3].bias)
        y = F.gelu(layer_norm_2d(y, main[4].norm))
        y = F.conv2d(y, main[5].weight, main[5].bias, 2, 1, groups=widths[1])
        z = average_skip(x)
        if widths[0] != widths[1]:
            z = F.conv2d(z, skip[1].weight[:, :, None, None], skip[1].bias)
        y = F.conv2d(y + z, ldp.blocks[1].weight[:, :, None, None], ldp.blocks[1].bias)
        expected = layer_norm_2d(y, ldp.blocks[2].norm)
        torch.testing.assert_close(ldp(x), expected, rtol=1e-9, atol=1e-12)
    assert len(skip) == (1 if widths[0] == widths[1] else 2)


def test_ldp_has_only_the_described_parameters_in_order_of_use() -> None:
    layer = LDP(in_channels=6, out_channels=10)
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    assert list(shapes.items()) == [
        ("blocks.0.weight", (10, 6)),
        ("blocks.0.bias", (10,)),
        ("blocks.2.weight", (10, 1, 3, 3)),
        ("blocks.2.bias", (10,)),
        ("blocks.3.weight", (10, 10)),
        ("blocks.3.bias", (10,)),
        ("blocks.4.norm.weight", (10,)),
        ("blocks.4.norm.bias", (10,)),
        ("blocks.5.weight", (10, 1, 3, 3)),
        ("blocks.5.bias", (10,)),
        ("blocks.6.weight", (10, 10)),
        ("blocks.6.bias", (10,)),
        ("blocks.7.norm.weight", (10,)),
        ("blocks.7.norm.bias", (10,)),
    ]
    types = {block["type"] for block in layer.spec.model_dump()["blocks"]}
    assert types == {"pointwise", "norm-act", "depthwise-residual"}


@pytest.mark.parametrize(
    ("side", "expected"), [(64, 32), (1, 1), (2, 1), (3, 2), (7, 4), (1024, 512)]
)
def test_ldp_layer_on_maps(side: int, expected: int) -> None:
    width = 128 if side == 64 else 4
    ldp = LDP(in_channels=width, out_channels=width)
    with torch.inference_mode():
        y = ldp(torch.randn(1, width, side, side))
    assert y.shape == (1, width, expected, expected)
    assert ldp.tokens(side, side) == expected * expected


def upstream_mlp(depth: int, in_: int, out: int) -> nn.Sequential:
    """What LLaVA's builder makes of ``mlp{depth}x_gelu``."""
    modules: list[nn.Module] = [nn.Linear(in_, out)]
    for _ in range(1, depth):
        modules += [nn.GELU(), nn.Linear(out, out)]
    return nn.Sequential(*modules)


@pytest.mark.compares("mlp", "plain torch")
@pytest.mark.parametrize("depth", range(1, 9))
def test_mlp_equals_upstreams_to_the_bit(depth: int) -> None:
    upstream = upstream_mlp(depth, 6, 10)
    ours = build_projector(f"mlp{depth}x_gelu", 6, 10)
    ours.blocks.load_state_dict(upstream.state_dict(), strict=True)  # the very same keys
    x = torch.randn(2, 7, 6)
    with torch.inference_mode():
        assert torch.equal(ours(x), upstream(x))


@pytest.mark.compares("linear", "plain torch")
@pytest.mark.compares("identity", "plain torch")
def test_linear_and_identity_equal_upstreams() -> None:
    x = torch.randn(2, 7, 6)
    linear = build_projector("linear", 6, 10)
    with torch.inference_mode():
        expected = F.linear(x, linear.blocks[0].weight, linear.blocks[0].bias)
        assert torch.equal(linear(x), expected)
        assert torch.equal(build_projector("identity", 6, 6)(x), x)


@pytest.mark.compares("ldpnetv2", "plain torch")
@pytest.mark.parametrize("grid", [(12, 12), (24, 24), (36, 36), (27, 27), (16, 20), (13, 40)])
def test_ldpnetv2_pools_any_grid_to_144_tokens(grid: tuple[int, int]) -> None:
    projector = build_projector("ldpnetv2", 6, 10)
    randomize(projector)
    b = projector.blocks
    x = torch.randn(2, grid[0] * grid[1], 6)
    with torch.inference_mode():
        y = projector(x, grid=grid)
        z = b[2](F.gelu(b[0](x))).transpose(1, 2).reshape(2, 10, *grid)
        z = F.adaptive_avg_pool2d(z, (12, 12))
        z = F.conv2d(z, b[4].weight, b[4].bias, 1, 1, groups=10) + z
    assert projector.tokens(*grid) == 144
    z = z.flatten(2).transpose(1, 2)
    assert (y - z).abs().max() / z.abs().max() < 1e-5


def plain_inverted_residual(x: Tensor, modules: list[nn.Module], stride: int) -> Tensor:
    """MobileNetV3's inverted residual without expansion, on a map."""
    depthwise, norm1, squeeze, pointwise, norm2 = modules
    x = F.conv2d(x, depthwise.weight, None, stride, 1, groups=x.shape[1])
    x = F.hardswish(layer_norm_2d(x, norm1.norm))
    scale = F.relu(F.linear(x.mean((2, 3)), squeeze.fc1.weight, squeeze.fc1.bias))
    scale = F.hardsigmoid(F.linear(scale, squeeze.fc2.weight, squeeze.fc2.bias))
    x = x * scale[:, :, None, None]
    x = F.conv2d(x, pointwise.weight[:, :, None, None])
    return layer_norm_2d(x, norm2.norm)


@pytest.mark.compares("ldpnet", "plain torch")
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("grid", [(8, 8), (6, 10), (5, 7), (1, 1)])
def test_ldpnet_on_any_grid(grid: tuple[int, int], scale: float) -> None:
    projector = randomize(build_projector("ldpnet", 6, 16, dtype=torch.float64))
    b = projector.blocks
    x = torch.randn(2, 6, *grid, dtype=torch.float64) * scale
    with torch.inference_mode():
        z = b[2](F.gelu(b[0](x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        z = z + plain_inverted_residual(z, list(b[3].body), 1)
        z = plain_inverted_residual(z, list(b[4:]), 2)
        torch.testing.assert_close(projector(x), z, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "pool", "grid", "tokens"),
    [
        ({}, nn.AdaptiveAvgPool2d((12, 12)), (24, 24), 144),
        ({"size": 8}, nn.AdaptiveAvgPool2d((8, 8)), (24, 24), 64),
        ({"size": (6, 9)}, nn.AdaptiveAvgPool2d((6, 9)), (13, 20), 54),
        ({"stride": 2}, nn.AvgPool2d(2), (24, 24), 144),
        ({"stride": 2}, nn.AvgPool2d(2), (11, 30), 75),
        ({"stride": 3}, nn.AvgPool2d(3), (12, 9), 12),
    ],
)
def test_ldpnetv2_pools_to_a_size_or_by_a_stride(
    options: dict[str, Any], pool: nn.Module, grid: tuple[int, int], tokens: int
) -> None:
    projector = build_projector("ldpnetv2", 16, 24, **options)
    vectors = golden("ldpnetv2")
    load_upstream(projector, LDPNETV2, vectors)
    first, second, peg = (projector.blocks[index] for index in (0, 2, 4))
    for scale in (1.0, 1e-3):
        x = scale * torch.randn(2, grid[0] * grid[1], 16)
        y = F.linear(F.gelu(F.linear(x, first.weight, first.bias)), second.weight, second.bias)
        y = pool(y.transpose(1, 2).unflatten(2, grid))
        y = F.conv2d(y, peg.weight, peg.bias, padding=1, groups=24) + y
        with torch.inference_mode():
            ours = projector(x, grid=grid)
        assert ours.shape == (2, tokens, 24)
        assert (ours - y.flatten(2).mT).abs().max() / y.abs().max() < 1e-5


def test_ldpnetv2_has_one_way_to_pool() -> None:
    with pytest.raises(SpecError) as caught:
        build_projector("ldpnetv2", 16, 24, size=8, stride=2)
    assert str(caught.value) == "ldpnetv2: 'size' and 'stride' are both given. Give one of them."


def test_options_reach_the_modules() -> None:
    ldp = build_projector("ldp", 6, 10, eps=0.25, kernel=5)
    assert [ldp.blocks[index].norm.eps for index in (4, 7)] == [0.25, 0.25]
    assert [ldp.blocks[index].weight.shape[-1] for index in (2, 5)] == [5, 5]
    for name in ("linear", "mlp", "mlp3x_gelu"):
        keys = build_projector(name, 6, 10, bias=False).state_dict()
        assert keys
        assert not [key for key in keys if key.endswith("bias")], name


@pytest.mark.parametrize("config", [SimpleNamespace, dict])
def test_llavas_function(config: type) -> None:
    widths = {"mm_hidden_size": 6, "hidden_size": 10}
    assert build_vision_projector(config(**widths)).spec == spec_of("linear", 6, 10)
    missing = config(mm_projector_type=None, **widths)
    assert build_vision_projector(missing, delay_load=True, extra=3).spec == spec_of(
        "linear", 6, 10
    )
    for name in ("linear", "mlp2x_gelu", "mlp8x_gelu", "ldpnet", "ldpnetv2"):
        built = build_vision_projector(config(mm_projector_type=name, **widths))
        assert built.spec == spec_of(name, 6, 10)
    for bad in ("mlp0x_gelu", "ldpnet_typo", "mlp2x_gelu "):
        with pytest.raises(RegistryError, match="unknown projector"):
            build_vision_projector(config(mm_projector_type=bad, **widths))
    with pytest.raises(SpecError) as caught:
        build_vision_projector(config(mm_hidden_size=6))
    assert str(caught.value) == "config: 'hidden_size' is missing"
