"""What every built projector must live through: copies, files, compilers, training."""

import copy
import io
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from helpers.built_ins import BUILT_IN, FIELDS, OPTIONS, PRESETS, VARIANTS
from safetensors.torch import load_file, save_file
from torch.export import Dim, export

from mobilevlm import (
    LDP,
    GridError,
    Projector,
    build_projector,
    build_vision_projector,
    dump_spec,
)

COMPOSED = {
    "in": 6,
    "out": 10,
    "blocks": [
        {"type": "pointwise", "out": 8},
        {"type": "norm-act", "norm": "rms", "act": "quick-gelu"},
        {"type": "residual", "body": ["depthwise", "squeeze-excite", "identity"]},
        {"type": "pool", "mode": "max", "stride": 2, "ceil": True},
        {"type": "preset", "name": "ldp", "kernel": 5},
    ],
}
SPECS = ["identity", "ldp", "ldpnet", "ldpnetv2", "linear", "mlp", COMPOSED]


@pytest.fixture(params=SPECS, ids=lambda spec: spec if isinstance(spec, str) else "composed")
def projector(request: pytest.FixtureRequest) -> Projector:
    torch.manual_seed(0)
    widths = {"identity": (6, 6)}.get(str(request.param), (6, 10))
    return build_projector(request.param, *widths).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 196, 6, generator=torch.Generator().manual_seed(1))


def same(a: Projector, b: Projector, x: torch.Tensor) -> None:
    with torch.inference_mode():
        assert torch.equal(a(x), b(x))
    assert a.spec == b.spec


def test_deepcopy_and_pickle(projector: Projector, x: torch.Tensor) -> None:
    projector(x)
    same(projector, copy.deepcopy(projector), x)
    same(projector, pickle.loads(pickle.dumps(projector)), x)
    buffer = io.BytesIO()
    torch.save(projector, buffer)
    buffer.seek(0)
    same(projector, torch.load(buffer, weights_only=False), x)


def stack_of(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"in": 48, "out": 48, "blocks": [{"type": name, **fields}, "pointwise"]}


DROP_INS = ["linear", "mlp2x_gelu", "mlp2x_res2x_gelu", "ldpnet", "ldpnetv2"]
BUILDS: dict[str, Callable[[], Projector]] = {
    name: partial(build_projector, name, 48, **{"out": 64, **OPTIONS.get(name, {})})
    for name in PRESETS
}
BUILDS |= {
    f"block {name} {fields}": partial(build_projector, stack_of(name, fields), grid=(12, 12))
    for name, fields in [
        *((name, FIELDS.get(name, {})) for name in BUILT_IN),
        *VARIANTS,
        ("position", {"kind": "axes", "size": [24, 24]}),
    ]
}
BUILDS |= {
    f"drop-in {name}": partial(
        build_vision_projector,
        {"mm_projector_type": name, "mm_hidden_size": 48, "hidden_size": 64},
    )
    for name in DROP_INS
}


@pytest.mark.parametrize("name", BUILDS)
def test_what_it_says_of_itself_needs_no_parameters(name: str) -> None:
    """Sharded training (DeepSpeed's `zero.Init`, FSDP1) leaves empty ones between its steps."""
    projector = BUILDS[name]()

    def says(projector: Projector) -> list[object]:
        plan = projector.plan((12, 12))
        paper = [str(plan), plan.to_dict(), plan.parameters, projector.tokens([(12, 12), (24, 24)])]
        return [repr(projector), dump_spec(projector.spec), *paper]

    said = says(projector)
    for parameter in projector.parameters():
        parameter.data = torch.empty(0)
    assert says(projector) == said
    for other in (copy.deepcopy(projector), pickle.loads(pickle.dumps(projector))):
        assert says(other) == said
        assert all(parameter.shape == (0,) for parameter in other.parameters())


def test_state_dict_round_trip_through_a_file(
    projector: Projector, x: torch.Tensor, tmp_path: Path
) -> None:
    save_file(projector.state_dict(), tmp_path / "weights.safetensors")
    other = Projector(projector.spec, device="meta")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True, assign=True)
    same(projector, other, x)


def test_meta_build_then_to_empty(projector: Projector, x: torch.Tensor) -> None:
    other = Projector(projector.spec, device="meta")
    assert all(parameter.is_meta for parameter in other.parameters())
    other = other.to_empty(device="cpu")
    other.load_state_dict(projector.state_dict(), strict=True)
    same(projector, other, x)


def test_gradients_reach_every_parameter_and_the_input(
    projector: Projector, x: torch.Tensor
) -> None:
    x = x.requires_grad_()
    projector.train()(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_keys_are_paths_in_the_document(projector: Projector) -> None:
    document = projector.spec.model_dump()
    for key in projector.state_dict():
        node: object = document
        *path, _parameter = key.split(".")
        for step in path:
            if isinstance(node, dict) and not isinstance(node.get(step), list):
                break  # inside one block: norm, fc1, fc2
            node = node[int(step)] if isinstance(node, list) else node[step]  # type: ignore[index]
        assert isinstance(node, dict)
        assert "type" in node, key


@pytest.mark.quick("ldpnetv2-True", "mlp-True")
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(projector: Projector, x: torch.Tensor, dynamic: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(projector, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    with torch.inference_mode():
        for side in (14, 15, 13):
            y = torch.randn(2, side * side, 6)
            torch.testing.assert_close(compiled(y), projector(y))
        for grid in [(14, 14), (12, 13), (16, 20)]:
            y = torch.randn(2, grid[0] * grid[1], 6)
            torch.testing.assert_close(compiled(y, grid=grid), projector(y, grid=grid))


GRIDS = [(24, 16), (24, 24), (12, 20), (16, 16), (36, 12)]


@pytest.mark.quick("ldpnetv2")
@pytest.mark.parametrize(
    "name", ["gemma3", "internvl", "ldp", "ldpnetv2", "mlp2x_gelu", "qwen2-vl"]
)
def test_compiles_once_for_every_grid(name: str) -> None:
    projector = build_projector(name, 6, 10)
    for tokens in (True, False):
        torch.compiler.reset()
        counter = torch._dynamo.testing.CompileCounter()
        compiled = torch.compile(projector, fullgraph=True, backend=counter, dynamic=True)
        for batch, (h, w) in enumerate(GRIDS, start=2):
            if tokens:
                compiled(torch.randn(batch, h * w, 6), grid=(h, w))
            else:
                compiled(torch.randn(batch, 6, h, w))
        assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))),
    reason="there is no C++ compiler",
)
@pytest.mark.parametrize("name", ["ldp", "ldpnetv2", "mlp2x_gelu"])
def test_compiles_with_inductor(name: str) -> None:
    torch.compiler.reset()
    projector = build_projector(name, 6, 10).eval()
    compiled = torch.compile(projector, fullgraph=True)
    with torch.no_grad():
        for grid in [(14, 14), (12, 17), (16, 20)]:  # symbolic from the second on
            x = torch.randn(2, grid[0] * grid[1], 6)
            torch.testing.assert_close(compiled(x, grid=grid), projector(x, grid=grid))


@pytest.mark.quick("mlp2x_gelu")
@pytest.mark.parametrize("name", ["internvl", "ldp", "mlp2x_gelu"])
@torch.no_grad()
def test_packed_images_compile_and_export_before_any_was_seen(name: str) -> None:
    torch.compiler.reset()
    projector, seen = build_projector(name, 6, 10), build_projector(name, 6, 10)
    seen.load_state_dict(projector.state_dict())
    compiled = torch.compile(projector, backend="aot_eager")
    for grids in ([(4, 4), (2, 6)], [(6, 2), (4, 4), (8, 8)]):
        x = torch.randn(sum(h * w for h, w in grids), 6)
        torch.testing.assert_close(compiled(x, grids), seen(x, grids))
        program = export(build_projector(name, 6, 10), (x, grids), strict=False)
        assert program.module()(x, grids).shape == seen(x, grids).shape


@pytest.mark.quick("composed-False", "ldpnetv2-True", "mlp-True")
@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_a_dynamic_batch(projector: Projector, x: torch.Tensor, strict: bool) -> None:
    program = export(projector, (x,), dynamic_shapes={"x": {0: Dim("b")}}, strict=strict)
    y = torch.randn(5, 196, 6)
    torch.testing.assert_close(program.module()(y), projector(y))


def test_exports_with_a_grid(projector: Projector) -> None:
    x = torch.randn(2, 14 * 13, 6)
    shapes = {"x": {0: Dim("b")}, "grid": (None, None)}
    program = export(projector, (x,), {"grid": (14, 13)}, dynamic_shapes=shapes)
    y = torch.randn(3, 14 * 13, 6)
    torch.testing.assert_close(program.module()(y, grid=(14, 13)), projector(y, grid=(14, 13)))


def test_a_symbolic_number_of_tokens_is_never_silently_frozen(
    projector: Projector, x: torch.Tensor
) -> None:
    shapes = {"x": {0: Dim("b"), 1: Dim.AUTO}}
    if not projector.spec.needs_grid:
        y = torch.randn(3, 7, 6)
        module = export(projector, (x,), dynamic_shapes=shapes).module()
        torch.testing.assert_close(module(y), projector(y))
        return
    with pytest.raises(GridError) as caught:
        export(projector, (x,), dynamic_shapes=shapes)
    assert str(caught.value) == (
        "x: the number of tokens is symbolic; expected grid=(h, w). Pass the grid by name."
    )
    with pytest.raises(torch._dynamo.exc.Unsupported):
        export(projector, (x,), dynamic_shapes=shapes, strict=True)


def test_runs_in_bf16(projector: Projector, x: torch.Tensor) -> None:
    y = copy.deepcopy(projector).bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def test_the_ldp_layer_too(x: torch.Tensor) -> None:
    layer = LDP(6, 10)
    same(layer, copy.deepcopy(layer), x)
    same(layer, pickle.loads(pickle.dumps(layer)), x)
