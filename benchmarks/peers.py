"""Other people's projectors: published computations as plain modules, and transformers' classes.

A plain module keeps the modules, layout and key names of its original: weights move over by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import torchvision_operators
from reference import zoo
from reference.attention import run_blip2, run_masked
from reference.case import Run, Sizes, plain, randomize, with_grid
from reference.honeybee import CAbstractor
from reference.ldpnet import LDPNetProjector, LDPNetV2Projector
from reference.resamplers import MiniCPMV, QwenVL

from mobilevlm import Projector, build_projector, to_upstream

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / ".venv/published/mobilevlm/main.py"
torchvision_operators.declare()


@dataclass(frozen=True)
class Peer:
    """A projector of ours beside its original.

    Attributes:
        ours: Our projector.
        theirs: Called with the same tokens ``(b, n, c)``, does what the original does.
        module: The original's module, for its parameters.
        x: Tokens of one image.
        grid: Their grid.
        work: The original's multiply-accumulates over ours, where the two differ by design.
    """

    ours: Projector
    theirs: Callable[[Tensor], Tensor]
    module: nn.Module
    x: Tensor
    grid: tuple[int, int]
    work: float = 1.0


@dataclass(frozen=True)
class Source:
    """How to make a peer."""

    make: Callable[[], Peer]
    group: str
    targets: dict[str, tuple[float, float]] = field(default_factory=dict)


# ---------------------------------------------------------------------- published modules


def _move(ours: Projector, layout: str, module: nn.Module) -> nn.Module:
    module.load_state_dict(to_upstream(ours, layout), strict=True)
    return module.eval()


def _plain(
    name: str,
    make: Callable[[Projector], nn.Module],
    widths: tuple[int, int] = (1024, 2048),
    layout: str | None = None,
    **options: Any,
) -> Callable[[], Peer]:
    def peer() -> Peer:
        ours = build_projector(name, *widths, **options).eval()
        module = _move(ours, layout or name, make(ours))
        return Peer(ours, module, module, torch.randn(1, 576, widths[0]), (24, 24))

    return peer


def _ldpnet(ours: Projector) -> nn.Module:
    mid = ours.get_submodule("blocks.6.fc1").weight.shape[0]
    return LDPNetProjector(ours.spec.in_, ours.spec.out, mid)


def published_ldp() -> Peer:
    """The package's release 0.0.3: fewer layers of its own, each run more often."""
    spec = importlib.util.spec_from_file_location("published_ldp", PUBLISHED)
    if spec is None or spec.loader is None or not PUBLISHED.exists():
        raise FileNotFoundError(f"{PUBLISHED}: run make bench, which installs it there")
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    module = source.LDP(2048, 2048).eval()
    ours = build_projector("ldp", 2048, 2048).eval()

    def theirs(x: Tensor) -> Tensor:
        y: Tensor = module(x.transpose(1, 2).reshape(len(x), -1, 24, 24))
        return y.flatten(2).transpose(1, 2)

    tokens = (3 * 576 + 144, 2 * 576 + 144)  # of the pointwise layers, all 2048 x 2048
    return Peer(ours, theirs, module, torch.randn(1, 576, 2048), (24, 24), tokens[0] / tokens[1])


# ---------------------------------------------------------------------- transformers


def family(
    name: str,
    v: int,
    d: int,
    h: int = 4096,
    side: int = 24,
    grid: tuple[int, int] | None = None,
) -> Callable[[], Peer]:
    """A case of the tests' table of families, at the size of a real model."""

    def peer() -> Peer:
        from mobilevlm.checkpoints.mapping import from_upstream

        case = zoo.cases(Sizes(v, d, h, side))[name]
        module = case.build().eval()
        randomize(module)
        ours = build_projector(case.preset, case.in_, d, **case.options).eval()
        state = {k: w for k, w in module.state_dict().items() if k not in case.unused}
        ours.load_state_dict(from_upstream(ours, case.layout, state), strict=True)
        sides = grid or case.grids[0]
        x = torch.randn(1, sides[0] * sides[1], case.in_)
        return Peer(ours, lambda x: case.run(module, x, sides), module, x, sides)

    return peer


def gemma3() -> Peer:
    """Gemma 3 4B's projector: 64x64 tokens to 16x16."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

    from mobilevlm.checkpoints.mapping import from_upstream

    vision = Namespace(hidden_size=1152, image_size=896, patch_size=14, layer_norm_eps=1e-6)
    module = Gemma3MultiModalProjector(
        Namespace(
            vision_config=vision, text_config=Namespace(hidden_size=2560), mm_tokens_per_image=256
        )
    ).eval()
    nn.init.normal_(module.mm_input_projection_weight, std=1152**-0.5)
    ours = build_projector("gemma3", 1152, 2560, pool=4).eval()
    ours.load_state_dict(from_upstream(ours, "gemma3", module.state_dict()))
    return Peer(ours, module, module, torch.randn(1, 4096, 1152), (64, 64))


# ---------------------------------------------------------------------- attention


def _idefics() -> nn.Module:
    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    perceiver = Namespace(qk_layer_norms_perceiver=False)
    config = Namespace(perceiver_config=perceiver, vision_config=Namespace(embed_dim=1280))
    return IdeficsPerceiverResampler(config, 1280, 6, 16, 96, 64)


def _idefics2() -> nn.Module:
    from transformers import Idefics2Config
    from transformers.models.idefics2.modeling_idefics2 import Idefics2Connector

    text = {"model_type": "mistral", "hidden_size": 2048, "intermediate_size": 7168}
    return Idefics2Connector(
        Idefics2Config(
            vision_config={"hidden_size": 1152},
            text_config=text,
            perceiver_config={"hidden_size": 2048},
            attn_implementation="sdpa",
        )
    )


def _blip2() -> nn.Module:
    from transformers import Blip2QFormerConfig
    from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

    module = nn.Module()
    module.query_tokens = nn.Parameter(torch.empty(1, 32, 768))
    module.qformer = Blip2QFormerModel(Blip2QFormerConfig(attn_implementation="sdpa"))
    module.language_projection = nn.Linear(768, 2560)
    return module


def attention(
    preset: str, in_: int, out: int, build: Callable[[], nn.Module], run: Run, **options: int | str
) -> Callable[[], Peer]:
    """A resampler or Q-Former at the size of its model, on 24x24 tokens."""

    def peer() -> Peer:
        from mobilevlm.checkpoints.mapping import from_upstream

        module = build().eval()
        randomize(module)
        ours = build_projector(preset, in_, out, **options).eval()
        layout = "idefics" if preset == "flamingo" else preset
        ours.load_state_dict(from_upstream(ours, layout, module.state_dict()))
        x = torch.randn(1, 576, in_)
        return Peer(ours, lambda x: run(module, x, (24, 24)), module, x, (24, 24))

    return peer


PEERS: dict[str, Source] = {
    "ldpnet 1024->2048": Source(
        _plain("ldpnet", _ldpnet), "MobileVLM", {"float32": (2.1, 1.7), "bfloat16": (1.4, 1.4)}
    ),
    "ldpnet 1024->2560": Source(
        _plain("ldpnet", _ldpnet, (1024, 2560)),
        "MobileVLM",
        {"float32": (2.0, 1.55), "bfloat16": (1.15, 1.15)},
    ),
    "ldpnetv2 1024->2048": Source(
        _plain("ldpnetv2", lambda ours: LDPNetV2Projector(ours.spec.in_, ours.spec.out)),
        "MobileVLM",
        {"float32": (4.2, 4.1), "bfloat16": (2.4, 2.4)},
    ),
    "ldp 2048->2048, equal work": Source(
        published_ldp, "mobilevlm 0.0.3", {"float32": (2.1, 1.1), "bfloat16": (1.15, 1.15)}
    ),
    "c-abstractor 1024->2048": Source(
        _plain("c-abstractor", lambda ours: CAbstractor(1024, 1024, 2048, 3, 144)),
        "Honeybee",
        {"float32": (2.0, 1.3), "bfloat16": (1.2, 1.2)},
    ),
    "llava 1024->4096": Source(
        family("llava", 1024, 4096), "transformers", {"float32": (2.0, 2.0), "bfloat16": (1.0, 1.0)}
    ),
    "internvl 1024->2048": Source(
        family("internvl", 1024, 2048, side=32),
        "transformers",
        {"float32": (2.2, 2.2), "bfloat16": (1.0, 1.0)},
    ),
    "idefics3 1152->4096": Source(
        family("idefics3", 1152, 4096, side=26),
        "transformers",
        {"float32": (2.2, 2.2), "bfloat16": (1.0, 1.0)},
    ),
    "mistral3 1024->5120": Source(
        family("mistral3", 1024, 5120, side=28),
        "transformers",
        {"float32": (2.2, 2.2), "bfloat16": (1.0, 1.0)},
    ),
    "qwen2-5-vl 1280->3584": Source(
        family("qwen2-5-vl", 1280, 3584, side=32),
        "transformers",
        {"float32": (2.3, 2.3), "bfloat16": (1.0, 1.0)},
    ),
    "gemma3 1152->2560": Source(
        gemma3,
        "transformers",
        {"float32": (2.9, 2.9), "bfloat16": (2.9, 2.9)},
    ),
}
NEVER_BELOW = {"float32": (1.0, 1.0), "bfloat16": (1.0, 1.0)}
OTHERS = (
    *("paligemma", "vipllava", "smolvlm", "lfm2-vl", "nemotron-omni", "deepseek-vl2", "llama4"),
    *("gemma3n", "gemma4", "qwen2-vl", "qwen3-vl", "kimi-k25", "paddleocr-vl", "lfm3-vl", "glm4v"),
    *("aya-vision", "cohere2-vision", "minicpmv4-6", "got-ocr2", "perception-lm"),
    *("llava-next-video", "llava-onevision-video", "hunyuan-vl", "nvila"),
    "granite-docling",
)
ATTENTION = {
    "idefics": attention(
        *("flamingo", 1280, 1280, _idefics, plain),
        act="relu",
        queries=64,
        depth=6,
        heads=16,
        head_dim=96,
    ),
    "idefics2": attention("idefics2", 1152, 2048, _idefics2, run_masked, hidden=7168),
    "blip2": attention("blip2", 1408, 2560, _blip2, run_blip2),
    "minicpmv": attention(
        *("minicpmv", 1152, 4096, lambda: MiniCPMV(1152, 4096, 32, 64), with_grid),
        queries=64,
        heads=32,
    ),
    "qwen-vl": attention(
        *("qwen-vl", 1664, 4096, lambda: QwenVL(1664, 4096, 32, 256), with_grid),
        queries=256,
        heads=32,
    ),
}
PEERS |= {name: Source(make, "original", NEVER_BELOW) for name, make in ATTENTION.items()}
PEERS |= {
    name: Source(family(name, 1024, 2048, 2048), "transformers", NEVER_BELOW) for name in OTHERS
}
PEERS |= {
    "voxtral": Source(
        family("voxtral", 1024, 2048, 2048, grid=(1, 1500)), "transformers", NEVER_BELOW
    ),
    "nvila-lite": Source(family("nvila-lite", 1024, 2048, grid=(27, 27)), "original", NEVER_BELOW),
}
