"""Test vectors against upstream's own classes, which compute in fp64 with the weights stored."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.case import Case, Run, Sizes, blocked, plain, with_grid
from reference.honeybee import CAbstractor
from reference.ldpnet import LDPNetProjector
from reference.published import TokenPacker
from reference.resamplers import MiniCPMV, OpenFlamingo, QwenVL
from reference.zoo import cases
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Upstream:
    """Upstream's module for an entry.

    `build` takes the side of the grid, and `takes` says which grids it does not refuse.
    """

    build: Callable[[int], nn.Module]
    run: Run
    layout: str
    takes: Callable[[int, int], bool] = lambda h, w: True
    unused: tuple[str, ...] = ()


def square(h: int, w: int) -> bool:
    return h == w


def even(h: int, w: int) -> bool:
    return h % 2 == w % 2 == 0


def of_zoo(name: str, h: int = 20, v: int = 8) -> Upstream:
    def case(side: int) -> Case:
        return cases(Sizes(v, 12, h, side))[name]

    found = case(4)
    assert isinstance(found.layout, str)
    takes = Upstream.takes
    if all(h == w for h, w in found.grids):
        takes = square
    elif all(h % 2 == w % 2 == 0 for h, w in found.grids):
        takes = even
    return Upstream(lambda side: case(side).build(), found.run, found.layout, takes, found.unused)


UPSTREAM = {
    "aya-vision": of_zoo("aya-vision", 10),
    "deepseek-vl2": of_zoo("deepseek-vl2"),
    "gemma3": of_zoo("gemma3"),
    "gemma3n-scale-false": of_zoo("gemma3n"),
    "gemma4": of_zoo("gemma4"),
    "glm4v": of_zoo("glm4v", 6),
    "got-ocr2": of_zoo("got-ocr2"),
    "granite-docling": of_zoo("granite-docling-fine"),
    "hunyuan-vl": of_zoo("hunyuan-vl"),
    "idefics3": of_zoo("idefics3"),
    "internvl": of_zoo("internvl"),
    "linear": of_zoo("paligemma"),
    "llama4": of_zoo("llama4"),
    "llava-next-video-mode-conv": of_zoo("llava-next-video-conv"),
    "minicpmv4-6-times-2": of_zoo("minicpmv4-6"),
    "mistral3": of_zoo("mistral3"),
    "mlp": of_zoo("llava"),
    "nvila-lite": of_zoo("nvila-lite"),
    "perception-lm": of_zoo("perception-lm"),
    "pooler": of_zoo("pooler"),
    "qwen2-vl": of_zoo("qwen2-vl"),
    "vipllava": of_zoo("vipllava", v=4),
    "voxtral": of_zoo("voxtral"),
    "c-abstractor": Upstream(
        lambda side: CAbstractor(8, 12, 12, 1, 4), plain, "c-abstractor", square
    ),
    "flamingo": Upstream(lambda side: OpenFlamingo(12, 2, 3, 4, 4), plain, "open-flamingo"),
    "ldpnet": Upstream(lambda side: LDPNetProjector(8, 12, 8), plain, "ldpnet", square),
    "minicpmv": Upstream(lambda side: MiniCPMV(8, 12, 3, 4), with_grid, "minicpmv"),
    "qwen-vl": Upstream(lambda side: QwenVL(8, 12, 3, 4), with_grid, "qwen-vl"),
    "token-packer": Upstream(
        lambda side: TokenPacker(Sizes(2, 12), 12, 3, 2), with_grid, "token-packer"
    ),
}


def images(case: Mapping[str, Any], x: Tensor) -> list[Tensor]:
    """Return the batches of one grid ``(b, n, c)``, their tokens row by row."""
    sizes = [h * w for h, w in case["grids"]]
    parts = [part[None] for part in x.split(sizes)] if case["packed"] else [x]
    parts = [part[:, case["prefix_tokens"] :] for part in parts]
    if case["token_order"] == "raster":
        return parts
    orders = [blocked(torch.arange(h * w)[:, None], (h, w))[:, 0] for h, w in case["grids"]]
    return [part[:, order.argsort()] for part, order in zip(parts, orders, strict=True)]


def check(folder: Path, name: str) -> list[str]:
    """Compare the outputs of an entry with upstream's; return the names of its cases."""
    entry = json.loads((folder / "manifest.json").read_text("utf-8"))["entries"][name]
    upstream = UPSTREAM[name]
    weights = load_file(folder / entry["upstream"][upstream.layout])
    tensors = load_file(folder / entry["vectors"])
    compared = []
    for case in entry["cases"]:
        if not all(upstream.takes(h, w) for h, w in case["grids"]):
            continue
        module = upstream.build(case["grids"][0][0]).eval()
        missing, unexpected = module.load_state_dict(weights, strict=False)
        assert ({*missing} <= {*upstream.unused}, unexpected) == (True, [])
        module = module.double()
        found = []
        for x, (h, w) in zip(
            images(case, tensors[case["input"]].double()), case["grids"], strict=True
        ):
            with torch.no_grad():
                found.append(upstream.run(module, x, (h, w)).flatten(0, -2))
        y, right = torch.cat(found).flatten(), tensors[case["output"]].double().flatten()
        # Norms of transformers compute in fp32 whatever they are given.
        error = (y - right).abs().max() / right.abs().max()
        assert error < 1e-6, (name, case["name"], error)
        compared.append(case["name"])
    return compared


def test_outputs_are_what_upstream_computes(small_pack: Path) -> None:
    assert check(small_pack, "gemma3") == ["square", "scale-1e-3", "fp16-hazard", "bf16"]


@pytest.mark.slow
@pytest.mark.parametrize("name", UPSTREAM)
def test_outputs_of_families_are_what_upstream_computes(full_pack: Path, name: str) -> None:
    compared = check(full_pack, name)
    assert {"square", "scale-1e-3", "bf16"} <= {*compared}
    if UPSTREAM[name].takes is not square:
        assert {"wide", "tall", "packed", "class-token"} <= {*compared}
