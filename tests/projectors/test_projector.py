"""Inputs and outputs of the projector, and the messages of what it refuses."""

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from mobilevlm import (
    LDP,
    GridError,
    Projector,
    SpecError,
    build_projector,
    convert_checkpoint,
    load_projector,
    plan_projector,
    save_projector,
    spec_of,
)
from mobilevlm.blocks.core.chain import Chain
from mobilevlm.blocks.pool import WindowPool
from mobilevlm.blocks.residual import ResidualModule

WIDTHS = (6, 10)


def build(name: str = "ldp", **options: object) -> Projector:
    torch.manual_seed(0)
    return build_projector(name, *WIDTHS, **options)


def test_tokens_in_tokens_out() -> None:
    projector = build_projector("ldp", 1024, 2048)
    with torch.inference_mode():
        assert projector(torch.randn(2, 576, 1024)).shape == (2, 144, 2048)
        assert projector(torch.randn(2, 24 * 18, 1024), grid=(24, 18)).shape == (2, 108, 2048)
    assert projector.tokens(24, 18) == 108
    assert projector.tokens([(24, 24), (24, 18), (1, 1)]) == [144, 108, 1]


@pytest.mark.parametrize("name", ["ldp", "ldpnet", "ldpnetv2", "mlp2x_gelu", "linear"])
def test_a_map_and_its_tokens_give_the_same(name: str) -> None:
    projector = build(name)
    tokens = torch.randn(2, 14 * 13, 6)
    image = tokens.transpose(1, 2).reshape(2, 6, 14, 13)
    with torch.inference_mode():
        expected, y = projector(tokens, grid=(14, 13)), projector(image)
    h, w = projector.plan((14, 13)).steps[-1].y.grid
    assert y.shape == (2, 10, h, w)
    torch.testing.assert_close(y.flatten(2).transpose(1, 2), expected)


def test_widths_may_be_written_in_each_way() -> None:
    for projector in (
        build_projector("linear", 6, 10),
        build_projector("linear", in_=6, out=10),
        build_projector("linear", **{"in": 6, "out": 10}),
        build_projector({"in": 6, "out": 10, "blocks": ["pointwise"]}),
        build_projector({"in_": 6, "out": 10, "blocks": ["pointwise"]}, 6, 10),
        build_projector({"blocks": ["pointwise"]}, 6, 10),
        build_projector(build_projector("linear", 6, 10).spec),
    ):
        assert (projector.spec.in_, projector.spec.out) == (6, 10)


@pytest.mark.parametrize("name", ["mlp2x_gelu", "linear"])
def test_a_token_wise_chain_takes_any_number_of_tokens(name: str) -> None:
    projector = build(name)
    for n in (1, 7, 577):
        assert projector(torch.randn(2, n, 6)).shape == (2, n, 10)


def test_prefix_tokens_are_dropped() -> None:
    plain, dropping = build(), build(prefix_tokens=1)
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(2, 17, 6)
    with torch.inference_mode():
        assert torch.equal(dropping(x), plain(x[:, 1:].contiguous()))
        image = torch.randn(2, 6, 4, 4)
        assert torch.equal(dropping(image), plain(image))  # a map has no prefix
    assert dropping.tokens(4, 4) == 4


def test_the_grid_given_at_build_is_the_default() -> None:
    projector = build(grid=(2, 8))
    x = torch.randn(1, 16, 6)
    with torch.inference_mode():
        assert torch.equal(projector(x), projector(x, grid=(2, 8)))
        assert not torch.equal(projector(x), projector(x, grid=(4, 4)))
    assert projector.plan().grid == (2, 8)


@pytest.mark.parametrize("name", ["ldp", "ldpnet", "ldpnetv2", "mlp2x_gelu", "linear"])
def test_an_empty_batch_gives_an_empty_tensor(name: str) -> None:
    y = build(name)(torch.randn(0, 196, 6))
    assert y.shape == (0, build(name).tokens(14, 14), 10)


@pytest.mark.parametrize("name", ["ldp", "ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_strides_do_not_matter_and_the_input_is_never_modified(name: str) -> None:
    projector = build(name)
    x = torch.randn(3, 196, 6)
    with torch.inference_mode():
        expected = projector(x)
    variants = {
        "transposed": x.transpose(1, 2).contiguous().transpose(1, 2),
        "strided": torch.stack([x, x], 1)[:, 0],
        "expanded": x[:1].expand(3, -1, -1),
        "sliced": torch.cat([x, x], -1)[..., :6],
    }
    for label, variant in variants.items():
        kept = variant.clone()
        with torch.inference_mode():
            y = projector(variant)
        assert torch.equal(variant, kept), label
        want = expected[:1].expand(3, -1, -1) if label == "expanded" else expected
        torch.testing.assert_close(y, want, msg=label)
    leaf = x.clone().requires_grad_()
    projector(leaf).sum().backward()
    assert torch.equal(leaf.detach(), x)
    assert leaf.grad is not None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_of_both_memory_formats(layout: torch.memory_format) -> None:
    projector = build()
    image = torch.randn(2, 6, 5, 4)
    with torch.inference_mode():
        y = projector(image.to(memory_format=layout))
        torch.testing.assert_close(y, projector(image))


def test_meta_tensors_give_shapes() -> None:
    projector = build(device="meta")
    y = projector(torch.empty(3, 35, 6, device="meta"), grid=(5, 7))
    assert (y.shape, y.device.type) == ((3, 12, 10), "meta")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_output_dtype_is_the_parameters(dtype: torch.dtype) -> None:
    for name in ("ldp", "ldpnet", "ldpnetv2", "mlp2x_gelu"):
        projector = build(name, dtype=dtype)
        assert {p.dtype for p in projector.parameters()} == {dtype}
        assert projector(torch.randn(1, 144, 6, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", ["ldp", "ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_bf16_stays_close_to_fp32(name: str) -> None:
    plain = build(name)
    half = build(name, dtype=torch.bfloat16)
    half.load_state_dict(plain.state_dict())
    x = torch.randn(2, 196, 6)
    with torch.inference_mode():
        expected, y = plain(x), half(x.bfloat16()).float()
    assert (y - expected).norm() / expected.norm() < 2e-2


def test_autocast_is_honoured() -> None:
    projector = build()
    with torch.autocast("cpu", torch.bfloat16):
        y = projector(torch.randn(1, 16, 6))
        half = projector(torch.randn(1, 16, 6, dtype=torch.bfloat16))
    assert y.shape == half.shape == (1, 4, 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert build("linear")(torch.randn(1, 16, 6)).dtype == torch.bfloat16


def test_autocast_leaves_fp64_alone() -> None:
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(GridError, match=r"is torch\.float64"),
    ):
        build()(torch.randn(1, 16, 6, dtype=torch.float64))
    with pytest.raises(GridError, match=r"the input is torch\.float64"):
        build(device="meta")(torch.empty(1, 16, 6, dtype=torch.float64, device="meta"))


def test_autocast_stays_close_to_fp32() -> None:
    projector = build()
    x = torch.randn(2, 64, 6)
    with torch.inference_mode():
        expected = projector(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = projector(x).float()
    assert (y - expected).norm() / expected.norm() < 2e-2


def test_fewer_tokens_than_prefix_tokens() -> None:
    for name in ("linear", "ldp"):
        with pytest.raises(GridError) as caught:
            build(name, prefix_tokens=5)(torch.randn(1, 3, 6))
        assert str(caught.value) == (
            "x: -2 tokens after 5 prefix tokens; expected at least one token"
        )


def test_tokens_takes_what_forward_takes() -> None:
    projector = build()
    side = torch.arange(5)[4]  # an integer that is no int, as NumPy's are
    assert projector.tokens((24, 18)) == projector.tokens(24, 18) == 108
    assert projector.tokens([(24, 18)]) == [108]
    assert projector.tokens(side, 4) == 4
    assert projector.tokens([]) == []


def test_a_residual_that_would_broadcast_is_refused_when_compiled() -> None:
    module = nn.Sequential(ResidualModule(Chain(WindowPool("avg", 2, ceil=False))))
    with pytest.raises(GridError, match="a residual's body made"):
        module(torch.randn(1, 2, 2, 6))
    torch.compiler.reset()
    with pytest.raises(Exception, match="residual"):
        torch.compile(module, fullgraph=True, backend="eager")(torch.randn(1, 2, 2, 6))


@pytest.mark.slow
def test_packed_images_of_more_sizes_than_are_remembered() -> None:
    projector = build_projector("ldp", 2, 3)
    grids = [(h, w) for h in range(1, 33) for w in range(1, 33)]
    x = torch.randn(sum(h * w for h, w in grids) + 1600, 2)
    torch.testing.assert_close(
        projector(x, [*grids, (40, 40)])[-400:], projector(x[None, -1600:], (40, 40))[0]
    )
    for grid in grids:
        projector(x[: grid[0] * grid[1]], [grid])
    assert projector(x[:17], [(1, 1), (4, 4)]).shape == (5, 3)


def test_who_casts_what_goes_in_is_not_refused() -> None:
    projector, x = build_projector("mlp2x_gelu", 6, 10), torch.randn(1, 4, 6)
    first = projector.blocks[0]
    first.register_forward_pre_hook(lambda _, args: (args[0].float(),))
    assert torch.equal(projector(x.double()), projector(x))


def test_counting_macs_is_not_disturbed_by_other_threads() -> None:
    """The counter must see its own thread only, and leave no hook behind."""
    busy, stop = build(), threading.Event()

    def run() -> None:
        x = torch.randn(1, 64, 6)
        with torch.inference_mode():
            while not stop.is_set():
                busy(x)

    expected = plan_projector("ldpnet", 16, 32, grid=(8, 8)).to_dict()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert plan_projector("ldpnet", 16, 32, grid=(8, 8)).to_dict() == expected
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    with torch.inference_mode():
        assert plan_projector("ldpnet", 16, 32, grid=(8, 8)).to_dict() == expected


def test_macs_by_hand() -> None:
    plan = plan_projector("ldp", 6, 10, grid=(5, 7))
    pointwise, depthwise = 35 * 6 * 10, 35 * 10 * 9
    later, strided, last = 35 * 10 * 10, 12 * 10 * 9, 12 * 10 * 10
    assert [row.macs for row in plan.rows] == [pointwise, 0, depthwise, later, 0, strided, last, 0]
    assert plan.macs == pointwise + depthwise + later + strided + last


def test_building_respects_the_default_device_and_dtype() -> None:
    with torch.device("meta"):
        assert {p.device.type for p in build().parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["bf16", "bfloat16", "torch.bfloat16", "BF16", torch.bfloat16])
def test_a_dtype_goes_by_all_its_names(name: torch.dtype | str, tmp_path: Path) -> None:
    folder, out = tmp_path / "fp32", tmp_path / "bf16"
    save_projector(build_projector("mlp", 4, 4), folder)
    convert_checkpoint(folder, out, dtype=name)
    for projector in (
        build_projector("mlp", 4, 4, dtype=name),
        Projector(spec_of("mlp", 4, 4), dtype=name),
        LDP(4, 4, dtype=name),
        load_projector(folder, dtype=name),
        load_projector(out),
    ):
        assert {each.dtype for each in projector.parameters()} == {torch.bfloat16}
    with pytest.raises(SpecError, match="dtype: 'half32'; expected a floating-point dtype, such"):
        load_projector(folder, dtype="half32")
    with pytest.raises(SpecError, match="dtype: 'half32'; expected a floating-point dtype, such"):
        convert_checkpoint(folder, tmp_path / "other", dtype="half32")
    assert not (tmp_path / "other").exists()


def test_planning_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert build_projector("ldp", 6, 10, device="meta").plan((4, 4)).macs
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_gives_the_same_projector() -> None:
    a, b = build(), build()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


REFUSED = [
    (
        lambda p: p(torch.randn(1, 577, 6)),
        "x: 577 tokens; expected a square number of tokens, or a grid. 577 = 24x24 + 1: drop the "
        "CLS token with prefix_tokens=1, or pass grid=(h, w).",
    ),
    (
        lambda p: p(torch.randn(1, 580, 6)),
        "x: 580 tokens; expected a square number of tokens, or a grid. 580 = 24x24 + 4: drop the "
        "first 4 tokens with prefix_tokens=4, or pass grid=(h, w).",
    ),
    (
        lambda p: p(torch.randn(1, 8, 6)),
        "x: 8 tokens; expected a square number of tokens, or a grid. 8 = 2x2 + 4: drop the first "
        "4 tokens with prefix_tokens=4, or pass grid=(h, w).",
    ),
    (
        lambda p: p(torch.randn(1, 7, 6)),
        "x: 7 tokens; expected a square number of tokens, or a grid. Pass grid=(h, w).",
    ),
    (lambda p: p(torch.randn(2, 0, 6)), "x: 0 tokens; expected at least one token"),
    (
        lambda p: p(torch.randn(1, 17, 6), grid=(4, 4)),
        "x: 17 tokens, but grid is 4x4 = 16; expected the same. 17 = 4x4 + 1: drop the leading "
        "tokens with prefix_tokens=1.",
    ),
    (
        lambda p: p(torch.randn(1, 12, 6), grid=(4, 4)),
        "x: 12 tokens, but grid is 4x4 = 16; expected the same",
    ),
    (
        lambda p: p(torch.randn(1, 16, 6), grid=(4, 4.0)),
        "grid: (4, 4.0) is not a grid; expected (height, width), two integers from 1 to 65536",
    ),
    (
        lambda p: p(torch.randn(1, 6, 4, 4), grid=(4, 5)),
        "x: the map is 4x4, grid says (4, 5); expected the same",
    ),
    (
        lambda p: p(torch.randn(16, 6)),
        "grid: packed tokens (16, 6) with grid=None; expected a list with the grid of each image, "
        "[(h, w), ...]. For one image, pass x[None].",
    ),
    (
        lambda p: p(torch.randn(1, 16, 7)),
        "x: shape (1, 16, 7) has 7 channels; expected tokens (b, n, 6) or a map (b, 6, h, w)",
    ),
    (
        lambda p: p(torch.randn(1, 4, 4, 6)),
        "x: shape (1, 4, 4, 6) has 4 channels; expected tokens (b, n, 6) or a map (b, 6, h, w). It "
        "looks channels-last: permute it to (b, c, h, w).",
    ),
    (
        lambda p: p(torch.randn(1, 3, 16, 6)),
        "x: shape (1, 3, 16, 6) has 3 channels; expected tokens (b, n, 6) or a map (b, 6, h, w). "
        "If it is frames (b, t, n, c), join them: x.flatten(0, 1). If it is a map (b, h, w, c), "
        "permute it to (b, c, h, w).",
    ),
    (
        lambda p: p(torch.randn(1, 16, 6, dtype=torch.float64)),
        "x: the input is torch.float64, the parameters are torch.float32; expected the same on "
        "both sides. Call x.to(torch.float32) or projector.to(torch.float64).",
    ),
    (
        lambda p: p(torch.ones(1, 16, 6, dtype=torch.int64)),
        "x: a tensor of torch.int64; expected a floating-point tensor",
    ),
    (
        lambda p: p(torch.ones(1, 16, 6, dtype=torch.complex64)),
        "x: a tensor of torch.complex64; expected a floating-point tensor",
    ),
    (
        lambda p: p([[1.0]]),
        "x: list is not a torch.Tensor; expected tokens (b, n, 6) or a map (b, 6, h, w)",
    ),
    (
        lambda p: p(torch.randn(1, 16, 6).to_sparse()),
        "x: a sparse_coo tensor; expected a dense tensor",
    ),
    (lambda p: p(torch.randn(1, 6, 0, 0)), "x: a map of 0x0; expected at least one token"),
    (
        lambda p: p(torch.randn(1, 6, 4, 4), grid=(4.0, 4.0)),
        "grid: (4.0, 4.0) is not a grid; expected (height, width), two integers from 1 to 65536",
    ),
    (
        lambda p: p.tokens([(4, 4), (4, True)]),
        "grid[1]: (4, True) is not a grid; expected (height, width), two integers from 1 to 65536",
    ),
    (
        lambda p: p.tokens([(4, 4)], 7),
        "grid: ([(4, 4)], 7) is not a grid; expected (height, width), two integers from 1 to 65536",
    ),
    (
        lambda p: p(torch.nested.nested_tensor([torch.randn(2, 6), torch.randn(3, 6)])),
        "x: a nested tensor; expected a dense tensor",
    ),
    (
        lambda p: p.tokens(0, 4),
        "grid: (0, 4) is not a grid; expected (height, width), two integers from 1 to 65536",
    ),
    (
        lambda p: p.plan((4,)),
        "grid: (4,) is not a grid; expected (height, width), two integers from 1 to 65536",
    ),
]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m[:40] for _, m in REFUSED])
def test_bad_tensors_are_refused_in_one_sentence(call: object, message: str) -> None:
    with pytest.raises(GridError) as caught:
        call(build())  # type: ignore[operator]
    assert str(caught.value) == message


def test_the_grid_of_the_build_is_named() -> None:
    with pytest.raises(GridError) as caught:
        build(grid=(2, 8))(torch.randn(1, 25, 6))
    assert str(caught.value) == (
        "x: 25 tokens, but the grid given at build is 2x8 = 16; expected the same"
    )


def test_upsampling_is_refused_by_every_call() -> None:
    message = (
        "blocks[3] (pool): a grid of 8x24 cannot be pooled to 12x12; expected an output no larger "
        "than the input grid. It is given 8x24 x 10 by blocks[2] (pointwise)."
    )
    projector = build("ldpnetv2")
    for call in (
        lambda: projector(torch.randn(1, 192, 6), grid=(8, 24)),
        lambda: projector(torch.randn(1, 6, 8, 24)),
        lambda: projector.tokens(8, 24),
        lambda: projector.plan((8, 24)),
        lambda: build("ldpnetv2", grid=(8, 24)),
    ):
        with pytest.raises(GridError) as caught:
            call()
        assert str(caught.value) == message


def test_a_block_that_cannot_be_built_is_named() -> None:
    from mobilevlm import BLOCKS, Block, Feature

    class Exploding(Block):
        def build(self, x: Feature) -> nn.Module:
            raise RuntimeError("boom")

    class Returning(Block):
        def build(self, x: Feature) -> nn.Module:
            return 42  # type: ignore[return-value]

    class Lying(Block):
        def build(self, x: Feature) -> nn.Module:
            return nn.Linear(x.channels, 7)

    BLOCKS.register("lying", Lying)
    try:
        projector = build_projector({"in": 4, "out": 4, "blocks": ["pointwise", "lying"]})
        with pytest.raises(SpecError) as caught:
            projector(torch.randn(1, 4, 4))
        assert str(caught.value) == (
            "blocks: the last module gives 7 channels; expected 4, the projector's 'out'. The "
            "flow method of its block is wrong: tell the block's authors."
        )
        with pytest.raises(SpecError) as caught:
            _ = projector.plan((2, 2)).macs
        assert str(caught.value) == (
            "blocks[1] (lying): its flow says (1, 2, 2, 4), its module gives (1, 2, 2, 7). One of "
            "the two is wrong: tell the block's authors."
        )
    finally:
        BLOCKS.unregister("lying")
    BLOCKS.register("exploding", Exploding)
    BLOCKS.register("returning", Returning)
    try:
        for name, message in (
            ("exploding", "blocks[1] (exploding): building failed: RuntimeError: boom"),
            ("returning", "blocks[1] (returning): build returned 42; expected a torch.nn.Module"),
        ):
            with pytest.raises(SpecError) as caught:
                build_projector({"in": 4, "out": 4, "blocks": ["pointwise", name]})
            assert str(caught.value) == message
            cause = caught.value.__cause__
            assert isinstance(cause, RuntimeError) == (name == "exploding")
    finally:
        BLOCKS.unregister("exploding")
        BLOCKS.unregister("returning")
