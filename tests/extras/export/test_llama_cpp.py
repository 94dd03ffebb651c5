"""GGUF inside llama.cpp itself, where llama-cpp-python is installed: ``pip install`` builds it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from towers import probe, tower

from mobilevlm import Projector, build_projector, export_projector

pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")

C, D = 64, 96


def encode(path: Path, image: np.ndarray, width: int = D) -> Tensor:
    folder = path.parent
    np.save(folder / "image.npy", image)
    program = Path(__file__).with_name("llama_encode.py")
    command = [sys.executable, program, path, folder / "image.npy", folder / "out.npy", str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.from_numpy(np.load(folder / "out.npy"))


def picture(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def relative(y: Tensor, want: Tensor) -> float:
    assert y.shape == want.shape
    return float((y - want).abs().max() / want.abs().max())


def lively(name: str) -> Projector:
    """A projector whose every parameter shows."""
    torch.manual_seed(1)
    projector = build_projector(name, C, D).eval()
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return projector


@pytest.mark.parametrize(("weights", "most"), [("f16", 2e-3), ("f32", 2e-3), ("q8_0", 3e-2)])
@pytest.mark.parametrize("name", ["mlp2x_gelu", "ldpnet", "ldpnetv2"])
def test_llama_cpp_computes_the_projector(
    name: str, weights: str, most: float, tmp_path: Path
) -> None:
    tokens = torch.randn(576, C, generator=torch.Generator().manual_seed(2)).half().float()
    probe(tokens, tmp_path / "tower")
    projector = lively(name)
    path = tmp_path / "mmproj.gguf"
    export_projector(projector, path, tower=tmp_path / "tower", weights=weights)
    with torch.no_grad():
        want = projector(tokens[None])[0]
    found = relative(encode(path, picture(336)), want)
    print(f"{name} {weights}: {found:.1e}")  # shown by pytest -s
    assert found < most


@pytest.mark.parametrize("name", ["mlp2x_gelu"])
def test_another_grid_for_the_mlp(name: str, tmp_path: Path) -> None:
    tokens = torch.randn(256, C, generator=torch.Generator().manual_seed(2)).half().float()
    probe(tokens, tmp_path / "tower")
    projector = lively(name)
    path = tmp_path / "mmproj.gguf"
    export_projector(projector, path, tower=tmp_path / "tower")
    with torch.no_grad():
        want = projector(tokens[None])[0]
    assert relative(encode(path, picture(224)), want) < 2e-3


def pixels(image: np.ndarray, kind: str) -> Tensor:
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    if kind == "siglip":
        mean = std = (0.5, 0.5, 0.5)
    x = torch.from_numpy(image).float() / 255
    return ((x - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)[None]


def with_the_cls_token_last(model: Any, x: Tensor) -> Tensor:
    """What llama.cpp makes of a CLIP tower since its pull request 13321 (its issue 25814).

    The CLS token stands last, so that every patch gets its neighbour's position, and in place of
    the first patch it goes on to the projector. No file can correct that.
    """
    embeddings = model.embeddings
    patches = embeddings.patch_embedding(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([patches, embeddings.class_embedding.view(1, 1, -1)], 1)
    tokens = model.pre_layrnorm(tokens + embeddings.position_embedding.weight)
    for layer in model.encoder.layers[:-1]:
        tokens = layer(tokens, None)
    return tokens[:, 1:]


@pytest.mark.parametrize("name", ["mlp2x_gelu", "ldpnet"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_whole_mmproj_is_tower_and_projector(kind: str, name: str, tmp_path: Path) -> None:
    """From pixels on: patches, positions, the activation, the norms, which layer is taken."""
    changes = {"layer_norm_eps": 1e-5} if name == "ldpnet" else {}
    model = tower(kind, tmp_path / "tower", **changes)
    projector = lively(name)
    path = tmp_path / "mmproj.gguf"
    export_projector(projector, path, tower=tmp_path / "tower", weights="f32")
    image = picture(336)
    y = encode(path, image)
    x = pixels(image, kind)
    with torch.no_grad():
        states = model(x, output_hidden_states=True).hidden_states
        first = 1 if kind == "clip" else 0
        wanted = [projector(states[-2][:, first:])[0]]
        others = [projector(states[layer][:, first:])[0] for layer in (-1, -3)]
        if kind == "clip":
            wanted.append(projector(with_the_cls_token_last(model, x))[0])
    assert min(relative(y, want) for want in wanted) < 1e-2
    assert all(relative(y, other) > 5e-2 for other in others)
