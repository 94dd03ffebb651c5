"""Packed images of different sizes, and tokens that come in blocks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.built_ins import OPTIONS
from torch import Tensor, nn
from torch.autograd import forward_ad

from mobilevlm import (
    BLOCKS,
    PROJECTORS,
    Feature,
    GridError,
    NonFiniteError,
    build_projector,
    fast_paths,
    find_nonfinite,
)
from mobilevlm.blocks.core.packed import pack_layers, run_once, run_packed
from mobilevlm.blocks.core.packing import Packing

# Sizes that every family takes: even sides, at least 12, some of them equal.
GRIDS = [(12, 16), (16, 12), (12, 16), (20, 24), (16, 16)]
MANY = [(h, w) for h in range(3, 11) for w in range(4, 12)]
PRESETS = [name for name in PROJECTORS.names() if not name.startswith("mlp") or name == "mlp"]


@pytest.mark.parametrize("name", PRESETS)
def test_packed_images_equal_single_ones(name: str) -> None:
    torch.manual_seed(0)
    widths = (8, 8) if name == "identity" else (8, 12)
    options = {} if name == "identity" else OPTIONS.get(name, {})
    projector = build_projector(name, *widths, dtype=torch.float64, **options).eval()
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


WINDOWS = [
    {"type": "pool", "stride": 2},
    {"type": "pool", "stride": 2, "ceil": True},
    {"type": "pool", "stride": 3},
    {"type": "pool", "mode": "max", "stride": 2},
    {"type": "pool", "mode": "max", "stride": 3, "ceil": True},
    {"type": "patch-merge", "odd": "drop"},
    {"type": "patch-merge", "odd": "pad", "order": "chw"},
    {"type": "patch-merge", "odd": "pad", "size": [3, 2], "transpose": True},
]
windows = pytest.mark.parametrize("block", WINDOWS, ids=str)


def module_of(block: dict[str, Any]) -> Any:
    options = {key: value for key, value in block.items() if key != "type"}
    return BLOCKS.get(block["type"])(**options).build(Feature(channels=6, ends=(6, 6)))


def singly(module: nn.Module, x: Tensor, grids: list[tuple[int, int]]) -> Tensor:
    """Run a module on each image by itself."""
    pairs = zip(x.split([h * w for h, w in grids]), grids, strict=True)
    return torch.cat([module(part.view(1, *grid, -1)).flatten(0, 2) for part, grid in pairs])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 6e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@windows
def test_many_sizes_in_every_dtype_and_range(
    block: dict[str, Any], dtype: torch.dtype, scale: float, fast: bool
) -> None:
    torch.manual_seed(0)
    module = module_of(block)
    x = torch.rand(sum(h * w for h, w in MANY), 6).mul_(2).sub_(1).mul_(scale).to(dtype)
    x[:, 0] = scale  # its sums are past the end of fp16
    with torch.inference_mode(), fast_paths(fast):
        y, expected = run_once(module, x, MANY), singly(module, x, MANY)
    assert y.dtype == dtype
    assert y.isfinite().all()
    # Both are rounded once; the sums before are fp32's.
    rounding = 0 if block["type"] == "patch-merge" or block.get("mode") == "max" else 1
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=rounding * eps, atol=rounding * 2e-7 * scale)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gemma3", "internvl", "perception-lm", "qwen2-vl"])
def test_packed_presets_in_every_dtype(name: str, dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    projector = build_projector(name, 64, 64, dtype=dtype).eval()
    x = torch.randn(sum(h * w for h, w in GRIDS), 64).mul_(scale).to(dtype)
    pairs = zip(x.split([h * w for h, w in GRIDS]), GRIDS, strict=True)
    with torch.inference_mode():
        y = projector(x, grid=GRIDS).double()
        expected = torch.cat([projector(part[None], grid=grid)[0] for part, grid in pairs]).double()
    # Products of another shape add in another order.
    assert (y - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm()


def test_a_large_channel_in_half_precision_stays_finite() -> None:
    torch.manual_seed(0)
    projector = build_projector("gemma3", 64, 64, pool=2, dtype=torch.float16).eval()
    x = torch.randn(16, 64).half()
    x[:, 5] = 20000
    with torch.inference_mode():
        y = projector(x, grid=[(4, 4)])
        torch.testing.assert_close(y, projector(x[None], grid=(4, 4))[0])


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@windows
def test_numbers_that_are_not_finite_stay_in_their_windows(
    block: dict[str, Any], number: float
) -> None:
    module = module_of(block)
    x = torch.zeros(5 * 7 + 4 * 4, 6)
    x[:35] = number
    expected = singly(module, x, [(5, 7), (4, 4)])
    packed = run_once(module, x, [(5, 7), (4, 4)])
    torch.testing.assert_close(packed, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.thread_unsafe  # torch's forward mode has one level, for the whole process
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@windows
def test_gradients_at_ties_and_their_gradients(block: dict[str, Any], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = module_of(block)
    grids = [(5, 7), (4, 4), (12, 9), (5, 7)]
    x = torch.randint(3, (sum(h * w for h, w in grids), 6)).to(dtype).requires_grad_()
    tangent = torch.randn_like(x)

    def derivatives(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        y = run(x)
        torch.manual_seed(1)
        weights = torch.randn_like(y).requires_grad_()
        # The loss is quadratic, so that its gradient has one in x and in the weights.
        (first,) = torch.autograd.grad((y.square() * weights).sum(), x, create_graph=True)
        seconds = torch.autograd.grad((first * tangent).sum(), (x, weights))
        with torch.no_grad(), forward_ad.dual_level():
            dual = forward_ad.unpack_dual(run(forward_ad.make_dual(x.detach(), tangent)))
        _, forward = torch.func.jvp(run, (x.detach(),), (tangent,))
        torch.testing.assert_close(dual.tangent, forward)
        return y, first, *seconds, forward

    packed = derivatives(lambda x: run_once(module, x, grids))
    for have, expected in zip(packed, derivatives(lambda x: singly(module, x, grids)), strict=True):
        torch.testing.assert_close(have, expected)


class Watched:
    """A hook of either kind that counts its calls and adds one to what goes through."""

    calls = 0

    def before(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.calls += 1
        return args[0] + 1, *args[1:]

    def after(self, _: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        self.calls += 1
        return y + 1


ATTENTION = {"type": "attention-pool", "heads": 2, "out": 6}


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        *((block, kind) for block in (*WINDOWS, ATTENTION) for kind in ("before", "after")),
        (ATTENTION, "inside"),
    ],
    ids=str,
)
def test_hooks_of_a_block_are_called_once_per_size(block: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    document = {"in": 6, "out": 5, "blocks": ["norm-act", block, {"type": "pointwise"}]}
    projector = build_projector(document, dtype=torch.float64).eval()
    watched, module = Watched(), projector.blocks[1]
    if kind == "before":
        module.register_forward_pre_hook(watched.before)
    elif kind == "after":
        module.register_forward_hook(watched.after)
    else:
        module.attention.register_forward_hook(watched.after)
    grids = [(6, 8), (4, 4), (6, 8), (12, 6)]
    x = torch.randn(sum(h * w for h, w in grids), 6, dtype=torch.float64)
    with torch.inference_mode():
        y = projector(x, grid=grids)
        assert watched.calls == 3
        pairs = zip(x.split([h * w for h, w in grids]), grids, strict=True)
        expected = torch.cat([projector(part[None], grid=grid)[0] for part, grid in pairs])
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("name", ["internvl", "ldp", "qwen2-vl"])
def test_hooks_of_the_chain_are_called_once_per_size(name: str) -> None:
    projector = build_projector(name, 6, 5).eval()
    grids = [(6, 8), (4, 4), (6, 8), (12, 6)]
    x = torch.randn(sum(h * w for h, w in grids), 6)
    with torch.inference_mode():
        expected = projector(x, grid=grids)
        watched = Watched()
        projector.blocks.register_forward_hook(watched.after)
        y = projector(x, grid=grids)
        assert watched.calls == 3
        pairs = zip(x.split([h * w for h, w in grids]), grids, strict=True)
        singly = torch.cat([projector(part[None], grid=grid)[0] for part, grid in pairs])
    torch.testing.assert_close(y, singly)
    assert not torch.equal(y, expected)


def test_the_first_block_that_makes_an_infinity_is_named() -> None:
    document = {"in": 8, "out": 8, "blocks": [{"type": "pool", "stride": 2}, "norm-act"]}
    projector = build_projector(document)
    x = torch.full((4 * 4 + 2 * 6, 8), 3e38)
    with pytest.raises(NonFiniteError) as caught, find_nonfinite(projector):
        projector(x, grid=[(4, 4), (2, 6)])
    assert str(caught.value) == (
        "blocks.0: 32 of 32 numbers are not finite, the first inf at (0, 0, 0, 0); expected finite "
        "numbers. Its weights and its input are finite, and the input reaches 3e+38; torch.float32 "
        "ends at 3.40282e+38. A dtype of a wider range may hold them."
    )


class Packed(nn.Module):
    """A projector's packed run by itself, with its track ready."""

    def __init__(self, blocks: list[dict[str, Any]], grids: list[list[tuple[int, int]]]) -> None:
        super().__init__()
        blocks = [*blocks, {"type": "pointwise"}]
        self.projector = build_projector({"in": 6, "out": 5, "blocks": blocks}).eval()
        self.mixing = [*(True for _ in blocks[1:]), False]
        self.grids = grids[0]
        self.tracks = {
            grid: [step.y.grid for step in self.projector.spec.walk(grid)]
            for grid in {grid for several in grids for grid in several}
        }

    def forward(self, x: Tensor, grids: list[tuple[int, int]] | None = None) -> Tensor:
        layers, images = list(self.projector.blocks), Packing.of(grids or self.grids, x.device)
        tracks = [self.tracks[grid] for grid in images.grids]
        _, indices = pack_layers(
            layers, self.mixing, images, lambda place: [track[place] for track in tracks]
        )
        return run_packed(layers, range(len(layers)), indices, x)


@pytest.mark.quick(str(WINDOWS[1]), str(WINDOWS[7]))
@pytest.mark.parametrize(
    "block",
    [*WINDOWS, ATTENTION, {"type": "conv", "stride": 2}],
    ids=str,
)
def test_packed_runs_compile_and_export_whole(block: dict[str, Any]) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    several = [[(5, 7), (4, 4), (5, 7)], [(12, 9), (3, 5)], [(6, 6)]]
    packed = Packed([block], several)
    compiled = torch.compile(packed, backend="aot_eager", fullgraph=True)
    for grids in several:
        x = torch.randn(sum(h * w for h, w in grids), 6, requires_grad=True)
        y, expected = compiled(x, grids), packed(x, grids)
        torch.testing.assert_close(y, expected)
        weights = torch.randn_like(y)
        (have,) = torch.autograd.grad((y * weights).sum(), x)
        (want,) = torch.autograd.grad((expected * weights).sum(), x)
        torch.testing.assert_close(have, want)
    x = torch.randn(sum(h * w for h, w in several[0]), 6)
    for strict in (False, True):
        program = torch.export.export(packed, (x,), strict=strict)
        torch.testing.assert_close(program.module()(x), packed(x))


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
    y = run_once(module, x, grids)
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
    truth = run_once(module, x.double(), grids)
    y = run_once(module, x, grids)
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
            "image, [(h, w), ...]. For one image, pass x[None].",
        ),
        (
            torch.zeros(24, 8),
            (4, 6),
            "grid: packed tokens (24, 8) with grid=(4, 6); expected a list with the grid of each "
            "image, [(h, w), ...]. For one image, pass x[None].",
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
