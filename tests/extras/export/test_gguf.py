"""GGUF: llama.cpp's names, shapes, types and keys; `test_llama_cpp.py` runs them in llama.cpp."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from towers import tower

from mobilevlm import MobileVLMError, Projector, build_projector, export_projector, load_spec
from mobilevlm.checkpoints import inspect_checkpoint, to_upstream

C, D = 64, 96
S = 24  # the squeeze of ldpnet, D / 4
# What llama.cpp's legacy converter calls them, with the shapes and types it writes at f16.
BLOCK = {
    "block.0.0.weight": ((D, 3, 3), "F16"),
    "block.0.1.weight": ((D,), "F32"),
    "block.0.1.bias": ((D,), "F32"),
    "block.1.fc1.weight": ((S, D), "F16"),
    "block.1.fc1.bias": ((S,), "F32"),
    "block.1.fc2.weight": ((D, S), "F16"),
    "block.1.fc2.bias": ((D,), "F32"),
    "block.2.0.weight": ((D, D), "F16"),
    "block.2.1.weight": ((D,), "F32"),
    "block.2.1.bias": ((D,), "F32"),
}
TABLE: dict[str, tuple[str, dict[str, tuple[tuple[int, ...], str]]]] = {
    "mlp2x_gelu": (
        "mlp",
        {
            "mm.0.weight": ((D, C), "F16"),
            "mm.0.bias": ((D,), "F32"),
            "mm.2.weight": ((D, D), "F16"),
            "mm.2.bias": ((D,), "F32"),
        },
    ),
    "ldpnet": (
        "ldp",
        {
            "mm.model.mlp.1.weight": ((D, C), "F16"),
            "mm.model.mlp.1.bias": ((D,), "F32"),
            "mm.model.mlp.3.weight": ((D, D), "F16"),
            "mm.model.mlp.3.bias": ((D,), "F32"),
            **{f"mm.model.mb_block.{k}.{name}": BLOCK[name] for k in (1, 2) for name in BLOCK},
        },
    ),
    "ldpnetv2": (
        "ldpv2",
        {
            "mm.model.mlp.0.weight": ((D, C), "F16"),
            "mm.model.mlp.0.bias": ((D,), "F32"),
            "mm.model.mlp.2.weight": ((D, D), "F16"),
            "mm.model.mlp.2.bias": ((D,), "F32"),
            "mm.model.peg.0.weight": ((D, 3, 3), "F16"),
            "mm.model.peg.0.bias": ((D,), "F32"),
        },
    ),
}
# llama.cpp does not load a file that lacks one of these.
REQUIRED = {
    "clip.has_vision_encoder",
    "clip.projector_type",
    *(
        f"clip.vision.{key}"
        for key in (
            *("image_size", "patch_size", "embedding_length", "feed_forward_length"),
            *("projection_dim", "block_count", "attention.head_count"),
            *("attention.layer_norm_epsilon", "image_mean", "image_std"),
        )
    ),
}


def refusal(projector: Projector, path: Path, **keywords: Any) -> str:
    with pytest.raises(MobileVLMError) as caught:
        export_projector(projector, path, **keywords)
    assert not path.exists()
    return str(caught.value)


def tensors(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """The tensors, in PyTorch's order of axes."""
    return {
        tensor.name: (tuple(int(n) for n in reversed(tensor.shape)), tensor.tensor_type.name)
        for tensor in GGUFReader(path).tensors
    }


def keys(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


@pytest.mark.parametrize("name", TABLE)
def test_names_shapes_types_and_keys_are_llama_cpps(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mmproj.gguf"
    projector = build_projector(name, C, D)
    report = export_projector(projector, path)
    type_, expected = TABLE[name]
    assert tensors(path) == expected
    found = keys(path)
    assert found.keys() >= REQUIRED
    assert found["general.architecture"] == "clip"
    assert found["general.file_type"] == 1
    assert found["clip.projector_type"] == type_
    assert found["clip.vision.image_size"] // found["clip.vision.patch_size"] == 24
    assert found["clip.vision.embedding_length"] == C
    assert found["clip.vision.projection_dim"] == D
    assert found["clip.vision.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert load_spec(found["mobilevlm.spec"]) == projector.spec
    assert report.inputs == (1, 576, C)
    assert report.outputs == (1, 576 if name == "mlp2x_gelu" else 144, D)
    assert report.versions == {"gguf": 3, "projector": type_}
    assert report.time_ratio is None
    assert report.notes == (
        "it was read back, not run: llama.cpp is not a Python package",
        "llama.cpp only runs it together with its vision tower: pass the tower's folder",
    )
    assert 0 < report.relative < 2e-3
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", TABLE)
def test_nothing_is_transposed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    projector = build_projector(name, C, D)
    export_projector(projector, path, weights="f32")
    layout = {"mlp2x_gelu": "mlp"}.get(name, name)
    ours = list(to_upstream(projector, layout).values())
    for tensor, mine in zip(GGUFReader(path).tensors, ours, strict=True):
        theirs = torch.from_numpy(tensor.data.copy()).float().flatten()
        torch.testing.assert_close(theirs, mine.detach().flatten(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TABLE)
def test_kernels_are_f16_whatever_is_asked(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    projector = build_projector(name, C, D)
    for weights, matrix, file_type in [("f32", "F32", 0), ("q8_0", "Q8_0", 7)]:
        report = export_projector(projector, path, weights=weights)
        assert keys(path)["general.file_type"] == file_type
        for key, (shape, type_) in tensors(path).items():
            # A row of q8_0 is blocks of 32 numbers; what has no such rows stays f16.
            wanted = "F16" if len(shape) > 2 else matrix if len(shape) == 2 else "F32"
            if wanted == "Q8_0" and shape[-1] % 32:
                assert key.endswith("fc2.weight")
                wanted = "F16"
            assert type_ == wanted, key
        assert report.weights == weights
        assert report.relative < (1e-3 if weights == "f32" else 3e-2)


def test_sizes_of_the_released_projectors(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    projector = build_projector("ldpnet", 1024, 2048)
    sizes = {
        weights: round(export_projector(projector, path, weights=weights).bytes / 1e6, 1)
        for weights in ("f16", "q8_0")
    }
    assert sizes == {"f16": 37.9, "q8_0": 20.2}


def test_its_document_is_read_back_without_the_formats_package(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    projector = build_projector("ldpnet", C, D, prefix_tokens=1)
    export_projector(projector, path)
    assert inspect_checkpoint(path).spec == projector.spec
    tower("clip", tmp_path / "tower")
    mlp = build_projector("mlp2x_gelu", 64, D)
    export_projector(mlp, path, tower=tmp_path / "tower")
    assert inspect_checkpoint(path).spec == mlp.spec


def test_only_a_class_token_is_dropped(tmp_path: Path) -> None:
    for kind in ("clip", "siglip"):
        tower(kind, tmp_path / kind)
    projector = build_projector("mlp2x_gelu", 64, D, prefix_tokens=1)
    path = tmp_path / "p.gguf"
    assert refusal(projector, path, tower=tmp_path / "siglip") == (
        "prefix_tokens: 1, but the tower has no class token; expected 0. llama.cpp would not drop "
        "a patch."
    )
    export_projector(projector, path, tower=tmp_path / "clip")


def test_tiles_that_the_file_leaves_out_are_noted(tmp_path: Path) -> None:
    tower("siglip", tmp_path / "tower")
    state = load_file(tmp_path / "tower/model.safetensors")
    save_file({**state, "image_newline": torch.zeros(D)}, tmp_path / "tower/model.safetensors")
    report = export_projector(
        build_projector("mlp2x_gelu", 64, D), tmp_path / "p.gguf", tower=tmp_path / "tower"
    )
    assert any("image_newline" in note for note in report.notes)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("linear", {}, "this is linear; llama.cpp adds a GELU after a single linear layer"),
        (
            "mlp3x_gelu",
            {},
            "this is mlp3x_gelu; llama.cpp's mlp has two linear layers with a GELU between them",
        ),
        (
            "ldp",
            {},
            "this is ldp; llama.cpp's ldp is the projector released with MobileVLM v1, ldpnet",
        ),
        ("mlp", {"act": "silu"}, "we do not write these blocks to GGUF yet"),
        ("mlp", {"bias": False}, "we do not write these blocks to GGUF yet"),
        ("qwen2-vl", {}, "we do not write these blocks to GGUF yet"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(
    name: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    projector = build_projector(name, C, D, **options)
    said = f"projector: {reason}; expected mlp2x_gelu, ldpnet or ldpnetv2"
    if reason.endswith("yet"):
        said += ". Of a whole model, llama.cpp's convert_hf_to_gguf.py --mmproj may."
    assert refusal(projector, tmp_path / "p.gguf") == said


def test_other_grids_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.gguf"
    for name, type_ in [("ldpnet", "ldp"), ("ldpnetv2", "ldpv2")]:
        projector = build_projector(name, C, D)
        assert refusal(projector, path, grid=(16, 16)) == (
            f"grid: 16x16; expected 24x24. llama.cpp's {type_} only supports that grid."
        )
    mlp = build_projector("mlp2x_gelu", C, D)
    assert refusal(mlp, path, grid=(16, 18)) == (
        "grid: 16x18; expected a square grid, as llama.cpp requires"
    )
    assert refusal(mlp, path, dynamic_grid=True) == (
        "dynamic_grid: .gguf supports only one grid; expected a fixed grid"
    )
    assert export_projector(mlp, path, grid=(16, 16)).inputs == (1, 256, C)


def test_leading_tokens_are_dropped_as_llama_cpp_does(tmp_path: Path) -> None:
    path = tmp_path / "p.gguf"
    registers = build_projector("ldpnet", C, D, prefix_tokens=5)
    assert refusal(registers, path) == (
        "prefix_tokens: 5; expected 0 or 1. llama.cpp drops the CLS token and no others."
    )
    export_projector(build_projector("ldpnet", C, D, prefix_tokens=1), path)


# ---------------------------------------------------------------------- with the vision tower


def renamed(key: str) -> str:
    """llama.cpp's name for a tensor of a tower, written down a second time."""
    key = re.sub(r"^encoder\.layers\.", "v.blk.", key)
    for theirs, ours in [
        ("embeddings.class_embedding", "v.class_embd"),
        ("embeddings.patch_embedding", "v.patch_embd"),
        ("embeddings.position_embedding", "v.position_embd"),
        ("pre_layrnorm", "v.pre_ln"),
        ("self_attn.out_proj", "attn_out"),
        ("layer_norm", "ln"),
        ("mlp.fc1", "ffn_up"),
        ("mlp.fc2", "ffn_down"),
    ]:
        key = key.replace(theirs, ours)
    return re.sub(r"self_attn\.([qkv])_proj", r"attn_\1", key)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_tower_makes_it_whole(kind: str, tmp_path: Path) -> None:
    model = tower(kind, tmp_path / "tower")
    path = tmp_path / "mmproj.gguf"
    projector = build_projector("mlp2x_gelu", 64, D)
    report = export_projector(projector, path, tower=tmp_path / "tower")
    found = tensors(path)
    theirs = {
        renamed(key): tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
        if not key.startswith(("post_layernorm", "head."))
    }
    assert {key: shape for key, (shape, _) in found.items() if key.startswith("v.")} == theirs
    assert found["v.patch_embd.weight"][1] == "F16"
    assert found["v.blk.0.attn_q.weight"][1] == "F16"
    assert found["v.blk.0.ln1.weight"][1] == "F32"
    facts = keys(path)
    assert facts["clip.vision.image_size"] == 336
    assert facts["clip.vision.patch_size"] == 14
    assert facts["clip.vision.attention.head_count"] == 4
    assert facts["clip.vision.feed_forward_length"] == 160
    # The last layer but one: all three layers, so that older versions stop there by themselves.
    assert facts["clip.vision.block_count"] == 3
    assert facts["clip.vision.feature_layer"] == [2]
    eps = 1e-5 if kind == "clip" else 1e-6
    assert facts["clip.vision.attention.layer_norm_epsilon"] == pytest.approx(eps)
    assert facts["clip.use_gelu"] is (kind == "siglip")
    mean = 0.48145466 if kind == "clip" else 0.5
    assert facts["clip.vision.image_mean"][0] == pytest.approx(mean)
    cls = "since May 2025 llama.cpp passes on CLIP's tokens shifted by one (its issue 25814)"
    assert (cls in report.notes) == (kind == "clip")


def test_a_whole_models_folder_says_which_layer(tmp_path: Path) -> None:
    """LLaVA's folder: the tower under a prefix, the layer and the pictures' norm in its files."""
    tower("clip", tmp_path / "tower", num_hidden_layers=4)
    vision = json.loads((tmp_path / "tower/config.json").read_text())
    state = load_file(tmp_path / "tower/model.safetensors")
    folder = tmp_path / "llava"
    folder.mkdir()
    save_file(
        {f"model.vision_tower.vision_model.{key}": t.half() for key, t in state.items()},
        folder / "model.safetensors",
    )
    means = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 1.0, 1.0]}
    (folder / "preprocessor_config.json").write_text(json.dumps(means))
    path = tmp_path / "mmproj.gguf"
    projector = build_projector("mlp2x_gelu", 64, D)
    for layer, blocks, passed in [(-2, 4, 3), (-3, 3, 2), (-1, 4, 4), (1, 2, 1)]:
        config = {"vision_config": vision, "vision_feature_layer": layer}
        (folder / "config.json").write_text(json.dumps(config))
        export_projector(projector, path, tower=folder)
        facts = keys(path)
        assert facts["clip.vision.block_count"] == blocks
        assert facts["clip.vision.feature_layer"] == [passed]
        assert facts["clip.vision.image_mean"] == pytest.approx([0.1, 0.2, 0.3])
        layers = {name.split(".")[2] for name in tensors(path) if name.startswith("v.blk")}
        assert layers == {str(number) for number in range(blocks)}
    path.unlink()
    for field, value, message in [
        (
            "vision_feature_layer",
            [-2, -5],
            "vision_feature_layer: [-2, -5]; expected one of the tower's 4 layers",
        ),
        (
            "mm_vision_select_layer",
            -6,
            "mm_vision_select_layer: -6; expected one of the tower's 4 layers",
        ),
        (
            "vision_feature_select_strategy",
            "full",
            "vision_feature_select_strategy: 'full'; expected 'default'. "
            "llama.cpp always drops the CLS token.",
        ),
    ]:
        (folder / "config.json").write_text(json.dumps({"vision_config": vision, field: value}))
        assert refusal(projector, path, tower=folder) == f"{folder}: {message}"


def test_a_tower_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path, folder = tmp_path / "p.gguf", tmp_path / "tower"
    mlp, ldpnet = (build_projector(name, 64, D) for name in ("mlp2x_gelu", "ldpnet"))
    tower("siglip", folder)
    assert refusal(ldpnet, path, tower=folder) == (
        f"{folder}: LayerNorms with an eps of 1e-06; expected 1e-05. "
        "llama.cpp would use the tower's eps for the projector's norms."
    )
    assert refusal(build_projector("mlp2x_gelu", 32, D), path, tower=folder) == (
        f"{folder}: the tower gives 64 channels; expected 32"
    )
    assert refusal(mlp, path, tower=folder, grid=(16, 16)) == (
        "grid: 16x16, but the tower gives 24x24; expected the same"
    )
    tower("clip", folder, image_size=224)
    assert refusal(ldpnet, path, tower=folder) == (
        "grid: 16x16; expected 24x24. llama.cpp's ldp only supports that grid."
    )
    tower("clip", folder, intermediate_size=64)
    assert refusal(mlp, path, tower=folder) == (
        f"{folder}: feed-forward layers of width 64; expected a width other than the tower's 64"
    )
    tower("clip", folder, hidden_act="relu")
    assert refusal(mlp, path, tower=folder) == (
        f"{folder}: hidden_act: 'relu'; expected one of gelu, gelu_pytorch_tanh, quick_gelu"
    )
    save_file({"weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    assert refusal(mlp, path, tower=folder) == (
        f"{folder}: 0 tensors named embeddings.patch_embedding.weight; expected the folder of a "
        "CLIP or SigLIP vision tower"
    )
    assert refusal(mlp, tmp_path / "p.pt2", tower=folder) == (
        "tower: .pt2 does not take this option"
    )
