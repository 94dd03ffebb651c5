"""Checkpoints: our own, real models of transformers, LLaVA's files, and all that can be wrong."""

import errno
import io
import json
import mmap
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace as NS
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from test_attention import MiniCPMV, OpenFlamingo, QwenVL, run_blip2, run_masked, with_grid
from test_zoo import (
    CASES,
    ColumnMajor,
    DeepseekVL2,
    Nvila,
    as_image,
    blocked,
    hf,
    on_grid,
    plain,
    randomize,
    run_blocked,
    run_granite,
    run_internvl,
    run_llama4,
    run_minicpmv,
)
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
from mobilevlm.checkpoints import weights
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.families import inner_config, recognise
from mobilevlm.checkpoints.layouts import LAYOUTS, Fused, Name, to_upstream
from mobilevlm.checkpoints.load import inspect_checkpoint, load_projector
from mobilevlm.checkpoints.safetensors_file import SafetensorsFile
from mobilevlm.checkpoints.save import save_projector
from mobilevlm.checkpoints.tensor_file import WINDOW

GOLDEN = Path(__file__).parents[1] / "golden"

# ---------------------------------------------------------------------- our own format


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
            "projector: 2 tensors missing and 4 left over for its specification, such as "
            "'blocks.0.weight', 'blocks.0.bias', 'blocks.0.base_layer.weight', "
            f"'blocks.0.base_layer.bias'. {UNDO}",
        ),
        (
            with_weight_norm,
            "projector: 1 tensors missing and 2 left over for its specification, such as "
            "'blocks.0.weight', 'blocks.0.parametrizations.weight.original0', "
            f"'blocks.0.parametrizations.weight.original1'. {UNDO}",
        ),
        (
            quantised,
            "projector: 4 tensors missing and 8 left over for its specification, such as "
            f"'blocks.0.weight', 'blocks.0.bias', 'blocks.0.scale', 'blocks.0.zero_point'. {UNDO}",
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
}


def small(name: str, **arguments: Any) -> Projector:
    """Build a preset small, as far as its options go."""
    return build_projector(name, 32, 32, **SMALL.get(name, {}), **arguments)


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours
    )


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
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A saved LDP, 16 -> 24."""
    torch.manual_seed(0)
    save_projector(build_projector("ldp", 16, 24), tmp_path / "own")
    return tmp_path / "own"


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


# ---------------------------------------------------------------------- models of transformers

CLIP = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP_TOWER = {**CLIP, "model_type": "clip_vision_model", "projection_dim": 16}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}
QWEN = {"depth": 2, "num_heads": 2, "patch_size": 4}
QWEN3 = {
    **QWEN,
    "hidden_size": 16,
    "out_hidden_size": 24,
    "intermediate_size": 20,
    "num_position_embeddings": 64,
}
# The tower is timm's.
PERCEPTION = {
    "model_type": "timm_wrapper",
    "architecture": "vit_pe_core_tiny_patch16_384",
    "model_args": {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 4},
}
ROPE = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4}


def text(model_type: str, **fields: Any) -> dict[str, Any]:
    return {**TEXT, "model_type": model_type, "head_dim": 12, **fields}


def llama() -> dict[str, Any]:
    return {**TEXT, "model_type": "llama"}


class Model:
    """A whole tiny model: its class, its config, where its projector is and how it is run.

    `run` takes the module, tokens ``(b, n, c)`` and their grid, and returns ``(b, m, d)``.
    """

    def __init__(
        self,
        name: str,
        module: str,
        run: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor],
        preset: str,
        in_: int = 16,
        *grids: tuple[int, int],
        out: int = 24,
        classes: tuple[str, str] | None = None,
        task: str = "ForConditionalGeneration",
        **config: Any,
    ) -> None:
        self.module, self.run, self.preset = module, run, preset
        self.in_, self.out = in_, out
        self.grids, self.config = grids or ((8, 8),), config
        self.classes = classes or (f"{name}Config", f"{name}{task}")

    def build(self) -> nn.Module:
        import transformers

        config, model = (getattr(transformers, name) for name in self.classes)
        torch.manual_seed(0)
        built: nn.Module = model(config(**self.config))
        randomize(built)
        for name, buffer in built.named_buffers():
            if "vision_tower.std_" in name:  # Gemma 4's statistics
                buffer.normal_()
        return built.eval()


def run_llama4_model(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    model.vision_adapter = model.vision_model.vision_adapter
    y: Tensor = run_llama4(model, x, grid)
    return y


def run_internvl_model(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    module = model.multi_modal_projector
    module.pixel_shuffle = lambda y: model.pixel_shuffle(y, 0.5)
    y: Tensor = run_internvl(module, x, grid)
    return y


PROJECTOR = "model.multi_modal_projector"
_LLAMA4_VISION = {
    **CLIP,
    "intermediate_size": 64,
    "projector_input_dim": 20,
    "projector_output_dim": 20,
    "vision_output_dim": 20,
}
_RUN_MISTRAL3 = CASES["mistral3"].run


def run_mistral3(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    module.patch_merger.patch_size = 14
    return _RUN_MISTRAL3(module, x, grid)


PERCEIVER = {
    "resampler_n_latents": 5,
    "resampler_depth": 2,
    "resampler_n_heads": 4,
    "resampler_head_dim": 6,
}
BLIP2 = {
    "vision_config": CLIP,
    "qformer_config": {
        "hidden_size": 20,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "intermediate_size": 28,
        "cross_attention_frequency": 3,
        "vocab_size": 50,
    },
    "num_query_tokens": 5,
    "text_config": {
        "model_type": "opt",
        "hidden_size": 24,
        "word_embed_proj_dim": 24,
        "ffn_dim": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 32,
    },
}
MODELS = {
    "llava": Model(
        *("Llava", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "llava-levels": Model(
        *("Llava", PROJECTOR, plain, "mlp", 48),
        vision_config=CLIP_TOWER,
        text_config=llama(),
        vision_feature_layer=[-1, -1, 0],
        projector_hidden_act="quick_gelu",
        multimodal_projector_bias=False,
    ),
    "llava_next": Model(
        *("LlavaNext", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "llava_next_video": Model(
        *("LlavaNextVideo", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "llava_onevision": Model(
        *("LlavaOnevision", PROJECTOR, plain, "mlp"),
        vision_config=SIGLIP,
        text_config=text("qwen2"),
    ),
    "video_llava": Model(
        *("VideoLlava", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "vipllava": Model(
        *("VipLlava", PROJECTOR, plain, "vipllava", 32),
        vision_config=CLIP_TOWER,
        text_config=llama(),
        vision_feature_layers=[-1, 0],
        projector_layernorm_eps=1e-3,
    ),
    "paligemma": Model(
        *("PaliGemma", PROJECTOR, plain, "linear"),
        vision_config=SIGLIP,
        text_config=text("gemma"),
        projection_dim=24,
    ),
    "idefics3": Model(
        *("Idefics3", "model.connector", plain, "idefics3"),
        vision_config={**CLIP, "model_type": "idefics3_vision"},
        text_config=llama(),
        image_token_id=5,
    ),
    "smolvlm": Model(
        *("SmolVLM", "model.connector", plain, "idefics3"),
        vision_config={**CLIP, "model_type": "smolvlm_vision"},
        text_config=llama(),
        image_token_id=5,
        scale_factor=4,
    ),
    "internvl": Model(
        *("InternVL", "model", run_internvl_model, "internvl"),
        vision_config={**CLIP, "image_size": [32, 32], "patch_size": [4, 4]},
        text_config=text("qwen2"),
    ),
    "lfm2_vl": Model(
        *("Lfm2Vl", PROJECTOR, on_grid, "internvl", 16, (4, 6), (8, 8)),
        vision_config={**SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 64},
        text_config=text("lfm2", layer_types=["full_attention"]),
        projector_hidden_size=20,
    ),
    "lfm2_vl-bare": Model(
        *("Lfm2Vl", PROJECTOR, on_grid, "internvl", 16, (4, 6), (8, 8)),
        vision_config={**SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 64},
        text_config=text("lfm2", layer_types=["full_attention"]),
        projector_hidden_size=20,
        projector_bias=False,
        projector_use_layernorm=False,
        projector_hidden_act="gelu_pytorch_tanh",
    ),
    "llama4": Model(
        *("Llama4", "", run_llama4_model, "llama4"),
        vision_config=_LLAMA4_VISION,
        text_config=text("llama4_text", intermediate_size_mlp=20, num_local_experts=2),
    ),
    "gemma3": Model(
        *("Gemma3", PROJECTOR, plain, "gemma3"),
        vision_config={**SIGLIP, "layer_norm_eps": 1e-3},
        text_config=text("gemma3_text"),
        mm_tokens_per_image=16,
    ),
    "qwen2_vl": Model(
        *("Qwen2VL", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN, "embed_dim": 16, "hidden_size": 24},
        text_config=text("qwen2_vl_text", rope_parameters=ROPE),
    ),
    "qwen2_5_vl": Model(
        *("Qwen2_5_VL", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN, "hidden_size": 16, "out_hidden_size": 24, "intermediate_size": 20},
        text_config=text("qwen2_5_vl_text", rope_parameters=ROPE),
    ),
    "qwen3_vl": Model(
        *("Qwen3VL", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN3, "deepstack_visual_indexes": [0]},
        text_config=text("qwen3_vl_text", rope_parameters=ROPE),
    ),
    "qwen3_vl_moe": Model(
        *("Qwen3VLMoe", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN3, "deepstack_visual_indexes": [0]},
        text_config=text(
            "qwen3_vl_moe_text",
            rope_parameters=ROPE,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=20,
        ),
    ),
    "qwen3_5": Model(
        *("Qwen3_5", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config=QWEN3,
        text_config=text("qwen3_5_text", layer_types=["full_attention"]),
    ),
    "mistral3": Model(
        *("Mistral3", PROJECTOR, run_mistral3, "mistral3", 16, (5, 7), (4, 4)),
        vision_config={**CLIP, "model_type": "pixtral"},
        text_config=text("mistral", rms_norm_eps=1e-3),
    ),
    "mistral3-defaults": Model(
        *("Mistral3", PROJECTOR, run_mistral3, "mistral3", 16, (4, 4)),
        vision_config={**CLIP, "model_type": "pixtral"},
        text_config=text("mistral"),
        multimodal_projector_bias=True,
    ),
    "aya_vision": Model(
        *("AyaVision", PROJECTOR, plain, "aya-vision"),
        vision_config=SIGLIP,
        text_config=text("cohere2"),
        alignment_intermediate_size=40,
    ),
    "cohere2_vision": Model(
        *("Cohere2Vision", PROJECTOR, plain, "aya-vision"),
        vision_config=SIGLIP,
        text_config=text("cohere2"),
        alignment_intermediate_size=40,
    ),
    "got_ocr2": Model(
        *("GotOcr2", PROJECTOR, as_image, "got-ocr2", 16, (8, 12)),
        vision_config={**CLIP, "output_channels": 16, "mlp_dim": 20, "global_attn_indexes": []},
        text_config=text("qwen2"),
    ),
    "perception_lm": Model(
        *("PerceptionLM", PROJECTOR, plain, "perception-lm"),
        vision_config=PERCEPTION,
        text_config=llama(),
        projector_pooling_ratio=2,
    ),
    "janus": Model(
        *("Janus", "model.aligner", plain, "mlp"),
        vision_config={**CLIP, "projection_dim": 24, "mlp_ratio": 2, "depth": 3},
        text_config=llama(),
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 8,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "num_patches": 4,
            "image_token_embed_dim": 4,
            "projection_dim": 4,
            "num_hidden_layers": 1,
        },
    ),
    "minicpmv4_6": Model(
        *("MiniCPMV4_6", "model.merger", run_minicpmv, "minicpmv4-6", 16, (8, 12)),
        vision_config=CLIP,
        text_config=text("qwen3_5_text", layer_types=["full_attention"]),
        insert_layer_id=0,
        merger_times=2,
    ),
    "granite_docling": Model(
        *("GraniteDocling", "model.vision_model.connector", run_granite, "granite-docling"),
        vision_config={**CLIP, "out_hidden_size": 24, "deepstack_visual_indexes": [0]},
        text_config=TEXT,
    ),
    "deepseek_vl": Model(
        *("DeepseekVL", "model.aligner", plain, "mlp", 16, (4, 7)),
        vision_config=SIGLIP,
        text_config=llama(),
    ),
    "idefics": Model(
        *("Idefics", "model.perceiver_resampler", plain, "flamingo", 16, (3, 7)),
        out=16,
        task="ForVisionText2Text",
        vision_config={"embed_dim": 16, **{key: CLIP[key] for key in CLIP if key != "hidden_size"}},
        perceiver_config={**PERCEIVER, "qk_layer_norms_perceiver": True},
        use_resampler=True,
        **{key: TEXT[key] for key in TEXT if key != "num_key_value_heads"},
    ),
    "idefics2": Model(
        *("Idefics2", "model.connector", run_masked, "idefics2", 16, (3, 7)),
        vision_config=CLIP,
        text_config=text("mistral"),
        perceiver_config={**PERCEIVER, "num_key_value_heads": 2, "hidden_size": 24},
        image_token_id=5,
    ),
    "idefics2-eps": Model(
        *("Idefics2", "model.connector", run_masked, "idefics2", 16, (3, 7)),
        vision_config=CLIP,
        text_config=text("mistral", rms_norm_eps=1e-3),
        perceiver_config={**PERCEIVER, "num_key_value_heads": 2},
        image_token_id=5,
    ),
    "blip2": Model(*("Blip2", "", run_blip2, "blip2", 16, (5, 13)), **BLIP2),
}


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
                    given = torch.stack([blocked(y, grid) for y in x]) if ours._blocked else x
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
    [recipe] = [fit for fit, root in recognise(inner_config(config), stored) if root == found.root]
    back = to_upstream(whole, recipe.layout)
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


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name: str, tmp_path: Path) -> None:
    check_model(MODELS[name], tmp_path)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_only_the_shards_needed_are_opened(tmp_path: Path) -> None:
    model = MODELS["llava"].build()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    homes = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {homes[key] for key in homes if "projector" in key}
    others = set(homes.values()) - needed
    assert needed
    assert others
    for name in others:
        (tmp_path / name).unlink()
    assert load_projector(tmp_path).spec.out == 24


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_several_projectors_in_one_model(tmp_path: Path) -> None:
    """Qwen3-VL's deepstack mergers, each by its root; without one the main merger is meant."""
    case = MODELS["qwen3_vl"]
    config = {**case.config["vision_config"], "deepstack_visual_indexes": [0, 1]}
    model = Model(
        *("Qwen3VL", case.module, case.run, case.preset, 16, (4, 6)),
        **{**case.config, "vision_config": config},
    ).build()
    model.save_pretrained(tmp_path)
    visual = model.model.visual
    roots = tuple(f"model.visual.deepstack_merger_list.{level}." for level in (0, 1))
    found = inspect_checkpoint(tmp_path)
    assert (found.family, found.root) == ("qwen2-vl", "model.visual.merger.")
    assert found.others == roots
    assert str(found).endswith("".join(f"\n  another under {root!r}" for root in roots))
    assert found.to_dict()["others"] == list(roots)
    for root, upstream in zip(roots, visual.deepstack_merger_list, strict=True):
        for given in (root, root.removesuffix(".")):
            found = inspect_checkpoint(tmp_path, root=given)
            assert (found.family, found.root) == ("qwen3-vl-deepstack", root)
            assert set(found.others) == {"model.visual.merger.", *roots} - {root}
            loaded = load_projector(tmp_path, root=given)
            assert loaded.spec == build_projector("qwen3-vl-deepstack", 16, 24).spec
            equal(loaded, run_blocked, upstream, (4, 6), (2, 8))
    equal(load_projector(tmp_path, root=case.module), run_blocked, visual.merger, (4, 6))
    equal(load_projector(tmp_path), run_blocked, visual.merger, (4, 6))
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, root="model.visual")
    assert str(caught.value) == (
        f"{tmp_path}: no projector at root='model.visual.'; expected one of '{roots[0]}', "
        f"'{roots[1]}', 'model.visual.merger.'"
    )
    # Where the main one is not there, the others have to be told apart.
    state = load_file(tmp_path / WEIGHTS)
    rest = {key: tensor for key, tensor in state.items() if ".merger." not in key}
    save_file(rest, tmp_path / WEIGHTS)
    assert refusal(tmp_path) == (
        f"X: more than one projector fits: qwen3-vl-deepstack under '{roots[0]}', "
        f"qwen3-vl-deepstack under '{roots[1]}'. Say which one, as root='{roots[0]}'."
    )
    # A main one that is broken is no reason to take another.
    rest["model.visual.merger.norm.weight"] = state["model.visual.merger.norm.weight"][:4].clone()
    for key in ("linear_fc1.weight", "linear_fc2.weight"):
        rest[f"model.visual.merger.{key}"] = state[f"model.visual.merger.{key}"]
    save_file(rest, tmp_path / WEIGHTS)
    assert "3 tensors missing" in refusal(tmp_path)
    assert load_projector(tmp_path, root=roots[1]).spec.out == 24


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_mergers_beside_a_connector(tmp_path: Path) -> None:
    """Granite-Docling's, of the coarse path and of the fine."""
    model = MODELS["granite_docling"].build()
    model.save_pretrained(tmp_path)
    connector = model.model.vision_model.connector
    others = inspect_checkpoint(tmp_path).others
    assert len(others) == 2
    for root in others:
        path = connector.fine if ".fine." in root else connector.coarse
        run = _run_granite_deepstack(path)
        equal(load_projector(tmp_path, root=root), run, path.deepstack_mergers[0], (8, 8))


def _run_granite_deepstack(path: Any) -> Callable[[nn.Module, Tensor, tuple[int, int]], Tensor]:
    def run(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y: Tensor = module(path.pixel_shuffle(x, path.scale_factor))
        return y

    return run


def test_many_projectors_in_one_file(tmp_path: Path) -> None:
    """Each is looked into by its own keys only, a list is cut short, absurdly many are refused."""
    path = tmp_path / "many.safetensors"

    def write(number: int, before: str = "m") -> None:
        shapes = {"1.weight": [1, 1], "1.bias": [1], "2.weight": [1, 1], "2.bias": [1]}
        keys = [
            f'"{before}{n}.multi_modal_projector.linear_{key}": {{"dtype": "F32", "shape": {shape}'
            for n in range(number)
            for key, shape in shapes.items()
        ]
        entries = [f'{key}, "data_offsets": [{4 * n}, {4 * n + 4}]}}' for n, key in enumerate(keys)]
        path.write_bytes(header(f"{{{', '.join(entries)}}}", 4 * len(entries)))

    def listed(*numbers: int, as_: str = "") -> str:
        return ", ".join(f"{as_}'m{n}.multi_modal_projector.'" for n in numbers)

    write(64)
    assert refusal(path) == (
        f"X: more than one projector fits: {listed(*range(8), as_='mlp under ')} and 56 more. Say "
        "which one, as root='m0.multi_modal_projector.'."
    )
    found = inspect_checkpoint(path, root="m3.multi_modal_projector")
    assert (len(found.used), found.left, len(found.others)) == (4, 252, 63)
    with pytest.raises(CheckpointError) as caught:
        load_projector(path, root="n" * 1000)
    assert str(caught.value) == (
        f"{path}: no projector at root='{'n' * 196}...; expected one of "
        f"{listed(0, 1, 10, 11, 12, 13, 14, 15)} and 56 more"
    )
    for number, more in ((65, "57"), (4000, "3,992")):
        write(number)
        assert refusal(path) == (
            f"X: {number:,} projectors, under {listed(*range(8))} and {more} more; expected at "
            "most 64. Save the one that is meant in a file of its own."
        )
    write(2, "m" * 10_000)
    assert len(refusal(path)) < 1000


def test_a_document_is_the_only_one_in_its_file(own: Path) -> None:
    assert same(load_projector(own, root=""), load_projector(own))
    assert inspect_checkpoint(own).others == ()
    with pytest.raises(CheckpointError) as caught:
        load_projector(own, root="model")
    assert str(caught.value) == (
        f"{own}: root='model.'; expected none. The file is one projector, of save_projector."
    )


# ---------------------------------------------------------------------- models with their own code


class Remote:
    """A folder as a model with code of its own saves it: upstream's module, keys and config."""

    def __init__(
        self,
        family: str,
        prefix: str,
        build: Callable[[], nn.Module],
        run: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor],
        grids: tuple[tuple[int, int], ...],
        *,
        rename: Callable[[str], str] = str,
        others: tuple[str, ...] = (),
        **config: Any,
    ) -> None:
        self.family, self.prefix, self.build, self.run = family, prefix, build, run
        self.grids, self.rename, self.config = grids, rename, config
        self.others = (*others, "lm_head.weight") if prefix else others

    def save(self, folder: Path) -> tuple[nn.Module, dict[str, Tensor]]:
        torch.manual_seed(0)
        upstream = self.build().eval()
        randomize(upstream)
        state = {
            self.prefix + self.rename(key): tensor for key, tensor in upstream.state_dict().items()
        }
        rest = {key: torch.full((3,), torch.nan) for key in self.others}
        save_file({**state, **rest}, folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(self.config))
        return upstream, state


def mlp1(key: str) -> str:
    names = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}
    name, _, leaf = key.partition(".")
    return f"{names[name]}.{leaf}"


def pooling() -> nn.Module:
    """DeepSeek-VL2's token_pooling: the merged tokens get their width back first."""
    upstream = DeepseekVL2(2, 1)
    upstream.token_pooling_layer = nn.Linear(64, 16)
    upstream.layers[0] = nn.Linear(16, 24)
    return upstream


def run_pooling(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Upstream's own views: b c h w -> b c h/2 w/2 2 2 -> b n c*4."""
    y = x.transpose(1, 2).unflatten(2, grid).unfold(2, 2, 2).unfold(3, 2, 2)
    y = y.flatten(4, 5).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
    z: Tensor = module.layers(module.token_pooling_layer(y))
    return z


ANY = ((8, 8), (4, 10))
REMOTE = {
    "internvl-chat-v1": Remote(
        *("internvl", "mlp1.", ColumnMajor, with_grid, ANY),
        rename=mlp1,
        model_type="internvl_chat",
        downsample_ratio=0.5,
        ps_version="v1",
    ),
    "internvl-chat-v2": Remote(
        *("internvl", "mlp1.", CASES["internvl"].build, run_internvl, ((8, 8),)),
        rename=mlp1,
        model_type="internvl_chat",
        downsample_ratio=0.5,
        ps_version="v2",
    ),
    "minicpm-v-1.0": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(16, 256, 2, 9, "resized"), with_grid, ANY),
        model_type="minicpmv",
        query_num=9,
        image_size=448,
    ),
    "minicpm-v-2.0": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(16, 256, 2, 4, "both"), with_grid, ANY),
        others=("vpm.pos_embed",),
        model_type="minicpmv",
        query_num=4,
        slice_mode=True,
    ),
    "minicpm-v-2.6": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(16, 256, 2, 5), with_grid, ANY),
        model_type="minicpmv",
        query_num=5,
        slice_mode=True,
        version=2.6,
    ),
    "minicpm-o-2.6": Remote(
        *("minicpmv", "resampler.", lambda: MiniCPMV(256, 256, 2, 5), with_grid, ANY),
        others=("tts.projector.linear1.weight", "audio_projection_layer.linear1.weight"),
        model_type="minicpmo",
        version="2.6",
    ),
    "qwen-vl": Remote(
        *("qwen-vl", "transformer.visual.", lambda: QwenVL(16, 256, 2, 9), with_grid, ANY),
        others=("transformer.visual.ln_pre.weight", "transformer.visual.positional_embedding"),
        model_type="qwen",
        visual={"width": 16, "output_dim": 256, "image_size": 448, "patch_size": 14},
    ),
    "deepseek-vl2": Remote(
        *("deepseek-vl2", "projector.", lambda: DeepseekVL2(2, 1), with_grid, (*ANY, (7, 7))),
        others=("image_newline", "view_seperator"),
        model_type="deepseek_vl_v2",
        projector_config={"model_type": "mlp_projector", "n_embed": 24, "input_dim": 16},
    ),
    "deepseek-vl2-deep": Remote(
        *("deepseek-vl2", "projector.", lambda: DeepseekVL2(3, 2), with_grid, ((5, 4),)),
        model_type="deepseek_vl_v2",
        projector_config={"depth": 3, "mlp_ratio": 2, "downsample_ratio": 2},
    ),
    "deepseek-vl2-pooling": Remote(
        *("deepseek-vl2", "projector.", pooling, run_pooling, ANY),
        model_type="deepseek_vl_v2",
        projector_config={"token_pooling": True},
    ),
    "nvila": Remote(
        *("nvila", "", lambda: Nvila(2), with_grid, (*ANY, (7, 7))),
        model_type="v2l_projector",
        mm_projector_type="mlp_downsample_2x2_fix",
    ),
    "nvila-lite": Remote(
        *("nvila-lite", "mm_projector.", lambda: Nvila(3), with_grid, ((9, 9), (8, 10))),
        model_type="vila",
        mm_projector_type="mlp_downsample_3x3_fix",
    ),
    "vila-1.5": Remote(
        *("nvila", "", ColumnMajor, with_grid, ANY),
        rename=lambda key: f"layers.{int(mlp1(key)[0]) + 1}.{key.split('.')[1]}",
        model_type="v2l_projector",
        mm_projector_type="mlp_downsample",
    ),
    "vila-mlp": Remote(
        *("mlp", "layers.", lambda: nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24))),
        *(plain, ANY),
        model_type="v2l_projector",
        mm_projector_type="mlp2x_gelu",
    ),
    "janus": Remote(
        *("mlp", "aligner.layers."),
        lambda: nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24)),
        *(plain, ANY),
        others=("gen_aligner.layers.0.weight", "gen_aligner.layers.2.weight"),
        model_type="multi_modality",
        aligner_config={"params": {"depth": 2, "projector_type": "mlp_gelu"}},
    ),
    "open-flamingo": Remote(
        *("flamingo", "perceiver.", lambda: OpenFlamingo(16, 2, 3, 64, 5), plain, ((3, 7),)),
        others=("lang_encoder.old_decoder_blocks.0.weight",),
    ),
}


@pytest.mark.parametrize("name", REMOTE)
def test_models_with_their_own_code(name: str, tmp_path: Path) -> None:
    case = REMOTE[name]
    upstream, state = case.save(tmp_path)
    found = inspect_checkpoint(tmp_path)
    assert found.family == case.family
    assert set(found.used) == state.keys()
    assert (found.left, found.others) == (len(case.others), ())
    loaded = load_projector(tmp_path, check_values=True)
    equal(loaded, case.run, upstream, *case.grids)


def honeybee(folder: Path, rows: int, config: dict[str, Any]) -> dict[str, Tensor]:
    """Save Honeybee's C-Abstractor, whose table may have a first row for the CLS token."""
    vectors = load_file(GOLDEN / "c-abstractor.safetensors")
    state = {f"abstractor.{key[2:]}": tensor for key, tensor in vectors.items() if key[:2] == "w."}
    table = state["abstractor.pos_emb"]
    state["abstractor.pos_emb"] = torch.cat([torch.randn(1, rows, 16), table], 1)
    save_file({**state, "lm_head.weight": torch.zeros(3)}, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config))
    return vectors


HONEYBEE = [
    (0, {"projector_config": {"projector_type": "c-abs", "num_query_tokens": 16}}),
    (1, {"visual_projector_config": {"projector_type": "c-abs"}, "num_query_tokens": 16}),
]


@pytest.mark.parametrize(("rows", "config"), HONEYBEE, ids=["now", "once"])
def test_honeybee(rows: int, config: dict[str, Any], tmp_path: Path) -> None:
    vectors = honeybee(tmp_path, rows, config)
    projector = load_projector(tmp_path)
    assert inspect_checkpoint(tmp_path).root == "abstractor."
    assert (projector.spec.prefix_tokens, projector.grid) == (rows, (8, 8))
    assert load_projector(tmp_path, dtype=torch.float64).grid == (8, 8)
    for scale, key in ((1.0, "y"), (1e-3, "y_small")):
        x = scale * vectors["x"]
        given = torch.cat([torch.randn(len(x), rows, 16), x], 1)
        with torch.inference_mode():
            error = (projector(given) - vectors[key]).abs().max() / vectors[key].abs().max()
        assert error < 1e-6
    table = to_upstream(projector, "c-abstractor")["pos_emb"]
    assert table.shape == (1, rows + 64, 16)
    assert torch.equal(table[:, rows:], vectors["w.pos_emb"])
    assert load_projector(tmp_path, grid=(4, 16)).grid == (4, 16)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path, grid=(4, 8))
    assert str(caught.value) == (
        f"{tmp_path}['abstractor.pos_emb']: a tensor of (1, {rows + 64}, 16); expected "
        f"(1, {rows + 32}, 16). Its family or its widths are others than the rest says."
    )
    with pytest.raises(GridError):
        load_projector(tmp_path, grid=(0, 8))


def test_honeybee_needs_its_config(tmp_path: Path) -> None:
    honeybee(tmp_path, 0, {"model_type": "mllm"})
    assert refusal(tmp_path) == (
        "X: config.json: projector_config.num_query_tokens: missing; expected the number of tokens "
        "that come out of the pool. No tensor tells it: write it into a config.json beside the "
        "weights."
    )


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_idefics2_takes_the_language_models_eps_with_its_width(tmp_path: Path) -> None:
    MODELS["idefics2-eps"].build().save_pretrained(tmp_path)
    expected = load_projector(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["perceiver_config"].pop("hidden_size") == 24
    assert config["perceiver_config"].pop("rms_norm_eps") == 1e-3
    path.write_text(json.dumps(config))  # as the released model's, which speaks of neither
    assert load_projector(tmp_path).spec == expected.spec


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_instructblip_is_refused_with_the_reason(tmp_path: Path) -> None:
    Model(*("InstructBlip", "", run_blip2, "blip2"), **BLIP2).build().save_pretrained(tmp_path)
    assert refusal(tmp_path) == (
        "X: config.json: model_type: 'instructblip', whose Q-Former reads the instruction too; "
        "expected a projector of one image's features alone. Run it with the model's own code."
    )


def test_two_towers_are_refused_with_the_reason(tmp_path: Path) -> None:
    aligner = hf("deepseek_vl_hybrid.modeling_deepseek_vl_hybrid", "DeepseekVLHybridAligner")(
        NS(
            vision_config=NS(hidden_size=16),
            high_res_vision_config=NS(output_channels=5),
            text_config=NS(hidden_size=24),
        )
    )
    save_file(
        {f"model.aligner.{k}": v for k, v in aligner.state_dict().items()}, tmp_path / WEIGHTS
    )
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_vl_hybrid"}')
    assert refusal(tmp_path) == (
        "X: config.json: model_type: 'deepseek_vl_hybrid', whose aligner joins the features of two "
        "towers; expected a projector of one image's features alone. Run it with the model's own "
        "code."
    )


OTHERWISE = {
    "qwen-vl": ({"model_type": "qwen2"}, None),
    "minicpm-v-2.0": ({}, None),
    "deepseek-vl2": (
        {"model_type": "deepseek_vl_v2", "projector_config": {"projector_type": "mlp_gelu"}},
        "projector_config.projector_type: 'mlp_gelu'; expected 'downsample_mlp_gelu'. Write the "
        "projector as a document and load its weights yourself.",
    ),
    "nvila": (
        {"model_type": "v2l_projector", "mm_projector_type": "mlp_downsample_2x2"},
        "mm_projector_type: 'mlp_downsample_2x2'; expected 'mlp_downsample_2x2_fix'. Write the "
        "projector as a document and load its weights yourself.",
    ),
    "nvila-lite": (
        {"model_type": "vila"},
        "mm_projector_type: None; expected 'mlp_downsample_2x2_fix'. Write the projector as a "
        "document and load its weights yourself.",
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_models_whose_config_says_otherwise(name: str, tmp_path: Path) -> None:
    """A setting that the preset has not is refused; without the model type there is no telling."""
    REMOTE[name].save(tmp_path)
    config, message = OTHERWISE[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    if message is None:
        assert refusal(tmp_path).startswith("X: no projector that is known")
    else:
        assert refusal(tmp_path) == f"X: config.json: {message}"


# ---------------------------------------------------------------------- LLaVA's and MobileVLM's

PREFIXES = (
    *("", "mm_projector.", "model.mm_projector.", "base_model.model.model.mm_projector."),
    *("vision_projector.", "module.model.mm_projector."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("name", "preset", "inner"),
    [
        ("ldpnet", "ldpnet", "model."),
        ("ldpnet", "ldpnet", ""),
        ("ldpnetv2", "ldpnetv2", ""),
        ("mlp2x_res2x_gelu", "mlp-res", ""),
    ],
)
def test_golden_under_every_prefix(
    name: str, preset: str, inner: str, prefix: str, tmp_path: Path
) -> None:
    vectors = load_file(GOLDEN / f"{name}.safetensors")
    state = {prefix + inner + key[2:]: tensor for key, tensor in vectors.items() if key[:2] == "w."}
    path = tmp_path / "mm_projector.safetensors"
    save_file(state, path)
    found = inspect_checkpoint(path)
    assert (found.family, found.root) == (preset, prefix + inner)
    assert (set(found.used), found.left) == (set(state), 0)
    projector = load_projector(path)
    for x, y in (("x", "y"), ("x", "y_small")):
        scale = 1e-3 if y == "y_small" else 1.0
        with torch.inference_mode():
            ours = projector(scale * vectors[x])
        assert (ours - vectors[y]).abs().max() / vectors[y].abs().max() < 1e-5


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["linear", "mlp2x-gelu", "mlp3x-gelu"])
def test_llava_under_every_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    projector = build_projector(name, 16, 24)
    layout = LAYOUTS["linear" if name == "linear" else "mlp"]
    state = to_upstream(projector, layout)
    save_file(
        {prefix + key.removeprefix("."): tensor for key, tensor in state.items()}, tmp_path / "x"
    )
    assert same(load_projector(tmp_path / "x"), projector)
    # A whole model in LLaVA's own layout names a model type that transformers has too.
    (tmp_path / "x").rename(tmp_path / "model.safetensors")
    for model_type in ("llava", "llava_llama", "mobilevlm"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert same(load_projector(tmp_path), projector)


# ---------------------------------------------------------------------- what can be wrong

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def mlp() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = to_upstream(build_projector("mlp2x-gelu", 16, 24), LAYOUTS["mlp"])
    return {f"mm_projector.{key}": tensor for key, tensor in state.items()}


def header(entries: str, data: int = 0) -> bytes:
    """Write a file by hand, so that it can lie."""
    return struct.pack("<Q", len(entries)) + entries.encode() + bytes(data)


def refusal(path: Path) -> str:
    """Return the message without the folder, whichever door is tried."""
    messages = set()
    for call in (load_projector, inspect_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            call(path)
        assert type(caught.value) is CheckpointError
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        messages.add(str(caught.value))
    [message] = messages
    return message.replace(f"{path}/", "").replace(str(path), "X")


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"])
def test_a_header_whose_length_begins_as_a_pickle_does(start: bytes, tmp_path: Path) -> None:
    """A header of 640 bytes, for one, is no pickle of protocol 2."""
    length = int.from_bytes(start, "little")
    plain = len(save({"a": torch.ones(2)}, {"note": ""})) - 2 * 4 - 8
    data = save({"a": torch.ones(2)}, {"note": "x" * (length - plain)})
    assert data.startswith(start)
    (tmp_path / "a.safetensors").write_bytes(data)
    assert list(SafetensorsFile(tmp_path / "a.safetensors").tensors) == ["a"]


PICKLE = "X: a pickle (PyTorch's own format); expected a safetensors file. A pickle can run code, "
PICKLE += "so it is not loaded. Convert it: convert_checkpoint('X', 'projector', from_pickle=True)"
CUT = "It is cut off, or something else: download or save it again."


def of_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save(mlp(), buffer)
    return buffer.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "git-lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        "X: a git-lfs pointer, not the file itself. Run: git lfs pull",
    ),
    "html": (
        lambda: b"\n<!DOCTYPE html><html><title>404</title></html>",
        "X: a web page, not a checkpoint. Download the file itself.",
    ),
    "pickle, zip": (of_zip, PICKLE),
    **{
        f"pickle, raw, of protocol {protocol}": (partial(pickle.dumps, {"a": 1}, protocol), PICKLE)
        for protocol in (2, 3, 4, 5)
    },
    "gguf": (
        lambda: b"GGUF\x03" + bytes(99),
        "X: a GGUF file; expected a safetensors file. Use the model it was converted from.",
    ),
    "empty": (bytes, f"X: the file is empty. {CUT}"),
    "truncated": (
        lambda: save(mlp())[:-100],
        f"X: the file is 4,260 bytes, its header promises 4,360. {CUT}",
    ),
    "truncated header": (
        lambda: save(mlp())[:100],
        f"X: the file is 100 bytes, its header promises 328. {CUT}",
    ),
    "appended": (
        lambda: save(mlp()) + b"more",
        "X: the file is 4,364 bytes, its header promises 4,360. Something was appended to it: "
        "save it again.",
    ),
    "cut by one byte": (
        lambda: header("{}")[:-1],
        f"X: the file is 9 bytes, its header promises 10. {CUT}",
    ),
    "huge header": (
        lambda: b"\xff" * 99,
        f"X: a header of 18,446,744,073,709,551,615 bytes; expected a safetensors file. {CUT}",
    ),
    "not JSON": (
        lambda: header("{'a': 1}"),
        "X: its header is not JSON: 'Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1)'; expected a safetensors file. Download or save it again.",
    ),
    "deep": (
        lambda: header("[" * 100_000),
        "X: its header is nested too deep. Download or save it again.",
    ),
    "list": (lambda: header("[]"), "X: its header is no JSON object. Download or save it again."),
    "duplicate": (
        lambda: header(
            '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            1,
        ),
        "X: its header gives 'a' twice. Download or save it again.",
    ),
    "metadata": (
        lambda: header('{"__metadata__":{"a":1}}'),
        "X: its metadata is not text to text. Download or save it again.",
    ),
    "metadata of another kind": (
        lambda: header('{"__metadata__":[]}'),
        "X: its metadata is not text to text. Download or save it again.",
    ),
    "no entry": (
        lambda: header('{"a":1}'),
        "X['a']: not a tensor's entry; expected dtype, shape and data_offsets. "
        "Download or save it again.",
    ),
    "dtype of another kind": (
        lambda: header('{"a":{"dtype":[],"shape":[1],"data_offsets":[0,1]}}', 1),
        "X['a']: dtype [] is not known; expected one of BF16, F16, F32, F64 and the like. "
        "Save it again in one of them.",
    ),
    **{
        f"a span of {span}": (
            lambda span=span: header(
                f'{{"a":{{"dtype":"U8","shape":[0],"data_offsets":{span}}}}}', 1
            ),
            f"X['a']: shape [0] at {span} makes no sense. Download or save it again.",
        )
        for span in ([0], [0, 0, 0], [1, 0], [0, 0.5], 3)
    },
    "dtype": (
        lambda: header('{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}', 1),
        "X['a']: dtype 'F4' is not known; expected one of BF16, F16, F32, F64 and the like. "
        "Save it again in one of them.",
    ),
    "fields": (
        lambda: header('{"a":{"dtype":"U8","shape":[1]}}', 1),
        "X['a']: not a tensor's entry; expected dtype, shape and data_offsets. "
        "Download or save it again.",
    ),
    "negative": (
        lambda: header('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', 1),
        "X['a']: shape [-1] at [0, 1] makes no sense. Download or save it again.",
    ),
    "true": (
        lambda: header('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', 1),
        "X['a']: shape [True] at [0, 1] makes no sense. Download or save it again.",
    ),
    "huge": (
        lambda: header(
            '{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]}}', 1
        ),
        "X['a']: shape [4294967296, 4294967296] is too large for any file. "
        "Download or save it again.",
    ),
    "bytes": (
        lambda: header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[1,5]}}', 5),
        "X['a']: 4 bytes; expected 8 for F32 of (2,). Download or save it again.",
    ),
    "letters": (
        lambda: header('{"a":{"dtype":"U8","shape":["\\u0430"],"data_offsets":["\\u0430"]}}', 1),
        "X['a']: shape ['\\u0430'] at ['\\u0430'] makes no sense. Download or save it again.",
    ),
    "65 axes": (
        lambda: header(f'{{"a":{{"dtype":"U8","shape":{[1] * 65},"data_offsets":[0,1]}}}}', 1),
        f"X['a']: shape [{'1, ' * 25}1... at [0, 1] makes no sense. Download or save it again.",
    ),
    "huge in many axes": (
        lambda: header(f'{{"a":{{"dtype":"U8","shape":{[9] * 64},"data_offsets":[0,1]}}}}', 1),
        f"X['a']: shape [{'9, ' * 25}9... is too large for any file. Download or save it again.",
    ),
    "overlap": (
        lambda: header(
            '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
            '"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
            3,
        ),
        "X: its tensors overlap at byte 1. Download or save it again.",
    ),
    "hole": (
        lambda: header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2),
        "X: its tensors leave a hole at byte 1. Download or save it again.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_something_else(name: str, tmp_path: Path) -> None:
    make, message = FILES[name]
    (tmp_path / "x.safetensors").write_bytes(make())
    assert refusal(tmp_path / "x.safetensors") == message


def edited(**tensors: Tensor | None) -> dict[str, Tensor]:
    """Return LLaVA's MLP with tensors replaced; None takes one away; `_` stands for a dot."""
    state = mlp()
    for name, tensor in tensors.items():
        key = f"mm_projector.{name.replace('_', '.').removeprefix('.')}"
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return state


def turned_depthwise() -> dict[str, Tensor]:
    state = to_upstream(build_projector("ldpnet", 16, 24), LAYOUTS["ldpnet"])
    state = {f"mm_projector.{key}": tensor for key, tensor in state.items()}
    key = next(key for key, tensor in state.items() if tensor.shape == (24, 1, 3, 3))
    state[key] = state[key][:, 0].permute(1, 0, 2).contiguous()
    return state


ONE = torch.zeros(1)

STATES: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "zero-3": (
        lambda: edited(_0_weight=torch.empty(0)),
        "X['mm_projector.0.weight']: an empty tensor of (0,), a DeepSpeed ZeRO-3 placeholder; "
        "expected the gathered weights. Save inside deepspeed.zero.GatheredParameters, or run "
        "zero_to_fp32.py first.",
    ),
    "4-bit": (
        lambda: edited(_0_weight=torch.zeros(192, 1, dtype=torch.uint8)),
        "X['mm_projector.0.weight']: a tensor of (192, 1) and torch.uint8, weights packed in "
        "4 bits; expected floating-point weights. Load the model without 4-bit quantisation and "
        "save it again.",
    ),
    "missing and extra": (
        lambda: edited(_2_bias=None, _4_scale=torch.zeros(3)),
        "X: 1 tensors missing and 1 left over for mlp\n"
        "  missing  mm_projector.2.bias (24,)\n"
        "  extra    mm_projector.4.scale (3,). "
        "The file is of another family or incomplete.",
    ),
    "transposed": (
        lambda: edited(_0_weight=torch.zeros(16, 24)),
        "X['mm_projector.0.weight']: a tensor of (16, 24) beside a bias of 24; expected (24, 16). "
        "It looks transposed. Save it as upstream does.",
    ),
    "missing": (
        lambda: edited(_2_bias=None),
        "X: 1 tensors missing and 0 left over for mlp\n  missing  mm_projector.2.bias (24,). The "
        "file is of another family or incomplete.",
    ),
    "missing first": (
        lambda: edited(_0_bias=None),
        "X: 1 tensors missing and 0 left over for mlp\n  missing  mm_projector.0.bias (24,). The "
        "file is of another family or incomplete.",
    ),
    "12 extra": (
        lambda: edited(**{f"_9_x{n:02}": torch.zeros(1) for n in range(12)}),
        "X: 0 tensors missing and 12 left over for mlp"
        + "".join(f"\n  extra    mm_projector.9.x{n:02} (1,)" for n in range(12))
        + ". The file is of another family or incomplete.",
    ),
    "13 extra": (
        lambda: edited(**{f"_9_x{n:02}": torch.zeros(1) for n in range(13)}),
        "X: 0 tensors missing and 13 left over for mlp"
        + "".join(f"\n  extra    mm_projector.9.x{n:02} (1,)" for n in range(12))
        + "\n  .... The file is of another family or incomplete.",
    ),
    "with an axis more": (
        lambda: edited(_2_bias=torch.zeros(1, 24)),
        "X['mm_projector.2.bias']: a tensor of (1, 24); expected (24,). It holds as many numbers "
        "in another shape. Save it as upstream does.",
    ),
    "axes in another order": (
        turned_depthwise,
        "X['mm_projector.mb_block.1.block.0.0.weight']: a tensor of (3, 24, 3); expected "
        "(24, 1, 3, 3). It holds as many numbers in another shape. Save it as upstream does.",
    ),
    "bytes": (
        lambda: edited(_0_bias=torch.zeros(24, dtype=torch.uint8)),
        "X['mm_projector.0.bias']: a tensor of torch.uint8; expected floating-point weights "
        "of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "bytes as numbers": (
        lambda: edited(_0_weight=torch.zeros(24, 16, dtype=torch.uint8)),
        "X['mm_projector.0.weight']: a tensor of torch.uint8; expected floating-point weights "
        "of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "another height": (
        lambda: edited(_2_weight=torch.zeros(20, 20)),
        "X['mm_projector.0.weight']: a tensor of (24, 16); expected (20, 16). "
        "Its family or its widths are others than the rest says.",
    ),
    "twice the height": (
        lambda: edited(_0_weight=torch.zeros(48, 16)),
        "X['mm_projector.0.weight']: a tensor of (48, 16); expected (24, 16). "
        "Its family or its widths are others than the rest says.",
    ),
    "flattened, of another size": (
        lambda: edited(_2_weight=torch.zeros(100)),
        "X: 2.weight: a tensor of (100,); expected two axes (out, in)",
    ),
    **{
        word: (
            lambda word=word: {f"{n}.w": torch.zeros(2) for n in range(5)} | {f"z.{word}.w": ONE},
            f"X: no projector that is known, among 6 tensors such as 'z.{word}.w'. Build one with "
            "build_projector and load its state dict yourself.",
        )
        for word in ("connector", "mlp1", "aligner", "merger")
    },
    "nothing likely": (
        lambda: {f"{n}.w": torch.zeros(2) for n in range(5)},
        "X: no projector that is known, among 5 tensors such as '0.w', '1.w', '2.w', '3.w'. Build "
        "one with build_projector and load its state dict yourself.",
    ),
    "much that is likely": (
        lambda: {f"my_projector.{n}.w": torch.zeros(2) for n in range(5)},
        "X: no projector that is known, among 5 tensors such as 'my_projector.0.w', "
        "'my_projector.1.w', 'my_projector.2.w', 'my_projector.3.w'. Build one with "
        "build_projector and load its state dict yourself.",
    ),
    "flattened": (
        lambda: edited(_0_weight=torch.zeros(384)),
        "X['mm_projector.0.weight']: a tensor of (384,) beside a bias of 24; expected (24, 16). "
        "It looks flattened. Save it as upstream does.",
    ),
    "another width": (
        lambda: edited(_2_weight=torch.zeros(24, 20)),
        "X['mm_projector.2.weight']: a tensor of (24, 20); expected (24, 24). "
        "Its family or its widths are others than the rest says.",
    ),
    "int8": (
        lambda: edited(_0_weight=torch.zeros(24, 16, dtype=torch.int8)),
        "X['mm_projector.0.weight']: a tensor of torch.int8; expected floating-point weights "
        "of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "fp8": (
        lambda: edited(_0_weight=torch.zeros(24, 16, dtype=torch.float8_e4m3fn)),
        "X['mm_projector.0.weight']: a tensor of torch.float8_e4m3fn; expected floating-point "
        "weights of 16 bits or more. Load the model without quantisation and save it again.",
    ),
    "two": (
        lambda: {**mlp(), **{f"model.{key}": tensor for key, tensor in mlp().items()}},
        "X: more than one projector fits: mlp under 'mm_projector.', mlp under "
        "'model.mm_projector.'. Say which one, as root='mm_projector.'.",
    ),
    "none": (
        lambda: {"lm_head.weight": torch.zeros(2, 2), "my_projector.w": torch.zeros(2)},
        "X: no projector that is known, among 2 tensors such as 'my_projector.w'. Build one with "
        "build_projector and load its state dict yourself.",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_weights_that_do_not_fit(name: str, tmp_path: Path) -> None:
    make, message = STATES[name]
    save_file(make(), tmp_path / "x.safetensors")
    assert refusal(tmp_path / "x.safetensors") == message


def hf_mlp() -> dict[str, Tensor]:
    state = to_upstream(build_projector("llava", 16, 24), LAYOUTS["llava"])
    return {f"multi_modal_projector.{key}": tensor for key, tensor in state.items()}


CONFIGS: dict[str, tuple[str, str]] = {
    "unknown": (
        '{"model_type": "strange_vl"}',
        "X: no projector that is known of model type 'strange_vl', among 4 tensors such as "
        "'multi_modal_projector.linear_1.bias', 'multi_modal_projector.linear_1.weight', "
        "'multi_modal_projector.linear_2.bias', 'multi_modal_projector.linear_2.weight'. The "
        "tensors alone fit mlp, 16 -> 24, under 'multi_modal_projector.': is config.json another "
        "model's?",
    ),
    "another family": (
        '{"model_type": "aya_vision"}',
        "X['multi_modal_projector.linear_2.weight']: a tensor of (24, 24); expected (24, 12). "
        "The tensors alone fit mlp, 16 -> 24, under 'multi_modal_projector.': is config.json "
        "another model's?",
    ),
    "activation": (
        '{"model_type": "llava", "projector_hidden_act": "os.system"}',
        "X: config.json: projector_hidden_act: 'os.system'; expected one of gelu, gelu_new, "
        "gelu_pytorch_tanh, quick_gelu, relu, relu2, silu, swish. The tensors alone fit mlp, "
        "16 -> 24, under 'multi_modal_projector.': is config.json another model's?",
    ),
    "merge": (
        '{"model_type": "internvl", "downsample_ratio": "half"}',
        'X: its config and tensors make no internvl: "unsupported operand type(s) for /: '
        "'int' and 'str'\". The tensors alone fit mlp, 16 -> 24, under "
        "'multi_modal_projector.': is config.json another model's?",
    ),
    "not JSON": (
        "{,}",
        "config.json: not JSON: Expecting property name enclosed in double quotes at line 1, "
        "column 2. Download it again.",
    ),
    "a list": ("[]", "config.json: a JSON list; expected a JSON object. Download it again."),
    "twice": (
        '{"model_type": "llava", "model_type": "vipllava"}',
        "config.json: key 'model_type' is given twice. Leave one of them out.",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_do_not_fit(name: str, tmp_path: Path) -> None:
    config, message = CONFIGS[name]
    save_file(hf_mlp(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(config)
    assert refusal(tmp_path) == message


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": model_type, **fields}
        for model_type in ("llava", "internvl", "gemma3", "qwen2_vl", "mistral3", "aya_vision")
        for fields in (
            {"downsample_ratio": 0, "downsample_factor": 0, "spatial_merge_size": 0},
            {"vision_config": [1], "text_config": "x", "downsample_factor": [2]},
            {"vision_config": {"image_size": [1], "patch_size": 0}, "downsample_factor": 1e400},
            {"projector_hidden_act": ["gelu"], "downsample_factor": "2"},
        )
    ],
    ids=str,
)
def test_strange_configs_are_refused_or_have_no_say(config: dict[str, Any], tmp_path: Path) -> None:
    save_file(hf_mlp(), tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps(config))
    try:
        found = inspect_checkpoint(tmp_path).family
    except CheckpointError:
        return
    assert (config["model_type"], found) in {("llava", "mlp")}


def test_a_refusal_keeps_its_cause(own: Path, tmp_path: Path) -> None:
    save_file(hf_mlp(), tmp_path / WEIGHTS)
    for name, cause in (("activation", CheckpointError), ("merge", TypeError)):
        (tmp_path / "config.json").write_text(CONFIGS[name][0])
        with pytest.raises(CheckpointError) as caught:
            load_projector(tmp_path)
        assert type(caught.value.__cause__) is cause
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path / "none")
    assert type(caught.value.__cause__) is FileNotFoundError


def test_a_config_is_to_be_compared_where_nothing_else_fits(tmp_path: Path) -> None:
    state = hf_mlp()
    del state["multi_modal_projector.linear_2.bias"]
    save_file(state, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text(CONFIGS["merge"][0])
    assert refusal(tmp_path) == (
        'X: its config and tensors make no internvl: "unsupported operand type(s) for /: '
        "'int' and 'str'\". Compare config.json with the model it is of."
    )


def test_every_projector_that_the_tensors_alone_fit_is_named(tmp_path: Path) -> None:
    state = hf_mlp()
    save_file(
        {**state, **{f"a.{key}": each + 1 for key, each in state.items()}}, tmp_path / WEIGHTS
    )
    (tmp_path / "config.json").write_text('{"model_type": "strange_vl"}')
    assert refusal(tmp_path).endswith(
        "The tensors alone fit mlp, 16 -> 24, under 'a.multi_modal_projector.', or mlp, 16 -> 24, "
        "under 'multi_modal_projector.': is config.json another model's?"
    )


def test_five_files_and_no_index(tmp_path: Path) -> None:
    for name in "edcba":
        save_file(mlp(), tmp_path / f"{name}.safetensors")
    assert refusal(tmp_path) == (
        f"X: 5 safetensors files and no {INDEX}. Name one of them: a.safetensors, b.safetensors, "
        "c.safetensors, d.safetensors."
    )


def test_the_first_of_many_pickles_is_named(tmp_path: Path) -> None:
    for name in "hgfedcba":
        (tmp_path / f"{name}.bin").write_bytes(of_zip())
    assert refusal(tmp_path).startswith(
        f"X: no weights in this folder; expected {WEIGHTS}. a.bin is a pickle,"
    )


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    hint = "Name the file or the folder that holds them."
    assert refusal(tmp_path) == f"X: no weights in this folder; expected {WEIGHTS}. {hint}"
    (tmp_path / "mm_projector.bin").write_bytes(of_zip())
    assert refusal(tmp_path) == (
        f"X: no weights in this folder; expected {WEIGHTS}. mm_projector.bin is a pickle, which "
        "can run code, so it is not loaded. "
        "Convert it: convert_checkpoint('X', 'projector', from_pickle=True)"
    )
    assert refusal(tmp_path / "mm_projector.bin") == PICKLE
    assert refusal(tmp_path / "none.safetensors") == (
        "X: cannot be read: No such file or directory. Look at the path; nothing is downloaded."
    )
    (tmp_path / "x.safetensors").mkdir()
    assert refusal(tmp_path) == (
        "x.safetensors: a folder; expected a safetensors file. Name another path."
    )
    assert refusal(tmp_path / "x.safetensors") == (
        f"X: no weights in this folder; expected {WEIGHTS}. {hint}"
    )
    save_file(mlp(), tmp_path / "a.safetensors")
    assert refusal(tmp_path) == (
        f"X: 2 safetensors files and no {INDEX}. Name one of them: a.safetensors, x.safetensors."
    )


@pytest.mark.thread_unsafe  # it counts the process's open files
def test_what_is_no_regular_file_is_refused_and_left_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    irregular = "X: not a regular file; expected a safetensors file. Name another path."
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert refusal(tmp_path / "pipe") == irregular
    assert refusal(Path("/dev/null")) == irregular
    if opened:
        assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "", ".", "..", "a\\b", "a/b"])
def test_shards_outside_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert refusal(tmp_path) == (
        f"{INDEX}: shard {name!r} is no plain file name. Shards stand beside their index."
    )


def test_indexes_that_do_not_fit(tmp_path: Path) -> None:
    index = tmp_path / INDEX
    os.mkfifo(index)
    assert refusal(tmp_path) == f"{INDEX}: not a regular file; expected a JSON object. {JSON_HINT}"
    index.unlink()
    for value in (
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "a.safetensors", "b": 1}}',
    ):
        index.write_text(value)
        assert refusal(tmp_path) == (
            f"{INDEX}: no weight_map; expected a mapping of keys to file names. {JSON_HINT}"
        )
    save_file(mlp(), tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    homes = dict.fromkeys(mlp(), "a.safetensors")
    homes["mm_projector.2.bias"] = "b.safetensors"
    index.write_text(json.dumps({"weight_map": homes}))
    assert refusal(tmp_path) == (
        f"{INDEX}: 'b.safetensors' does not hold 'mm_projector.2.bias'. Index and shards are of "
        "different models: download them again."
    )
    (tmp_path / "b.safetensors").unlink()
    assert refusal(tmp_path) == (
        "b.safetensors: cannot be read: No such file or directory. Look at the path; nothing is "
        "downloaded."
    )


def test_the_first_of_many_bad_shards_is_named(tmp_path: Path) -> None:
    homes = {str(index): f"../{name}" for index, name in enumerate("hgfedcba")}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": homes}))
    assert refusal(tmp_path) == (
        f"{INDEX}: shard '../a' is no plain file name. Shards stand beside their index."
    )


def test_json_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / INDEX
    index.write_text("[" * 100_000)
    assert refusal(tmp_path) == f"{INDEX}: nested too deep. {JSON_HINT}"
    with index.open("wb") as file:
        file.truncate(100_000_001)
    assert refusal(tmp_path) == f"{INDEX}: 100,000,001 bytes; expected at most 100,000,000"
    homes = json.dumps({"weight_map": dict.fromkeys(mlp(), "a.safetensors")})
    index.write_text(homes)
    save_file(mlp(), tmp_path / "a.safetensors")
    with monkeypatch.context() as patch:
        exactly = replace(weights.INDEX, limit=len(homes))
        patch.setattr(weights, "INDEX", exactly)
        assert inspect_checkpoint(tmp_path).family == "mlp"

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    assert refusal(tmp_path) == (
        f"{INDEX}: cannot be read: Input/output error; expected a JSON object"
    )
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(tmp_path)
    assert type(caught.value.__cause__) is OSError


def test_a_config_is_no_longer_than_a_document(tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / "model.safetensors")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(16_000_001)
    assert refusal(tmp_path) == "config.json: 16,000,001 bytes; expected at most 16,000,000"


def test_what_a_layout_itself_refuses_is_told_as_it_is() -> None:
    def layout(projector: Projector) -> list[str]:
        raise CheckpointError("no such thing")

    with pytest.raises(CheckpointError, match=r"^no such thing$"):
        to_upstream(build_projector("linear", 4, 4), layout)


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("linear", [Name("a", "conv", (3, 1))]),  # 3 of 4 channels
        ("linear", [Name("a", "vector")]),
        ("linear", [Name("a", "matrix")]),  # a bias as well
        ("mlp", [Fused("a")]),  # of other widths
        ("ldpnet", [Name(f"{step}", "matrix") for step in range(14)]),  # of four axes
        ("ldpnet", [Name(f"{step}", "conv") for step in range(14)]),  # of one
    ],
)
def test_a_layout_of_other_modules_does_not_fit(name: str, entries: list[Name | Fused]) -> None:
    projector = build_projector(name, 4, 8)
    with pytest.raises(CheckpointError, match=r"^the layout does not fit the projector's modules"):
        to_upstream(projector, lambda _: entries)


def test_what_memory_does_not_hold_is_not_the_layouts_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch, "cat", full)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        to_upstream(build_projector("aya-vision", 4, 8), "aya-vision")


JSON_HINT = "Download it again."


def test_values_are_checked_on_request(tmp_path: Path) -> None:
    state = mlp()
    state["mm_projector.2.weight"][3, 4] = torch.nan
    save_file(state, tmp_path / "x")
    assert load_projector(tmp_path / "x").state_dict()["blocks.2.weight"].isnan().sum() == 1
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path / "x", check_values=True)
    assert str(caught.value) == (
        f"{tmp_path}/x['mm_projector.2.weight']: NaN or infinite values; expected finite weights. "
        "Take an earlier checkpoint: a projector with these gives NaN."
    )


def test_documents_that_do_not_fit(own: Path, tmp_path: Path) -> None:
    state = load_file(own / WEIGHTS)
    path = tmp_path / "x.safetensors"
    save_file(state, path, {"mobilevlm": "/etc/passwd"})
    assert refusal(path) == (
        "X[__metadata__]: its document does not fit: document: '/etc/passwd'; expected a JSON "
        "object. Save it again with save_projector."
    )
    text = (own / "config.json").read_text()
    save_file(state, path, {"mobilevlm": text.replace("pointwise", "pointwisp")})
    assert refusal(path).startswith(
        "X[__metadata__]: its document does not fit: 3 problems\n  - blocks[0].type: unknown block"
    )
    state.popitem()
    save_file(state, path, {"mobilevlm": text})
    assert "1 tensors missing and 0 left over for document" in refusal(path)


def test_a_file_that_changes_under_way(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_file(mlp(), path)
    file = SafetensorsFile(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError) as caught:
        file.read(["mm_projector.2.weight"])
    assert str(caught.value) == f"{path}: the file changed while it was read. Try again."


def test_tensors_are_views_of_the_file_where_they_are_aligned(tmp_path: Path) -> None:
    entries = (
        '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        '"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]},'
        '"c":{"dtype":"F32","shape":[1],"data_offsets":[9,13]},'
        '"d":{"dtype":"F32","shape":[0,3],"data_offsets":[13,13]}'
    )
    entries += " " * (-len(entries) - 2 - 8 & 7)
    (tmp_path / "x").write_bytes(header("{" + entries + "}", 13))
    tensors = SafetensorsFile(tmp_path / "x").read("abcd")
    assert {key: (each.dtype, tuple(each.shape)) for key, each in tensors.items()} == {
        "a": (torch.float32, (2,)),
        "b": (torch.uint8, (1,)),
        "c": (torch.float32, (1,)),
        "d": (torch.float32, (0, 3)),
    }
    assert tensors["b"].data_ptr() - tensors["a"].data_ptr() == 8
    assert tensors["c"].data_ptr() % 4 == 0


def sparse(path: Path, gap: int) -> dict[str, Tensor]:
    """Write a projector whose tensors lie a gap apart, without the gaps' bytes; return it."""
    state: dict[str, Tensor] = mlp()
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for key, tensor in state.items():
        for name, dtype, shape, nbytes in (
            (key, "F32", [*tensor.shape], tensor.nbytes),
            (f"other.{key}", "U8", [gap], gap),
        ):
            span = [end, end + nbytes]
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
            end += nbytes
    start = header(json.dumps(entries))
    with path.open("wb") as file:
        file.write(start)
        for tensor in state.values():
            file.write(tensor.numpy().tobytes())
            file.seek(gap, os.SEEK_CUR)
        file.truncate(len(start) + end)
    return state


def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    path = tmp_path / "model.safetensors"
    try:
        state = sparse(path, memory)  # four times
    except OSError as error:
        pytest.skip(f"no sparse files: {error}")
    blocks = load_projector(path).blocks
    for ours, theirs in zip(blocks.parameters(), state.values(), strict=True):
        assert torch.equal(ours, theirs)


def test_little_but_the_tensors_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []

    class Recorded(mmap.mmap):
        def __new__(cls, descriptor: int, length: int, **how: Any) -> Any:
            mapped.append(length)
            return super().__new__(cls, descriptor, length, **how)

    monkeypatch.setattr(mmap, "mmap", Recorded)
    path = tmp_path / "model.safetensors"
    sparse(path, 10 * WINDOW)
    load_projector(path)
    assert mapped == [WINDOW] * 4
    mapped.clear()
    save_file(mlp(), path)
    load_projector(path)
    assert mapped == [path.stat().st_size]


def test_a_tensor_across_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilevlm.checkpoints.tensor_file.WINDOW", mmap.ALLOCATIONGRANULARITY)
    state = {
        f"mm_projector.{key}": tensor
        for key, tensor in to_upstream(build_projector("mlp2x-gelu", 96, 80), "mlp").items()
    }
    save_file(state, tmp_path / "x")
    file = SafetensorsFile(tmp_path / "x")
    for key, tensor in [*state.items(), *reversed(state.items())]:
        assert torch.equal(file.read([key])[key], tensor)
    read = file.read(state)
    assert all(torch.equal(read[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOMEM, "Cannot allocate memory. There is too little memory for its tensors."),
        (errno.EMFILE, "Too many open files. Close some files, or allow more: ulimit -n."),
    ],
)
def test_what_the_system_refuses(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    save_file(mlp(), tmp_path / "x")
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path / 'x'}: cannot be read: {message}"


def test_one_channel_is_not_taken_for_4_bits(tmp_path: Path) -> None:
    state = to_upstream(build_projector("mlp2x-gelu", 1, 4), LAYOUTS["mlp"])
    save_file({f"mm_projector.{key}": tensor for key, tensor in state.items()}, tmp_path / "x")
    assert load_projector(tmp_path / "x").spec.in_ == 1


def test_a_grid_for_a_projector_that_needs_none(tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / "x")
    assert load_projector(tmp_path / "x", grid=(4, 6)).grid == (4, 6)


def test_values_on_the_meta_device_cannot_overflow(tmp_path: Path) -> None:
    save_file(mlp(), tmp_path / "x")
    loaded = load_projector(tmp_path / "x", device="meta", dtype=torch.float16, check_values=True)
    assert all(each.is_meta for each in loaded.parameters())


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


def test_a_name_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_projector("llava-hf/llava-1.5-7b-hf")
    assert str(caught.value) == (
        "llava-hf/llava-1.5-7b-hf: cannot be read: No such file or directory. Nothing is "
        "downloaded. If it is a model of a hub, fetch it first: hf download "
        "llava-hf/llava-1.5-7b-hf --local-dir llava-1.5-7b-hf"
    )
    for path in ("nope", "a/b.safetensors", "a/b/c"):
        with pytest.raises(CheckpointError, match="Look at the path; nothing is downloaded"):
            load_projector(path)
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(RegistryError, match="unknown projector"):
            build_projector(name, 1, 1)


def test_an_inspection_names_a_document_by_what_means_the_same(tmp_path: Path) -> None:
    for name, options, title in (
        ("mlp", {"prefix_tokens": 1}, "document (mlp)"),
        ("mlp3x_gelu", {}, "document (mlp3x-gelu)"),
        ("qwen2_5_vl", {}, "document (qwen2-5-vl)"),
        ("ldp", {"kernel": 5}, "document"),
    ):
        projector = build_projector(name, 16, 24, **options)
        save_projector(projector, tmp_path / name)
        found = inspect_checkpoint(tmp_path / name)
        assert (found.family, found.title) == ("document", title)


def test_a_root_where_nothing_is_known(tmp_path: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="no projector that is known, among 1 tensors"):
        load_projector(tmp_path / "x", root="vision")


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
        f"X['{key}']: a tensor of (7, 5, 3); expected {shape}. Its family or its widths are others "
        "than the rest says."
    )


def test_tensors_may_be_described_in_any_order(tmp_path: Path) -> None:
    entries = '{"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},'
    entries += '"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "x").write_bytes(header(entries) + b"\x01\x02\x03")
    tensors = SafetensorsFile(tmp_path / "x").read("ab")
    assert {key: each.tolist() for key, each in tensors.items()} == {"a": [1, 2], "b": [3]}


def test_a_tensor_may_have_64_axes(tmp_path: Path) -> None:
    entry = f'{{"dtype":"U8","shape":{[1] * 64},"data_offsets":[0,1]}}'
    (tmp_path / "x").write_bytes(header(f'{{"a":{entry}}}', 1))
    assert SafetensorsFile(tmp_path / "x").tensors["a"].shape == (1,) * 64


def test_the_longest_header_allowed_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(header("{}"))
    monkeypatch.setattr("mobilevlm.checkpoints.safetensors_file.MAX_HEADER", 2)
    assert not SafetensorsFile(tmp_path / "x").tensors


def test_a_drop_in_is_saved_under_the_documents_keys(tmp_path: Path) -> None:
    config = {"mm_projector_type": "ldpnet", "mm_hidden_size": 16, "hidden_size": 24}
    projector = build_vision_projector(config)
    save_projector(projector, tmp_path)
    loaded = load_projector(tmp_path)
    assert type(loaded) is Projector
    assert same(loaded.blocks, projector.native().blocks)
