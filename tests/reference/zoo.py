"""The families that transformers has: its classes, built in any size, and a few that it lacks."""

from functools import partial
from types import SimpleNamespace as NS

import torch
from torch import Tensor, nn

from .case import (
    SMALL,
    Case,
    Grid,
    Sizes,
    as_image,
    blocked,
    hf,
    one_by_one,
    plain,
    run_blocked,
    with_grid,
)
from .published import ColumnMajor, DeepseekVL2, Nvila, Pooler

QWEN2, QWEN25 = "qwen2_vl.modeling_qwen2_vl", "qwen2_5_vl.modeling_qwen2_5_vl"


def llava(s: Sizes, levels: int | list[int] = -2, bias: bool = True) -> nn.Module:
    return hf("llava.modeling_llava", "LlavaMultiModalProjector")(
        NS(
            vision_feature_layer=levels,
            multimodal_projector_bias=bias,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=s.v),
            text_config=NS(hidden_size=s.d),
        )
    )


def vipllava(s: Sizes) -> nn.Module:
    return hf("vipllava.modeling_vipllava", "VipLlavaMultiModalProjector")(
        NS(
            vision_feature_layers=[-2, -5],
            vision_feature_layer=[-2, -5],
            projector_layernorm_eps=1e-5,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=s.v),
            text_config=NS(hidden_size=s.d),
        )
    )


def connector(s: Sizes, module: str, name: str, scale: int) -> nn.Module:
    return hf(module, name)(
        NS(
            scale_factor=scale,
            vision_config=NS(hidden_size=s.v),
            text_config=NS(hidden_size=s.d),
        )
    )


def internvl(s: Sizes) -> nn.Module:
    from transformers.models.internvl.modeling_internvl import (
        InternVLModel,
        InternVLMultiModalProjector,
    )

    projector = InternVLMultiModalProjector(
        NS(
            downsample_ratio=0.5,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=s.v),
            text_config=NS(hidden_size=s.d),
        )
    )
    projector.pixel_shuffle = lambda x: InternVLModel.pixel_shuffle(NS(), x, 0.5)
    return projector


def run_internvl(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(module.pixel_shuffle(x.unflatten(1, grid)).flatten(1, 2))
    return y


def lfm2(s: Sizes) -> nn.Module:
    return hf("lfm2_vl.modeling_lfm2_vl", "Lfm2VlMultiModalProjector")(
        NS(
            downsample_factor=2,
            projector_use_layernorm=True,
            projector_hidden_size=s.h,
            projector_bias=True,
            projector_hidden_act="gelu",
            vision_config=NS(hidden_size=s.v),
            text_config=NS(hidden_size=s.d),
        )
    )


def on_grid(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x.unflatten(1, grid))
    return y.flatten(1, 2)


def nemotron(s: Sizes) -> nn.Module:
    return hf(
        "nemotron_h_omni.modeling_nemotron_h_omni",
        "NemotronH_Omni_Reasoning_V3MultiModalProjector",
    )(4 * s.v, s.h, s.d)


def run_merged(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """Upstream's module takes tokens that are merged already, four neighbours hwc."""
    h, w = grid
    merged = x.view(len(x), h // 2, 2, w // 2, 2, -1).transpose(2, 3).flatten(3)
    y: Tensor = module(merged.flatten(1, 2))
    return y


def llama4(s: Sizes) -> nn.Module:
    from transformers.models.llama4.modeling_llama4 import Llama4VisionPixelShuffleMLP

    module = nn.Module()
    module.vision_adapter = Llama4VisionPixelShuffleMLP(
        NS(
            pixel_shuffle_ratio=0.5,
            projector_input_dim=s.h,
            projector_output_dim=s.h,
            hidden_size=s.v,
            intermediate_size=4 * s.v,
            projector_dropout=0.0,
        )
    )
    module.multi_modal_projector = nn.Module()
    module.multi_modal_projector.linear_1 = nn.Linear(s.h, s.d, bias=False)
    return module


def run_llama4(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module.multi_modal_projector.linear_1(module.vision_adapter(x))
    return y


def gemma3(s: Sizes) -> nn.Module:
    return hf("gemma3.modeling_gemma3", "Gemma3MultiModalProjector")(
        NS(
            vision_config=NS(
                hidden_size=s.v, image_size=4 * s.side, patch_size=4, layer_norm_eps=1e-6
            ),
            text_config=NS(hidden_size=s.d),
            mm_tokens_per_image=(s.side // 2) ** 2,
        )
    )


def gemma3n(s: Sizes) -> nn.Module:
    return hf("gemma3n.modeling_gemma3n", "Gemma3nMultimodalEmbedder")(
        NS(hidden_size=s.v, rms_norm_eps=1e-6, vocab_offset=100, vocab_size=8), NS(hidden_size=s.d)
    )


def gemma4(s: Sizes) -> nn.Module:
    from transformers.models.gemma4.modeling_gemma4 import (
        Gemma4MultimodalEmbedder,
        Gemma4VisionPooler,
    )

    embedder = Gemma4MultimodalEmbedder(NS(hidden_size=s.v, rms_norm_eps=1e-6), NS(hidden_size=s.d))
    embedder.pooler = Gemma4VisionPooler(NS(hidden_size=s.v))
    return embedder


def run_gemma4(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """Upstream takes positions (x, y), and padding at the end; what comes out is cut to size."""
    h, w = grid
    y, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    positions = torch.stack([column, y], -1).flatten(0, 1).expand(len(x), -1, -1)
    padding = torch.zeros(x.shape[:2], dtype=torch.bool)
    pooled, mask = module.pooler(x, positions, padding, output_length=h * w // 4)
    assert mask.all()
    z: Tensor = module(pooled.to(x.dtype))  # the vision model casts back, too
    return z


def qwen3(s: Sizes, post: bool) -> nn.Module:
    return hf("qwen3_vl.modeling_qwen3_vl", "Qwen3VLVisionPatchMerger")(
        NS(hidden_size=s.v, spatial_merge_size=2, out_hidden_size=s.d), use_postshuffle_norm=post
    )


def kimi(s: Sizes) -> nn.Module:
    return hf("kimi_k25.modeling_kimi_k25", "Kimi_K25MultimodalProjection")(
        NS(
            vision_config=NS(hidden_size=s.v, merge_kernel_size=(2, 2)),
            text_config=NS(hidden_size=s.d),
            projection_hidden_size=s.v,
            projection_layer_norm_eps=1e-5,
        )
    )


@one_by_one
def run_kimi(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(blocked(x, grid).unflatten(0, (-1, 4)))
    return y.flatten(0, 1)


def paddle(s: Sizes) -> nn.Module:
    return hf("paddleocr_vl.modeling_paddleocr_vl", "PaddleOCRProjector")(
        NS(vision_config=NS(hidden_size=s.v, spatial_merge_size=2), text_config=NS(hidden_size=s.d))
    )


@one_by_one
def run_paddle(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x, torch.tensor([[1, *grid]]))
    return y


def lfm3(s: Sizes) -> nn.Module:
    return hf("lfm3_vl.modeling_lfm3_vl", "Lfm3VlMultiModalProjector")(
        NS(
            vision_config=NS(hidden_size=s.v, spatial_merge_size=2),
            projector_hidden_size=s.h,
            projector_bias=True,
            projector_hidden_act="gelu",
            text_config=NS(hidden_size=s.d),
        )
    )


def mistral3(s: Sizes) -> nn.Module:
    from transformers import Mistral3Config
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    config = Mistral3Config(
        vision_config={
            "model_type": "pixtral",
            "hidden_size": s.v,
            "patch_size": 14,
            "num_attention_heads": 4,
            "intermediate_size": 20,
        },
        text_config={
            "model_type": "mistral",
            "hidden_size": s.d,
            "num_attention_heads": 4,
            "rms_norm_eps": 1e-5,
        },
        spatial_merge_size=2,
    )
    return Mistral3MultiModalProjector(config)


@one_by_one
def run_mistral3(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x, torch.tensor([[14 * grid[0], 14 * grid[1]]]))
    return y


def glm4v(s: Sizes) -> nn.Module:
    from transformers.models.glm4v.modeling_glm4v import Glm4vRMSNorm, Glm4vVisionPatchMerger

    module = nn.Module()
    module.post_layernorm = Glm4vRMSNorm(s.v, eps=1e-5)
    module.downsample = nn.Conv2d(s.v, s.d, 2, 2)
    module.merger = Glm4vVisionPatchMerger(dim=s.d, context_dim=2 * s.h, hidden_act="silu")
    return module


@one_by_one
def run_glm4v(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """The tail of Glm4vVisionModel.forward."""
    y = module.post_layernorm(blocked(x, grid))
    y = y.view(-1, 2, 2, y.shape[-1]).permute(0, 3, 1, 2)
    y = module.downsample(y)
    z: Tensor = module.merger(y.view(-1, y.shape[1]))
    return z


def aya(s: Sizes, module: str, name: str) -> nn.Module:
    return hf(module, name)(
        NS(
            downsample_factor=2,
            alignment_intermediate_size=2 * s.h,
            adapter_layer_norm_eps=1e-6,
            vision_config=NS(hidden_size=s.v),
            text_config=NS(hidden_size=s.d),
        )
    )


def minicpmv(s: Sizes) -> nn.Module:
    return hf("minicpmv4_6.modeling_minicpmv4_6", "MiniCPMV4_6Merger")(
        NS(
            merge_kernel_size=(2, 2),
            merger_times=2,
            vision_config=NS(hidden_size=s.v),
            text_config=NS(hidden_size=s.d),
            hidden_size=s.v,
        )
    )


def run_minicpmv(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    sizes = torch.tensor([grid])
    return torch.stack([module(image[None], sizes)[0] for image in x])


def got(s: Sizes) -> nn.Module:
    return hf("got_ocr2.modeling_got_ocr2", "GotOcr2MultiModalProjector")(
        NS(vision_config=NS(output_channels=s.v), text_config=NS(hidden_size=s.d))
    )


def hunyuan(s: Sizes) -> nn.Module:
    return hf("hunyuan_vl.modeling_hunyuan_vl", "HunYuanVLVisionPatchMerger")(
        NS(
            hidden_size=s.v,
            text_hidden_size=s.d,
            spatial_merge_size=2,
            hidden_act="gelu",
            rms_norm_eps=1e-5,
        )
    )


def perception(s: Sizes) -> nn.Module:
    return hf("perception_lm.modeling_perception_lm", "PerceptionLMMultiModalProjector")(
        NS(
            vision_config=NS(model_args={"embed_dim": s.v}),
            text_config=NS(hidden_size=s.d),
            projector_pooling_ratio=2,
        )
    )


def video_pooler(s: Sizes, mode: str) -> nn.Module:
    module = llava(s)
    module.pooler = hf("llava_next_video.modeling_llava_next_video", "LlavaNextVideoPooler")(
        NS(
            spatial_pool_mode=mode,
            spatial_pool_stride=2,
            spatial_pool_out_channels=s.v,
            vision_config=NS(hidden_size=s.v, image_size=4 * s.side, patch_size=4),
        )
    )
    return module


def run_video(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(module.pooler(x))
    return y


def run_onevision(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

    config = NS(config=NS(vision_config=NS(image_size=4 * grid[0], patch_size=4)))
    y: Tensor = LlavaOnevisionModel.apply_pooling(config, module(x))
    return y


def voxtral(s: Sizes) -> nn.Module:
    return hf("voxtral.modeling_voxtral", "VoxtralMultiModalProjector")(
        NS(
            audio_config=NS(intermediate_size=4 * s.v),
            text_config=NS(hidden_size=s.d),
            projector_hidden_act="gelu",
        )
    )


@one_by_one
def run_voxtral(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x.reshape(-1, 4 * x.shape[-1]))
    return y


def paligemma(s: Sizes) -> nn.Module:
    return hf("paligemma.modeling_paligemma", "PaliGemmaMultiModalProjector")(
        NS(vision_config=NS(hidden_size=s.v, projection_dim=s.d))
    )


def janus(s: Sizes) -> nn.Module:
    return hf("janus.modeling_janus", "JanusVisionAlignerMLP")(
        NS(hidden_size=s.v, projection_dim=s.d, depth=3, hidden_act="gelu")
    )


def granite(s: Sizes, scale: int) -> nn.Module:
    return hf("granite_docling.modeling_granite_docling", "GraniteDoclingConnector")(
        NS(
            hidden_size=s.v,
            out_hidden_size=s.d,
            scale_factor=scale,
            image_size=4 * s.side,
            patch_size=4,
            deepstack_visual_indexes=[],
            use_fine_route=False,
        )
    )


def run_granite(module: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    y: Tensor = module(x, [])[0]
    return y.unflatten(0, (len(x), -1))


def cases(s: Sizes) -> dict[str, Case]:
    """Return the table of families, for models of these sizes."""
    any_grid = ((s.side, s.side), (4, 10), (6, 2))
    case = partial(Case, in_=s.v, grids=((s.side, s.side),))
    return {
        "paligemma": case(
            "paligemma", "paligemma", partial(paligemma, s), plain, grids=((s.side, s.side), (4, 7))
        ),
        "llava": case("llava", "llava", partial(llava, s), plain, grids=((s.side, s.side), (4, 7))),
        "llava-levels": case(
            "mlp",
            "llava",
            partial(llava, s, [-2, -3, 1], False),
            plain,
            {"bias": False},
            in_=3 * s.v,
        ),
        "janus": case("mlp", "janus", partial(janus, s), plain, {"depth": 3}),
        "vipllava": case("vipllava", "vipllava", partial(vipllava, s), plain, in_=2 * s.v),
        "idefics3": case(
            "idefics3",
            "idefics3",
            partial(connector, s, "idefics3.modeling_idefics3", "Idefics3Connector", 2),
            plain,
        ),
        "smolvlm": case(
            "idefics3",
            "idefics3",
            partial(connector, s, "smolvlm.modeling_smolvlm", "SmolVLMConnector", 4),
            plain,
            {"merge": 4},
        ),
        "internvl": case("internvl", "internvl", partial(internvl, s), run_internvl),
        "lfm2-vl": case(
            "lfm2-vl", "internvl", partial(lfm2, s), on_grid, {"hidden": s.h}, grids=any_grid
        ),
        "internvl-v1": case(
            "internvl",
            "internvl",
            lambda: ColumnMajor(s),
            with_grid,
            {"transpose": True},
            grids=any_grid,
        ),
        "nemotron-omni": case(
            "nemotron-omni",
            "internvl",
            partial(nemotron, s),
            run_merged,
            {"hidden": s.h},
            grids=any_grid,
        ),
        "deepseek-vl2": case(
            "deepseek-vl2",
            "deepseek-vl2",
            lambda: DeepseekVL2(s, 2, 1),
            with_grid,
            grids=(*any_grid, (7, 7), (5, 4)),
        ),
        "deepseek-vl2-deep": case(
            "deepseek-vl2",
            "deepseek-vl2",
            lambda: DeepseekVL2(s, 3, 2),
            with_grid,
            {"depth": 3, "ratio": 2},
            grids=((7, 7),),
        ),
        "nvila": case(
            "nvila", "nvila", lambda: Nvila(s, 2), with_grid, grids=(*any_grid, (7, 7), (5, 4))
        ),
        "nvila-lite": case(
            "nvila-lite",
            "nvila-lite",
            lambda: Nvila(s, 3),
            with_grid,
            grids=((9, 9), (8, 8), (7, 12)),
        ),
        "pooler": case(
            "pooler", "pooler", lambda: Pooler(s), with_grid, grids=(*any_grid, (7, 7), (5, 4))
        ),
        "granite-docling": case(
            "granite-docling", "granite-docling", partial(granite, s, 4), run_granite
        ),
        "granite-docling-fine": case(
            "granite-docling", "granite-docling", partial(granite, s, 2), run_granite, {"merge": 2}
        ),
        "llama4": case("llama4", "llama4", partial(llama4, s), run_llama4, {"hidden": s.h}),
        "gemma3": case("gemma3", "gemma3", partial(gemma3, s), plain, {"pool": 2}),
        "gemma3n": case(
            "gemma3n",
            "gemma3n",
            partial(gemma3n, s),
            lambda module, x, grid: module(inputs_embeds=x),
            {"scale": False},
            grids=((s.side, s.side), (3, 5)),
            unused=("embedding.weight", "hard_embedding_norm.weight"),
        ),
        "gemma4": case(
            "gemma4", "gemma4", partial(gemma4, s), run_gemma4, {"pool": 2}, grids=any_grid
        ),
        "qwen2-vl": case(
            "qwen2-vl",
            "qwen2-vl",
            lambda: hf(QWEN2, "PatchMerger")(dim=s.d, context_dim=s.v, spatial_merge_size=2),
            run_blocked,
            grids=any_grid,
        ),
        "qwen2-5-vl": case(
            "qwen2-5-vl",
            "qwen2-vl",
            lambda: hf(QWEN25, "Qwen2_5_VLPatchMerger")(dim=s.d, context_dim=s.v),
            run_blocked,
            grids=any_grid,
        ),
        "qwen3-vl": case(
            "qwen3-vl", "qwen3-vl", partial(qwen3, s, False), run_blocked, grids=any_grid
        ),
        "qwen3-vl-deepstack": case(
            "qwen3-vl-deepstack", "qwen3-vl", partial(qwen3, s, True), run_blocked, grids=any_grid
        ),
        "kimi-k25": case("kimi-k25", "kimi-k25", partial(kimi, s), run_kimi, grids=any_grid),
        "paddleocr-vl": case(
            "paddleocr-vl", "paddleocr-vl", partial(paddle, s), run_paddle, grids=any_grid
        ),
        "lfm3-vl": case(
            "lfm3-vl", "lfm3-vl", partial(lfm3, s), run_blocked, {"hidden": s.h}, grids=any_grid
        ),
        "mistral3": case(
            "mistral3",
            "mistral3",
            partial(mistral3, s),
            run_mistral3,
            grids=(*any_grid, (5, 7), (4, 5)),
        ),
        "glm4v": case(
            "glm4v", "glm4v", partial(glm4v, s), run_glm4v, {"hidden": 2 * s.h}, grids=any_grid
        ),
        "aya-vision": case(
            "aya-vision",
            "aya-vision",
            partial(aya, s, "aya_vision.modeling_aya_vision", "AyaVisionMultiModalProjector"),
            plain,
            {"hidden": 2 * s.h},
        ),
        "cohere2-vision": case(
            "cohere2-vision",
            "aya-vision",
            partial(
                aya, s, "cohere2_vision.modeling_cohere2_vision", "Cohere2VisionMultiModalProjector"
            ),
            plain,
            {"hidden": 2 * s.h},
        ),
        "minicpmv4-6": case(
            "minicpmv4-6",
            "minicpmv4-6",
            partial(minicpmv, s),
            run_minicpmv,
            {"times": 2},
            grids=((s.side, s.side), (4, 8)),
        ),
        "got-ocr2": case(
            "got-ocr2",
            "got-ocr2",
            partial(got, s),
            as_image,
            grids=((2 * s.side, 2 * s.side), (8, 12), (7, 5)),
        ),
        "perception-lm": case(
            "perception-lm",
            "llava",
            partial(perception, s),
            plain,
            grids=((s.side, s.side), (7, 7)),
        ),
        "hunyuan-vl": case(
            "hunyuan-vl",
            "hunyuan-vl",
            partial(hunyuan, s),
            with_grid,
            grids=(*any_grid, (5, 7)),
            unused=("image_sep",),
        ),
        "llava-next-video": case(
            "llava-next-video", "llava", partial(video_pooler, s, "average"), run_video
        ),
        "llava-next-video-max": case(
            "llava-next-video", "llava", partial(video_pooler, s, "max"), run_video, {"mode": "max"}
        ),
        "llava-next-video-conv": case(
            "llava-next-video",
            "llava-pooled",
            partial(video_pooler, s, "conv"),
            run_video,
            {"mode": "conv"},
        ),
        "llava-onevision-video": case(
            "llava-onevision-video",
            "llava",
            partial(llava, s),
            run_onevision,
            grids=((s.side, s.side), (7, 7)),
        ),
        "voxtral": case("voxtral", "llava", partial(voxtral, s), run_voxtral, grids=((1, 40),)),
    }


CASES = cases(SMALL)
