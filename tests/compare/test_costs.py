"""What one projector costs: every figure against the same one worked out another way."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mobilevlm import GridError, SpecError, Stack, compare_projectors, plan_projector, spec_of
from mobilevlm.compare import VisionCost, read_lm
from mobilevlm.projectors.macs import macs_of
from mobilevlm.projectors.projector import Projector

LM = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def test_one_grid_is_its_plan() -> None:
    plan = plan_projector("ldpnetv2", 32, 48, grid=(24, 24))
    [cost] = compare_projectors([("mine", plan.stack)], grid=(24, 24)).rows
    assert (cost.name, cost.family, cost.grids, cost.packed) == ("mine", "", ((24, 24),), False)
    assert (cost.tokens_in, cost.tokens_out) == (576, 144)
    assert cost.parameters == plan.parameters
    assert cost.macs == plan.macs
    assert cost.macs_run == plan.macs_run
    assert cost.macs_run < cost.macs
    assert cost.plan.grid == (24, 24)
    nothing = (cost.prefill_macs, cost.kv_bytes, cost.saved, cost.total_macs, cost.share)
    assert nothing == (None,) * 5


@pytest.mark.parametrize("name", ["ldp", "perception-lm", "internvl", "flamingo", "qwen2-vl"])
def test_packed_images_cost_what_their_forward_does(name: str) -> None:
    grids = [(8, 8), (6, 4), (8, 8)]
    [cost] = compare_projectors([name], 32, 64, grid=grids, packed=True).rows
    alone = compare_projectors([name], 32, 64, grid=grids).rows
    assert [row.grids for row in alone] == [((8, 8),), ((6, 4),)]
    assert cost.tokens_in == 64 + 24 + 64
    assert cost.tokens_out == 2 * alone[0].tokens_out + alone[1].tokens_out
    assert cost.macs == 2 * alone[0].macs + alone[1].macs
    assert cost.images == "2 of 8x8 + 6x4"
    assert cost.plan.grid is None
    # On meta, as torch (2.13) does not count the attention of its CPU kernels.
    projector = Projector(cost.plan.stack, grid=cost.plan.grid, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = projector(torch.empty(152, 32, device="meta"), grid=grids)
    assert len(y) == cost.tokens_out
    # The counter's hooks keep the blocks in the order written.
    assert counter.get_total_flops() == 2 * cost.macs
    x = torch.empty(152, 32, device="meta")
    assert macs_of(lambda: projector(x, grid=grids)) == cost.macs_run
    assert (cost.macs_run < cost.macs) == (name == "perception-lm")


def test_packed_images_of_one_size_have_its_plan() -> None:
    grids = [(8, 8), (8, 8)]
    [cost] = compare_projectors(["perception-lm"], 32, 64, grid=grids, packed=True).rows
    assert cost.plan.grid == (8, 8)
    assert cost.plan.macs_run is not None
    assert cost.macs_run == 2 * cost.plan.macs_run


def test_prefix_tokens_enter_and_do_not_count() -> None:
    stack = spec_of("mlp2x_gelu", 32, 64, prefix_tokens=1)
    [cost] = compare_projectors([stack], grid=(4, 4)).rows
    assert (cost.tokens_in, cost.tokens_out) == (16, 16)
    assert cost.activation_bytes("float32") == 4 * (17 * 32 + 2 * 16 * 64)


def test_the_language_model_sees_the_tokens_that_leave() -> None:
    lm = read_lm(LM)
    vision = VisionCost(macs=1_000_000, tokens=576)
    cost, same = compare_projectors(
        ["perception-lm", "mlp2x_gelu"], 32, grid=(24, 24), tower=vision, lm=LM
    ).rows
    assert cost.plan.stack.out == 64
    assert cost.prefill_macs == lm.prefill_macs(144)
    assert cost.kv_bytes == lm.kv_bytes(144, 2) == 144 * 2 * 2 * 2 * 16 * 2
    assert cost.unreduced_prefill_macs == lm.prefill_macs(576)
    assert cost.unreduced_kv_bytes == 4 * cost.kv_bytes
    assert cost.saved == 1 - lm.prefill_macs(144) / lm.prefill_macs(576)
    assert cost.total_macs == 1_000_000 + cost.macs_run + lm.prefill_macs(144)
    assert cost.share == cost.macs_run / cost.total_macs < cost.macs / cost.total_macs
    assert same.saved == 0
    specs = ["perception-lm"]
    [wide] = compare_projectors(specs, 32, grid=(24, 24), lm=lm, dtype="float32").rows
    assert wide.kv_bytes == 2 * cost.kv_bytes
    assert wide.share is None


def test_the_tower_sees_each_image() -> None:
    clip = {"model_type": "clip_vision_model", "hidden_size": 64, "image_size": 32, "patch_size": 8}
    one, other = compare_projectors(["ldp"], tower=clip, out=8, grid=[(4, 4), (2, 6)]).rows
    [both] = compare_projectors(["ldp"], tower=clip, out=8, grid=[(4, 4), (2, 6)], packed=True).rows
    assert one.tower_macs is not None
    assert other.tower_macs is not None
    assert both.tower_macs == one.tower_macs + other.tower_macs
    assert one.plan.stack.prefix_tokens == 1  # the class token


def test_it_is_json() -> None:
    [cost] = compare_projectors(["ldp"], 32, grid=(8, 8), lm=LM).rows
    found = json.loads(json.dumps(cost.to_dict()))
    assert found["name"] == found["family"] == "ldp"
    assert found["grids"] == [[8, 8]]
    assert (found["tokens_in"], found["tokens_out"]) == (64, 16)
    assert found["activation_bytes"] == cost.activation_bytes()
    assert found["saved"] == cost.saved
    assert found["total_macs"] is None
    assert found["note"].startswith("MobileVLM's released projectors are")


def test_what_does_not_fit_is_refused_at_once() -> None:
    stack = spec_of("internvl", 32, 64)
    with pytest.raises(GridError, match="5x4 does not divide"):
        compare_projectors([stack], grid=(5, 4))
    with pytest.raises(SpecError, match="parameters; expected at most 100"):
        compare_projectors([stack], grid=(4, 4), max_parameters=100)
    # Blocks alone would take this grid, the order of the tokens does not.
    blocked = stack.model_copy(update={"token_order": "blocked-3x3"})
    with pytest.raises(GridError, match="3x3"):
        compare_projectors([blocked], grid=(4, 4))
    # A learned position for each place of one grid.
    learned = Stack.parse({"in": 8, "out": 8, "blocks": ["position", "pointwise"]})
    assert compare_projectors([learned], grid=[(4, 4), (4, 4)], packed=True).rows
    with pytest.raises(SpecError, match="the grid is not known"):
        compare_projectors([learned], grid=[(4, 4), (5, 4)], packed=True)
