"""Small models for a hub."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from helpers.hub_server import COMMIT, Hub, serve, use

ROOT = "multi_modal_projector."
LLAVA = {"model_type": "llava", "projector_hidden_act": "gelu"}


def projector_tensors(in_: int, out: int) -> dict[str, Tensor]:
    """Return the tensors of LLaVA's projector."""
    return {
        f"{ROOT}linear_1.bias": torch.randn(out),
        f"{ROOT}linear_1.weight": torch.randn(out, in_),
        f"{ROOT}linear_2.bias": torch.randn(out),
        f"{ROOT}linear_2.weight": torch.randn(out, out),
    }


def config_of(in_: int, out: int) -> dict[str, Any]:
    vision = {"model_type": "clip_vision_model", "hidden_size": in_}
    return {**LLAVA, "vision_config": vision, "text_config": {"hidden_size": out}}


def write_shards(folder: Path, in_: int, out: int, *, beside: int) -> None:
    """Write a model like LLaVA in three shards; the second holds nothing of the projector.

    Args:
        folder: The folder.
        in_: The projector's input width.
        out: Its output width.
        beside: How many numbers each tensor around it has.
    """
    folder.mkdir(parents=True)
    tensors = projector_tensors(in_, out)
    first = {key: tensor for key, tensor in tensors.items() if "linear_1" in key}
    last = {key: tensor for key, tensor in tensors.items() if "linear_2" in key}
    where = {}
    for number, part in enumerate((first, {}, last), 1):
        name = f"model-{number:05}-of-00003.safetensors"
        around = {f"{kind}.{number}": torch.randn(beside) for kind in ("language", "vision")}
        save_file({**part, **around}, folder / name, {"format": "pt"})
        where |= dict.fromkeys((*part, *around), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config_of(in_, out)))


def in_order(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a file of safetensors with the tensors in this order; `save` has its own."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for key, tensor in tensors.items():
        piece = save({"": tensor})[-tensor.numel() * tensor.element_size() :]
        span = [len(data), len(data) + len(piece)]
        data += piece
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def upload(hub: Hub, folder: Path, below: str = "", commit: str = COMMIT) -> None:
    """Put a folder's files into the model."""
    files = {below + path.name: path.read_bytes() for path in folder.iterdir()}
    hub.files[commit] = hub.files.get(commit, {}) | files


@contextmanager
def published() -> Iterator[None]:
    """Run a hub with a model in three shards, 1024 -> 2048, for a page's examples."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serve() as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        write_shards(Path(folder, "model"), 1024, 2048, beside=1000)
        upload(hub, Path(folder, "model"))
        use(hub, Path(folder, "cache"), patch)
        yield
