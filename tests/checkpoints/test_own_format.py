"""Our own format: what is saved, what comes back, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import WEIGHTS, mlp, refusal, same
from reference.case import randomize
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevlm import (
    BLOCKS,
    PROJECTORS,
    Block,
    Feature,
    GridError,
    Projector,
    RegistryError,
    SpecError,
    build_projector,
    build_vision_projector,
    load_spec,
    plan_projector,
    spec_of,
)
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats.safetensors import SafetensorsFile
from mobilevlm.checkpoints.inspection import inspect_checkpoint
from mobilevlm.checkpoints.load import load_projector
from mobilevlm.checkpoints.mapping import to_upstream
from mobilevlm.checkpoints.save import save_projector


class Lora(nn.Module):
    """An adapter around a linear layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.Linear(16, 2, bias=False)
        self.lora_B = nn.Linear(2, 24, bias=False)


def with_lora(projector: Projector) -> None:
    projector.blocks[0] = Lora(projector.blocks[0])


def with_weight_norm(projector: Projector) -> None:
    nn.utils.parametrizations.weight_norm(projector.blocks[0])


def quantised(projector: Projector) -> None:
    kinds = {type(module) for module in projector.modules() if isinstance(module, nn.Linear)}
    torch.ao.quantization.quantize_dynamic(projector, kinds, torch.qint8, inplace=True)


def of_another_shape(projector: Projector) -> None:
    projector.blocks[2].bias = nn.Parameter(torch.zeros(7))


def sparse_weight(projector: Projector) -> None:
    projector.blocks[0].weight = nn.Parameter(torch.zeros(24, 16).to_sparse())


UNDO = "Undo what wraps its layers first: merge adapters, remove parametrizations."
WIDE = (
    "expected floating-point weights of 16 bits or more. Convert it first: "
    "projector.to(torch.float32)."
)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_lora,
            "projector: 2 tensors missing and 4 left over for its specification\n"
            "  missing  blocks.0.weight (24, 16)\n"
            "  missing  blocks.0.bias (24,)\n"
            "  extra    blocks.0.base_layer.weight (24, 16)\n"
            "  extra    blocks.0.base_layer.bias (24,)\n"
            "  extra    blocks.0.lora_A.weight (2, 16)\n"
            f"  extra    blocks.0.lora_B.weight (24, 2). {UNDO}",
        ),
        (
            with_weight_norm,
            "projector: 1 tensor missing and 2 left over for its specification\n"
            "  missing  blocks.0.weight (24, 16)\n"
            "  extra    blocks.0.parametrizations.weight.original0 (24, 1)\n"
            f"  extra    blocks.0.parametrizations.weight.original1 (24, 16). {UNDO}",
        ),
        (
            quantised,
            "projector: 4 tensors missing and 8 left over for its specification\n"
            "  missing  blocks.0.weight (24, 16)\n"
            "  missing  blocks.0.bias (24,)\n"
            "  missing  blocks.2.weight (24, 24)\n"
            "  missing  blocks.2.bias (24,)\n"
            "  extra    blocks.0.scale ()\n"
            "  extra    blocks.0.zero_point ()\n"
            "  extra    blocks.0._packed_params.dtype ()\n"
            "  extra    blocks.0._packed_params._packed_params ()\n"
            "  extra    blocks.2.scale ()\n"
            "  extra    blocks.2.zero_point ()\n"
            "  extra    blocks.2._packed_params.dtype ()\n"
            f"  extra    blocks.2._packed_params._packed_params (). {UNDO}",
        ),
        (
            sparse_weight,
            "blocks.0.weight: a Tensor of torch.sparse_coo; expected a plain tensor. Make one of "
            "it first: gather what is sharded, undo quantisation.",
        ),
        (of_another_shape, "blocks.2.bias: a tensor of (7,); expected (24,)"),
        (
            lambda projector: projector.to(torch.float8_e4m3fn),
            f"blocks.0.weight: a tensor of torch.float8_e4m3fn; {WIDE}",
        ),
        (
            lambda projector: projector.to(torch.complex64),
            f"blocks.0.weight: a tensor of torch.complex64; {WIDE}",
        ),
    ],
)
def test_what_would_not_load_is_not_saved(
    change: Callable[[Projector], object], message: str, tmp_path: Path
) -> None:
    projector = build_projector("mlp2x-gelu", 16, 24)
    change(projector)
    for write in (
        lambda: save_projector(projector, tmp_path / "new"),
        lambda: to_upstream(projector, "mlp"),
    ):
        with pytest.raises(CheckpointError) as caught:
            write()
        assert str(caught.value) == message
    assert not any(tmp_path.iterdir())


def test_a_projector_without_values_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        save_projector(build_projector("mlp2x-gelu", 16, 24, device="meta"), tmp_path / "new")
    assert str(caught.value) == (
        "blocks.0.weight: no values: it is on the meta device. Load its weights first, or build it "
        "on another device."
    )
    assert not any(tmp_path.iterdir())


def test_a_counter_of_another_dtype_is_not_saved(tmp_path: Path, registries: None) -> None:
    class Counter(Block):
        def build(self, x: Feature) -> nn.Module:
            module = nn.Identity()
            module.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            return module

    BLOCKS.register("counter", Counter)
    projector = build_projector({"in": 2, "out": 2, "blocks": ["counter"]})
    projector.blocks[0].steps = torch.zeros(())
    with pytest.raises(CheckpointError) as caught:
        save_projector(projector, tmp_path / "new")
    assert str(caught.value) == ("blocks.0.steps: a tensor of torch.float32; expected torch.int64")


def test_tied_parameters_are_saved_one_by_one(tmp_path: Path) -> None:
    projector = build_projector({"in": 6, "out": 6, "blocks": ["pointwise"] * 3})
    first, second, third = projector.blocks
    second.weight = first.weight
    third.weight = nn.Parameter(first.weight.detach().t())  # another view of the same memory
    save_projector(projector, tmp_path)
    loaded = load_projector(tmp_path)
    assert same(loaded, projector)
    assert len({parameter.data_ptr() for parameter in loaded.parameters()}) == 6


SMALL: dict[str, dict[str, Any]] = {
    "aya-vision": {"hidden": 40},
    "blip2": {"queries": 4, "depth": 2, "hidden": 16, "heads": 2},
    "c-abstractor": {"hidden": 16, "queries": 4},
    "cohere2-vision": {"hidden": 40},
    "llama4": {"hidden": 20},
    "qwen-vl": {"queries": 9},
    "step3": {"hidden": 32},
}


def small(name: str, **arguments: Any) -> Projector:
    """Build a preset small, as far as its options go."""
    return build_projector(name, 32, 32, **SMALL.get(name, {}), **arguments)


@pytest.mark.parametrize("name", [e.name for e in PROJECTORS.entries() if e.source == "built-in"])
def test_own_round_trip(name: str, tmp_path: Path) -> None:
    projector = small(name)
    randomize(projector)
    save_projector(projector, tmp_path / "a")
    loaded = load_projector(tmp_path / "a")
    assert same(projector, loaded)
    assert loaded.spec == projector.spec
    assert all(p.is_contiguous() for p in loaded.parameters())
    trained = [[p.requires_grad for p in each.parameters()] for each in (loaded, projector)]
    assert trained[0] == trained[1]
    assert inspect_checkpoint(tmp_path / "a").used == tuple(projector.state_dict())
    save_projector(loaded, tmp_path / "b")
    for file in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.thread_unsafe
def test_the_document_in_the_weights_decides(own: Path) -> None:
    file = SafetensorsFile(own / "model.safetensors")
    assert list(file.metadata) == ["mobilevlm"]
    assert file.metadata["mobilevlm"] == (own / "config.json").read_text()
    for text in ("{", '{"model_type": "llava"}'):
        (own / "config.json").write_text(text)
        assert load_projector(own).spec == build_projector("ldp", 16, 24, device="meta").spec
    (own / "config.json").unlink()
    assert same(load_projector(own), load_projector(own / "model.safetensors"))


def test_weights_of_any_strides_are_saved(tmp_path: Path) -> None:
    projector = build_projector("linear", 16, 24)
    weight = projector.blocks[0].weight
    before = weight.detach().clone()
    weight.data = weight.data.t().contiguous().t()
    assert not weight.is_contiguous()
    save_projector(projector, tmp_path)
    assert torch.equal(next(load_projector(tmp_path).parameters()), before)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_crash_while_saving_leaves_the_old(
    own: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in own.iterdir()}

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, crash)
    with pytest.raises(KeyboardInterrupt):
        save_projector(build_projector("mlp", 16, 24), own)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


def test_dtype_device_and_grid(own: Path, tmp_path: Path) -> None:
    save_projector(build_projector("ldp", 16, 24, dtype=torch.bfloat16), tmp_path / "half")
    assert inspect_checkpoint(tmp_path / "half").dtype == torch.bfloat16
    assert {p.dtype for p in load_projector(tmp_path / "half").parameters()} == {torch.bfloat16}
    loaded = load_projector(own, grid=(4, 6), device="cpu", dtype=torch.float64)
    assert loaded.grid == (4, 6)
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    assert loaded(torch.randn(1, 24, 16, dtype=torch.float64)).shape == (1, 6, 24)
    assert next(load_projector(own, device="meta").parameters()).is_meta
    with pytest.raises(SpecError, match=r"torch\.int8; expected a floating-point dtype"):
        load_projector(own, dtype=torch.int8)
    with pytest.raises(GridError):
        load_projector(own, grid=(0, 4))


def test_a_learned_table_needs_its_grid(tmp_path: Path) -> None:
    options = {"position": True, "hidden": 16, "queries": 4}
    projector = build_projector("c-abstractor", 16, 24, grid=(4, 6), **options)
    save_projector(projector, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}[__metadata__]: its document does not fit: position: the grid is not known, "
        "and a learned table has a row for each place. Give grid=(h, w) at build."
    )
    loaded = load_projector(tmp_path, grid=(4, 6))
    assert same(loaded, projector)
    assert inspect_checkpoint(tmp_path, grid=(4, 6)).spec == projector.spec
    with pytest.raises(CheckpointError, match=r"a tensor of \(24, 16\); expected \(9, 16\)"):
        load_projector(tmp_path, grid=(3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_that_are_not_saved_are_there_after_loading(
    dtype: torch.dtype, tmp_path: Path, registries: None
) -> None:
    class Wave(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(channels))
            self.register_buffer("sine", torch.arange(channels).sin(), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight + self.sine

    class WaveBlock(Block):
        def build(self, x: Feature) -> nn.Module:
            return Wave(x.channels)

    BLOCKS.register("wave", WaveBlock)
    projector = build_projector({"in": 8, "out": 8, "blocks": ["wave", "pointwise"]}, dtype=dtype)
    save_projector(projector, tmp_path)
    x = torch.randn(1, 9, 8, dtype=dtype)
    loaded = load_projector(tmp_path)
    assert {t.dtype for t in [*loaded.parameters(), *loaded.buffers()]} == {dtype}
    assert torch.equal(loaded(x), projector(x))
    wide = load_projector(tmp_path, dtype=torch.float64)
    assert {t.dtype for t in [*wide.parameters(), *wide.buffers()]} == {torch.float64}
    assert wide(x.double()).dtype == torch.float64
    meta = load_projector(tmp_path, device="meta")
    assert all(t.is_meta for t in [*meta.parameters(), *meta.buffers()])


def test_buffers_that_count_keep_their_dtype(tmp_path: Path, registries: None) -> None:
    class Normalise(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.register_buffer("aside", torch.ones(channels), persistent=False)
            self.register_buffer("first", torch.tensor(0))
            self.norm = nn.BatchNorm1d(channels)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x.flatten(0, 2)).view_as(x)
            return y * self.aside

    class NormaliseBlock(Block):
        def build(self, x: Feature) -> nn.Module:
            return Normalise(x.channels)

    BLOCKS.register("normalise", NormaliseBlock)
    projector = build_projector({"in": 8, "out": 8, "blocks": ["normalise"]})
    projector(torch.randn(2, 9, 8))
    save_projector(projector.eval(), tmp_path)
    loaded = load_projector(tmp_path, dtype=torch.bfloat16, check_values=True).eval()
    count = loaded.get_buffer("blocks.0.norm.num_batches_tracked")
    assert (count.dtype, count.item()) == (torch.int64, 1)
    assert loaded.get_buffer("blocks.0.aside").dtype == torch.bfloat16
    x = torch.randn(1, 9, 8)
    assert torch.equal(load_projector(tmp_path).eval()(x), projector(x))

    path = tmp_path / "model.safetensors"
    state, metadata = load_file(path), SafetensorsFile(path).metadata
    state["blocks.0.norm.num_batches_tracked"] = torch.ones(())
    save_file(state, path, metadata)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}['blocks.0.norm.num_batches_tracked']: a tensor of torch.float32; "
        "expected torch.int64"
    )


def test_buffers_of_both_kinds_and_no_parameters(tmp_path: Path, registries: None) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("saved", torch.ones(2))
            self.register_buffer("sine", torch.arange(2.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.sine

    class Sines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sine", torch.arange(2.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.sine

    for name, module in (("table", Table), ("sines", Sines)):
        build = {"build": lambda self, x, module=module: module()}
        BLOCKS.register(name, type(name.title(), (Block,), {"__module__": __name__, **build}))
        save_projector(build_projector({"in": 2, "out": 2, "blocks": [name]}), tmp_path / name)
        x = torch.zeros(1, 4, 2, dtype=torch.float64)
        with torch.device("meta"):  # is not where to put it
            loaded = load_projector(tmp_path / name, dtype=torch.float64)
        assert {(t.dtype, t.device.type) for t in loaded.buffers()} == {(torch.float64, "cpu")}
        assert loaded(x)[0, 0].tolist() == [0, 1]


def test_a_document_that_fits_no_grid_is_refused_as_a_checkpoint(own: Path, tmp_path: Path) -> None:
    blocks = '[{"type": "pool", "mode": "adaptive", "size": [1, 1]}, {"type": "pool", "stride": 2}]'
    text = f'{{"schema": 1, "in": 16, "out": 16, "blocks": {blocks}}}'
    with pytest.raises(GridError) as caught:
        load_spec(text)
    save_file({"x": torch.zeros(1)}, tmp_path / "x", {"mobilevlm": text})
    assert refusal(tmp_path / "x") == (
        f"X[__metadata__]: its document does not fit: {caught.value}"
    )


def test_nothing_is_allocated_before_reading(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda t, *_, **__: seen.append(t.device))
    monkeypatch.setattr(SafetensorsFile, "read", lambda *_: pytest.fail("read"))
    inspect_checkpoint(own)
    assert set(seen) == {torch.device("meta")}


def test_a_document_is_the_only_one_in_its_file(own: Path) -> None:
    assert same(load_projector(own, root=""), load_projector(own))
    assert inspect_checkpoint(own).others == ()
    with pytest.raises(CheckpointError) as caught:
        load_projector(own, root="model")
    assert str(caught.value) == (
        f"{own}: root='model.'; expected none. The file is one projector, of save_projector."
    )


def test_documents_that_do_not_fit(own: Path, tmp_path: Path) -> None:
    state = load_file(own / WEIGHTS)
    path = tmp_path / "x.safetensors"
    save_file(state, path, {"mobilevlm": "/etc/passwd"})
    assert refusal(path) == (
        "X[__metadata__]: its document does not fit: document: not JSON: Expecting value at line "
        "1, column 1. Save it again with save_projector."
    )
    text = (own / "config.json").read_text()
    save_file(state, path, {"mobilevlm": text.replace("pointwise", "pointwisp")})
    assert refusal(path).startswith(
        "X[__metadata__]: its document does not fit: 3 problems\n  - blocks[0].type: unknown block"
    )
    state.popitem()
    save_file(state, path, {"mobilevlm": text})
    assert "1 tensor missing and 0 left over for document" in refusal(path)


def test_an_inspection_in_one_line(own: Path, tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / "x")
    assert str(inspect_checkpoint(tmp_path / "x")) == (
        f"{tmp_path}/x: mlp, 16 -> 24, float32, 4 tensors under 'mm_projector.', 0 others left"
    )
    found = inspect_checkpoint(own)
    assert found.root == ""
    assert str(found) == (
        f"{own}: document (ldp), 16 -> 24, float32, {len(found.used)} tensors without a prefix, "
        "0 others left"
    )


@pytest.mark.parametrize(
    ("name", "kind", "call"),
    [
        ("own", "folder", "load_projector"),
        ("own/config.json", "file", "load_spec"),
        ("own/model.safetensors", "file", "load_projector"),
    ],
)
def test_a_path_in_place_of_a_name(
    name: str, kind: str, call: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says to write works."""
    monkeypatch.chdir(own.parent)
    for verb in (build_projector, plan_projector, spec_of):
        with pytest.raises(RegistryError) as caught:
            verb(name, 16, 24)
        assert str(caught.value) == (
            f"unknown projector {name!r}; expected a registered name. It is a {kind}: write "
            f"{call}({name!r})."
        )
    found = load_spec(name) if call == "load_spec" else load_projector(name).spec
    assert found == spec_of("ldp", 16, 24)


def test_an_inspection_names_a_document_by_what_means_the_same(tmp_path: Path) -> None:
    for name, options, title in (
        ("mlp", {"prefix_tokens": 1}, "document (mlp)"),
        ("mlp3x_gelu", {}, "document (mlp3x_gelu)"),
        ("qwen2_5_vl", {}, "document (qwen2-5-vl)"),
        ("ldp", {"kernel": 5}, "document"),
    ):
        projector = build_projector(name, 16, 24, **options)
        save_projector(projector, tmp_path / name)
        found = inspect_checkpoint(tmp_path / name)
        assert (found.family, found.title) == ("document", title)


def test_a_grid_that_a_document_does_not_take(tmp_path: Path) -> None:
    projector = build_projector("qwen2-vl", 16, 24)
    save_projector(projector, tmp_path)
    message = None
    with pytest.raises(GridError) as caught:
        build_projector("qwen2-vl", 16, 24, grid=(3, 3))
    message = str(caught.value)
    with pytest.raises(GridError) as caught:
        load_projector(tmp_path, grid=(3, 3))
    assert str(caught.value) == message
    text = (tmp_path / "config.json").read_text()
    path = tmp_path / "x.safetensors"
    save_file(load_file(tmp_path / WEIGHTS), path, {"mobilevlm": text.replace("24", '"24"')})
    with pytest.raises(CheckpointError, match="its document does not fit") as wrong:
        load_projector(path, grid=(4, 4))
    assert isinstance(wrong.value.__cause__, SpecError)


def test_a_document_beside_a_tensor_of_another_shape(own: Path, tmp_path: Path) -> None:
    state = load_file(own / WEIGHTS)
    key = next(iter(state))
    shape = tuple(state[key].shape)
    state[key] = torch.zeros(7, 5, 3)
    save_file(state, tmp_path / "x", {"mobilevlm": (own / "config.json").read_text()})
    assert refusal(tmp_path / "x") == (
        f"X['{key}']: a tensor of (7, 5, 3); expected {shape}. Its family or its widths do not "
        "match those of the other tensors."
    )


def test_a_drop_in_is_saved_under_the_documents_keys(tmp_path: Path) -> None:
    config = {"mm_projector_type": "ldpnet", "mm_hidden_size": 16, "hidden_size": 24}
    projector = build_vision_projector(config)
    save_projector(projector, tmp_path)
    loaded = load_projector(tmp_path)
    assert type(loaded) is Projector
    assert same(loaded.blocks, projector.native().blocks)
