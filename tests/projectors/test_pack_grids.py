"""Grids as tensors, and what packed images need worked out once, also at a budget."""

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from mobilevlm import GridError, Projector, build_projector, build_vision_projector
from mobilevlm.testing import HostReadError, refuse_host_reads

GRIDS = [(4, 6), (12, 4), (4, 6), (2, 2)]
BUDGET = (160, 6)
NAMES = ["internvl", "mistral3", "mlp", "molmo", "qwen2-vl"]
names = pytest.mark.parametrize("name", NAMES)


def made(name: str, **options: Any) -> Projector:
    torch.manual_seed(0)
    return build_projector(name, 8, 12, **options).eval()


def tokens(grids: list[tuple[int, int]]) -> Tensor:
    return torch.randn(sum(h * w for h, w in grids), 8)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@names
def test_a_tensor_is_read_like_a_list(name: str, dtype: torch.dtype) -> None:
    projector, x = made(name), tokens(GRIDS)
    grids = torch.tensor(GRIDS, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(projector(x, grid=grids), projector(x, grid=GRIDS))
        alone = projector(x[None, :24], grid=grids[0])
        assert torch.equal(alone, projector(x[None, :24], grid=GRIDS[0]))
    assert projector.tokens(grids) == projector.tokens(GRIDS)
    assert projector.tokens(grids[0]) == projector.tokens(GRIDS[0])


@names
def test_the_frames_of_a_video_are_images(name: str) -> None:
    projector, grid_thw = made(name), torch.tensor([[3, 4, 6], [1, 2, 2]])
    frames = [(4, 6)] * 3 + [(2, 2)]
    x = tokens(frames)
    with torch.inference_mode():
        expected = projector(x, grid=frames)
        assert torch.equal(projector(x, grid=grid_thw), expected)
        assert torch.equal(projector(x, grid=[(3, 4, 6), (1, 2, 2)]), expected)
        packed = projector.pack_grids(grid_thw)
        assert torch.equal(projector(x, grid=packed), expected)
    one, two = projector.tokens(4, 6), projector.tokens(2, 2)
    assert projector.tokens(grid_thw) == [3 * one, two] == list(packed.lengths)
    assert packed.total == 3 * one + two == len(expected)


@pytest.mark.parametrize("name", [*NAMES, "ldp", "flamingo", "c-abstractor"])
def test_grids_worked_out_before_give_the_same_bits(name: str) -> None:
    options = {"flamingo": {"queries": 4, "depth": 1, "heads": 2}, "c-abstractor": {"queries": 4}}
    projector, x = made(name, **options.get(name, {})), tokens(GRIDS[:3])
    packed = projector.pack_grids(GRIDS[:3])
    with torch.inference_mode():
        expected = projector(x, grid=GRIDS[:3])
        with refuse_host_reads():
            y = projector(x, grid=packed)
    assert packed.budget is None
    torch.testing.assert_close(y, expected)  # under a dispatch mode the plain forms run
    assert torch.equal(projector(x, grid=packed), projector(x, grid=GRIDS[:3]))


@pytest.mark.quick("mistral3", "qwen2-vl")
@names
def test_one_compilation_serves_every_batch_within_a_budget(name: str) -> None:
    projector, chosen = made(name), random.Random(0)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(projector, backend=counter, fullgraph=True)
    shapes = set()
    for count in (1, 2, 3, 4, 5, 6):
        sides = [2 * chosen.randint(1, 2) for _ in range(2 * count)]
        grids = list(zip(sides[::2], sides[1::2], strict=True))
        packed, x = projector.pack_grids(grids, BUDGET), tokens(grids)
        padded = packed.pad(x)
        padded[len(x) :] = float("nan")  # as a buffer may hold from the last batch
        with torch.inference_mode():
            expected = projector(x, grid=grids)
            with refuse_host_reads():
                eager = projector(padded, grid=packed)
            torch.testing.assert_close(eager[: packed.total], expected)
            y = compiled(padded, grid=packed)
        torch.testing.assert_close(y[: packed.total], expected)
        assert [len(part) for part in y[: packed.total].split(packed.lengths)] == projector.tokens(
            grids
        )
        assert y.isfinite().all()
        shapes.add((y.shape, *(each.shape for each in packed.tensors())))
    assert counter.frame_count == 1
    assert len(shapes) == 1


@names
def test_fake_tensors_have_no_values_to_read(name: str) -> None:
    projector, grids = made(name), GRIDS[:2]
    packed = projector.pack_grids(grids, BUDGET)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = projector(mode.from_tensor(packed.pad(tokens(grids))), grid=packed)
    assert y.shape[0] >= packed.total


def test_a_captured_graph_reads_the_numbers_that_are_copied_in() -> None:
    projector = made("qwen2-vl")
    static = projector.pack_grids([(2, 2)], BUDGET)
    buffer = torch.zeros(BUDGET[0], 8)
    addresses = [each.data_ptr() for each in static.tensors()]
    with torch.inference_mode():
        for grids in (GRIDS, [(8, 8)], GRIDS[::-1]):
            packed, x = projector.pack_grids(grids, BUDGET), tokens(grids)
            assert static.copy_(packed) is static
            assert (static.lengths, static.total) == (packed.lengths, packed.total)
            buffer[: len(x)] = x
            y = projector(buffer, grid=static)[: static.total]
            torch.testing.assert_close(y, projector(x, grid=grids))
    assert [each.data_ptr() for each in static.tensors()] == addresses


def test_gradients_pass_through_a_budget_and_padding_has_none() -> None:
    projector, x = made("mistral3"), tokens(GRIDS)
    packed = projector.pack_grids(GRIDS, BUDGET)
    weights = torch.randn(packed.total, 12)

    def gradients(run: Any) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        loss = (run(leaf) * weights).sum()
        return list(torch.autograd.grad(loss, [leaf, *projector.parameters()]))

    have = gradients(lambda leaf: projector(packed.pad(leaf), grid=packed)[: packed.total])
    want = gradients(lambda leaf: projector(leaf, grid=GRIDS))
    for one, other in zip(have, want, strict=True):
        torch.testing.assert_close(one, other)


def test_a_budget_that_is_just_enough_and_no_images() -> None:
    projector, x = made("qwen2-vl"), tokens(GRIDS)
    exact = projector.pack_grids(GRIDS, (len(x), len(GRIDS)))
    with torch.inference_mode():
        torch.testing.assert_close(
            projector(exact.pad(x), grid=exact), projector(x, grid=GRIDS), rtol=0, atol=0
        )
        none = projector.pack_grids([], BUDGET)
        y = projector(none.pad(x[:0]), grid=none)
    assert (none.lengths, none.total) == ((), 0)
    assert y.isfinite().all()


def test_packed_grids_move_and_copy() -> None:
    projector = made("internvl")
    packed = projector.pack_grids(GRIDS, BUDGET)
    assert repr(packed) == (
        "PackedGrids([(4, 6), (12, 4), (4, 6), (2, 2)], budget=(160, 6), lengths=(6, 12, 6, 1))"
    )
    away = packed.to("meta")
    assert {each.device.type for each in away.tensors()} == {"meta"}
    assert {each.device.type for each in packed.tensors()} == {"cpu"}
    assert projector.pack_grids(GRIDS, device="meta").images.device.type == "meta"
    assert copy.deepcopy(packed).lengths == packed.lengths


def test_a_drop_in_takes_tensors_and_grids_worked_out_before() -> None:
    config = {"mm_projector_type": "ldpnet", "mm_hidden_size": 8, "hidden_size": 12}
    projector = build_vision_projector(config).eval()
    x, packed = tokens(GRIDS[:2]), projector.pack_grids(GRIDS[:2])
    with torch.inference_mode():
        expected = projector(x, grid=GRIDS[:2])
        assert torch.equal(projector(x, grid=torch.tensor(GRIDS[:2])), expected)
        assert torch.equal(projector(x, grid=packed), expected)
    assert refusal(lambda: projector.pack_grids(GRIDS[:2], BUDGET)) == (
        "budget: upstream's modules do not run at a budget; expected None. projector.native() has "
        "the same weights, and runs at one."
    )
    native = projector.native()
    at_a_budget = native.pack_grids(GRIDS[:2], BUDGET)
    with torch.inference_mode():
        y = native(at_a_budget.pad(x), grid=at_a_budget)[: at_a_budget.total]
    torch.testing.assert_close(y, expected)


CHANGED = (
    "grid: its modules or their hooks have changed since pack_grids; expected the same. Call "
    "pack_grids again."
)


def refusal(call: Any) -> str:
    with pytest.raises(GridError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            torch.ones(2, 2),
            "grid: a tensor (2, 2) of torch.float32; expected integers, (n, 2) of (h, w) or (n, 3) "
            "of (t, h, w)",
        ),
        (
            torch.ones(2, 4, dtype=torch.long),
            "grid: a tensor (2, 4) of torch.int64; expected integers, (n, 2) of (h, w) or (n, 3) "
            "of (t, h, w)",
        ),
        (
            torch.tensor([[4, 0]]),
            "grid[0]: [4, 0] is not a grid; expected (height, width), two integers from 1 to 65536",
        ),
        (torch.tensor([[0, 4, 4]]), "grid[0]: 0 frames; expected at least one"),
    ],
    ids=str,
)
def test_wrong_tensors_are_refused(grid: Tensor, message: str) -> None:
    projector = made("qwen2-vl")
    assert refusal(lambda: projector(torch.zeros(16, 8), grid=grid)) == message
    assert refusal(lambda: projector.pack_grids(grid)) == message
    assert refusal(lambda: projector.tokens(grid)) == message


def test_budgets_that_cannot_hold_are_refused() -> None:
    projector = made("qwen2-vl")
    assert refusal(lambda: projector.pack_grids(GRIDS, (96, 8))) == (
        "budget: 4 images of 100 patches; expected at most 8 of 96. Take a larger budget, or pack "
        "fewer of them."
    )
    assert refusal(lambda: projector.pack_grids(GRIDS, (128, 3))) == (
        "budget: 4 images of 100 patches; expected at most 3 of 128. Take a larger budget, or pack "
        "fewer of them."
    )
    assert refusal(lambda: projector.pack_grids(GRIDS, 256)) == (
        "budget: 256; expected (patches, images)"
    )
    assert refusal(lambda: projector.pack_grids(GRIDS, (256, 0))) == (
        "budget: (256, 0); expected two positive integers, (patches, images)"
    )
    assert refusal(lambda: projector.pack_grids([(3, 5)], BUDGET)).startswith(
        "grid: a grid of 3x5 cannot come in blocks of 2x2"
    )
    assert refusal(lambda: projector.pack_grids([])) == (
        "grids: there are no images; expected at least one. Without a budget, call the projector "
        "with x of (0, c) and grid=[]."
    )


def test_a_list_of_grids_is_for_packed_images() -> None:
    projector = made("qwen2-vl")
    for grid in ([(4, 4), (4, 4)], torch.tensor([[4, 4], [4, 4]])):
        assert refusal(lambda grid=grid: projector(torch.zeros(2, 16, 8), grid=grid)) == (
            "grid: a list of grids with tokens (b, n, c); expected one grid for all of them, (h, "
            "w). Images of different sizes are packed: their tokens one after the other, (n, c)."
        )


def test_an_input_of_another_length_is_refused() -> None:
    projector, x = made("qwen2-vl"), tokens(GRIDS)
    packed = projector.pack_grids(GRIDS, BUDGET)
    assert refusal(lambda: projector(x, grid=packed)) == (
        "x: shape (100, 8); expected (160, 8), as pack_grids was asked for. With a budget, "
        "packed.pad(x) adds the rows that are missing."
    )
    image = torch.zeros(1, 8, 10, 16)
    assert refusal(lambda: projector(image, grid=packed)).startswith(
        "x: shape (1, 8, 10, 16); expected (160, 8), as pack_grids was asked for"
    )
    assert refusal(lambda: packed.pad(x[:-1])) == (
        "x: 99 packed tokens, but the grids hold 100; expected the same"
    )
    stranger = made("internvl").pack_grids(GRIDS, BUDGET)
    assert refusal(lambda: packed.copy_(stranger)) == (
        "other: grids packed by another projector; expected its own. Call pack_grids of the same "
        "one."
    )
    other = projector.pack_grids(GRIDS, (164, 6))
    assert refusal(lambda: packed.copy_(other)) == (
        "other: the budgets (160, 6) and (164, 6); expected the same budget. Only grids of the "
        "same budget have the same shapes."
    )


def test_grids_packed_by_another_projector_are_refused() -> None:
    projector, x = made("mistral3"), tokens(GRIDS)
    packed = projector.pack_grids(GRIDS)
    with torch.inference_mode():
        expected = projector(x, grid=packed)
        assert torch.equal(copy.deepcopy(projector)(x, grid=packed), expected)
    other = made("internvl")
    assert refusal(lambda: other(x, grid=packed)) == (
        "grid: grids packed by another projector; expected its own. Call pack_grids of this one."
    )


def test_hooks_that_a_budget_would_bypass_are_refused() -> None:
    projector, x = made("mistral3"), tokens(GRIDS)
    before = projector.pack_grids(GRIDS)
    place = next(i for i, mixes in enumerate(projector.blocks.mixing or ()) if mixes)
    handle = projector.blocks[place].register_forward_hook(lambda *_: None)
    assert refusal(lambda: projector.pack_grids(GRIDS, BUDGET)) == (
        f"blocks.{place}: it has hooks, which a run at a budget would bypass; expected none. "
        "Remove them, or leave out the budget."
    )
    handle.remove()
    projector.blocks.register_forward_hook(lambda *_: None)
    assert refusal(lambda: projector.pack_grids(GRIDS, BUDGET)).startswith("blocks: it has hooks")
    assert refusal(lambda: projector(x, grid=before)) == CHANGED


@pytest.mark.parametrize("budget", [None, BUDGET])
@pytest.mark.parametrize("name", ["mistral3", "qwen2-vl"])
def test_hooks_and_modules_since_pack_grids_are_not_bypassed(name: str, budget: Any) -> None:
    projector, x = made(name), tokens(GRIDS)
    packed = projector.pack_grids(GRIDS, budget)
    place = next(i for i, mixes in enumerate(projector.blocks.mixing or ()) if mixes)
    handle = projector.blocks[place].register_forward_hook(lambda *_: None)
    assert refusal(lambda: projector(packed.pad(x), grid=packed)) == CHANGED
    handle.remove()
    projector(packed.pad(x), grid=packed)
    projector.blocks[place] = nn.Identity()
    assert refusal(lambda: projector(packed.pad(x), grid=packed)) == CHANGED


def test_compiled_code_reads_no_tensor_of_grids() -> None:
    projector, x, grids = made("qwen2-vl"), tokens(GRIDS), torch.tensor(GRIDS)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="read_grids"):
        torch.compile(projector, backend="eager", fullgraph=True)(x, grid=grids)
    torch._dynamo.reset()
    compiled = torch.compile(projector, backend="eager")
    assert refusal(lambda: compiled(x, grid=grids)) == (
        "grid: a tensor, whose values compiled code does not know; expected what "
        "projector.pack_grids(grids) returns"
    )


def test_reading_a_tensor_of_grids_is_a_host_read() -> None:
    projector = made("qwen2-vl")
    with refuse_host_reads(), pytest.raises(HostReadError, match="tolist"):
        projector(tokens(GRIDS), grid=torch.tensor(GRIDS))


def test_a_module_of_somebody_else_is_named() -> None:
    projector = made("mistral3")
    place = next(i for i, mixes in enumerate(projector.blocks.mixing or ()) if mixes)
    projector.blocks[place] = nn.Identity()
    assert refusal(lambda: projector.pack_grids(GRIDS, BUDGET)) == (
        f"blocks.{place}: Identity does not run at a budget; expected a module with pack and "
        "forward_packed. "
        "Leave out the budget."
    )


def test_a_module_inside_others_is_named_by_its_whole_path() -> None:
    inner = {"type": "parallel", "join": "cat", "branches": [["identity"], ["depthwise"]]}
    body = [{"type": "repeat", "times": 2, "body": ["depthwise"]}, inner, "pointwise"]
    blocks = ["pointwise", {"type": "residual", "body": body}]
    projector = build_projector({"in": 8, "out": 8, "blocks": blocks})
    for path in ("blocks.1.body.0.1.body.0", "blocks.1.body.1.branches.1.0"):
        parent, _, name = path.rpartition(".")
        depthwise = projector.get_submodule(path)
        setattr(projector.get_submodule(parent), name, nn.Identity())
        assert refusal(lambda: projector.pack_grids(GRIDS, BUDGET)) == (
            f"{path}: Identity does not run at a budget; expected a module with pack and "
            "forward_packed. "
            "Leave out the budget."
        )
        setattr(projector.get_submodule(parent), name, depthwise)
