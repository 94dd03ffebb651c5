"""Small checkpoints, and what loading them is compared with."""

import json
import pickle
import struct
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.case import Grid, Run, blocked, plain
from reference.models import Model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevlm import Projector, build_projector, convert_checkpoint
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.mapping import to_upstream
from mobilevlm.checkpoints.recognise import inner_config, recognise


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours
    )


def pickle_refusal(path: Path, **arguments: Any) -> str:
    """Return the message without the folder; nothing is written."""
    out = path.parent / "refused"
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(path, out, from_pickle=True, **arguments)
    assert not out.exists()
    return str(caught.value).replace(f"{path}/", "").replace(str(path), "X")


def without_defaults(config: Any) -> dict[str, Any]:
    """Return a config as transformers wrote it before it wrote defaults too."""
    defaults = type(config)().to_dict()
    inner = {name: getattr(config, name, None) for name in type(config).sub_configs}
    return {
        name: value if inner.get(name) is None else without_defaults(inner[name])
        for name, value in config.to_dict().items()
        if name == "model_type" or inner.get(name) is not None or value != defaults.get(name)
    }


def equal(
    ours: Projector,
    run: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor],
    upstream: nn.Module,
    *grids: tuple[int, int],
) -> None:
    """Compare a loaded projector with upstream's module on tokens, at two scales and batches."""
    for grid in grids:
        for batch in (1, 3):
            for scale in (1.0, 1e-3):
                x = scale * torch.randn(batch, grid[0] * grid[1], ours.spec.in_)
                with torch.inference_mode():
                    expected = run(upstream, x, grid)
                    side = ours.spec.token_block
                    given = torch.stack([blocked(image, grid, side) for image in x])
                    y = ours(given, grid=grid)
                assert y.shape == expected.shape
                assert (y - expected).abs().max() / expected.abs().max() < 1e-5


def check_model(case: Model, tmp_path: Path) -> None:
    """Save a whole model, load its projector, and compare the two."""
    model = case.build()
    model.save_pretrained(tmp_path / "whole")
    size = (tmp_path / "whole" / "model.safetensors").stat().st_size
    model.save_pretrained(tmp_path / "shards", max_shard_size=size // 8)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    whole = load_projector(tmp_path / "whole")
    shards = load_projector(tmp_path / "shards")
    assert same(whole, shards)
    assert whole.spec == shards.spec
    found = inspect_checkpoint(tmp_path / "shards")
    stored = load_file(tmp_path / "whole" / "model.safetensors")
    assert found.family == case.preset
    assert (found.spec.in_, found.spec.out) == (case.in_, case.out)
    assert found.dtype == torch.float32
    assert set(found.used) < stored.keys()
    assert len(found.used) + found.left == len(stored)
    assert all(key.startswith(found.root) for key in found.used)
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    [fit] = [fit for fit in recognise(inner_config(config), stored) if fit.root == found.root]
    back = to_upstream(whole, fit.entry.layout)
    assert {found.root + key for key in back} == set(found.used)
    assert all(torch.equal(back[key], stored[found.root + key]) for key in back)
    upstream = model.get_submodule(case.module)
    equal(whole, case.run, upstream, *case.grids)
    # What is not the projector's may be anything, and what is a default may be left out.
    for key, tensor in stored.items():
        if key not in found.used:
            tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.zero_()
    config = without_defaults(model.config)
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config, default=str))
    save_file(stored, tmp_path / "whole" / "model.safetensors")
    again = load_projector(tmp_path / "whole", check_values=True)
    assert same(whole, again)
    assert whole.spec == again.spec


@dataclass(frozen=True)
class Beside:
    """A projector beside a model's main one: where upstream has it, and under which root it is."""

    model: Model
    module: str
    root: str
    preset: str
    options: dict[str, Any] = field(default_factory=dict)
    run: Run = plain
    grids: tuple[Grid, ...] = ((1, 8), (4, 6))
    in_: int = 16
    config: dict[str, Any] = field(default_factory=dict)  # what the model's has to have besides


def run_embed_audio(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(inputs_embeds=x)
    return y


def check_beside(case: Beside, tmp_path: Path) -> None:
    """Save a whole model, load a secondary projector of it, compare it and write it back."""
    model = copy(case.model)
    model.config = {**model.config, **case.config}
    built = model.build()
    built.save_pretrained(tmp_path)
    main = inspect_checkpoint(tmp_path)
    assert case.root in main.others
    assert f"\n  another under {case.root!r}" in str(main)
    assert (main.unknown, main.notes) == ((), ())
    found = inspect_checkpoint(tmp_path, root=case.root)
    ours = load_projector(tmp_path, root=case.root)
    assert ours.spec == build_projector(case.preset, case.in_, ours.spec.out, **case.options).spec
    equal(ours, case.run, built.get_submodule(case.module), *case.grids)
    stored = load_file(tmp_path / WEIGHTS)
    back = {found.root + key: value for key, value in to_upstream(ours, found.layout).items()}
    assert set(back) == set(found.used)
    assert all(torch.equal(tensor, stored[key]) for key, tensor in back.items())


PREFIXES = (
    *("", "mm_projector.", "model.mm_projector.", "base_model.model.model.mm_projector."),
    *("vision_projector.", "module.model.mm_projector."),
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def mlp() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = to_upstream(build_projector("mlp2x-gelu", 16, 24), "mlp")
    return {f"mm_projector.{key}": tensor for key, tensor in state.items()}


def header(entries: str, data: int = 0) -> bytes:
    """Write a file by hand, so that it can lie."""
    return struct.pack("<Q", len(entries)) + entries.encode() + bytes(data)


def refusal(path: Path) -> str:
    """Return the message without the folder, whether loaded or inspected."""
    messages = set()
    for call in (load_projector, inspect_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            call(path)
        assert type(caught.value) is CheckpointError
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        messages.add(str(caught.value))
    [message] = messages
    return message.replace(f"{path}/", "").replace(str(path), "X")


def hf_mlp() -> dict[str, Tensor]:
    state = to_upstream(build_projector("llava", 16, 24), "llava")
    return {f"multi_modal_projector.{key}": tensor for key, tensor in state.items()}
