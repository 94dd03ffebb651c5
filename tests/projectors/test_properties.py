"""Laws that hold for every stack: paper equals tensors, documents read back, errors are ours."""

import contextlib
import copy
import json
import re
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mobilevlm import (
    GridError,
    MobileVLMError,
    Projector,
    Stack,
    build_projector,
    dump_spec,
    load_spec,
    plan_projector,
)

WIDTHS = st.integers(1, 12)
ACTS = [
    "gelu",
    "gelu-tanh",
    "quick-gelu",
    "silu",
    "relu",
    "hardswish",
    "softmax",
    "none",
    "mish",
    "tanh",
]


def block(type_: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(type_)}, optional=fields)


POINTWISE = block(
    "pointwise", out=WIDTHS | st.sampled_from(["in", "out", "same"]), bias=st.booleans()
)
NORM_ACT = block(
    "norm-act",
    norm=st.sampled_from(["layer", "rms", "none"]),
    eps=st.sampled_from([1e-6, 1e-5, 1.0]),
    act=st.sampled_from(ACTS),
)
SQUEEZE = block("squeeze-excite", mid=WIDTHS, gate=st.sampled_from(["sigmoid", "hardsigmoid"]))
KEEPING = st.one_of(
    block("identity"),
    NORM_ACT,
    SQUEEZE,
    block("depthwise", kernel=st.sampled_from([1, 3, 5]), bias=st.booleans()),
    block("depthwise-residual", kernel=st.sampled_from([1, 3, 5])),
    block("pointwise").map(lambda fields: {**fields, "out": "same"}),
)
POOL = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("pool"),
            "mode": st.sampled_from(["avg", "max"]),
            "stride": st.integers(1, 3),
            "ceil": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("pool"),
            "mode": st.just("adaptive"),
            "size": st.lists(st.integers(1, 4), min_size=2, max_size=2),
        }
    ),
)
STRIDED = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["depthwise", "depthwise-residual"]),
        "stride": st.integers(2, 3),
    }
)
MERGE = block(
    "patch-merge",
    size=st.integers(1, 3) | st.lists(st.integers(1, 3), min_size=2, max_size=2),
    order=st.sampled_from(["hwc", "chw"]),
    odd=st.sampled_from(["refuse", "pad", "drop"]),
    transpose=st.booleans(),
)
WIDENING = st.one_of(
    block("glu", out=WIDTHS, act=st.sampled_from(ACTS), limit=st.sampled_from([None, 1.0])),
    block("conv", out=WIDTHS, kernel=st.sampled_from([1, 3]), stride=st.integers(1, 2)),
    st.fixed_dictionaries(
        {"type": st.just("scale"), "by": st.sampled_from([0.5, -2.0, "root-channels"])}
    ),
    block("newline"),
    st.just({"type": "position", "kind": "axes", "size": [24, 24]}),
    st.fixed_dictionaries(
        {
            "type": st.just("attention-pool"),
            "stride": st.integers(1, 3),
            "heads": st.integers(1, 2),
            "head_dim": st.integers(1, 3),
            "ceil": st.booleans(),
        },
        optional={"out": WIDTHS},
    ),
)
QUERIES = st.integers(1, 5)
# What loses the grid: queries, and tokens put beside the image's.
SEQUENCE = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("extra-tokens"),
            "at": st.sampled_from(["begin", "end"]),
            "count": st.integers(1, 3),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("extra-tokens"),
            "at": st.sampled_from(["begin", "end"]),
            "kind": st.just("mean"),
        }
    ),
    block("cross-attention", self_keys=st.booleans(), queries=QUERIES).map(
        lambda fields: {**fields, "heads": 1}
    ),
    block("resampler", queries=QUERIES, ffn=st.sampled_from(["gelu", "swiglu"])).map(
        lambda fields: {**fields, "depth": 1, "heads": 2, "head_dim": 3}
    ),
    block("qformer", queries=QUERIES, hidden=WIDTHS, out=WIDTHS).map(
        lambda fields: {**fields, "depth": 2, "heads": 1}
    ),
    block("query-resampler", queries=QUERIES, out=st.sampled_from([4, 8])).map(
        lambda fields: {"out": 4, **fields, "heads": 2}
    ),
)
PRESET = st.fixed_dictionaries(
    {"type": st.just("preset"), "name": st.sampled_from(["ldp", "mlp", "linear", "mlp3x_gelu"])},
    optional={"out": WIDTHS},
)
RESIDUAL = st.recursive(
    KEEPING,
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("residual"), "body": st.lists(inner, min_size=1, max_size=3)}
    ),
    max_leaves=4,
)
CHAINS = st.lists(st.one_of(KEEPING, POOL, WIDENING), min_size=1, max_size=2)
CONTAINER = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("parallel"),
            "branches": st.lists(CHAINS, min_size=2, max_size=3),
            "join": st.sampled_from(["add", "cat", "mul"]),
        }
    ),
    st.fixed_dictionaries({"type": st.just("repeat"), "times": st.integers(1, 3), "body": CHAINS}),
)
BLOCKS = st.one_of(POINTWISE, RESIDUAL, POOL, STRIDED, PRESET, MERGE, WIDENING, CONTAINER)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    blocks = draw(st.lists(BLOCKS, max_size=5))
    sequence = draw(st.just([]) | st.tuples(SEQUENCE, NORM_ACT | SEQUENCE))
    return {
        "in": draw(WIDTHS),
        "out": draw(WIDTHS),
        "prefix_tokens": draw(st.integers(0, 2)),
        "token_order": draw(st.sampled_from(["raster", "blocked"])),
        "blocks": [*blocks, *sequence, {"type": "pointwise"}],
    }


GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def fitting(document: dict[str, Any], grid: tuple[int, int]) -> tuple[int, int]:
    """Tokens that come in blocks have even sides."""
    h, w = grid
    return (2 * h, 2 * w) if document["token_order"] == "blocked" else grid


@given(documents(), GRIDS, st.integers(0, 2))
def test_paper_equals_tensors(document: dict[str, Any], grid: tuple[int, int], batch: int) -> None:
    try:
        spec = load_spec(document)
    except MobileVLMError:  # branches that do not meet, a pool that leaves too little
        assume(False)
    assert load_spec(dump_spec(spec)) == spec
    projector = build_projector(spec).eval()
    grid = fitting(document, grid)
    assert projector.plan().parameters == sum(p.numel() for p in projector.parameters())
    n = grid[0] * grid[1] + spec.prefix_tokens
    x = torch.randn(batch, n, spec.in_)
    try:
        plan = projector.plan(grid)
    except MobileVLMError as error:
        # What the plan refuses, the tensor's door refuses in the same words.
        with pytest.raises(type(error), match=re.escape(str(error))):
            projector(x, grid=grid)
        return
    with torch.inference_mode():
        y = projector(x, grid=grid)
    assert y.shape == (batch, plan.tokens_out, spec.out)
    [gradient] = torch.autograd.grad(projector(x.requires_grad_(), grid=grid).sum(), [x])
    assert gradient.shape == x.shape
    x.requires_grad_(False)
    assert projector.tokens(*grid) == plan.tokens_out
    with torch.inference_mode():
        image = projector(torch.randn(batch, spec.in_, *grid))
    assert image.numel() == y.numel()
    meta = Projector(spec, device="meta")
    assert meta(x.to("meta"), grid=grid).shape == y.shape
    assert plan.macs is not None  # runs every block on meta against its flow
    assert [row.parameters for row in plan.rows if row.depth == 0] == [
        sum(p.numel() for p in module.parameters()) for module in projector.blocks
    ]


@given(documents(), st.lists(GRIDS, min_size=1, max_size=4))
def test_packed_images_equal_single_ones(
    document: dict[str, Any], grids: list[tuple[int, int]]
) -> None:
    try:
        spec = load_spec({**document, "prefix_tokens": 0})
        projector = build_projector(spec, dtype=torch.float64).eval()
        grids = [fitting(document, grid) for grid in grids]
        tokens = projector.tokens(grids)
    except MobileVLMError:
        assume(False)
    images = [torch.randn(h * w, spec.in_, dtype=torch.float64) for h, w in grids]
    with torch.inference_mode():
        parts = projector(torch.cat(images), grid=grids).split(tokens)
        for image, grid, part in zip(images, grids, parts, strict=True):
            single = projector(image[None], grid=grid)[0]
            assert single.shape == (projector.tokens(*grid), spec.out)
            torch.testing.assert_close(part, single, rtol=1e-6, atol=1e-9)


@given(documents(), GRIDS)
def test_tokens_need_no_tensor_and_prefix_tokens_no_room(
    document: dict[str, Any], grid: tuple[int, int]
) -> None:
    """Prefix tokens are not part of the grid; packed images have none."""
    try:
        spec = load_spec(document)
        grid = fitting(document, grid)
        tokens = spec.tokens(*grid)
    except MobileVLMError:
        assume(False)
    assert load_spec({**document, "prefix_tokens": 0}).tokens(*grid) == tokens
    projector = Projector(spec, device="meta")
    n = grid[0] * grid[1]
    y = projector(torch.empty(1, spec.prefix_tokens + n, spec.in_, device="meta"), grid=grid)
    assert y.shape[1] == tokens
    if spec.prefix_tokens:
        with pytest.raises(GridError, match="Packed images have no prefix tokens"):
            projector(torch.empty(spec.prefix_tokens + n, spec.in_, device="meta"), grid=[grid])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [path, *(deeper for key, item in items for deeper in paths(item, (*path, key)))]


@given(documents(), st.data())
def test_a_mutated_document_is_read_or_refused_in_our_words(
    document: dict[str, Any], data: st.DataObject
) -> None:
    document = copy.deepcopy(document)  # parts of it are drawn again
    *path, last = data.draw(st.sampled_from(paths(document)[1:]))
    node: Any = document
    for step in path:
        node = node[step]
    if data.draw(st.booleans()):
        node[last] = data.draw(JSON)
    elif isinstance(node, dict):
        node[data.draw(st.text(max_size=6))] = node.pop(last)
    else:
        del node[last]
    with contextlib.suppress(MobileVLMError):
        spec = load_spec(document)
        assert load_spec(dump_spec(spec)) == spec


@given(st.text() | JSON.map(lambda value: json.dumps(value)))
def test_any_text_is_read_or_refused_in_our_words(text: str) -> None:
    with contextlib.suppress(MobileVLMError):
        assert isinstance(load_spec("{" + text), Stack)


@given(
    st.sampled_from(["ldp", "ldpnet", "ldpnetv2", "mlp2x_gelu", "linear"]),
    st.integers(12, 60),
    st.integers(12, 60),
)
def test_tokens_of_the_presets(name: str, h: int, w: int) -> None:
    tokens = plan_projector(name, 8, 8, grid=(h, w)).tokens_out
    halved = -(-h // 2) * -(-w // 2)
    expected = {"ldp": halved, "ldpnet": halved, "ldpnetv2": 144}
    assert tokens == expected.get(name, h * w)
