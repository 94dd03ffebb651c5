"""Small vision towers of transformers, saved as folders."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def tower(kind: str, folder: Path, **changes: Any) -> Any:
    """Save a CLIP or SigLIP vision tower with random weights; return the model."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    config, model = {
        "clip": (CLIPVisionConfig, CLIPVisionModel),
        "siglip": (SiglipVisionConfig, SiglipVisionModel),
    }[kind]
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 336,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    made = model(config(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            # Small steps: all of a layer should show, and no token run away from the others.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    made.save_pretrained(folder)
    return made


def probe(tokens: Tensor, folder: Path, **changes: Any) -> None:
    """Save a tower that gives these tokens (n, c), whatever the image.

    Its positions are the tokens, its patches and what its layers add are zero.
    """
    n, c = tokens.shape
    side = int(n**0.5)
    made = tower(
        "siglip",
        folder,
        hidden_size=c,
        intermediate_size=2 * c,
        image_size=14 * side,
        layer_norm_eps=1e-5,
        **changes,
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if any(part in name for part in ("patch_embedding", "out_proj", "mlp.fc2")):
                parameter.zero_()
        made.embeddings.position_embedding.weight.copy_(tokens)
    made.save_pretrained(folder)
