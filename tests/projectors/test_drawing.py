"""The drawing of a chain, as text."""

from textwrap import dedent
from typing import Any

import pytest

from mobilevlm import PROJECTORS, MobileVLMError, Plan, plan_projector

WIDTHS = (1024, 2048)

LDP = """
    24x24 x 1024, 576 tokens
    │
    ├─ pointwise
    │    24x24 x 2048
    ├─ norm-act (act="gelu")
    ├─ depthwise-residual (kernel=3, stride=1)
    ├─ pointwise
    ├─ norm-act (norm="layer", act="gelu")
    ├─ depthwise-residual (kernel=3, stride=2)
    │    12x12 x 2048
    ├─ pointwise
    ├─ norm-act (norm="layer")
    ▼
    12x12 x 2048, 144 tokens
"""

BLIP2 = """
    24x24 x 1024, 576 tokens
    │
    ├─ qformer (queries=32, depth=12, heads=12,
    │    act="gelu")
    │    32 x 768
    ├─ pointwise
    ▼
    32 x 2048, 32 tokens
"""

QWEN2_VL = """
    24x24 x 1024, 576 tokens
    │
    │  (the tokens come in blocks of 2x2)
    ├─ norm-act (norm="layer", eps=1e-06)
    ├─ patch-merge (size=[2, 2])
    │    12x12 x 4096
    ├─ pointwise
    ├─ norm-act (act="gelu")
    ├─ pointwise
    ▼
    12x12 x 2048, 144 tokens
"""

TOKEN_PACKER = """
    24x24 x 1024, 576 tokens
    │
    ├─┐ region-attention: query
    │ ├─ take-channels (first=768, count=256)
    │ │    24x24 x 256
    │ ├─ pool (mode="bilinear", stride=2)
    │ │    12x12 x 256
    │ ├─ pointwise (bias=false)
    │ ├─ norm-act (norm="layer", eps=1e-06)
    │ └─ 12x12 x 256
    ├─┐ key
    │ ├─ pointwise
    │ │    24x24 x 256
    │ ├─ norm-act (act="gelu")
    │ ├─ pointwise
    │ ├─ norm-act (norm="layer", eps=1e-06)
    │ └─ 24x24 x 256
    └─┐ value
      ├─ pointwise
      │    24x24 x 256
      ├─ norm-act (act="gelu")
      ├─ pointwise
      ├─ norm-act (norm="layer", eps=1e-06)
      └─ 24x24 x 256
    ┌─ region-attention (stride=2, heads=2)
    │    12x12 x 256
    ├─ pointwise
    │    12x12 x 2048
    ├─ norm-act (act="gelu")
    ├─ pointwise
    ▼
    12x12 x 2048, 144 tokens
"""


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("ldp", 80, LDP),
        ("ldp", 44, LDP),
        ("blip2", 44, BLIP2),
        ("qwen2-vl", 80, QWEN2_VL),
        ("token-packer", 80, TOKEN_PACKER),
    ],
)
def test_families(name: str, columns: int, expected: str) -> None:
    plan = plan_projector(name, *WIDTHS, grid=(24, 24))
    assert plan.chain(columns) == dedent(expected).strip()


DOCUMENT: dict[str, Any] = {
    "in": 32,
    "out": 64,
    "prefix_tokens": 1,
    "token_order": "blocked",
    "blocks": [
        {"type": "preset", "name": "mlp", "out": 48},
        {
            "type": "residual",
            "body": [
                "depthwise",
                {"type": "residual", "body": ["norm-act", {"type": "pointwise", "out": "same"}]},
            ],
        },
        {
            "type": "parallel",
            "join": "cat",
            "branches": [
                ["identity"],
                [{"type": "pointwise", "out": 16}, "norm-act"],
                [{"type": "repeat", "times": 2, "body": ["norm-act"]}],
            ],
        },
        {
            "type": "repeat",
            "times": 2,
            "body": ["patch-merge", {"type": "pointwise", "out": 64}],
        },
        "pointwise",
    ],
}

DRAWN = """
    8x8 x 32, 64 tokens
    │
    │  (the first token is dropped)
    │  (the tokens come in blocks of 2x2)
    ├─ pointwise
    │    8x8 x 48
    ├─ norm-act (act="gelu")
    ├─ pointwise
    ├─┐ residual
    │ ├─ depthwise (kernel=3, stride=1)
    │ ├─┐ residual
    │ │ ├─ norm-act (norm="layer", act="gelu")
    │ │ ├─ pointwise
    │ ├─┘ +
    ├─┘ +
    ├─┐ parallel: branches.0
    │ ├─ identity
    │ └─ 8x8 x 48
    ├─┐ branches.1
    │ ├─ pointwise
    │ │    8x8 x 16
    │ ├─ norm-act (norm="layer", act="gelu")
    │ └─ 8x8 x 16
    └─┐ branches.2
      └─┐ repeat (times=2)
        ├─ norm-act (norm="layer", act="gelu")
      ┌─┘
      └─ 8x8 x 48
    ┌─ parallel (join="cat")
    │    8x8 x 112
    └─┐ repeat (times=2): the first
      ├─ patch-merge (size=[2, 2])
      │    4x4 x 448
      ├─ pointwise
      │    4x4 x 64
    ┌─┘
    │    2x2 x 64
    ├─ pointwise
    ▼
    2x2 x 64, 4 tokens
"""


def test_blocks_inside_blocks() -> None:
    """A skip runs beside its body, branches part and meet, copies and a preset are written out."""
    assert plan_projector(DOCUMENT, grid=(8, 8)).chain() == dedent(DRAWN).strip()


def test_without_a_grid() -> None:
    drawn = plan_projector("qwen-vl", *WIDTHS).chain()
    assert drawn.splitlines()[0] == "?x? x 1024"
    assert drawn.splitlines()[-1] == "256 x 2048, 256 tokens"
    assert plan_projector("ldp", *WIDTHS).chain().splitlines()[-1] == "?x? x 2048"


@pytest.mark.parametrize("columns", [30, 40, 80])
@pytest.mark.parametrize("name", PROJECTORS.names())
def test_every_family_fits(name: str, columns: int) -> None:
    try:
        plan = plan_projector(name, *WIDTHS, grid=(24, 24))
    except MobileVLMError:  # such as identity, whose widths must be equal
        plan = plan_projector(name, 1024, 1024, grid=(24, 24))
    drawn = plan.chain(columns)
    assert max(map(len, drawn.splitlines())) <= columns
    assert drawn.endswith(f"\n{plan.steps[-1].y}, {plan.tokens_out:,} tokens")
    for step in plan.steps:
        assert type(step.block).__name__.lower() in drawn.replace("-", "").lower()


def test_however_narrow_nothing_is_left_out() -> None:
    body: list[Any] = [{"type": "depthwise", "kernel": 5}]
    for _ in range(12):
        body = [{"type": "residual", "body": body}]
    plan = Plan(plan_projector({"in": 8, "out": 8, "blocks": body}).stack, (4, 4))
    words = "".join(plan.chain(20).replace("│", "").split())
    assert "depthwise(kernel=5,stride=1)" in words
    assert words.count("residual") == words.count("+") == 12
