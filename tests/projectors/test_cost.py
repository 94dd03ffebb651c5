"""What documents of strangers cost: counted in calls, and never more than the document is long."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
from torch import nn

from mobilevlm import BLOCKS, Block, Feature, MobileVLMError, SpecError, load_spec, plan_projector
from mobilevlm.blocks.core.block import Blocks, walk
from mobilevlm.blocks.core.chain import Chain
from mobilevlm.blocks.identity import Identity
from mobilevlm.registry import did_you_mean, names

CALLS: Counter[str] = Counter()


class Leaf(Identity):
    """A block that counts how often it is asked."""

    number: int = 0

    def flow(self, x: Feature) -> Feature:
        CALLS["flow"] += 1
        return x

    def expand(self, x: Feature) -> Sequence[Block]:
        CALLS["expand"] += 1
        return (self,)

    @property
    def counts_as(self) -> int:
        CALLS["count"] += 1
        return 1


class Wrap(Block):
    """A stranger's block around others, which walks them as it likes."""

    needs_grid: ClassVar[bool] = False

    inner: Blocks

    def flow(self, x: Feature) -> Feature:
        return walk(self.inner, x, ".inner")[-1].y

    def expand(self, x: Feature) -> Sequence[Block]:
        steps = walk(self.inner, x, ".inner", expand=True)
        return (Wrap(inner=tuple(step.block for step in steps)),)

    def build(self, x: Feature) -> nn.Module:
        chain = Chain(*(step.block.build(step.x) for step in walk(self.inner, x, ".inner")))
        return nn.Sequential(OrderedDict(inner=chain))


@pytest.fixture(autouse=True)
def _counted(registries: None) -> Iterator[None]:
    BLOCKS.register("leaf", Leaf)
    BLOCKS.register("wrap", Wrap)
    CALLS.clear()
    yield
    CALLS.clear()


@pytest.fixture
def distances(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every word whose edit distance was asked for."""
    asked: list[str] = []
    real = names._distance

    def distance(a: str, b: str) -> int:
        asked.append(a)
        return real(a, b)

    monkeypatch.setattr(names, "_distance", distance)
    return asked


def names_of(number: int) -> list[Any]:
    return [f"pointwize-{index:05}" for index in range(number)]


def keys_of(number: int) -> list[Any]:
    return [{"type": "depthwise", f"kernel{index:03}": 3} for index in range(number)]


def values_of(number: int) -> list[Any]:
    return [{"type": "norm-act", "act": f"gelu{index:05}"} for index in range(number)]


def zeta_keys_of(number: int) -> list[Any]:
    return [{"type": "zeta-attention", f"hea{index:04}": 1} for index in range(number)]


FAULTS = [names_of, keys_of, values_of, zeta_keys_of]


@pytest.mark.parametrize("faults", FAULTS)
def test_hints_are_looked_for_where_they_are_shown(faults: Any, distances: list[str]) -> None:
    found = []
    for number in (10, 1000):
        distances.clear()
        with pytest.raises(SpecError) as caught:
            load_spec({"in": 8, "out": 8, "blocks": faults(number)})
        text = str(caught.value)
        assert text.startswith(f"{number} problems\n")
        assert text.count("\n") == min(number, 10) + (number > 10)
        found.append(len(distances))
    assert found[0] == found[1]
    assert len(set(distances)) <= 10


def test_the_hint_of_one_of_many_is_as_it_was(distances: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec({"in": 8, "out": 8, "blocks": ["pointwize", "cnov"]})
    assert str(caught.value) == (
        "2 problems\n"
        "  - blocks[0].type: unknown block 'pointwize'. Did you mean 'pointwise'?\n"
        "  - blocks[1].type: unknown block 'cnov'. Did you mean 'conv'?"
    )


def test_a_hint_is_not_looked_for_before_it_is_read(distances: list[str]) -> None:
    with pytest.raises(MobileVLMError) as caught:
        BLOCKS.get("pointwize")
    assert not distances
    assert caught.value.hint == "Did you mean 'pointwise'?"
    before = len(distances)
    assert before
    assert str(caught.value) == "unknown block 'pointwize'. Did you mean 'pointwise'?"
    assert len(distances) == before  # looked for once


def test_what_no_name_can_be_is_compared_with_none(distances: list[str]) -> None:
    known = ["pointwise", "depthwise-residual"]
    assert did_you_mean("p" * 30, known) == ""  # too long to be near
    assert distances == []
    assert did_you_mean("depthwise-residua", known) == "Did you mean 'depthwise-residual'?"
    assert distances == ["depthwise-residua"]  # and pointwise is too short to be near


LEAVES = [{"type": "leaf", "number": number} for number in range(20)]


def around(kind: str, depth: int, blocks: list[Any]) -> list[Any]:
    for _ in range(depth):
        if kind == "residual":
            blocks = [{"type": "residual", "body": blocks}]
        elif kind == "parallel":
            blocks = [{"type": "parallel", "branches": [blocks, ["identity"]]}]
        elif kind == "repeat":
            blocks = [{"type": "repeat", "times": 1, "body": blocks}]
        else:
            blocks = [{"type": "wrap", "inner": blocks}]
    return blocks


@pytest.mark.parametrize("kind", ["residual", "parallel", "repeat", "wrap"])
def test_depth_costs_nothing(kind: str) -> None:
    counts = []
    for depth in (2, 7, 14):
        document = {"in": 8, "out": 8, "blocks": around(kind, depth, LEAVES)}
        CALLS.clear()
        stack = load_spec(document)
        loading = CALLS.copy()
        plan = plan_projector(stack, grid=(4, 4))
        walking = CALLS - loading
        plan.modules()
        building = CALLS - loading - walking
        assert len(plan.rows) >= depth
        counts.append((loading, walking, building))
    assert counts[0] == counts[1] == counts[2]
    for calls in counts[0]:
        # At unknown sides, and a residual at known ones too.
        assert calls["flow"] <= 2 * len(LEAVES)
        assert calls["count"] <= len(LEAVES)
        assert calls["expand"] <= len(LEAVES)


def test_rows_of_a_plan_walk_each_block_once() -> None:
    counts = []
    for depth in (2, 14):
        document = {"in": 8, "out": 8, "blocks": around("residual", depth, LEAVES)}
        plan = plan_projector(document, grid=(4, 4))
        plan.modules()
        CALLS.clear()
        assert len(plan.rows) == depth + len(LEAVES)
        counts.append(CALLS.copy())
    assert counts[0] == counts[1]


def test_a_preset_at_any_depth_is_expanded_once() -> None:
    counts = []
    nested = {"type": "preset", "name": "mlp2x_gelu", "out": "same"}
    for depth in (2, 14):
        CALLS.clear()
        blocks = [*LEAVES, nested]
        stack = load_spec({"in": 8, "out": 8, "blocks": around("residual", depth, blocks)})
        counts.append(CALLS.copy())
        assert load_spec(stack.model_dump(mode="json")) == stack
    assert counts[0] == counts[1]


def test_what_is_written_out_already_is_not_copied() -> None:
    stack = load_spec({"in": 8, "out": 8, "blocks": around("residual", 3, ["identity"])})
    [block] = stack.blocks
    x = stack.feature()
    assert block.expand(x)[0] is block
