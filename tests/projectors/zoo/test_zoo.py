"""Every family against the real class of transformers: same weights, same inputs, same outputs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace as NS
from typing import Any

import pytest
import torch
from sizes import SIDE, D, H, V
from torch import Tensor, nn

from mobilevlm import build_projector
from mobilevlm.checkpoints.layouts import LAYOUTS, from_upstream, to_upstream


def randomize(module: nn.Module) -> None:
    """Give every parameter and buffer, norms and biases too, values that show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
            offset = 1.0 if parameter.ndim == 1 else 0.0
            values = torch.randn(parameter.shape, generator=generator) / fan**0.5
            parameter.copy_(values * (0.3 if parameter.ndim == 1 else 1.0) + offset)


def hf(module: str, name: str) -> Any:
    import importlib

    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


@dataclass
class Case:
    """One family: our preset, upstream's module, and how to call it.

    `run` takes upstream's module, tokens ``(b, n, c)`` and their grid, and returns ``(b, m, d)``.
    """

    preset: str
    layout: str
    build: Callable[[], nn.Module]
    run: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    in_: int = V
    grids: tuple[tuple[int, int], ...] = ((SIDE, SIDE),)
    unused: tuple[str, ...] = ()


def plain(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x)
    return y.flatten(1, -2)


def as_image(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x.transpose(1, 2).unflatten(2, grid))
    return y


def one_by_one(call: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor]) -> Any:
    """Run a packed upstream module on each image of a batch."""

    def run(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return torch.stack([call(module, image, grid) for image in x])

    return run


def blocked(x: Tensor, grid: tuple[int, int]) -> Tensor:
    h, w = grid
    return x.unflatten(0, (h // 2, 2, w // 2, 2)).transpose(1, 2).flatten(0, 3)


def llava() -> nn.Module:
    return hf("llava.modeling_llava", "LlavaMultiModalProjector")(
        NS(
            vision_feature_layer=-2,
            multimodal_projector_bias=True,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
        )
    )


def llava_levels() -> nn.Module:
    return hf("llava.modeling_llava", "LlavaMultiModalProjector")(
        NS(
            vision_feature_layer=[-2, -3, 1],
            multimodal_projector_bias=False,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
        )
    )


def vipllava() -> nn.Module:
    return hf("vipllava.modeling_vipllava", "VipLlavaMultiModalProjector")(
        NS(
            vision_feature_layers=[-2, -5],
            vision_feature_layer=[-2, -5],
            projector_layernorm_eps=1e-5,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
        )
    )


def connector(module: str, name: str, scale: int) -> Callable[[], nn.Module]:
    return lambda: hf(module, name)(
        NS(
            scale_factor=scale,
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
        )
    )


def internvl() -> nn.Module:
    from transformers.models.internvl.modeling_internvl import (
        InternVLModel,
        InternVLMultiModalProjector,
    )

    projector = InternVLMultiModalProjector(
        NS(
            downsample_ratio=0.5,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
        )
    )
    projector.pixel_shuffle = lambda x: InternVLModel.pixel_shuffle(NS(), x, 0.5)
    return projector


def run_internvl(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(module.pixel_shuffle(x.unflatten(1, grid)).flatten(1, 2))
    return y


def lfm2() -> nn.Module:
    return hf("lfm2_vl.modeling_lfm2_vl", "Lfm2VlMultiModalProjector")(
        NS(
            downsample_factor=2,
            projector_use_layernorm=True,
            projector_hidden_size=H,
            projector_bias=True,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
        )
    )


def on_grid(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x.unflatten(1, grid))
    return y.flatten(1, 2)


def nemotron() -> nn.Module:
    return hf(
        "nemotron_h_omni.modeling_nemotron_h_omni",
        "NemotronH_Omni_Reasoning_V3MultiModalProjector",
    )(4 * V, H, D)


def run_merged(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Upstream's module takes tokens that are merged already, four neighbours hwc."""
    h, w = grid
    merged = x.view(len(x), h // 2, 2, w // 2, 2, V).transpose(2, 3).flatten(3)
    y: Tensor = module(merged.flatten(1, 2))
    return y


class DeepseekVL2(nn.Module):
    """MlpProjector of deepseek-ai/DeepSeek-VL2, its published computation: downsample_mlp_gelu."""

    def __init__(self, depth: int, ratio: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(4 * V, D * ratio)]
        for _ in range(1, depth - 1):
            layers += [nn.GELU(), nn.Linear(D * ratio, D * ratio)]
        layers += [nn.GELU(), nn.Linear(D * ratio, D)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        h, w = grid
        x = x.transpose(1, 2).unflatten(2, grid)
        x = nn.functional.pad(x, (0, w % 2, 0, h % 2))
        y: Tensor = self.layers(nn.functional.unfold(x, 2, stride=2).transpose(1, 2))
        return y


class Nvila(nn.Module):
    """MultimodalProjector of NVlabs/VILA, its published computation: mlp_downsample_{n}x{n}_fix."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, wide = side, side * side * V
        inner = [nn.Linear(wide, 3 * V), nn.GELU(), nn.LayerNorm(3 * V), nn.Linear(3 * V, D)]
        first = [nn.Linear(wide, D)] if side == 2 else inner
        self.layers = nn.Sequential(
            nn.Identity(), nn.LayerNorm(wide), *first, nn.GELU(), nn.Linear(D, D)
        )

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Upstream's own views, which call the height w and the width h."""
        s = self.side
        x = x.unflatten(1, grid)
        n, w, h, c = x.shape
        x = torch.cat([x, x.new_zeros(n, -w % s, h, c)], 1)
        x = torch.cat([x, x.new_zeros(n, w + -w % s, -h % s, c)], 2)
        n, w, h, c = x.shape
        y = x.view(n, w, h // s, c * s).permute(0, 2, 1, 3).contiguous()
        y = y.view(n, h // s, w // s, c * s * s).permute(0, 2, 1, 3)
        z: Tensor = self.layers(y.flatten(1, 2))
        return z


class ColumnMajor(nn.Module):
    """InternVL's first pixel shuffle, which leaves the tokens column by column."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(4 * V)
        self.linear_1, self.linear_2 = nn.Linear(4 * V, D), nn.Linear(D, D)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Upstream's own views: n, w, h, c -> n, w, h/2, 2c -> n, h/2, w/2, 4c, and no more."""
        n, w, h, c = x.unflatten(1, grid).size()
        y = x.view(n, w, h // 2, 2 * c).permute(0, 2, 1, 3).contiguous()
        y = y.view(n, h // 2, w // 2, 4 * c).flatten(1, 2)
        z: Tensor = self.linear_2(nn.functional.gelu(self.linear_1(self.layer_norm(y))))
        return z


def with_grid(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x, grid)
    return y


def llama4() -> nn.Module:
    from transformers.models.llama4.modeling_llama4 import Llama4VisionPixelShuffleMLP

    module = nn.Module()
    module.vision_adapter = Llama4VisionPixelShuffleMLP(
        NS(
            pixel_shuffle_ratio=0.5,
            projector_input_dim=H,
            projector_output_dim=H,
            hidden_size=V,
            intermediate_size=4 * V,
            projector_dropout=0.0,
        )
    )
    module.multi_modal_projector = nn.Module()
    module.multi_modal_projector.linear_1 = nn.Linear(H, D, bias=False)
    return module


def run_llama4(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module.multi_modal_projector.linear_1(module.vision_adapter(x))
    return y


def gemma3() -> nn.Module:
    return hf("gemma3.modeling_gemma3", "Gemma3MultiModalProjector")(
        NS(
            vision_config=NS(hidden_size=V, image_size=4 * SIDE, patch_size=4, layer_norm_eps=1e-6),
            text_config=NS(hidden_size=D),
            mm_tokens_per_image=(SIDE // 2) ** 2,
        )
    )


def gemma3n() -> nn.Module:
    return hf("gemma3n.modeling_gemma3n", "Gemma3nMultimodalEmbedder")(
        NS(hidden_size=V, rms_norm_eps=1e-6, vocab_offset=100, vocab_size=8), NS(hidden_size=D)
    )


def gemma4() -> nn.Module:
    from transformers.models.gemma4.modeling_gemma4 import (
        Gemma4MultimodalEmbedder,
        Gemma4VisionPooler,
    )

    embedder = Gemma4MultimodalEmbedder(NS(hidden_size=V, rms_norm_eps=1e-6), NS(hidden_size=D))
    embedder.pooler = Gemma4VisionPooler(NS(hidden_size=V))
    return embedder


def run_gemma4(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Upstream takes positions (x, y), and padding at the end; what comes out is cut to size."""
    h, w = grid
    y, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    positions = torch.stack([column, y], -1).flatten(0, 1).expand(len(x), -1, -1)
    padding = torch.zeros(x.shape[:2], dtype=torch.bool)
    pooled, mask = module.pooler(x, positions, padding, output_length=h * w // 4)
    assert mask.all()
    z: Tensor = module(pooled.to(x.dtype))  # the vision model casts back, too
    return z


def merger(module: str, name: str, **fields: Any) -> Callable[[], nn.Module]:
    return lambda: hf(module, name)(**fields)


@one_by_one
def run_blocked(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(blocked(x, grid))
    return y


def qwen3(post: bool) -> Callable[[], nn.Module]:
    return lambda: hf("qwen3_vl.modeling_qwen3_vl", "Qwen3VLVisionPatchMerger")(
        NS(hidden_size=V, spatial_merge_size=2, out_hidden_size=D), use_postshuffle_norm=post
    )


def kimi() -> nn.Module:
    return hf("kimi_k25.modeling_kimi_k25", "Kimi_K25MultimodalProjection")(
        NS(
            vision_config=NS(hidden_size=V, merge_kernel_size=(2, 2)),
            text_config=NS(hidden_size=D),
            projection_hidden_size=V,
            projection_layer_norm_eps=1e-5,
        )
    )


@one_by_one
def run_kimi(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(blocked(x, grid).unflatten(0, (-1, 4)))
    return y.flatten(0, 1)


def paddle() -> nn.Module:
    return hf("paddleocr_vl.modeling_paddleocr_vl", "PaddleOCRProjector")(
        NS(vision_config=NS(hidden_size=V, spatial_merge_size=2), text_config=NS(hidden_size=D))
    )


@one_by_one
def run_paddle(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x, torch.tensor([[1, *grid]]))
    return y


def lfm3() -> nn.Module:
    return hf("lfm3_vl.modeling_lfm3_vl", "Lfm3VlMultiModalProjector")(
        NS(
            vision_config=NS(hidden_size=V, spatial_merge_size=2),
            projector_hidden_size=H,
            projector_bias=True,
            projector_hidden_act="gelu",
            text_config=NS(hidden_size=D),
        )
    )


def mistral3() -> nn.Module:
    from transformers import Mistral3Config
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    config = Mistral3Config(
        vision_config={
            "model_type": "pixtral",
            "hidden_size": V,
            "patch_size": 14,
            "num_attention_heads": 4,
            "intermediate_size": 20,
        },
        text_config={
            "model_type": "mistral",
            "hidden_size": D,
            "num_attention_heads": 4,
            "rms_norm_eps": 1e-5,
        },
        spatial_merge_size=2,
    )
    return Mistral3MultiModalProjector(config)


@one_by_one
def run_mistral3(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x, torch.tensor([[14 * grid[0], 14 * grid[1]]]))
    return y


def glm4v() -> nn.Module:
    from transformers.models.glm4v.modeling_glm4v import Glm4vRMSNorm, Glm4vVisionPatchMerger

    module = nn.Module()
    module.post_layernorm = Glm4vRMSNorm(V, eps=1e-5)
    module.downsample = nn.Conv2d(V, D, 2, 2)
    module.merger = Glm4vVisionPatchMerger(dim=D, context_dim=2 * H, hidden_act="silu")
    return module


@one_by_one
def run_glm4v(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The tail of Glm4vVisionModel.forward."""
    y = module.post_layernorm(blocked(x, grid))
    y = y.view(-1, 2, 2, V).permute(0, 3, 1, 2)
    z: Tensor = module.merger(module.downsample(y).view(-1, D))
    return z


def aya(module: str, name: str) -> Callable[[], nn.Module]:
    return lambda: hf(module, name)(
        NS(
            downsample_factor=2,
            alignment_intermediate_size=2 * H,
            adapter_layer_norm_eps=1e-6,
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
        )
    )


def minicpmv() -> nn.Module:
    return hf("minicpmv4_6.modeling_minicpmv4_6", "MiniCPMV4_6Merger")(
        NS(
            merge_kernel_size=(2, 2),
            merger_times=2,
            vision_config=NS(hidden_size=V),
            text_config=NS(hidden_size=D),
            hidden_size=V,
        )
    )


def run_minicpmv(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    sizes = torch.tensor([grid])
    return torch.stack([module(image[None], sizes)[0] for image in x])


def got() -> nn.Module:
    return hf("got_ocr2.modeling_got_ocr2", "GotOcr2MultiModalProjector")(
        NS(vision_config=NS(output_channels=V), text_config=NS(hidden_size=D))
    )


def hunyuan() -> nn.Module:
    return hf("hunyuan_vl.modeling_hunyuan_vl", "HunYuanVLVisionPatchMerger")(
        NS(
            hidden_size=V,
            text_hidden_size=D,
            spatial_merge_size=2,
            hidden_act="gelu",
            rms_norm_eps=1e-5,
        )
    )


def perception() -> nn.Module:
    return hf("perception_lm.modeling_perception_lm", "PerceptionLMMultiModalProjector")(
        NS(
            vision_config=NS(model_args={"embed_dim": V}),
            text_config=NS(hidden_size=D),
            projector_pooling_ratio=2,
        )
    )


def video_pooler(mode: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers.models.llava_next_video.modeling_llava_next_video import (
            LlavaNextVideoPooler,
        )

        module = llava()
        module.pooler = LlavaNextVideoPooler(
            NS(
                spatial_pool_mode=mode,
                spatial_pool_stride=2,
                spatial_pool_out_channels=V,
                vision_config=NS(hidden_size=V, image_size=4 * SIDE, patch_size=4),
            )
        )
        return module

    return build


def run_video(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(module.pooler(x))
    return y


def run_onevision(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    config = NS(config=NS(vision_config=NS(image_size=4 * grid[0], patch_size=4)))
    y: Tensor = LlavaOnevisionModel.apply_pooling(config, module(x))
    return y


def voxtral() -> nn.Module:
    return hf("voxtral.modeling_voxtral", "VoxtralMultiModalProjector")(
        NS(
            audio_config=NS(intermediate_size=4 * V),
            text_config=NS(hidden_size=D),
            projector_hidden_act="gelu",
        )
    )


@one_by_one
def run_voxtral(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x.reshape(-1, 4 * V))
    return y


def paligemma() -> nn.Module:
    return hf("paligemma.modeling_paligemma", "PaliGemmaMultiModalProjector")(
        NS(vision_config=NS(hidden_size=V, projection_dim=D))
    )


def janus() -> nn.Module:
    return hf("janus.modeling_janus", "JanusVisionAlignerMLP")(
        NS(hidden_size=V, projection_dim=D, depth=3, hidden_act="gelu")
    )


def granite(scale: int) -> Callable[[], nn.Module]:
    return lambda: hf("granite_docling.modeling_granite_docling", "GraniteDoclingConnector")(
        NS(
            hidden_size=V,
            out_hidden_size=D,
            scale_factor=scale,
            image_size=4 * SIDE,
            patch_size=4,
            deepstack_visual_indexes=[],
            use_fine_route=False,
        )
    )


def run_granite(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x, [])[0]
    return y.unflatten(0, (len(x), -1))


ANY = ((SIDE, SIDE), (4, 10), (6, 2))
QWEN2, QWEN25 = "qwen2_vl.modeling_qwen2_vl", "qwen2_5_vl.modeling_qwen2_5_vl"
CASES = {
    "paligemma": Case("paligemma", "paligemma", paligemma, plain, grids=((SIDE, SIDE), (4, 7))),
    "llava": Case("llava", "llava", llava, plain, grids=((SIDE, SIDE), (4, 7))),
    "llava-levels": Case("mlp", "llava", llava_levels, plain, {"bias": False}, 3 * V),
    "janus": Case("mlp", "janus", janus, plain, {"depth": 3}),
    "vipllava": Case("vipllava", "vipllava", vipllava, plain, in_=2 * V),
    "idefics3": Case(
        "idefics3",
        "idefics3",
        connector("idefics3.modeling_idefics3", "Idefics3Connector", 2),
        plain,
    ),
    "smolvlm": Case(
        "idefics3",
        "idefics3",
        connector("smolvlm.modeling_smolvlm", "SmolVLMConnector", 4),
        plain,
        {"merge": 4},
    ),
    "internvl": Case("internvl", "internvl", internvl, run_internvl),
    "lfm2-vl": Case("lfm2-vl", "internvl", lfm2, on_grid, {"hidden": H}, grids=ANY),
    "internvl-v1": Case(
        "internvl", "internvl", ColumnMajor, with_grid, {"transpose": True}, grids=ANY
    ),
    "nemotron-omni": Case(
        "nemotron-omni", "internvl", nemotron, run_merged, {"hidden": H}, grids=ANY
    ),
    "deepseek-vl2": Case(
        "deepseek-vl2",
        "deepseek-vl2",
        lambda: DeepseekVL2(2, 1),
        with_grid,
        grids=(*ANY, (7, 7), (5, 4)),
    ),
    "deepseek-vl2-deep": Case(
        "deepseek-vl2",
        "deepseek-vl2",
        lambda: DeepseekVL2(3, 2),
        with_grid,
        {"depth": 3, "ratio": 2},
        grids=((7, 7),),
    ),
    "nvila": Case("nvila", "nvila", lambda: Nvila(2), with_grid, grids=(*ANY, (7, 7), (5, 4))),
    "nvila-lite": Case(
        "nvila-lite", "nvila-lite", lambda: Nvila(3), with_grid, grids=((9, 9), (8, 8), (7, 12))
    ),
    "granite-docling": Case("granite-docling", "granite-docling", granite(4), run_granite),
    "granite-docling-fine": Case(
        "granite-docling", "granite-docling", granite(2), run_granite, {"merge": 2}
    ),
    "llama4": Case("llama4", "llama4", llama4, run_llama4, {"hidden": H}),
    "gemma3": Case("gemma3", "gemma3", gemma3, plain, {"pool": 2}),
    "gemma3n": Case(
        "gemma3n",
        "gemma3n",
        gemma3n,
        lambda module, x, grid: module(inputs_embeds=x),
        {"scale": False},
        grids=((SIDE, SIDE), (3, 5)),
        unused=("embedding.weight", "hard_embedding_norm.weight"),
    ),
    "gemma4": Case("gemma4", "gemma4", gemma4, run_gemma4, {"pool": 2}, grids=ANY),
    "qwen2-vl": Case(
        "qwen2-vl",
        "qwen2-vl",
        merger(QWEN2, "PatchMerger", dim=D, context_dim=V, spatial_merge_size=2),
        run_blocked,
        grids=ANY,
    ),
    "qwen2-5-vl": Case(
        "qwen2-5-vl",
        "qwen2-vl",
        merger(QWEN25, "Qwen2_5_VLPatchMerger", dim=D, context_dim=V),
        run_blocked,
        grids=ANY,
    ),
    "qwen3-vl": Case("qwen3-vl", "qwen3-vl", qwen3(False), run_blocked, grids=ANY),
    "qwen3-vl-deepstack": Case(
        "qwen3-vl-deepstack", "qwen3-vl", qwen3(True), run_blocked, grids=ANY
    ),
    "kimi-k25": Case("kimi-k25", "kimi-k25", kimi, run_kimi, grids=ANY),
    "paddleocr-vl": Case("paddleocr-vl", "paddleocr-vl", paddle, run_paddle, grids=ANY),
    "lfm3-vl": Case("lfm3-vl", "lfm3-vl", lfm3, run_blocked, {"hidden": H}, grids=ANY),
    "mistral3": Case("mistral3", "mistral3", mistral3, run_mistral3, grids=(*ANY, (5, 7), (4, 5))),
    "glm4v": Case("glm4v", "glm4v", glm4v, run_glm4v, {"hidden": 2 * H}, grids=ANY),
    "aya-vision": Case(
        "aya-vision",
        "aya-vision",
        aya("aya_vision.modeling_aya_vision", "AyaVisionMultiModalProjector"),
        plain,
        {"hidden": 2 * H},
    ),
    "cohere2-vision": Case(
        "cohere2-vision",
        "aya-vision",
        aya("cohere2_vision.modeling_cohere2_vision", "Cohere2VisionMultiModalProjector"),
        plain,
        {"hidden": 2 * H},
    ),
    "minicpmv4-6": Case(
        "minicpmv4-6",
        "minicpmv4-6",
        minicpmv,
        run_minicpmv,
        {"times": 2},
        grids=((SIDE, SIDE), (4, 8)),
    ),
    "got-ocr2": Case(
        "got-ocr2", "got-ocr2", got, as_image, grids=((2 * SIDE, 2 * SIDE), (8, 12), (7, 5))
    ),
    "perception-lm": Case(
        "perception-lm", "llava", perception, plain, grids=((SIDE, SIDE), (7, 7))
    ),
    "hunyuan-vl": Case(
        "hunyuan-vl",
        "hunyuan-vl",
        hunyuan,
        with_grid,
        grids=(*ANY, (5, 7)),
        unused=("image_sep",),
    ),
    "llava-next-video": Case("llava-next-video", "llava", video_pooler("average"), run_video),
    "llava-next-video-max": Case(
        "llava-next-video", "llava", video_pooler("max"), run_video, {"mode": "max"}
    ),
    "llava-next-video-conv": Case(
        "llava-next-video", "llava-pooled", video_pooler("conv"), run_video, {"mode": "conv"}
    ),
    "llava-onevision-video": Case(
        "llava-onevision-video", "llava", llava, run_onevision, grids=((SIDE, SIDE), (7, 7))
    ),
    "voxtral": Case("voxtral", "llava", voxtral, run_voxtral, grids=((1, 40),)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_upstream(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    upstream = case.build().eval()
    randomize(upstream)
    ours = build_projector(case.preset, case.in_, D, **case.options).eval()
    state = {k: v for k, v in upstream.state_dict().items() if k not in case.unused}
    ours.load_state_dict(from_upstream(ours, LAYOUTS[case.layout], state), strict=True)
    back = to_upstream(ours, LAYOUTS[case.layout])
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    for grid in case.grids:
        for batch in (1, 3):
            for scale in (1.0, 1e-3):
                x = scale * torch.randn(batch, grid[0] * grid[1], case.in_)
                with torch.inference_mode():
                    expected = case.run(upstream, x, grid)
                    given = x
                    if ours._blocked:
                        given = torch.stack([blocked(image, grid) for image in x])
                    y = ours(given, grid=grid)
                assert y.shape == expected.shape
                error = (y - expected).abs().max() / expected.abs().max()
                assert error < 1e-5, (grid, batch, scale, error)


BF16 = ("qwen2-5-vl", "mistral3", "gemma3", "gemma3n", "glm4v", "nemotron-omni")


@pytest.mark.parametrize("name", BF16)
def test_the_order_of_casts_in_bf16(name: str) -> None:
    """RMS norms that cast before or after the weight differ in every fourth number or so."""
    case = CASES[name]
    torch.manual_seed(0)
    upstream = case.build().eval()
    randomize(upstream)
    ours = build_projector(case.preset, case.in_, D, **case.options).eval()
    state = {k: v for k, v in upstream.state_dict().items() if k not in case.unused}
    ours.load_state_dict(from_upstream(ours, LAYOUTS[case.layout], state), strict=True)
    upstream, ours = upstream.bfloat16(), ours.bfloat16()
    norm = next(module for module in ours.modules() if type(module).__name__ == "RMSNorm")
    theirs = next(
        module
        for module in upstream.modules()
        if "RMSNorm" in type(module).__name__
        and torch.equal(getattr(module, "weight", torch.empty(0)), norm.weight)
    )
    x = torch.randn(4096, norm.weight.shape[0]).bfloat16()
    with torch.inference_mode():
        assert torch.equal(norm(x), theirs(x))
        grid = case.grids[0]
        x = torch.randn(2, grid[0] * grid[1], case.in_).bfloat16()
        expected = case.run(upstream, x, grid)
        given = torch.stack([blocked(image, grid) for image in x]) if ours._blocked else x
        y = ours(given, grid=grid)
    assert (y.float() - expected.float()).norm() / expected.float().norm() < 1e-2
