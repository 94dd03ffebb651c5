"""Packed images of different sizes, and tokens that come in blocks."""

import pytest
import torch

from mobilevlm import BLOCKS, PROJECTORS, Feature, GridError, build_projector

# Sizes that every family takes: even sides, at least 12, some of them equal.
GRIDS = [(12, 16), (16, 12), (12, 16), (20, 24), (16, 16)]
PRESETS = [name for name in PROJECTORS.names() if not name.startswith("mlp") or name == "mlp"]


@pytest.mark.parametrize("name", PRESETS)
def test_packed_images_equal_single_ones(name: str) -> None:
    torch.manual_seed(0)
    widths = (8, 8) if name == "identity" else (8, 12)
    projector = build_projector(name, *widths, dtype=torch.float64).eval()
    images = [torch.randn(h * w, 8, dtype=torch.float64) for h, w in GRIDS]
    with torch.inference_mode():
        y = projector(torch.cat(images), grid=GRIDS)
        parts = y.split(projector.tokens(GRIDS))
        for image, grid, part in zip(images, GRIDS, parts, strict=True):
            single = projector(image[None], grid=grid)[0]
            torch.testing.assert_close(part, single, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "pool", "mode": "avg", "stride": 2, "ceil": True},
        {"type": "pool", "mode": "avg", "stride": 3},
        {"type": "pool", "mode": "max", "stride": 2, "ceil": True},
        {"type": "pool", "mode": "bilinear", "stride": 2},
        {"type": "pool", "mode": "adaptive", "stride": 2},
        {"type": "patch-merge", "odd": "pad"},
        {"type": "patch-merge", "odd": "pad", "order": "chw"},
        {"type": "patch-merge", "odd": "drop"},
        {"type": "patch-merge", "odd": "pad", "transpose": True},
        {"type": "patch-merge", "size": [1, 3], "odd": "drop"},
        {"type": "conv", "stride": 2},
        {"type": "residual", "body": ["depthwise", "squeeze-excite"]},
    ],
    ids=str,
)
def test_blocks_on_packed_images_with_odd_sides(block: dict[str, object]) -> None:
    torch.manual_seed(0)
    document = {"in": 6, "out": 5, "blocks": [block, {"type": "pointwise"}]}
    projector = build_projector(document, dtype=torch.float64).eval()
    grids = [(5, 7), (3, 3), (4, 6), (5, 7), (9, 4)]
    images = [torch.randn(h * w, 6, dtype=torch.float64) for h, w in grids]
    with torch.inference_mode():
        parts = projector(torch.cat(images), grid=grids).split(projector.tokens(grids))
        for image, grid, part in zip(images, grids, parts, strict=True):
            single = projector(image[None], grid=grid)[0]
            torch.testing.assert_close(part, single, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["idefics2", "minicpmv"])
def test_a_map_that_becomes_a_sequence_comes_back_as_tokens(name: str) -> None:
    options = {"idefics2": {"hidden": 16, "heads": 4, "kv_heads": 2, "head_dim": 4}}.get(name, {})
    projector = build_projector(name, 8, 16, queries=5, **options)
    tokens = torch.randn(2, 12, 8)
    image = tokens.transpose(1, 2).unflatten(2, (3, 4))
    with torch.inference_mode():
        y = projector(image)
        torch.testing.assert_close(y, projector(tokens, grid=(3, 4)))
    assert y.shape == (2, 5, 16)


def test_gradients_flow_through_packed_images() -> None:
    projector = build_projector("gemma3", 8, 12, pool=2)
    x = torch.randn(4 * 6 + 2 * 8, 8, requires_grad=True)
    projector(x, grid=[(4, 6), (2, 8)]).sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).any(1).all()


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_packed_pool_has_the_gradients_of_the_single_ones(
    mode: str, stride: int, ceil: bool
) -> None:
    torch.manual_seed(0)
    pool = BLOCKS.get("pool")(mode=mode, stride=stride, ceil=ceil)
    module = pool.build(Feature(channels=6, ends=(6, 6)))
    grids = [(5, 7), (4, 4), (12, 9)]
    x = torch.randn(sum(h * w for h, w in grids), 6, dtype=torch.float64, requires_grad=True)
    y = module.forward_packed(x, grids)
    weights = torch.randn_like(y)
    (packed,) = torch.autograd.grad((y * weights).sum(), x)
    parts = x.split([h * w for h, w in grids])
    pairs = zip(parts, grids, strict=True)
    single = [module(part.view(1, *grid, 6)).flatten(0, 2) for part, grid in pairs]
    torch.testing.assert_close(y, torch.cat(single), rtol=1e-12, atol=1e-12)
    (expected,) = torch.autograd.grad((torch.cat(single) * weights).sum(), x)
    torch.testing.assert_close(packed, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_packed_pool_in_half_precision_is_rounded_once(
    stride: int, ceil: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    module = BLOCKS.get("pool")(stride=stride, ceil=ceil).build(Feature(channels=64, ends=(64, 64)))
    grids = [(13, 7), (12, 12), (5, 11)]
    x = torch.randn(sum(h * w for h, w in grids), 64).to(dtype)
    truth = module.forward_packed(x.double(), grids)
    y = module.forward_packed(x, grids)
    assert y.dtype == dtype
    close = torch.finfo(dtype).eps / 2 * truth.abs() + 1e-6
    assert (y.double() - truth).abs().le(close).all()


def test_blocked_tokens_give_what_rows_give() -> None:
    torch.manual_seed(0)
    rows = build_projector("qwen2-vl", 8, 12, token_order="raster")
    blocks = build_projector("qwen2-vl", 8, 12)
    blocks.load_state_dict(rows.state_dict())
    grid = (4, 6)
    x = torch.randn(2, 24, 8)
    order = torch.arange(24).view(2, 2, 3, 2).transpose(1, 2).flatten()
    with torch.inference_mode():
        expected = rows(x, grid=grid)
        torch.testing.assert_close(blocks(x[:, order], grid=grid), expected)
        packed = blocks(x[:, order].flatten(0, 1), grid=[grid, grid])
        torch.testing.assert_close(packed, expected.flatten(0, 1))
        image = x.transpose(1, 2).unflatten(2, grid)  # a map has its rows
        torch.testing.assert_close(blocks(image).flatten(2).transpose(1, 2), expected)


@pytest.mark.parametrize(
    ("x", "grid", "message"),
    [
        (
            torch.zeros(24, 8),
            None,
            "grid: packed tokens (24, 8) with grid=None; expected a list with the grid of each "
            "image, [(h, w), ...]",
        ),
        (
            torch.zeros(24, 8),
            (4, 6),
            "grid: packed tokens (24, 8) with grid=(4, 6); expected a list with the grid of each "
            "image, [(h, w), ...]",
        ),
        (
            torch.zeros(24, 8),
            [(4, 4), (2, 2)],
            "x: 24 packed tokens, but the grids hold 20; expected the same",
        ),
        (
            torch.zeros(24, 8),
            [(4, 4), (2, 0)],
            "grid[1]: (2, 0) is not a grid; expected (height, width), two integers from 1 to 65536",
        ),
        (
            torch.zeros(15, 8),
            [(3, 5)],
            "grid: a grid of 3x5 cannot come in blocks of 2x2; expected even sides. Set "
            "token_order='raster' if the tokens come row by row.",
        ),
    ],
)
def test_bad_packed_input_is_refused_in_one_sentence(
    x: torch.Tensor, grid: object, message: str
) -> None:
    with pytest.raises(GridError) as caught:
        build_projector("qwen2-vl", 8, 12)(x, grid=grid)
    assert str(caught.value) == message
