"""The attention families: against upstream's classes or published computations, and as blocks."""

from typing import Any

import pytest
import torch
from reference.attention import CASES
from reference.case import Case, D, V, randomize
from reference.resamplers import published_places, resized
from torch import nn
from torch.export import Dim, export

from mobilevlm import BLOCKS, Projector, SpecError, build_projector, plan_projector
from mobilevlm.checkpoints.mapping import from_upstream, to_upstream


def many(case: Case) -> int:
    """How many tokens come out."""
    return int(case.options["queries"])


def width(case: Case) -> int:
    """Idefics and OpenFlamingo keep the vision width."""
    return case.in_ if case.preset == "flamingo" else D


def make(name: str, **options: Any) -> Projector:
    case = CASES[name]
    projector = build_projector(case.preset, case.in_, width(case), **case.options, **options)
    randomize(projector)
    return projector.eval()


@pytest.mark.parametrize("name", CASES)
def test_equals_upstream(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    upstream = case.build().eval()
    randomize(upstream)
    ours, state, layout = make(name), upstream.state_dict(), case.layout
    ours.load_state_dict(from_upstream(ours, layout, state), strict=True)
    back = to_upstream(ours, layout)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    for grid in case.grids:
        for batch in (1, 3):
            for scale in (1.0, 1e-3):
                x = scale * torch.randn(batch, grid[0] * grid[1], case.in_)
                with torch.inference_mode():
                    expected = case.run(upstream, x, grid)
                    y = ours(x, grid=grid if ours.spec.needs_grid else None)
                assert y.shape == expected.shape == (batch, many(case), width(case))
                error = (y - expected).abs().max() / expected.abs().max()
                assert error < 1e-5, (grid, batch, scale, error)


# ---------------------------------------------------------------------------- as projectors


@pytest.mark.parametrize("name", CASES)
def test_packed_images_equal_single_ones(name: str) -> None:
    projector = make(name, dtype=torch.float64)
    grids = [(3, 5), (4, 4), (3, 5), (2, 9), (5, 3)]
    images = [torch.randn(h * w, projector.spec.in_, dtype=torch.float64) for h, w in grids]
    n = many(CASES[name])
    assert projector.tokens(grids) == [n] * len(grids)
    with torch.inference_mode():
        parts = projector(torch.cat(images), grid=grids).split(n)
        for image, grid, part in zip(images, grids, parts, strict=True):
            single = projector(image[None], grid=grid)[0]
            torch.testing.assert_close(part, single, rtol=1e-10, atol=1e-12)


def test_packed_images_stay_apart_inside_other_blocks() -> None:
    body = [{"type": "resampler", "queries": 4, "depth": 1}]
    document = {
        "in": 6,
        "out": 6,
        "blocks": ["identity", *body, {"type": "residual", "body": body}],
    }
    projector = build_projector(document, dtype=torch.float64).eval()
    assert not projector.spec.needs_grid
    grids = [(2, 3), (3, 3)]
    images = [torch.randn(h * w, 6, dtype=torch.float64) for h, w in grids]
    with torch.inference_mode():
        parts = projector(torch.cat(images), grid=grids).split(4)
        for image, part in zip(images, parts, strict=True):
            torch.testing.assert_close(part, projector(image[None])[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_plan_says_what_the_modules_do(name: str) -> None:
    case = CASES[name]
    plan = plan_projector(case.preset, case.in_, width(case), grid=(3, 5), **case.options)
    assert (plan.tokens_in, plan.tokens_out) == (15, many(case))
    assert plan.steps[-1].y.layout == "sequence"
    assert plan.macs is not None  # runs on the meta device, against every block's flow
    assert plan.macs > 15 * case.in_ * many(case)
    unknown = plan_projector(case.preset, case.in_, width(case), **case.options)
    assert unknown.tokens_out == many(case)
    assert unknown.stack.needs_grid == (case.preset in ("minicpmv", "qwen-vl"))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_gives_an_empty_tensor(name: str) -> None:
    projector = make(name)
    x = torch.empty(0, 16, CASES[name].in_)
    assert projector(x).shape == (0, projector.tokens(4, 4), projector.spec.out)


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter_and_the_input(name: str) -> None:
    projector = make(name)
    x = torch.randn(2, 16, projector.spec.in_, requires_grad=True)
    before = x.detach().clone()
    projector(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).any(2).all()
    assert torch.equal(x, before)
    for key, parameter in projector.named_parameters():
        assert parameter.requires_grad != key.endswith("places.table"), key
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, key
        # What is added to every key alike changes no attention.
        if not key.endswith(("k_proj.bias", "k_norm.bias")):
            assert parameter.grad.abs().max() > 1e-6, key


@pytest.mark.quick("blip2", "minicpmv")
@pytest.mark.parametrize("name", CASES)
def test_exports_with_a_dynamic_batch(name: str) -> None:
    projector = make(name)
    x, y = torch.randn(2, 16, projector.spec.in_), torch.randn(5, 16, projector.spec.in_)
    module = export(projector, (x,), dynamic_shapes={"x": {0: Dim("b")}}).module()
    torch.testing.assert_close(module(y), projector(y))
    if not projector.spec.needs_grid:
        shapes = {"x": {0: Dim("b"), 1: Dim("n")}}
        module = export(projector, (x,), dynamic_shapes=shapes).module()
        y = torch.randn(3, 7, projector.spec.in_)
        torch.testing.assert_close(module(y), projector(y))


@pytest.mark.quick("blip2", "minicpmv")
@pytest.mark.parametrize("name", CASES)
def test_compiles_without_graph_breaks(name: str) -> None:
    torch._dynamo.reset()
    projector = make(name)
    compiled = torch.compile(projector, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 16, projector.spec.in_)
    torch.testing.assert_close(compiled(x), projector(x))


@pytest.mark.parametrize("name", CASES)
def test_parameters_stand_in_order_of_use(name: str) -> None:
    projector = make(name)
    used: list[nn.Module] = []
    leaves = [module for module in projector.modules() if not list(module.children())]
    for module in leaves:
        if list(module.parameters()):
            module.register_forward_pre_hook(lambda module, _: used.append(module))
    projector(torch.randn(1, 16, projector.spec.in_))
    assert used == [module for module in leaves if list(module.parameters())]


@pytest.mark.parametrize("name", CASES)
def test_bf16_is_finite_and_stays_bf16(name: str) -> None:
    projector = make(name, dtype=torch.bfloat16)
    y = projector(torch.randn(2, 16, projector.spec.in_, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_stays_empty(name: str) -> None:
    projector = make(name)
    x = torch.zeros(1, 16, projector.spec.in_)
    assert projector(x[:0]).shape == projector(x)[:0].shape


def test_flamingo_projects_where_the_widths_differ() -> None:
    same, other = (build_projector("flamingo", 8, out, depth=1) for out in (8, 12))
    assert len(same.spec.blocks) == 1
    assert len(other.spec.blocks) == 2
    assert other(torch.randn(1, 7, 8)).shape == (1, 64, 12)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"type": "resampler", "heads": 6, "kv_heads": 4},
            "blocks[0]: 4 'kv_heads' do not divide 6 'heads'. Leave it out to use 'heads'.",
        ),
        (
            {"type": "qformer", "heads": 5},
            "blocks[0] (qformer): 5 heads do not share 12 channels evenly; expected a number of "
            "heads that divides them. It is given ?x? x 12 by the input.",
        ),
        (
            {"type": "query-resampler", "heads": 5},
            "blocks[0] (query-resampler): 5 heads do not share 12 channels evenly; expected a "
            "number of heads that divides them. It is given ?x? x 12 by the input.",
        ),
        (
            {"type": "query-resampler", "queries": 50, "places": "both"},
            "blocks[0]: 50 queries; expected a square number. Try 49 or 64.",
        ),
        (
            {"type": "query-resampler", "heads": 2, "out": 6},
            "blocks[0] (query-resampler): 6 channels do not hold sine and cosine of column and "
            "row; expected a multiple of 4. It is given ?x? x 12 by the input.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    block: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build_projector({"in": 12, "out": 12, "blocks": [block, "pointwise"]})
    assert str(caught.value) == message


def test_the_query_resampler_reads_the_grid_and_refuses_a_sequence() -> None:
    qformer, reader = {"type": "qformer", "out": 12, "heads": 2}, {"type": "query-resampler"}
    with pytest.raises(SpecError, match="it works on a grid, and the tokens have lost theirs"):
        build_projector({"in": 12, "out": 12, "blocks": [qformer, {**reader, "heads": 2}]})
    assert BLOCKS.get("query-resampler").needs_grid
    projector = make("minicpmv")
    x = torch.randn(1, 12, V)
    assert not torch.allclose(projector(x, grid=(3, 4)), projector(x, grid=(4, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_table_is_upstreams_to_the_bit(dtype: torch.dtype) -> None:
    """Upstream scales the table that it saved, rounded to the weights' dtype."""
    places = build_projector("qwen-vl", 32, 32, queries=16, heads=4, dtype=dtype).blocks[0].places
    table = published_places(32, 4, 4).flatten(0, 1).to(dtype)
    close = {"rtol": 0, "atol": 2**-8} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(places.table.data, table, **close)
    places.table.data.copy_(table)
    q, x = torch.randn(16, 32, dtype=dtype), torch.randn(2, 6, 9, 32, dtype=dtype)
    ours, theirs = places(q, x), (q + table, x + resized(table, (6, 9)).view(6, 9, 32))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert ours[1].dtype == dtype


def test_both_kinds_of_table_differ_only_in_the_keys() -> None:
    both, resized_ = (
        build_projector("minicpmv", V, D, queries=9, heads=3, places=places)
        for places in ("both", "resized")
    )
    randomize(both)
    resized_.load_state_dict(both.state_dict())
    for module in (both, resized_):
        module.blocks[0].places.table.data.copy_(published_places(D, 3, 3).flatten(0, 1))
    x = torch.randn(1, 63, V)
    torch.testing.assert_close(both(x[:, :9], grid=(3, 3)), resized_(x[:, :9], grid=(3, 3)))
    assert not torch.allclose(both(x, grid=(7, 9)), resized_(x, grid=(7, 9)), atol=1e-3)
