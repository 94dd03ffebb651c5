"""Plugins' presets with upstream entries are recognised in their own checkpoints, as ours are."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import WEIGHTS, mlp, refusal, same
from helpers.plugins import Site
from safetensors.torch import save_file
from torch import Tensor

from mobilevlm import (
    PROJECTORS,
    CheckpointError,
    Preset,
    RegistryError,
    Stack,
    build_projector,
    convert_checkpoint,
    inspect_checkpoint,
    load_projector,
    save_projector,
    to_upstream,
)
from mobilevlm.projectors.upstream import Checkpoint, Match, Upstream

SOURCE = """
from mobilevlm import Preset, Stack
from mobilevlm.projectors.upstream import Checkpoint, Match, Upstream

print("{name} is imported")


def read(ckpt: Checkpoint) -> Match:
    out, in_ = ckpt.matrix("up.weight")
    return Match(in_, out, {{"act": ckpt.setting("bridge_act", "gelu")}})


class Bridge(Preset):
    act: str = "gelu"

    def expand(self, in_, out):
        gelu = {{"type": "norm-act", "norm": "none", "act": self.act}}
        return Stack.parse({{"in": in_, "out": out, "blocks": ["pointwise", gelu, "pointwise"]}})

    upstream = (
        Upstream(
            "bridge", ("up", "down"), prefix="bridge", read=read, model_types=("{model}",)
        ),
    )
"""


@pytest.fixture
def bridge(site: Site) -> Iterator[Callable[..., str]]:
    """Return a function that installs a distribution with a projector, bridge."""
    modules = []

    def install(name: str = "north-vl", model: str = "north_vl", source: str = SOURCE) -> str:
        module = name.replace("-", "_")
        modules.append(module)
        point = f"[mobilevlm.projectors]\nbridge = {module}:Bridge\n"
        site.install(name, "1.0", point, {f"{module}.py": source.format(name=name, model=model)})
        PROJECTORS.refresh()
        return module

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def state(root: str = "model.bridge.") -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"up.weight": (24, 16), "up.bias": (24,), "down.weight": (24, 24), "down.bias": (24,)}
    found = {root + key: torch.randn(shape) for key, shape in shapes.items()}
    return {**found, "lm_head.weight": torch.zeros(2, 2)}


def folder(path: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    save_file(tensors, path / WEIGHTS)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_plugins_folder_and_file_are_read(
    bridge: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = bridge()
    path = folder(tmp_path / "north", state(), model_type="north_vl", bridge_act="relu")
    assert module not in sys.modules
    for source in (path, path / WEIGHTS):
        found = inspect_checkpoint(source)
        assert (found.family, found.layout) == ("north-vl/bridge", "north-vl/bridge")
        assert (found.root, found.left, found.unknown) == ("model.bridge.", 1, ())
        loaded = load_projector(source)
        assert loaded.spec == build_projector("north-vl/bridge", 16, 24, act="relu").spec
    back = to_upstream(loaded, found.layout)
    assert all(torch.equal(back[key], state()[f"model.bridge.{key}"]) for key in back)
    assert capsys.readouterr().out == "north-vl is imported\n"
    for family in ("bridge", "north-vl/bridge"):
        assert same(load_projector(path, family=family), loaded)
    assert load_projector(path, family="bridge", act="silu").spec.blocks[1].act == "silu"  # type: ignore[attr-defined]
    convert_checkpoint(path, tmp_path / "x.safetensors", to="north-vl/bridge", prefix="bridge.")
    assert same(load_projector(tmp_path / "x.safetensors", family="bridge", act="relu"), loaded)
    save_projector(loaded, tmp_path / "mine")
    assert same(load_projector(tmp_path / "mine"), loaded)


def test_ours_are_asked_first(bridge: Callable[..., str], tmp_path: Path) -> None:
    """No plugin is imported where one of ours reads the folder, or knows its model and refuses."""
    module = bridge(model="llava")
    path = folder(tmp_path / "x", {**mlp(), **state()}, model_type="llava")
    assert load_projector(path).spec == build_projector("mlp", 16, 24).spec
    broken = folder(
        tmp_path / "y",
        {
            "multi_modal_projector.linear_1.weight": torch.zeros(4, 4),
            "multi_modal_projector.linear_2.weight": torch.zeros(5, 5),
            **state(),
        },
        model_type="llava",
    )
    with pytest.raises(CheckpointError):
        load_projector(broken)
    assert module not in sys.modules
    assert load_projector(broken, family="bridge").spec.out == 24
    assert module in sys.modules


def test_a_name_of_ours_that_does_not_fit_is_no_claim(
    bridge: Callable[..., str], tmp_path: Path
) -> None:
    """LLaVA's naming, whose tensors are others, in a model of the plugin's."""
    source = SOURCE.replace('"up"', '"0"').replace('"down"', '"2"').replace("up.weight", "0.weight")
    bridge(source=source.replace('prefix="bridge"', 'prefix="mm_projector"'))
    tensors = {**mlp(), "mm_projector.0.scale": torch.ones(1)}
    path = folder(tmp_path / "x", tensors, model_type="north_vl")
    assert refusal(path).startswith("X: 0 tensors missing and 1 left over for north-vl/bridge\n")
    path = folder(tmp_path / "y", mlp(), model_type="north_vl", mm_projector_type="bridge")
    assert inspect_checkpoint(path).family == "north-vl/bridge"


def test_two_plugins_that_claim_a_folder_are_both_named(
    bridge: Callable[..., str], tmp_path: Path
) -> None:
    bridge()
    bridge("south-vl")
    path = folder(tmp_path / "x", state(), model_type="north_vl")
    assert refusal(path) == (
        "X: more than one projector fits: north-vl/bridge under 'model.bridge.', south-vl/bridge "
        "under 'model.bridge.'. Say which one, as family='north-vl/bridge'."
    )
    assert inspect_checkpoint(path, family="south-vl/bridge").family == "south-vl/bridge"
    with pytest.raises(RegistryError, match="projector 'bridge' is offered by north-vl"):
        load_projector(path, family="bridge")


def test_plugins_that_are_switched_off_are_not_asked(
    bridge: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = bridge()
    path = folder(tmp_path / "x", state(), model_type="north_vl")
    for value in ("1", "north-vl", "north-vl/bridge"):
        monkeypatch.setenv("MOBILEVLM_DISABLE_PLUGINS", value)
        assert refusal(path).startswith("X: no projector that is known of model type 'north_vl'")
    assert module not in sys.modules
    monkeypatch.delenv("MOBILEVLM_DISABLE_PLUGINS")
    assert load_projector(path).spec.out == 24


BROKEN = {
    "on import": ("import no_such_thing\n", "ModuleNotFoundError on import: No module named"),
    "no preset": ("Bridge = 1\n", "it leads to 1"),
    "no entries": (
        SOURCE.replace("    upstream = (", "    upstream = (1,\n"),
        "upstream holds 1",
    ),
    "no pattern": (
        SOURCE.replace('prefix="bridge"', 'prefix="("'),
        "PatternError: missing ), unterminated subpattern at position",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_and_stops_nothing(
    name: str, bridge: Callable[..., str], tmp_path: Path
) -> None:
    source, why = BROKEN[name]
    bridge("broken-vl", source=source)
    path = folder(tmp_path / "x", state(), model_type="north_vl")
    why = why if sys.version_info >= (3, 13) else why.replace("PatternError", "error")
    assert f"; broken-vl/bridge cannot be asked ({why}" in refusal(path)
    assert load_projector(folder(tmp_path / "y", mlp())).spec.in_ == 16
    # Where the tensors are ours by their names alone and do not fit, they may be the plugin's.
    part = {key: each for key, each in mlp().items() if key != "mm_projector.2.bias"}
    assert f"; broken-vl/bridge cannot be asked ({why}" in refusal(
        folder(tmp_path / "z", part, model_type="north_vl")
    )
    bridge()
    found = inspect_checkpoint(path)
    assert found.family == "north-vl/bridge"


def test_a_reader_that_fails_is_named(bridge: Callable[..., str], tmp_path: Path) -> None:
    bridge(
        "broken-vl",
        source=SOURCE.replace("out, in_ = ckpt", "raise OSError('gone')\n    out, in_ = ckpt"),
    )
    path = folder(tmp_path / "x", state(), model_type="north_vl")
    assert refusal(path).startswith(
        "X: broken-vl/bridge cannot read it: OSError: gone. The fault is in"
    )
    bridge()
    assert inspect_checkpoint(path).family == "north-vl/bridge"


def test_what_stands_beside_an_unknown_main_projector_is_not_taken_for_it(
    bridge: Callable[..., str], tmp_path: Path
) -> None:
    source = SOURCE.replace('model_types=("{model}",)', "secondary=True")
    bridge(source=source)
    path = folder(tmp_path / "x", state(), model_type="own_vl")
    assert refusal(path).startswith("X: no projector that is known of model type 'own_vl', among")
    assert load_projector(path, root="model.bridge").spec.out == 24
    path = folder(tmp_path / "y", state(), model_type="qwen3_vl")
    assert load_projector(path).spec.out == 24  # whose main one is not there


def test_what_a_notebook_registers_is_read_too(tmp_path: Path) -> None:
    def read(ckpt: Checkpoint) -> Match:
        out, in_ = ckpt.matrix("up.weight")
        return Match(in_, out)

    class Local(Preset):
        upstream = (
            Upstream("local", ("up", "down"), prefix="bridge", read=read, model_types=("own_vl",)),
        )

        def expand(self, in_: int, out: int) -> Stack:
            return Stack.parse({"in": in_, "out": out, "blocks": ["pointwise", "pointwise"]})

    path = folder(tmp_path / "x", state(), model_type="own_vl")
    PROJECTORS.register("local-bridge", Local)
    PROJECTORS.register("local-bridge-2", Local())  # an instance shares its class's entries
    try:
        assert inspect_checkpoint(path).family == "local-bridge"
        assert len(load_projector(path, family="local-bridge").spec.blocks) == 2
    finally:
        PROJECTORS.unregister("local-bridge")
        PROJECTORS.unregister("local-bridge-2")
    assert refusal(path).startswith("X: no projector that is known of model type 'own_vl'")
