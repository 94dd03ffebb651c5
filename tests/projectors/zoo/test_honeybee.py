"""Containers, positions and extra tokens, and the families made of them."""

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers.golden import GOLDEN
from reference.case import D, V, randomize
from reference.resamplers import published_places
from safetensors.torch import load_file
from torch import Tensor
from torch.export import Dim, export
from torch.nn import functional as F

from mobilevlm import (
    GridError,
    MobileVLMError,
    Projector,
    SpecError,
    build_projector,
    dump_spec,
    load_spec,
    plan_projector,
    spec_of,
)
from mobilevlm.checkpoints.mapping import from_upstream, to_upstream

SMALL = {"hidden": 20, "depth": 2, "queries": 16}


def error_of(y: Tensor, expected: Tensor) -> float:
    assert y.shape == expected.shape
    return float((y - expected).abs().max() / expected.abs().max())


def load(projector: Projector, layout: str, state: Mapping[str, Tensor]) -> None:
    """Load upstream's weights, and see that they come back bit by bit."""
    projector.load_state_dict(from_upstream(projector, layout, state), strict=True)
    back = to_upstream(projector, layout)
    assert back.keys() == state.keys()
    for key in state:
        assert torch.equal(back[key], state[key]), key


# The vectors' file, whose name is the projector's: layout, grid and options.
GOLDENS: dict[str, tuple[str, tuple[int, int] | None, dict[str, Any]]] = {
    "c-abstractor": ("c-abstractor", (8, 8), {**SMALL, "position": True, "end": 1}),
    "mlp2x_res2x_gelu": ("mlp-res", None, {}),
    "mlp2x_gelu_Norm": ("mlp-norm", None, {}),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_upstream_golden_vectors(name: str) -> None:
    layout, grid, options = GOLDENS[name]
    vectors = load_file(GOLDEN / f"{name}.safetensors")
    projector = build_projector(name, V, D, grid=grid, **options).eval()
    state = {key.removeprefix("w."): w for key, w in vectors.items() if key.startswith("w.")}
    load(projector, layout, state)
    with torch.inference_mode():
        for scale, key in ((1.0, "y"), (1e-3, "y_small")):
            error = error_of(projector(scale * vectors["x"]), vectors[key])
            assert error < 1e-6, (key, error)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("hidden", [V, 20])
def test_c_abstractor_names_every_weight_once(hidden: int, depth: int) -> None:
    projector = build_projector(
        "c-abstractor", V, D, **{**SMALL, "hidden": hidden, "depth": depth, "mlp_depth": 3}
    )
    state = to_upstream(projector, "c-abstractor")
    assert len(state) == len(projector.state_dict())
    assert any("net.0.b1.downsample" in key for key in state) == (hidden != V)
    assert f"net.2.b{depth}.conv3.bn.bias" in state
    assert f"net.2.b{depth + 1}.conv3.bn.bias" not in state
    assert "readout.4.weight" in state
    assert "pos_emb" not in state
    assert "eos_tokens" not in state


# ---------------------------------------------------------------------- the blocks, one by one


def block(fields: Mapping[str, Any], x: Tensor, grid: tuple[int, int]) -> tuple[Projector, Tensor]:
    """Build a projector of this one block, everything random, and run it on tokens."""
    given = {"in": x.shape[2], "blocks": [fields]}
    out = load_spec({**given, "out": width(fields, x.shape[2], grid)})
    projector = build_projector(out, grid=grid).eval()
    randomize(projector)
    with torch.inference_mode():
        y: Tensor = projector(x)
    assert y.shape == (len(x), projector.plan().tokens_out, projector.spec.out)
    assert projector.plan().macs is not None  # its flow says what its module does on meta
    return projector, y


def width(fields: Mapping[str, Any], in_: int, grid: tuple[int, int]) -> int:
    document = {"in": in_, "out": 1, "blocks": [fields, {"type": "pointwise", "out": 1}]}
    return plan_projector(document, grid=grid).steps[0].y.channels


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 35, 6, generator=torch.Generator().manual_seed(1))


GRID = (5, 7)
STEP = [{"type": "pointwise", "out": "same"}, {"type": "norm-act", "norm": "none", "act": "silu"}]


def test_repeat_runs_its_body_with_weights_of_its_own_each_time(x: Tensor) -> None:
    projector, y = block({"type": "repeat", "times": 3, "body": STEP}, x, GRID)
    state = projector.state_dict()
    paths = [f"blocks.0.{copy}.body.0" for copy in range(3)]
    keys = [f"{path}.{leaf}" for path in paths for leaf in ("weight", "bias")]
    assert list(state) == keys
    z = x
    for path in paths:
        z = F.silu(F.linear(z, state[f"{path}.weight"], state[f"{path}.bias"]))
    assert error_of(y, z) < 1e-6


def test_repeat_may_change_grid_and_width_each_time() -> None:
    fields = {"type": "repeat", "times": 2, "body": ["patch-merge"]}
    projector, y = block(fields, torch.randn(2, 8 * 12, 3), (8, 12))
    assert y.shape == (2, 6, 48)
    assert [str(row.y) for row in projector.plan().rows] == ["2x3 x 48", "4x6 x 12", "2x3 x 48"]


@pytest.mark.parametrize("join", ["add", "mul", "cat"])
def test_parallel_joins_its_branches(x: Tensor, join: str) -> None:
    fields = {"type": "parallel", "join": join, "branches": [STEP, ["identity"], STEP]}
    projector, y = block(fields, x, GRID)
    state = projector.state_dict()
    a, b = (
        F.silu(F.linear(x, state[f"{path}.weight"], state[f"{path}.bias"]))
        for path in ("blocks.0.branches.0.0", "blocks.0.branches.2.0")
    )
    expected = {"add": a + x + b, "mul": a * x * b, "cat": torch.cat([a, x, b], -1)}[join]
    assert error_of(y, expected) < 1e-6
    assert len(state) == 4


def test_parallel_takes_branches_of_different_widths_on_a_smaller_grid(x: Tensor) -> None:
    pool = {"type": "pool", "mode": "adaptive", "size": [2, 3]}
    branches = [[pool], [{"type": "pointwise", "out": 4}, pool]]
    _, y = block({"type": "parallel", "join": "cat", "branches": branches}, x, GRID)
    assert y.shape == (2, 6, 10)


def test_position_adds_its_table(x: Tensor) -> None:
    projector, y = block({"type": "position"}, x, GRID)
    table = projector.state_dict()["blocks.0.table"]
    assert table.shape == (35, 6)
    assert torch.equal(y, x + table)


def test_a_new_table_is_small_and_not_zero() -> None:
    document = {"in": 64, "out": 64, "blocks": ["position"]}
    table = build_projector(document, grid=(16, 16)).state_dict()["blocks.0.table"]
    assert 0.018 < table.std() < 0.022


def test_axes_add_a_vector_for_the_row_and_one_for_the_column(x: Tensor) -> None:
    fields = {"type": "position", "kind": "axes", "size": [6, 9]}
    projector, y = block(fields, x, GRID)
    state = projector.state_dict()
    rows, columns = state["blocks.0.rows"], state["blocks.0.columns"]
    assert (rows.shape, columns.shape) == ((6, 6), (9, 6))
    places = torch.stack([rows[i] + columns[j] for i in range(5) for j in range(7)])
    torch.testing.assert_close(y, x + places)
    other = projector(x[:, :8], grid=(4, 2))  # smaller grids use the first of both
    places = torch.stack([rows[i] + columns[j] for i in range(4) for j in range(2)])
    torch.testing.assert_close(other, x[:, :8] + places)
    fresh = build_projector(projector.spec).state_dict()["blocks.0.rows"]
    assert 0.0 < fresh.std() < 0.04


def test_position_may_stand_after_a_pool_to_a_known_size(x: Tensor) -> None:
    document = {
        "in": 6,
        "out": 6,
        "blocks": [{"type": "pool", "mode": "adaptive", "size": [2, 3]}, "position"],
    }
    projector = build_projector(document)
    assert projector(x, grid=GRID).shape == (2, 6, 6)
    assert projector(torch.randn(1, 16, 6)).shape == (1, 6, 6)


@pytest.mark.parametrize("grid", [(5, 7), (7, 5), (1, 35), (35, 1)])
def test_position_by_sines_and_cosines_takes_any_grid(grid: tuple[int, int]) -> None:
    x = torch.randn(2, 35, 24)
    projector, y = block({"type": "position", "kind": "sincos"}, x, grid)
    places = published_places(24, *grid).flatten(0, 1)
    assert error_of(y - x, places.expand(2, -1, -1)) < 1e-5
    assert not projector.state_dict()
    projector = build_projector({"in": 24, "out": 24, "blocks": [projector.spec.blocks[0]]})
    assert torch.equal(projector(x, grid=grid), y)
    half = projector(x.bfloat16(), grid=grid)
    assert half.dtype == torch.bfloat16
    assert error_of(half.float(), y) < 2**-7


def test_newline_ends_every_row(x: Tensor) -> None:
    projector, y = block({"type": "newline"}, x, GRID)
    rows = y.unflatten(1, (5, 8))
    assert torch.equal(rows[:, :, :7].flatten(1, 2), x)
    assert rows[:, :, 7].eq(projector.state_dict()["blocks.0.token"]).all()
    image = projector(x.transpose(1, 2).unflatten(2, GRID))
    assert image.shape == (2, 6, 5, 8)
    assert torch.equal(image, rows.permute(0, 3, 1, 2))


@pytest.mark.parametrize("at", ["begin", "end"])
def test_extra_tokens_stand_around(x: Tensor, at: str) -> None:
    projector, y = block({"type": "extra-tokens", "at": at, "count": 3}, x, GRID)
    tokens = projector.state_dict()["blocks.0.tokens"].expand(2, -1, -1)
    assert torch.equal(y, torch.cat([tokens, x] if at == "begin" else [x, tokens], 1))


@pytest.mark.parametrize("at", ["begin", "end"])
def test_the_mean_token_stands_around(x: Tensor, at: str) -> None:
    projector, y = block({"type": "extra-tokens", "at": at, "kind": "mean"}, x, GRID)
    assert projector.state_dict() == {}
    mean = x.sum(1, keepdim=True) / 35
    torch.testing.assert_close(y, torch.cat([mean, x] if at == "begin" else [x, mean], 1))


def attend(x: Tensor, q: Tensor, state: Mapping[str, Tensor], heads: int) -> Tensor:
    """Multi-head attention of one query to tokens, by its formula; ``(k, c), (c) -> (d)``."""

    def project(name: str, y: Tensor) -> Tensor:
        return y @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    q, k, v = project("q_proj", q), project("k_proj", x), project("v_proj", x)
    done = []
    for part in torch.arange(len(q)).chunk(heads):
        scores = k[:, part] @ q[part] / len(part) ** 0.5
        done.append((scores.exp() / scores.exp().sum()) @ v[:, part])
    return project("out_proj", torch.cat(done))


@pytest.mark.parametrize("self_keys", [False, True])
def test_cross_attention_lets_queries_read_the_tokens(x: Tensor, self_keys: bool) -> None:
    fields = {"type": "cross-attention", "queries": 4, "heads": 2, "self_keys": self_keys}
    projector, y = block(fields, x, GRID)
    state = {key.removeprefix("blocks.0."): v for key, v in projector.state_dict().items()}
    queries = state.pop("queries")
    state = {key.removeprefix("attention."): value for key, value in state.items()}
    for image, given in zip(y, x, strict=True):
        keys = torch.cat([given, queries]) if self_keys else given
        expected = torch.stack([attend(keys, query, state, 2) for query in queries])
        torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)
    assert build_projector(projector.spec)(x[:, :11]).shape == (2, 4, 6)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("head_dim", [None, 5])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_attention_pool_asks_with_the_mean_of_each_window(
    x: Tensor, stride: int, ceil: bool, head_dim: int | None, scale: float
) -> None:
    x = x * scale
    fields = {"type": "attention-pool", "out": 8, "stride": stride, "heads": 2, "ceil": ceil}
    projector, y = block({**fields, "head_dim": head_dim}, x, GRID)
    state = {
        key.removeprefix("blocks.0.attention."): v for key, v in projector.state_dict().items()
    }
    assert state["q_proj.weight"].shape == (2 * (head_dim or 4), 6)
    h, w = (-(-side // stride) if ceil else side // stride for side in GRID)
    for image, given in zip(y, x.unflatten(1, GRID), strict=True):
        for index, token in enumerate(image):
            row, column = index // w * stride, index % w * stride
            window = given[row : row + stride, column : column + stride].flatten(0, 1)
            expected = attend(window, window.mean(0), state, 2)
            torch.testing.assert_close(token, expected, rtol=1e-5, atol=1e-6)
    assert y.shape[1] == h * w


def test_extra_tokens_need_no_grid(x: Tensor) -> None:
    document = {"in": 6, "out": 6, "blocks": [{"type": "extra-tokens", "at": "end"}]}
    projector = build_projector(document)
    assert projector(x[:, :11]).shape == (2, 12, 6)


# ---------------------------------------------------------------------- the life of a projector

COMPOSED = {
    "in": 6,
    "out": 10,
    "blocks": [
        {
            "type": "repeat",
            "times": 2,
            "body": [{"type": "residual", "body": ["depthwise", "squeeze-excite"]}],
        },
        {
            "type": "parallel",
            "join": "cat",
            "branches": [
                [
                    {"type": "pool", "stride": 2, "ceil": True},
                    {"type": "repeat", "times": 2, "body": STEP},
                ],
                [{"type": "depthwise", "stride": 2}],
            ],
        },
        {"type": "preset", "name": "c-abstractor", "queries": 9, "hidden": 8, "depth": 2, "end": 2},
        {"type": "extra-tokens", "at": "begin"},
    ],
}
SINCOS = [{"type": "pointwise", "out": 8}, {"type": "position", "kind": "sincos"}, "pointwise"]
POOLED = {
    "in": 6,
    "out": 10,
    "blocks": [
        {"type": "position", "kind": "axes", "size": [16, 20]},
        {"type": "attention-pool", "stride": 5, "heads": 2, "ceil": True},
        {"type": "extra-tokens", "at": "begin", "kind": "mean"},
    ],
}
READ = {
    "in": 6,
    "out": 10,
    "blocks": [
        {"type": "cross-attention", "queries": 5, "heads": 3, "self_keys": True},
        {"type": "norm-act", "act": "softmax"},
        "pointwise",
    ],
}
SPECS: dict[str, Any] = {
    "c-abstractor": ("c-abstractor", {**SMALL, "end": 1}),
    "c-abstractor-position": ("c-abstractor", {**SMALL, "position": True}),
    "hunyuan-vl": ("hunyuan-vl", {}),
    "mlp-res": ("mlp2x_res2x_gelu", {}),
    "sincos": ({"in": 6, "out": 10, "blocks": SINCOS}, {}),
    "composed": (COMPOSED, {}),
    "attention-pool": (POOLED, {}),
    "cross-attention": (READ, {}),
}
SIZE = (8, 12)


@pytest.fixture(params=SPECS)
def projector(request: pytest.FixtureRequest) -> Projector:
    torch.manual_seed(0)
    spec, options = SPECS[request.param]
    projector = build_projector(spec, 6, 10, grid=SIZE, **options).eval()
    randomize(projector)
    return projector


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, 96, 6, generator=torch.Generator().manual_seed(1))


def test_paper_equals_tensors(projector: Projector, tokens: Tensor) -> None:
    plan = projector.plan()
    with torch.inference_mode():
        y = projector(tokens)
    assert y.shape == (2, plan.tokens_out, 10)
    assert projector.tokens(*SIZE) == plan.tokens_out
    assert plan.macs is not None  # runs every block on meta against its flow
    outer = [row.parameters for row in plan.rows if row.depth == 0]
    assert outer == [sum(p.numel() for p in block.parameters()) for block in projector.blocks]
    for row in plan.rows:
        module = projector.get_submodule(row.path)
        assert row.parameters == sum(p.numel() for p in module.parameters())
    meta = Projector(projector.spec, grid=SIZE, device="meta")
    assert meta(tokens.to("meta")).shape == y.shape


def test_documents_read_back(projector: Projector, tokens: Tensor) -> None:
    text = dump_spec(projector.spec)
    assert load_spec(text) == projector.spec
    assert '"preset"' not in text
    other = build_projector(load_spec(text), grid=SIZE)
    other.load_state_dict(projector.state_dict(), strict=True)
    for twin in (other, copy.deepcopy(projector), pickle.loads(pickle.dumps(projector))):
        with torch.inference_mode():
            assert torch.equal(twin(tokens), projector(tokens))


def test_keys_are_paths_in_the_document(projector: Projector) -> None:
    for key in projector.state_dict():
        node: Any = projector.spec.model_dump()
        steps = key.split(".")[:-1]
        while steps:
            step = steps.pop(0)
            if isinstance(node, dict) and node.get("type") == "repeat":
                assert int(step) < node["times"], key  # the number of the copy
                step = steps.pop(0)
            if isinstance(node, dict) and not isinstance(node.get(step), list):
                break  # inside one block: norm, fc1, fc2
            node = node[int(step)] if isinstance(node, list) else node[step]
        assert "type" in node, key


def test_gradients_reach_every_parameter_and_the_input(
    projector: Projector, tokens: Tensor
) -> None:
    tokens.requires_grad_()
    projector.train()(tokens).square().sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.quick("cross-attention-False", "sincos-True")
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(projector: Projector, tokens: Tensor, dynamic: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(projector, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    sized = any(key.endswith("table") for key in projector.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(compiled(tokens), projector(tokens))
        for grid in [] if sized else [(12, 13), (16, 20), (9, 9)]:
            y = torch.randn(2, grid[0] * grid[1], 6)
            torch.testing.assert_close(compiled(y, grid=grid), projector(y, grid=grid))


@pytest.mark.quick("c-abstractor-False", "cross-attention-True", "sincos-False")
@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_a_dynamic_batch(projector: Projector, tokens: Tensor, strict: bool) -> None:
    program = export(projector, (tokens,), dynamic_shapes={"x": {0: Dim("b")}}, strict=strict)
    y = torch.randn(5, 96, 6)
    torch.testing.assert_close(program.module()(y), projector(y))


def test_runs_in_bf16_and_under_autocast(projector: Projector, tokens: Tensor) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert projector(tokens).isfinite().all()
    y = projector.bfloat16()(tokens.bfloat16())
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def test_packed_images_equal_single_ones(projector: Projector) -> None:
    projector.double()
    sized = any(key.endswith("table") for key in projector.state_dict())
    grids = [SIZE, SIZE] if sized else [(12, 16), (16, 12), (12, 16), (9, 11), (16, 16)]
    images = [torch.randn(h * w, 6, dtype=torch.float64) for h, w in grids]
    with torch.inference_mode():
        parts = projector(torch.cat(images), grid=grids).split(projector.tokens(grids))
        for image, grid, part in zip(images, grids, parts, strict=True):
            single = projector(image[None], grid=grid)[0]
            torch.testing.assert_close(part, single, rtol=1e-10, atol=1e-12)


def test_the_rows_of_a_plan_name_the_modules() -> None:
    rows = plan_projector(COMPOSED, grid=SIZE).rows
    found = [(row.depth, row.path, row.name) for row in rows][:14]
    assert found == [
        (0, "blocks.0", "repeat"),
        (1, "blocks.0.0.body.0", "residual"),
        (2, "blocks.0.0.body.0.body.0", "depthwise"),
        (2, "blocks.0.0.body.0.body.1", "squeeze-excite"),
        (1, "blocks.0.1.body.0", "residual"),
        (2, "blocks.0.1.body.0.body.0", "depthwise"),
        (2, "blocks.0.1.body.0.body.1", "squeeze-excite"),
        (0, "blocks.1", "parallel"),
        (1, "blocks.1.branches.0.0", "pool"),
        (1, "blocks.1.branches.0.1", "repeat"),
        (2, "blocks.1.branches.0.1.0.body.0", "pointwise"),
        (2, "blocks.1.branches.0.1.0.body.1", "norm-act"),
        (2, "blocks.1.branches.0.1.1.body.0", "pointwise"),
        (2, "blocks.1.branches.0.1.1.body.1", "norm-act"),
    ]
    total = sum(row.macs or 0 for row in rows if row.depth == 0)
    assert total == plan_projector(COMPOSED, grid=SIZE).macs


def test_presets_inside_containers_are_expanded() -> None:
    preset = {"type": "preset", "name": "mlp", "out": 6}
    document = {
        "in": 6,
        "out": 6,
        "blocks": [
            {"type": "repeat", "times": 2, "body": [preset]},
            {"type": "parallel", "branches": [[preset], ["identity"]]},
        ],
    }
    repeat, parallel = load_spec(document).model_dump()["blocks"]
    types = ["pointwise", "norm-act", "pointwise"]
    assert [block["type"] for block in repeat["body"]] == types
    assert [block["type"] for block in parallel["branches"][0]] == types
    assert [block["type"] for block in parallel["branches"][1]] == ["identity"]


# ---------------------------------------------------------------------- refusals


def document(*blocks: Any, in_: int = 6, out: int = 6) -> dict[str, Any]:
    return {"in": in_, "out": out, "blocks": list(blocks)}


def repeat(times: int, *body: Any) -> dict[str, Any]:
    return {"type": "repeat", "times": times, "body": list(body)}


def parallel(*branches: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "parallel", "branches": list(branches), **fields}


def fixed(h: int, w: int) -> dict[str, Any]:
    return {"type": "pool", "mode": "adaptive", "size": [h, w]}


WIDER = {"type": "pointwise", "out": 7}
REFUSED: list[tuple[dict[str, Any], str]] = [
    (document(repeat(0, "identity")), "blocks[0].times: 0; expected at least 1"),
    (document(repeat(4097, "identity")), "blocks[0].times: 4097; expected at most 4096"),
    (document(repeat(2)), "blocks[0].body: there are no blocks; expected at least one"),
    (
        document(repeat(4096, "identity")),
        "blocks[0] (repeat): too many blocks; expected at most 4,096 in all. It is given ?x? x 6 "
        "by the input.",
    ),
    (
        document("identity", repeat(64, repeat(64, "identity"))),
        "blocks[1] (repeat): too many blocks; expected at most 4,096 in all. It is given ?x? x 6 "
        "by blocks[0] (identity).",
    ),
    (  # counted with what the preset stands for, before any copy is built
        document(repeat(600, {"type": "preset", "name": "ldp", "out": 6})),
        "blocks[0] (repeat): too many blocks; expected at most 4,096 in all. It is given ?x? x 6 "
        "by the input.",
    ),
    (
        document(parallel(*[[repeat(1024, "identity")]] * 4)),
        "blocks[0] (parallel): too many blocks; expected at most 4,096 in all. It is given ?x? x "
        "6 by the input.",
    ),
    (
        document(repeat(2, {"type": "preset", "name": "c-abstractor", "hidden": 8}), out=8),
        "blocks[0] (repeat): a preset inside expands differently for 12x12 x 8 than for the "
        "first copy; expected copies that are alike. Write the copies one after the other. It is "
        "given ?x? x 6 by the input.",
    ),
    (
        document(parallel(["identity"])),
        "blocks[0].branches: there is one branch; expected at least two",
    ),
    (document(parallel()), "blocks[0].branches: there are no branches; expected at least two"),
    (
        document({"type": "parallel", "branches": ["identity", "identity"]}),
        "2 problems\n"
        '  - blocks[0].branches[0]: "identity"; expected a list of blocks\n'
        '  - blocks[0].branches[1]: "identity"; expected a list of blocks',
    ),
    (
        document(parallel(["identity"], [])),
        "blocks[0].branches[1]: there are no blocks; expected at least one",
    ),
    (
        document(parallel(["identity"], ["newlin"])),
        "blocks[0].branches[1][0].type: unknown block 'newlin'. Did you mean 'newline'?",
    ),
    (
        document(parallel(["identity"], [WIDER])),
        "blocks[0] (parallel): its branches end with 6 and 7 channels; expected the same width "
        "for join 'add'. It is given ?x? x 6 by the input.",
    ),
    (
        document(parallel(["identity"], [WIDER], join="mul")),
        "blocks[0] (parallel): its branches end with 6 and 7 channels; expected the same width "
        "for join 'mul'. It is given ?x? x 6 by the input.",
    ),
    (
        document(parallel([fixed(4, 4)], [fixed(2, 2)])),
        "blocks[0] (parallel): its branches end on grids of 4x4 and 2x2; expected the same. It is "
        "given ?x? x 6 by the input.",
    ),
    (
        document(parallel(["identity"], [{"type": "extra-tokens", "at": "end"}])),
        "blocks[0] (parallel): one of its branches keeps the grid, another has lost it. It is "
        "given ?x? x 6 by the input.",
    ),
    (
        document(parallel(["identity"], [repeat(2, WIDER, "newline"), "depthwise", repeat(0)])),
        "2 problems\n"
        "  - blocks[0].branches[1][2].times: 0; expected at least 1\n"
        "  - blocks[0].branches[1][2].body: there are no blocks; expected at least one",
    ),
    (
        document({"type": "extra-tokens", "at": "begin"}, "newline"),
        "blocks[1] (newline): it works on a grid, and the tokens have lost theirs. It is given ? "
        "x 6 by blocks[0] (extra-tokens).",
    ),
    (
        document({"type": "extra-tokens", "at": "begin"}, parallel(["identity"], ["depthwise"])),
        "blocks[1].branches[1][0] (depthwise): it works on a grid, and the tokens have lost "
        "theirs. It is given ? x 6 by the input.",
    ),
    (
        document({"type": "extra-tokens", "at": "row-end"}),
        "blocks[0].at: \"row-end\"; expected 'begin' or 'end'. Did you mean 'end'?",
    ),
    (
        document({"type": "position", "kind": "learnt"}),
        "blocks[0].kind: \"learnt\"; expected 'learned', 'axes', 'sincos' or 'frame'. "
        "Did you mean 'learned'?",
    ),
    (
        document({"type": "position", "kind": "axes"}),
        "blocks[0]: kind 'axes' needs 'size'",
    ),
    (
        document({"type": "position", "size": [2, 2]}),
        "blocks[0]: kind 'learned' takes no 'size'",
    ),
    (
        document(fixed(4, 4), {"type": "position", "kind": "axes", "size": [3, 4]}),
        "blocks[1] (position): a grid of 4x4, but its tables are for 3x4; expected a grid no "
        "larger. It is given 4x4 x 6 by blocks[0] (pool).",
    ),
    (
        document({"type": "extra-tokens", "at": "end", "kind": "mean", "count": 2}),
        "blocks[0]: kind 'mean' is one token, not 2. Leave out 'count'.",
    ),
    (
        document({"type": "attention-pool", "heads": 4}),
        "blocks[0] (attention-pool): 4 heads do not share 6 channels evenly; expected a number "
        "of heads that divides them. It is given ?x? x 6 by the input.",
    ),
    (
        document(fixed(2, 9), {"type": "attention-pool", "heads": 3, "stride": 3}),
        "blocks[1] (attention-pool): a grid of 2x9 holds no window of 3x3. Set ceil=True to keep "
        "windows cut off by the border. It is given 2x9 x 6 by blocks[0] (pool).",
    ),
    (
        document({"type": "cross-attention", "heads": 4}),
        "blocks[0] (cross-attention): 4 heads do not share 6 channels evenly; expected a number "
        "of heads that divides them. It is given ?x? x 6 by the input.",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_bad_documents_are_refused_in_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileVLMError) as caught:
        load_spec(given)
    assert str(caught.value) == message


def test_the_cap_on_blocks_holds_exactly() -> None:
    assert plan_projector(document(repeat(4095, "identity")), grid=(2, 2)).tokens_out == 4
    inner = repeat(62, repeat(64, "identity"))  # 1 + 62 * (1 + 64)
    assert plan_projector(document(inner), grid=(2, 2)).tokens_out == 4


@pytest.mark.parametrize("given", [{"grid": (5, 7)}, {}])
def test_branches_that_part_on_a_grid(given: dict[str, Any]) -> None:
    halves = [
        [{"type": "pool", "stride": 2}],
        [{"type": "pool", "stride": 2, "ceil": True}],
    ]
    spec = load_spec(document(parallel(*halves)))
    message = (
        "blocks[0] (parallel): its branches end on grids of 2x3 and 3x4; expected the same. It is "
        "given 5x7 x 6 by the input."
    )
    with pytest.raises(GridError) as caught:
        build_projector(spec, **given)(torch.zeros(1, 35, 6), grid=(5, 7))
    assert str(caught.value) == message
    projector = build_projector(spec)
    assert projector(torch.zeros(1, 24, 6), grid=(4, 6)).shape == (1, 6, 6)
    with pytest.raises(GridError) as caught:  # and the module by itself, which never broadcasts
        projector.blocks[0](torch.zeros(1, 2, 3, 6))
    assert str(caught.value) == "its branches end on grids of 1x1 and 1x2; expected the same"


def test_a_position_without_a_grid_is_refused() -> None:
    for make in (build_projector, lambda spec: plan_projector(spec).parameters):
        with pytest.raises(SpecError) as caught:
            make(document("position"))
        assert str(caught.value) == (
            "position: the grid is not known, and a learned table has a row for each place. Give "
            "grid=(h, w) at build."
        )


def test_a_position_takes_its_own_grid_only() -> None:
    projector = build_projector(document("position"), grid=(4, 6))
    message = "position: a grid of 6x4, but its table is for 4x6; expected the grid given at build"
    images: list[tuple[Tensor, Any]] = [
        (torch.zeros(1, 24, 6), (6, 4)),
        (torch.zeros(1, 6, 6, 4), None),
        (torch.zeros(48, 6), [(4, 6), (6, 4)]),
    ]
    for x, grid in images:
        with pytest.raises(GridError) as caught:
            projector(x, grid=grid)
        assert str(caught.value) == message
    assert projector(torch.zeros(48, 6), grid=[(4, 6), (4, 6)]).shape == (48, 6)


def test_axes_take_grids_up_to_their_size() -> None:
    axes = {"type": "position", "kind": "axes", "size": [4, 6]}
    module = build_projector(document(axes)).blocks[0]
    with pytest.raises(GridError) as caught:
        module(torch.zeros(1, 5, 6, 6))
    message = "a grid of 5x6, but its tables are for 4x6; expected a grid no larger"
    assert str(caught.value) == message


def test_a_table_counts_towards_the_parameters() -> None:
    with pytest.raises(SpecError) as caught:
        build_projector(document("position"), grid=(60_000, 60_000))
    assert str(caught.value) == (
        "the blocks hold 21,600,000,000 parameters; expected at most 2,000,000,000. Pass "
        "max_parameters=... if that is meant."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"queries": 143},
            "c-abstractor.queries: 143 queries; expected a square number. Try 121 or 144.",
        ),
        ({"depth": 0}, "c-abstractor.depth: 0; expected at least 1"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of("c-abstractor", 8, 12, **options)
    assert str(caught.value) == message


def test_a_grid_too_small_for_the_queries_is_refused() -> None:
    with pytest.raises(GridError) as caught:
        plan_projector("c-abstractor", 8, 12, grid=(12, 11))
    assert str(caught.value) == (
        "blocks[3] (pool): a grid of 12x11 cannot be pooled to 12x12; expected an output no larger "
        "than the input grid. It is given 12x11 x 1024 by blocks[2] (repeat)."
    )
