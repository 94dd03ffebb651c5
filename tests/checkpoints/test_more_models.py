"""Whole tiny models of transformers whose families were documents once, and models of sound."""

from pathlib import Path

import pytest
import torch
from helpers.checkpoints import Beside, check_beside, check_model, run_embed_audio
from reference.case import Grid, Run, run_blocked
from reference.models import MODELS as FIRST
from reference.more_models import MODELS
from torch import Tensor, nn

from mobilevlm import load_projector


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name: str, tmp_path: Path) -> None:
    check_model(MODELS[name], tmp_path)


def run_fine(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """Granite-Docling's fine path."""
    y: Tensor = module(x, [torch.zeros_like(x)] * len(module.fine.deepstack_mergers), fine=True)[0]
    return y.unflatten(0, (len(x), -1))


def sound_of_phi4(mode: str) -> Run:
    def run(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        up, down = (getattr(module, f"{step}_proj_for_{mode}") for step in ("up", "down"))
        y: Tensor = down(nn.functional.gelu(up(x)))
        return y

    return run


def run_muse_sound(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module.post_proj_norm(module.proj(x))
    return y


SOUND = "model.embed_tokens_extend"
BESIDE = {
    "gemma4_unified": Beside(
        MODELS["gemma4_unified"],
        "model.embed_audio",
        "model.embed_audio.",
        "gemma4-audio",
        {"eps": 1e-3},
        run_embed_audio,
    ),
    "granite_docling": Beside(
        FIRST["granite_docling"],
        "model.vision_model.connector",
        "model.vision_model.",
        "granite-docling",
        {"merge": 2},
        run_fine,
        ((8, 8),),
    ),
    "janus": Beside(
        FIRST["janus"],
        "model.generation_aligner",
        "model.generation_aligner.",
        "mlp",
        {"depth": 3},
        in_=4,
        config={"vq_config": {**FIRST["janus"].config["vq_config"], "num_hidden_layers": 3}},
    ),
    "phi4_multimodal, speech": Beside(
        MODELS["phi4_multimodal"],
        f"{SOUND}.audio_embed",
        f"{SOUND}.",
        "mlp",
        {},
        sound_of_phi4("speech"),
    ),
    "phi4_multimodal, speech about images": Beside(
        MODELS["phi4_multimodal"],
        f"{SOUND}.audio_embed",
        "model.",
        "mlp",
        {},
        sound_of_phi4("vision_speech"),
    ),
    "muse_spark": Beside(
        MODELS["muse_spark"],
        "model.audio_tower",
        "model.audio_tower.",
        "git",
        {"norm": "rms", "eps": 1e-3},
        run_muse_sound,
        in_=8,
    ),
    "vibevoice": Beside(
        MODELS["vibevoice"],
        "model.semantic_connector",
        "model.semantic_connector.",
        "vibevoice",
        {},
        in_=12,
    ),
    "hyperclovax_vision_v2": Beside(
        MODELS["hyperclovax_vision_v2"],
        "model.vision_model.merger",
        "model.vision_model.merger.",
        "qwen2-5-vl",
        {},
        run_blocked,
        ((4, 6), (8, 8)),
    ),
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BESIDE)
def test_projectors_beside_the_main_one(name: str, tmp_path: Path) -> None:
    check_beside(BESIDE[name], tmp_path)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_a_document_of_ones_own_reads_step_3s_modules(tmp_path: Path) -> None:
    """By the names of the modules, in place of the family that describes them."""
    model = MODELS["step3p7"].build()
    model.save_pretrained(tmp_path)
    conv = {"type": "conv", "stride": 2}
    document = {
        "in": 16,
        "out": 24,
        "blocks": [{**conv, "out": 32}, {**conv, "out": 64}, {"type": "pointwise", "bias": False}],
    }
    names = [
        "vision_model.vit_downsampler1",
        "vision_model.vit_downsampler2",
        "vit_large_projector",
    ]
    ours = load_projector(tmp_path, spec=document, module_names=names)
    tower = model.model.vision_model
    x = torch.randn(2, 64, 16)
    with torch.inference_mode():
        maps = tower.downsampler2(tower.downsampler1(x.transpose(1, 2).unflatten(2, (8, 8))))
        expected = model.model.multi_modal_projector(maps.flatten(2).transpose(1, 2))
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
    first = load_projector(
        tmp_path,
        root="vision_model.vit_downsampler1",
        spec={"in": 16, "out": 32, "blocks": [{**conv, "out": 32}]},
        module_names=[""],
    )
    assert torch.equal(first.state_dict()["blocks.0.weight"], tower.downsampler1.weight)
