"""Plans of tensor parallelism; tests/extras/distributed trains by them."""

from typing import Any, ClassVar

import pytest
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES

from mobilevlm import (
    BLOCKS,
    Block,
    Feature,
    Projector,
    SpecError,
    build_projector,
    list_projectors,
)

Plan = dict[str, str]
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def build(*blocks: object) -> Projector:
    return build_projector({"in": 48, "out": 64, "blocks": [*blocks]}, device="meta")


def styles(projector: Projector, size: int | None = None) -> list[str]:
    """Return the styles of what is not replicated, in order."""
    return [style for style in projector.tp_plan(size).values() if style != "replicate"]


@pytest.mark.parametrize("name", list_projectors())
def test_each_family_has_a_plan(name: str) -> None:
    """It names each module that has parameters, once, in words that transformers knows."""
    in_ = 64 if name == "identity" else 48
    projector = build_projector(name, in_, 64, grid=(12, 12), device="meta")
    for size in (None, 2, 3):
        plan = projector.tp_plan(size)
        owners = {key.rpartition(".")[0] for key, _ in projector.named_parameters()}
        assert plan.keys() == owners
        assert {*plan.values()} <= {*ALL_PARALLEL_STYLES}
        linear = [path for path in plan if isinstance(projector.get_submodule(path), nn.Linear)]
        assert linear == [path for path in plan if plan[path] != "replicate"]


def test_two_layers_around_what_is_elementwise_are_shared() -> None:
    projector = build_projector("mlp", 48, 64, depth=3)
    expected = {"blocks.0": "colwise", "blocks.2": "rowwise", "blocks.4": "colwise_gather_output"}
    assert projector.tp_plan() == expected
    scale = {"type": "scale", "by": 2.0}
    assert styles(build("pointwise", scale, "pointwise")) == ["colwise", "rowwise"]
    normalised = build("pointwise", scale, "norm-act", "pointwise")
    assert styles(normalised) == ["colwise_gather_output"] * 2


def test_a_softmax_sees_all_channels() -> None:
    """It is an activation, but not elementwise, alone or in a gate."""
    softmax = {"type": "norm-act", "norm": "none", "act": "softmax"}
    assert styles(build("pointwise", softmax, "pointwise")) == ["colwise_gather_output"] * 2
    assert (
        styles(build({"type": "glu", "act": "softmax"}, "pointwise"))
        == ["colwise_gather_output"] * 3
    )
    assert styles(build("glu", "pointwise")) == ["colwise", "colwise", "rowwise"]
    excite = {"type": "squeeze-excite", "act": "softmax"}
    assert styles(build(excite, "pointwise")) == ["colwise_gather_output"] * 3


@pytest.mark.parametrize("name", ["glu", "pointwise"])
def test_what_nothing_undoes_is_gathered(name: str) -> None:
    assert {*styles(build(name))} == {"colwise_gather_output"}
    assert {*styles(build(name, "norm-act"))} == {"colwise_gather_output"}


def test_widths_that_do_not_divide_are_gathered() -> None:
    projector = build({"type": "pointwise", "out": 50}, "pointwise")
    assert styles(projector, 2) == ["colwise", "rowwise"]
    assert styles(projector, 4) == ["colwise_gather_output"] * 2


def attention_styles(size: int | None = None, **options: object) -> list[str]:
    """Return the styles of the four layers of an attention of 8 heads, 4 of keys and values."""
    block = {"type": "resampler", "depth": 1, "heads": 8, "head_dim": 8, "kv_heads": 4}
    plan = build({**block, **options}, "pointwise").tp_plan(size)
    return [plan[f"blocks.0.layers.0.attention.{name}"] for name in ATTENTION]


@pytest.mark.parametrize(
    ("size", "shared"), [(None, True), (2, True), (4, True), (8, False), (3, False)]
)
def test_heads_stay_whole(size: int | None, *, shared: bool) -> None:
    """Also those of the keys and values, of which there are fewer."""
    expected = ["colwise"] * 3 + ["rowwise"] if shared else ["colwise_gather_output"] * 4
    assert attention_styles(size) == expected


@pytest.mark.parametrize("options", [{"kv_heads": 1}, {"qk_norm": True}])
def test_one_head_and_norms_of_heads_are_gathered(options: dict[str, object]) -> None:
    """A norm's weights would get gradients of each process's own heads."""
    assert attention_styles(**options) == ["colwise_gather_output"] * 4


class Bottleneck(nn.Module):
    """Two layers, of which the second uses its weight without being called."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, 8)
        self.second = nn.Linear(8, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) @ self.second.weight.T


class Described(Bottleneck):
    """One that calls both, and says so."""

    tp_styles: ClassVar[Plan] = {"first": "colwise", "second": "rowwise"}

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("cls", "expected"),
    [(Bottleneck, ["replicate", "replicate"]), (Described, ["colwise", "rowwise"])],
)
def test_others_modules_are_replicated_unless_they_say_how(
    cls: type[Bottleneck], expected: list[str]
) -> None:
    @BLOCKS.register("bottleneck")
    class BottleneckBlock(Block):
        def build(self, x: Feature) -> nn.Module:
            return cls(x.channels)

    plan = build("bottleneck", "pointwise").tp_plan()
    assert plan == {
        "blocks.0.first": expected[0],
        "blocks.0.second": expected[1],
        "blocks.1": "colwise_gather_output",
    }


def test_torchs_styles() -> None:
    projector = build("norm-act", "pointwise", {"type": "glu", "out": 32}, "pointwise")
    plan, found = projector.tp_plan(2), projector.parallel_styles(2)
    assert plan == {
        "blocks.0.norm": "replicate",
        "blocks.1": "colwise_gather_output",
        "blocks.2.gate": "colwise",
        "blocks.2.value": "colwise",
        "blocks.3": "rowwise",
    }
    assert [*found] == [*plan][1:]
    kinds = [ColwiseParallel, ColwiseParallel, ColwiseParallel, RowwiseParallel]
    assert [*map(type, found.values())] == kinds
    outputs = [(Replicate(),), (Shard(-1),), (Shard(-1),), (Replicate(),)]
    assert [each.output_layouts for each in found.values()] == outputs
    # Each is applied to one module, and keeps what it learnt of it.
    assert len({*map(id, found.values())}) == 4


def test_what_peft_or_a_quantisation_has_replaced_is_replicated() -> None:
    projector = build_projector("mlp", 48, 64)
    projector.blocks[0] = nn.utils.parametrizations.orthogonal(nn.Linear(48, 64))
    assert projector.tp_plan()["blocks.2"] == "colwise_gather_output"


@pytest.mark.parametrize("size", [0, -1, "2", 1.5, True])
def test_what_is_no_number_of_processes_is_refused(size: Any) -> None:
    projector = build_projector("mlp", 8, 12, device="meta")
    for call in (projector.tp_plan, projector.parallel_styles):
        with pytest.raises(SpecError, match=r"size: .*a number of processes"):
            call(size)
