"""`tokens=n`: the option of a preset that gives so many tokens."""

import inspect
from typing import Any

import pytest
from helpers.built_ins import FAMILIES, OPTIONS
from helpers.command import run

from mobilevlm import (
    PROJECTORS,
    GridError,
    Preset,
    SpecError,
    Stack,
    build_projector,
    dump_spec,
    plan_projector,
    spec_of,
)
from mobilevlm.blocks.pool import Pool
from mobilevlm.projectors.tokens import with_tokens


@pytest.mark.parametrize(
    ("name", "tokens", "grid", "options"),
    [
        ("flamingo", 32, None, {"queries": 32}),
        ("blip2", 7, None, {"queries": 7}),
        ("minicpmv", 96, None, {"queries": 96}),
        ("qwen-vl", 100, (24, 24), {"queries": 100}),
        ("c-abstractor", 64, None, {"queries": 64}),
        ("ldpnetv2", 64, None, {"size": 8}),
        ("ldpnetv2", 75, (11, 30), {"stride": 2}),
        ("internvl", 64, (24, 24), {"merge": 3}),
        ("internvl", 576, (24, 24), {"merge": 1}),
        ("nvila", 64, (23, 22), {"merge": 3}),
        ("qwen2-vl", 36, (24, 24), {"merge": 4}),
        ("mistral3", 16, (24, 24), {"merge": 6}),  # 5 gives 16 too, and drops 4 rows
        ("gemma3", 9, (24, 24), {"pool": 8}),
        ("perception-lm", 64, (24, 24), {"ratio": 3}),
        ("voxtral", 72, (1, 576), {"frames": 8}),
        ("minicpmv4-6", 36, (24, 24), {"times": 2}),
        ("hunyuan-vl", 74, (24, 24), {"merge": 3}),
        ("ldp", 144, (24, 24), {}),
        ("mlp", 30, (5, 6), {}),
    ],
)
def test_the_option_is_found(
    name: str, tokens: int, grid: tuple[int, int] | None, options: dict[str, Any]
) -> None:
    assert with_tokens(name, {}, tokens, grid) == options
    plan = plan_projector(name, 256, 512, tokens=tokens, grid=grid)
    assert plan.tokens_out == tokens
    assert plan.stack == spec_of(name, 256, 512, **options)
    assert spec_of(name, 256, 512, tokens=tokens, grid=grid) == plan.stack
    assert '"tokens"' not in dump_spec(plan.stack)


def test_what_is_built_gives_so_many() -> None:
    projector = build_projector("internvl", 16, 24, tokens=64, grid=(24, 24))
    assert projector.spec == spec_of("internvl", 16, 24, merge=3)
    assert projector.grid == (24, 24)
    widths: dict[str, Any] = {"in": 16, "out": 24}
    assert build_projector("flamingo", **widths, depth=1, tokens=5).tokens(3, 4) == 5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_what_it_is_asked_for(name: str) -> None:
    cls = PROJECTORS.get(name)
    assert isinstance(cls, type)
    grid = (1, 64) if name == "voxtral" else (24, 24)
    sizes = {k: v for k, v in OPTIONS.get(name, {}).items() if k in cls.model_fields}
    default = cls(**sizes).stack(48, 48).tokens(*grid)
    asked = 0
    for tokens in (default, 1, 16, 36, 37, 64, 74, 144, 289):
        try:
            options = with_tokens(name, sizes, tokens, grid, (48, 48))
        except (SpecError, GridError):
            assert tokens != default
            continue
        asked += 1
        assert cls(**options).stack(48, 48).tokens(*grid) == tokens
    assert asked >= (2 if cls.tokens_by else 1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "internvl",
            {"tokens": 65, "grid": (24, 24)},
            "tokens: 65 tokens of 24x24; expected one of 576 (merge=1), 144 (merge=2), "
            "64 (merge=3), 36 (merge=4), 16 (merge=6), 9 (merge=8), 4 (merge=12)",
        ),
        (
            "internvl",
            {"tokens": 64},
            "tokens: merge sets the number of tokens, which depends on the grid, of internvl. Give "
            "the token grid too: grid=(24, 24).",
        ),
        (
            "internvl",
            {"tokens": 64, "merge": 2, "grid": (24, 24)},
            "tokens: merge=2 gives 144; expected 64. Leave out merge or tokens.",
        ),
        (
            "flamingo",
            {"tokens": 32, "queries": 64},
            "tokens: queries=64 gives 64; expected 32. Leave out queries or tokens.",
        ),
        ("ldpnetv2", {"tokens": 63}, "tokens: 63 tokens; expected a square number. Try 49 or 64."),
        (
            "c-abstractor",
            {"tokens": 144, "end": 1},
            "tokens: 144 tokens; expected a square number plus the 1 of end=1. Try 122 or 145.",
        ),
        (
            "c-abstractor",
            {"tokens": 150},
            "tokens: 150 tokens; expected a square number. Try 144 or 169.",
        ),
        (
            "ldp",
            {"tokens": 100, "grid": (24, 24)},
            "tokens: ldp gives 144; expected 100. Leave out tokens.",
        ),
        (
            "mlp",
            {"tokens": 576},
            "tokens: 576 without a grid, and no option of mlp sets the number of tokens. Leave out "
            "tokens.",
        ),
        (
            "ldp",
            {"tokens": 5},
            "tokens: 5 without a grid, and no option of ldp sets the number of tokens. Leave out "
            "tokens.",
        ),
        (
            "internvl",
            {"tokens": 64, "merge": 3},
            "tokens: the number of tokens depends on the grid, of internvl. Give the token grid "
            "too: grid=(24, 24).",
        ),
        ("mlp", {"tokens": True}, "tokens: True; expected a number of tokens, at least 1"),
        ("mlp", {"tokens": 0}, "tokens: 0; expected a number of tokens, at least 1"),
    ],
)
def test_what_cannot_be_had_is_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    calls: list[Any] = [build_projector, plan_projector, spec_of]
    for call in calls:
        with pytest.raises(SpecError) as caught:
            call(name, 1024, 2048, **arguments)
        assert str(caught.value) == message


def test_what_is_given_too_may_agree() -> None:
    given: dict[str, Any] = {"merge": 3, "act": "silu"}
    stack = spec_of("internvl", 16, 24, tokens=64, grid=(24, 24), **given)
    assert stack == spec_of("internvl", 16, 24, **given)


def test_a_document_says_everything_itself() -> None:
    document = {"in": 4, "out": 4, "blocks": ["pointwise"]}
    with pytest.raises(SpecError) as caught:
        build_projector(document, tokens=4)
    assert str(caught.value) == (
        "tokens: 4; expected a registered name with it. A document says everything itself: edit "
        "its blocks."
    )
    with pytest.raises(SpecError, match="unknown key 'tokens'"):
        build_projector({**document, "tokens": 4})


def test_a_pool_to_more_tokens_than_there_are() -> None:
    with pytest.raises(GridError, match="cannot be pooled to 12x12"):
        plan_projector("ldpnetv2", 16, 24, tokens=144, grid=(8, 8))


class Pooled(Preset):
    """A preset of somebody else's."""

    step: int = 2

    def expand(self, in_: int, out: int) -> Stack:
        return Stack(in_=in_, out=out, blocks=(Pool(stride=self.step),))

    tokens_by = {"step": range(1, 9)}  # noqa: RUF012


def test_any_preset_may_say_it(registries: None) -> None:
    PROJECTORS.register("pooled", Pooled)
    assert plan_projector("pooled", 8, 8, tokens=9, grid=(12, 12)).tokens_out == 9


def test_the_command_line() -> None:
    words = ("in=1024", "out=2048", "grid=24x24")
    status, out, _ = run("show", "internvl", *words, "tokens=64")
    assert status == 0
    assert out == run("show", "internvl", *words, "merge=3")[1]
    assert run("spec", "flamingo", "in=64", "out=96", "tokens=9")[1] == dump_spec(
        spec_of("flamingo", 64, 96, queries=9)
    )
    status, _, err = run("show", "internvl", "in=1024", "out=2048", "tokens=64")
    assert (status, err) == (
        2,
        "error: tokens: merge sets the number of tokens, which depends on the grid, of internvl. "
        "Give the token grid too: grid=24x24.\n",
    )


def test_the_three_functions_take_it() -> None:
    for call in (build_projector, plan_projector, spec_of):
        parameter = inspect.signature(call).parameters["tokens"]
        assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, None)
