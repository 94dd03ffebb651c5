"""Fuyu's patch embedding against transformers'."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import FuyuConfig, FuyuForCausalLM

from mobilevlm import build_projector, inspect_checkpoint, load_projector, to_upstream
from mobilevlm.checkpoints.mapping import from_upstream

PATCH, CHANNELS, WIDTH = 4, 3, 16
IN = PATCH * PATCH * CHANNELS


@pytest.fixture(scope="module")
def model() -> FuyuForCausalLM:
    config = FuyuConfig(
        image_size=16,
        patch_size=PATCH,
        num_channels=CHANNELS,
        text_config={
            "model_type": "persimmon",
            "vocab_size": 32,
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "pad_token_id": 0,
        },
        image_token_id=3,
    )
    torch.manual_seed(0)
    return FuyuForCausalLM(config).eval()


@pytest.mark.compares("fuyu", "`FuyuModel`")
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("grid", [(4, 4), (2, 5)])
def test_it_computes_what_transformers_does(
    grid: tuple[int, int], scale: float, model: FuyuForCausalLM
) -> None:
    embed = model.model.vision_embed_tokens
    ours = build_projector("fuyu", IN, WIDTH)
    ours.load_state_dict(from_upstream(ours, "fuyu", embed.state_dict()))
    x = scale * torch.randn(2, grid[0] * grid[1], IN)
    with torch.inference_mode():
        expected = model.model.get_image_features(x).last_hidden_state
        found = ours(x, grid=grid)
    assert (found - expected).abs().max() / expected.abs().max() < 1e-5


def test_a_saved_model_is_recognised_loaded_and_written_back(
    model: FuyuForCausalLM, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    found = inspect_checkpoint(tmp_path)
    assert (found.family, found.spec.in_, found.spec.out) == ("fuyu", IN, WIDTH)
    ours = load_projector(tmp_path)
    assert ours.spec == build_projector("fuyu", IN, WIDTH, device="meta").spec
    embed = model.model.vision_embed_tokens
    x = torch.randn(1, 6, IN)
    with torch.inference_mode():
        assert torch.allclose(ours(x), embed(x), rtol=0, atol=1e-5)
    stored = load_file(tmp_path / "model.safetensors")
    back = {found.root + key: value for key, value in to_upstream(ours, found.layout).items()}
    assert set(back) == set(found.used)
    assert all(torch.equal(tensor, stored[key]) for key, tensor in back.items())
