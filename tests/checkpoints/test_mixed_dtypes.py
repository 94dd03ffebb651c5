"""Weights of several dtypes: what torch runs gives the same numbers, the rest is explained."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevlm import GridError, build_projector, fast_paths
from mobilevlm.checkpoints.convert import convert_checkpoint
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.save import save_projector

V, D = 32, 48
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def internvl(folder: Path, norm: torch.dtype, linear: torch.dtype) -> nn.Sequential:
    """Save an InternVL whose norm and layers have these dtypes; return its projector in torch."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.LayerNorm(4 * V), nn.Linear(4 * V, D), nn.GELU(), nn.Linear(D, D)).to(
        linear
    )
    plain[0].to(norm)
    save_file(
        {f"mlp1.{key}": t for key, t in plain.state_dict().items()}, folder / "model.safetensors"
    )
    config = {"model_type": "internvl_chat", "downsample_ratio": 0.5, "ps_version": "v2"}
    (folder / "config.json").write_text(json.dumps(config))
    return plain


def merged(x: Tensor) -> Tensor:
    """2x2 windows of a 4x4 grid, row by row; ``(b, 16, c) -> (b, 4, 4 c)``."""
    x = x.view(len(x), 2, 2, 2, 2, V).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(len(x), 4, 4 * V)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("norm", "linear", "given"), [*itertools.product(FLOATS, FLOATS, FLOATS)])
def test_what_torch_runs_runs_and_what_it_refuses_is_explained(
    norm: torch.dtype, linear: torch.dtype, given: torch.dtype, fast: bool, tmp_path: Path
) -> None:
    plain = internvl(tmp_path, norm, linear)
    projector = load_projector(tmp_path)
    x = torch.randn(3, 16, V).to(given)
    with torch.no_grad(), fast_paths(fast):
        try:
            expected = plain(merged(x))
        except RuntimeError:
            with pytest.raises(GridError) as caught:
                projector(x)
            if norm != linear:
                names = {
                    t: str(t)[6:].replace("bfloat", "bf").replace("float", "fp") for t in FLOATS
                }
                assert str(caught.value) == (
                    f"x: the input is {given}, the parameters are mixed: 2 {names[norm]}, "
                    f"4 {names[linear]}; expected dtypes that torch computes with. Load it with "
                    f"dtype={given}, or call projector.to({given})."
                )
            assert projector.to(given)(x).dtype == given  # the hint works
            assert load_projector(tmp_path, dtype=given)(x).dtype == given
        else:
            y = projector(x)
            assert y.dtype == expected.dtype
            if fast:
                assert torch.allclose(y.float(), expected.float(), atol=2e-2)
            else:
                assert torch.equal(y, expected)


def test_gradients_and_autocast_work_with_several_dtypes(tmp_path: Path) -> None:
    plain = internvl(tmp_path, torch.float32, torch.bfloat16)
    projector = load_projector(tmp_path)
    x = torch.randn(1, 16, V).bfloat16()
    plain(merged(x)).float().square().sum().backward()
    projector(x).float().square().sum().backward()
    for ours, theirs in zip(projector.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(projector(x.float()), plain(merged(x.float())))


def test_a_compiled_projector_takes_several_dtypes(tmp_path: Path) -> None:
    internvl(tmp_path, torch.float32, torch.bfloat16)
    projector = load_projector(tmp_path)
    x = torch.randn(1, 16, V).bfloat16()
    compiled = torch.compile(projector, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(x, grid=(4, 4)), projector(x, grid=(4, 4)), atol=2e-2)


def test_biases_of_another_dtype_are_explained(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(V, D), nn.GELU(), nn.Linear(D, D)).bfloat16()
    state = {
        f"mm_projector.{key}": tensor.float() if key.endswith("bias") else tensor
        for key, tensor in plain.state_dict().items()
    }
    save_file(state, tmp_path / "x.safetensors")
    assert str(inspect_checkpoint(tmp_path / "x.safetensors").dtype) == "mixed: 2 bf16, 2 fp32"
    with pytest.raises(GridError, match="the parameters are mixed: 2 bf16, 2 fp32"):
        load_projector(tmp_path / "x.safetensors")(torch.randn(1, 16, V).bfloat16())


def test_one_dtype_is_told_as_before() -> None:
    projector = build_projector("mlp", V, D, dtype="bf16")
    with pytest.raises(GridError, match=r"the input is torch.float32, the parameters are torch.bf"):
        projector(torch.randn(1, 4, V))


def test_inspection_says_how_many_have_which_dtype(tmp_path: Path) -> None:
    internvl(tmp_path, torch.float32, torch.bfloat16)
    found = inspect_checkpoint(tmp_path)
    assert found.dtype == "mixed: 2 fp32, 4 bf16"
    assert found.to_dict()["dtype"] == "mixed: 2 fp32, 4 bf16"
    assert "32 -> 48, mixed: 2 fp32, 4 bf16, 6 tensors" in str(found)
    internvl(tmp_path, torch.float16, torch.float16)
    assert inspect_checkpoint(tmp_path).dtype == torch.float16


def test_several_dtypes_are_kept_by_saving_and_converting(tmp_path: Path) -> None:
    plain = internvl(tmp_path, torch.float32, torch.bfloat16)
    save_projector(load_projector(tmp_path), tmp_path / "saved")
    convert_checkpoint(tmp_path, tmp_path / "converted")
    for folder in ("saved", "converted"):
        stored = load_file(tmp_path / folder / "model.safetensors")
        assert [t.dtype for t in plain.state_dict().values()] == [t.dtype for t in stored.values()]
    convert_checkpoint(tmp_path, tmp_path / "half", dtype="bf16")
    assert inspect_checkpoint(tmp_path / "half").dtype == torch.bfloat16


def test_values_that_the_dtype_cannot_hold_are_refused_at_load_as_in_convert(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    state = {f"mm_projector.{k}": t for k, t in nn.Linear(V, D).bfloat16().state_dict().items()}
    state["mm_projector.weight"][3, 4] = 1e5
    save_file(state, tmp_path / "x.safetensors")
    said = []
    for run in (
        lambda: load_projector(tmp_path / "x.safetensors", dtype=torch.float16),
        lambda: convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "o", dtype="fp16"),
    ):
        with pytest.raises(CheckpointError) as caught:
            run()
        said.append(str(caught.value))
    assert (
        said
        == [
            f"{tmp_path}/x.safetensors['mm_projector.weight']: values that torch.float16 cannot "
            "hold. Take a wider dtype."
        ]
        * 2
    )
