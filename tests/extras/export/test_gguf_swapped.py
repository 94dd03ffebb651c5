"""The projector of a swapped model, with the model's own tower, as llama.cpp's mmproj."""

from pathlib import Path

import pytest
import torch
import transformers

from mobilevlm import ExportError, export_projector, load_projector, swap_projector


def saved(name: str, folder: Path) -> Path:
    """Swap the projector of a small LLaVA whose tower has a grid of 24x24, and save it."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            **small, num_hidden_layers=2, image_size=48, patch_size=2
        ),
        text_config=transformers.LlamaConfig(**small, num_hidden_layers=2, vocab_size=8),
        image_token_index=1,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    swap_projector(model, name)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["mlp2x_gelu", "ldpnet", "ldpnetv2"])
def test_a_swapped_model_is_exported_with_its_tower(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path / "swapped")
    report = export_projector(load_projector(folder), tmp_path / "mmproj.gguf", tower=folder)
    assert report.versions["projector"] == {"mlp2x_gelu": "mlp", "ldpnet": "ldp"}.get(name, "ldpv2")
    assert report.inputs == (1, 576, 32)
    assert not any("only runs it together with its vision tower" in note for note in report.notes)


def test_a_projector_that_llama_cpp_does_not_compute_is_refused(tmp_path: Path) -> None:
    folder = saved("ldp", tmp_path / "swapped")
    with pytest.raises(ExportError, match=r"^projector: this is ldp; llama\.cpp's ldp is"):
        export_projector(load_projector(folder), tmp_path / "mmproj.gguf", tower=folder)
    assert not (tmp_path / "mmproj.gguf").exists()
