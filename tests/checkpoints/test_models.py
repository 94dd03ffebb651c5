"""Whole models of transformers whose projector is one of ours under another name.

Most run the model's own `get_image_features`, with our tokens put where its tower's come out.
"""

import functools
import inspect
import itertools
import json
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import Beside, check_beside, check_model, run_embed_audio, same
from reference.case import (
    Run,
    as_image,
    blocked,
    one_by_one,
    plain,
    run_blocked,
    run_in_blocks,
)
from reference.models import (
    CLIP,
    PROJECTOR,
    QWEN,
    QWEN3,
    ROPE,
    SIGLIP,
    Model,
    llama,
    run_internvl_model,
    run_mistral3,
    text,
)
from reference.models import MODELS as FIRST
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevlm import (
    fast_paths,
    inspect_checkpoint,
    load_projector,
)
from mobilevlm.blocks.core.activation import TRANSFORMERS_NAMES
from mobilevlm.blocks.core.linear import products
from mobilevlm.checkpoints.errors import CheckpointError


@contextmanager
def fed(module: nn.Module, x: Tensor) -> Iterator[None]:
    """Let a module have these numbers, whatever it is given."""

    def replace(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (x.reshape(args[0].shape), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: x.reshape(kwargs[name].shape)}

    handle = module.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def made_by(tower: nn.Module, x: Tensor, field: str = "last_hidden_state") -> Iterator[None]:
    """Let a tower come to these numbers."""

    def replace(_: Any, args: Any, output: Any) -> None:
        output[field] = x

    handle = tower.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def features(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """Return what the model hands to its language model, ``(b, m, d)``."""
    y = model.get_image_features(*args, **kwargs).pooler_output
    return y if isinstance(y, Tensor) else torch.stack(list(y))


def packed(first: str, *patch: int, order: str = "blocked", inside: str = "", side: int = 2) -> Run:
    """Run a model that takes packed patches and their grids; `first` is its projector's start."""

    def run(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        b, n, _ = x.shape
        if order == "blocked":
            x = torch.stack([blocked(image, grid, side) for image in x])
        model = model.get_submodule(inside)
        with fed(model.get_submodule(first), x):
            pixels = torch.randn(b * n, *patch, dtype=x.dtype)
            return features(model, pixels, torch.tensor([[1, *grid]] * b))

    return run


def run_inkling2(model: nn.Module, x: Tensor, grid: tuple[int, int], side: int = 2) -> Tensor:
    """Each of its patches is of several; grids count them."""
    b, n, _ = x.shape
    tokens = torch.stack([blocked(image, grid, side) for image in x])
    with fed(model.model.vision_tower.merger, tokens):
        pixels = torch.randn(b * n // side**2, 4 * side, 4 * side, 3, dtype=x.dtype)
        return features(model, pixels, torch.tensor([[1, *(s // side for s in grid)]] * b))


def run_gemma3n(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    maps = x.transpose(1, 2).unflatten(2, grid)
    with made_by(model.model.vision_tower, maps.clone()):
        return features(model, torch.randn(len(x), 3, 64, 64, dtype=x.dtype))


def gemma4(tower: str, inside: str = "") -> Run:
    def run(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        b, (h, w) = len(x), grid
        row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        places = torch.stack([column, row], -1).flatten(0, 1).expand(b, -1, -1)
        model = model.get_submodule(inside)
        with fed(model.get_submodule(tower).pooler, x):
            y = features(model, torch.randn(b, h * w, 48, dtype=x.dtype), places)
        return y.view(b, -1, y.shape[-1])

    return run


def run_nemotron(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    b, n, _ = x.shape
    with made_by(model.vision_model, x.flatten(0, 1), "features"):
        return features(model, torch.randn(b * n, 48, dtype=x.dtype), torch.tensor([grid] * b))


@one_by_one
def run_hunyuan(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    y: Tensor = module(x[None], grid)[0]
    return y


def run_audio(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Twice as many frames of sound as tokens."""
    b, n, _ = x.shape
    sound = [torch.randn(b, 8, 2 * n, dtype=x.dtype)]
    if "input_features_mask" in inspect.signature(model.get_audio_features).parameters:
        sound.append(torch.ones(b, 2 * n))
    with made_by(model.get_submodule("model.audio_tower"), x):
        y = model.get_audio_features(*sound).pooler_output
    return y.view(b, -1, y.shape[-1])


GRIDS = ((4, 6), (8, 8), (6, 2))
GLM = {
    "depth": 1,
    "num_heads": 2,
    "hidden_size": 16,
    "out_hidden_size": 24,
    "patch_size": 4,
    "intermediate_size": 20,
    "image_size": 32,
    "rms_norm_eps": 1e-3,
}
GLM_MOE = {
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 20,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
GLM_FIRST = "model.visual.post_layernorm"


def glm(name: str, text_type: str, **fields: Any) -> Model:
    classes = fields.pop("classes", None)
    vision = fields.pop("vision", {})
    return Model(
        *(name, "", packed(GLM_FIRST, 96), "glm4v", 16, *GRIDS),
        classes=classes,
        vision_config={**GLM, **vision},
        text_config=text(text_type, rope_parameters=ROPE, **fields),
    )


def gemma4_vision(**fields: Any) -> dict[str, Any]:
    return {
        **{key: value for key, value in CLIP.items() if key != "image_size"},
        "model_type": "gemma4_vision",
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
        "rms_norm_eps": 1e-3,
        **fields,
    }


def kimi(**fields: Any) -> Model:
    return Model(
        *("Kimi_K25", "", packed("model.mm_projector", 3, 4, 4), "qwen2-vl", 16, *GRIDS),
        vision_config={**CLIP, "pos_emb_height": 8, "pos_emb_width": 8, "pos_emb_time": 4},
        text_config=text(
            "deepseek_v3",
            q_lora_rank=4,
            kv_lora_rank=4,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=4,
            **GLM_MOE,
        ),
        projection_hidden_size=16,
        **fields,
    )


def hunyuan(**fields: Any) -> Model:
    return Model(
        *("HunYuanVL", "model.vision_tower.patch_merger", run_hunyuan, "hunyuan-vl", 16, *GRIDS),
        vision_config={**CLIP, "text_hidden_size": 24, "max_image_size": 32, **fields},
        text_config=text("hunyuan_vl_text"),
    )


GEMMA4_AUDIO = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [4, 4],
    "output_proj_dims": 16,
    "rms_norm_eps": 1e-3,
}
GEMMA4_TEXT = {
    "layer_types": ["full_attention"],
    "global_head_dim": 12,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 50,
}
QWEN2_5 = {**QWEN, "hidden_size": 16, "out_hidden_size": 24, "intermediate_size": 20}
MOE = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 20}
QWEN_AUDIO = {
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "output_dim": 24,
    "num_mel_bins": 8,
}
AUDIO = {
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_mel_bins": 8,
    "num_attention_heads": 2,
    "max_source_positions": 20,
}
SAM = {
    "hidden_size": 16,
    "output_channels": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
    "mlp_dim": 20,
    "global_attn_indexes": [],
    "downsample_channels": [16, 16],
    "window_size": 4,
}
DEEPSEEK = {**{key: GLM_MOE[key] for key in ("n_routed_experts", "num_experts_per_tok")}, **MOE}
DEEPSEEK["mlp_layer_types"] = ["dense"]
PALIGEMMA = {
    "model_type": "paligemma",
    "vision_config": SIGLIP,
    "text_config": text("gemma"),
    "projection_dim": 24,
}
MODERNVBERT = {
    "vision_config": SIGLIP,
    "text_config": text("modernbert"),
    "pixel_shuffle_factor": 2,
}

MODELS = {
    "fast_vlm": Model(
        *("FastVlm", PROJECTOR, plain, "mlp", 256, (3, 5)),
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "test_efficientnet",
            "hidden_size": 256,
        },
        text_config=text("qwen2"),
    ),
    "video_llama_3": Model(
        *("VideoLlama3", "model.projector", plain, "mlp", 16, (3, 5)),
        vision_config={**CLIP, "model_type": "video_llama_3_vision"},
        text_config=text("qwen2"),
    ),
    "audioflamingo3": Model(
        *("AudioFlamingo3", PROJECTOR, plain, "mlp", 16, (1, 8)),
        audio_config={**AUDIO, "model_type": "audioflamingo3_encoder"},
        text_config=text("qwen2"),
        projector_bias=False,
    ),
    "musicflamingo": Model(
        *("MusicFlamingo", PROJECTOR, plain, "mlp", 16, (1, 8)),
        audio_config={**AUDIO, "model_type": "audioflamingo3_encoder"},
        text_config=text("qwen2"),
    ),
    "qwen2_audio": Model(
        *("Qwen2Audio", PROJECTOR, plain, "linear", 16, (1, 8)),
        audio_config=QWEN_AUDIO,
        text_config=text("qwen2"),
    ),
    "colpali": Model(
        *("", "vlm.multi_modal_projector", plain, "linear"),
        classes=("ColPaliConfig", "ColPaliForRetrieval"),
        vlm_config=PALIGEMMA,
        embedding_dim=8,
    ),
    "pi0": Model(
        *("PI0", "model.vlm.multi_modal_projector", plain, "linear"),
        vlm_config=PALIGEMMA,
        dit_config=text("gemma"),
    ),
    "mllama": Model(
        *("Mllama", PROJECTOR, plain, "linear", 32),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 20,
            "attention_heads": 2,
            "patch_size": 4,
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 32,
            "image_size": 32,
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
        },
        text_config=text("mllama_text_model", num_hidden_layers=2, cross_attention_layers=[1]),
    ),
    "deepseek_ocr2": Model(
        *("DeepseekOcr2", PROJECTOR, plain, "linear"),
        vision_config={
            "sam_config": SAM,
            "encoder_config": text("deepseek_ocr2_encoder", hidden_size=16),
        },
        text_config=text("deepseek_ocr2_text", **DEEPSEEK),
    ),
    "unlimited_ocr": Model(
        *("UnlimitedOcr", PROJECTOR, plain, "linear", 32),
        vision_config={"sam_config": SAM, "encoder_config": CLIP},
        text_config=text("unlimited_ocr_text", **DEEPSEEK),
    ),
    "modernvbert": Model(
        *("", "model.connector", plain, "idefics3"),
        classes=("ModernVBertConfig", "ModernVBertForMaskedLM"),
        **MODERNVBERT,
    ),
    "colmodernvbert": Model(
        *("", "vlm.connector", plain, "idefics3"),
        classes=("ColModernVBertConfig", "ColModernVBertForRetrieval"),
        vlm_config={**MODERNVBERT, "model_type": "modernvbert", "pixel_shuffle_factor": 4},
        embedding_dim=8,
    ),
    "ultravbert": Model(
        *("", "connector", plain, "idefics3"),
        classes=("UltraVBertConfig", "UltraVBertModel"),
        vision_config=SIGLIP,
        text_config=text("ultrabert", rms_norm_eps=1e-3),
        pixel_shuffle_factor=2,
    ),
    "qianfan_ocr": Model(
        *("QianfanOCR", "model", run_internvl_model, "internvl"),
        vision_config={**CLIP, "image_size": [32, 32], "patch_size": [4, 4]},
        text_config=text("qwen3"),
    ),
    "nemotron_h_omni": Model(
        *("", "", run_nemotron, "nemotron-omni", 16, *GRIDS),
        classes=("NemotronH_Omni_Reasoning_V3_Config", "NemotronH_Omni_Reasoning_V3"),
        vision_config={
            "model_type": "radio",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "patch_size": 4,
            "num_attention_heads": 2,
            "image_size": 32,
            "max_img_size": 32,
            "video_temporal_patch_size": 2,
        },
        text_config=text("nemotron_h", layers_block_type=["attention"]),
        vision_hidden_size=16,
        projector_hidden_size=20,
    ),
    "shieldgemma2": Model(
        *("", "model.model.multi_modal_projector", plain, "gemma3"),
        classes=("ShieldGemma2Config", "ShieldGemma2ForImageClassification"),
        vision_config={**SIGLIP, "layer_norm_eps": 1e-3},
        text_config=text("gemma3_text"),
        mm_tokens_per_image=16,
    ),
    "t5gemma2": Model(
        *("T5Gemma2", "model.encoder.multi_modal_projector", plain, "gemma3"),
        encoder={
            "text_config": text("t5gemma2_text"),
            "vision_config": {**SIGLIP, "layer_norm_eps": 1e-3},
            "mm_tokens_per_image": 16,
        },
        decoder=text("t5gemma2_decoder"),
    ),
    "gemma3n": Model(
        *("Gemma3n", "", run_gemma3n, "gemma3n", 2048, (4, 4)),
        vision_config={
            "vocab_size": 8,
            "vocab_offset": 50,
            "rms_norm_eps": 1e-3,
            "model_args": {"channel_multiplier": 0.02},
        },
        audio_config={
            "hidden_size": 16,
            "conf_num_hidden_layers": 1,
            "conf_num_attention_heads": 2,
            "vocab_size": 8,
            "vocab_offset": 58,
            "sscp_conv_channel_size": (4, 4),
        },
        text_config=text(
            "gemma3n_text",
            layer_types=["full_attention"],
            activation_sparsity_pattern=[0.0],
            intermediate_size=[20],
            vocab_size_per_layer_input=50,
            hidden_size_per_layer_input=4,
            altup_num_inputs=2,
            laurel_rank=2,
            num_kv_shared_layers=0,
        ),
        vision_soft_tokens_per_image=16,
    ),
    "gemma4": Model(
        *("Gemma4", "", gemma4("model.vision_tower"), "gemma4", 16, *GRIDS),
        vision_config=gemma4_vision(),
        text_config=text("gemma4_text", **GEMMA4_TEXT),
        audio_config=None,
    ),
    "gemma4-standardized": Model(
        *("Gemma4", "", gemma4("model.vision_tower"), "gemma4", 16, *GRIDS),
        vision_config=gemma4_vision(standardize=True),
        text_config=text("gemma4_text", **GEMMA4_TEXT),
        audio_config=None,
    ),
    "diffusion_gemma": Model(
        *("", "", gemma4("vision_tower", "model.encoder"), "gemma4", 16, *GRIDS),
        classes=("DiffusionGemmaConfig", "DiffusionGemmaForBlockDiffusion"),
        vision_config=gemma4_vision(standardize=True),
        text_config=text(
            "diffusion_gemma_text",
            layer_types=["full_attention"],
            global_head_dim=12,
            num_experts=2,
            top_k_experts=1,
            moe_intermediate_size=20,
        ),
    ),
    "embedding_gemma2": Model(
        *("", "", gemma4("vision_tower"), "gemma4", 16, (3, 6), (6, 6)),
        classes=("EmbeddingGemma2Config", "EmbeddingGemma2Model"),
        vision_config=gemma4_vision(pooling_kernel_size=3, rms_norm_eps=1e-6),
        text_config=text("embedding_gemma2_text", **GEMMA4_TEXT),
        audio_config=None,
    ),
    "colqwen2": Model(
        *("", "", packed("visual.merger", 96, inside="vlm"), "qwen2-vl", 16, *GRIDS),
        classes=("ColQwen2Config", "ColQwen2ForRetrieval"),
        vlm_config={
            "model_type": "qwen2_vl",
            "vision_config": {**QWEN, "embed_dim": 16, "hidden_size": 24},
            "text_config": text("qwen2_vl_text", rope_parameters=ROPE),
        },
        embedding_dim=8,
    ),
    "qwen2_5_omni": Model(
        *("Qwen2_5Omni", "", packed("model.visual.merger", 96, inside="thinker"), "qwen2-vl"),
        *(16, *GRIDS),
        thinker_config={
            "vision_config": QWEN2_5,
            "text_config": text("qwen2_5_omni_text", rope_parameters=ROPE),
            "audio_config": QWEN_AUDIO,
        },
        enable_audio_output=False,
    ),
    "qwen3_omni_moe": Model(
        *("Qwen3OmniMoe", "", packed("model.visual.merger", 96, inside="thinker"), "qwen2-vl"),
        *(16, *GRIDS),
        thinker_config={
            "vision_config": {**QWEN3, "deepstack_visual_indexes": [0]},
            "text_config": text("qwen3_omni_moe_text", rope_parameters=ROPE, **MOE),
            "audio_config": QWEN_AUDIO,
        },
        enable_audio_output=False,
    ),
    "exaone4_5": Model(
        *("Exaone4_5_", "", packed("model.visual.merger", 96), "qwen2-vl", 16, *GRIDS),
        vision_config={**QWEN2_5, "num_key_value_heads": 2},
        text_config=text("exaone4"),
    ),
    "dots3_note": Model(
        *("Dots3Note", "", packed("vision_tower.merger", 48, inside="model"), "qwen2-vl"),
        *(16, *GRIDS),
        vision_config={
            **CLIP,
            "adapter_in_dim": 16,
            "adapter_out_dim": 24,
            "mlp_layer_types": ["dense"],
        },
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "feature_size": 8,
            "downsample_hidden_size": 4,
            "adapter_input_size": 16,
            "adapter_out_dim": 24,
        },
        text_config=text(
            "dots3_note_text",
            n_routed_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=20,
            shared_experts_intermediate_size=20,
            q_lora_rank=4,
            kv_lora_rank=4,
            qk_rope_head_dim=4,
            qk_nope_head_dim=8,
            v_head_dim=4,
            mlp_layer_types=["dense"],
            layer_types=["full_attention"],
            use_dsa=False,
        ),
    ),
    "qwen3_5_moe": Model(
        *("Qwen3_5Moe", "", packed("model.visual.merger", 96), "qwen2-vl", 16, *GRIDS),
        vision_config=QWEN3,
        text_config=text(
            "qwen3_5_moe_text",
            layer_types=["full_attention"],
            shared_expert_intermediate_size=20,
            **MOE,
        ),
    ),
    "qwen4_exp": Model(
        *("Qwen4Exp", "", packed("model.visual.merger", 96), "qwen2-vl", 16, *GRIDS),
        vision_config=QWEN3,
        text_config=text("qwen4_exp_text", hc_lowrank=4, shared_expert_intermediate_size=20, **MOE),
    ),
    "cohere_compass": Model(
        *("CohereCompass", "", packed("model.visual.merger", 96), "qwen2-vl", 16, *GRIDS),
        vision_config={**QWEN3, "deepstack_visual_indexes": [0]},
        text_config=text(
            "cohere_compass_text",
            layer_types=["full_attention"],
            rope_parameters={"full_attention": ROPE},
        ),
    ),
    "cosmos3_edge": Model(
        *("Cosmos3Edge", "", packed("model.projector", 48), "qwen2-vl", 16, *GRIDS),
        vision_config={**CLIP, "model_type": "cosmos3_edge_vision", "num_patches": 64},
        text_config=text("cosmos3_edge_text", rope_parameters=ROPE),
        projector_hidden_size=20,
    ),
    "cosmos3_omni": Model(
        *("Cosmos3Omni", "", packed("model.visual.merger", 96), "qwen2-vl", 16, *GRIDS),
        vision_config={**QWEN3, "deepstack_visual_indexes": [0]},
        text_config=text("qwen3_vl_text", rope_parameters=ROPE),
    ),
    "kimi_k25": kimi(projection_layer_norm_eps=1e-3),
    "kimi_k25-defaults": kimi(),
    "paddleocr_vl": Model(
        *("PaddleOCRVL", "", packed("model.projector", 3, 4, 4, order="raster"), "paddleocr-vl"),
        *(16, *GRIDS),
        vision_config=CLIP,
        text_config=text("paddleocr_vl_text", rope_parameters=ROPE),
    ),
    "lfm3_vl": Model(
        *("Lfm3Vl", "", packed(PROJECTOR, 96), "lfm3-vl", 16, *GRIDS),
        vision_config={**CLIP, "model_type": "lfm3_vl_vision"},
        text_config=text("lfm2", layer_types=["full_attention"]),
        projector_hidden_size=20,
        projector_bias=False,
        projector_hidden_act="silu",
    ),
    "inkling2": Model(
        *("Inkling2", "", run_inkling2, "qwen2-vl", 16, *GRIDS),
        vision_config={
            **CLIP,
            "text_hidden_size": 24,
            "projection_hidden_dim": 20,
            "hidden_act": "quick_gelu",
        },
        text_config=text("inkling2_text", n_routed_experts=2, moe_intermediate_size=20),
    ),
    "lighton_ocr": Model(
        *("LightOnOcr", "model.vision_projection", run_mistral3, "mistral3", 16, (5, 7), (4, 4)),
        vision_config={**CLIP, "model_type": "pixtral"},
        text_config=text("qwen3", rms_norm_eps=1e-3),
    ),
    "mistral_large4": Model(
        *("MistralLarge4", PROJECTOR, run_mistral3, "mistral3", 16, (5, 7), (4, 4)),
        vision_config={**CLIP, "model_type": "pixtral"},
        text_config=text("mistral_large4_text", n_routed_experts=2, moe_intermediate_size=20),
    ),
    "ministral3": Model(
        *("Mistral3", PROJECTOR, run_mistral3, "mistral3", 16, (5, 7), (4, 4)),
        vision_config={**CLIP, "model_type": "pixtral"},
        text_config=text("ministral3"),
    ),
    "glm4v": glm("Glm4v", "glm4v_text"),
    "glm4v_moe": glm("Glm4vMoe", "glm4v_moe_text", **GLM_MOE),
    "glm46v": glm(
        *("Glm46V", "glm4v_text"),
        vision={"model_type": "glm4v_vision", "rms_norm_eps": 1e-5},
    ),
    "glmga": glm(
        *("", "glm4v_text"),
        vision={"model_type": "glm4v_vision"},
        classes=("GlmgaConfig", "Glm46VForConditionalGeneration"),
    ),
    "glm_ocr": glm("GlmOcr", "glm_ocr_text"),
    "glm5_next": glm(
        *("Glm5Next", "glm5_next_text"),
        vision={"projection_intermediate_size": 20, "swiglu_limit": 0.1},
    ),
    "hunyuan_vl": hunyuan(rms_norm_eps=1e-3),
    "hunyuan_vl-defaults": hunyuan(),
    "pp_chart2table": Model(
        *("", PROJECTOR, as_image, "got-ocr2", 16, (8, 12)),
        classes=("PPChart2TableConfig", "GotOcr2ForConditionalGeneration"),
        vision_config={**CLIP, "output_channels": 16, "mlp_dim": 20, "global_attn_indexes": []},
        text_config=text("qwen2"),
    ),
    "voxtral": Model(
        *("Voxtral", "", run_audio, "voxtral", 16, (1, 20)),
        audio_config=AUDIO,
        text_config=llama(),
    ),
    "voxtral_realtime": Model(
        *("VoxtralRealtime", "", run_audio, "voxtral", 16, (1, 20)),
        audio_config=AUDIO,
        text_config=text("voxtral_realtime_text"),
        projector_hidden_act="silu",
    ),
    "glmasr": Model(
        *("GlmAsr", "", run_audio, "voxtral", 16, (1, 20)),
        audio_config={**AUDIO, "num_key_value_heads": 2},
        text_config=llama(),
    ),
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name: str, tmp_path: Path) -> None:
    check_model(MODELS[name], tmp_path)


BESIDE = {
    "cosmos3_omni": Beside(
        MODELS["cosmos3_omni"],
        "model.visual.deepstack_merger_list.0",
        "deepstack_merger_list.0.",
        "qwen3-vl-deepstack",
        {},
        run_blocked,
        ((4, 6), (8, 8)),
    ),
    "qwen3_omni_moe": Beside(
        MODELS["qwen3_omni_moe"],
        "thinker.model.visual.merger_list.0",
        "thinker.visual.merger_list.0.",
        "qwen3-vl-deepstack",
        {},
        run_blocked,
        ((4, 6), (8, 8)),
    ),
    "gemma3n": Beside(
        MODELS["gemma3n"],
        "model.embed_audio",
        "model.embed_audio.",
        "gemma3n",
        {"scale": False},
        run_embed_audio,
    ),
    "gemma4": Beside(
        MODELS["gemma4"],
        "model.embed_audio",
        "model.embed_audio.",
        "gemma4-audio",
        {"eps": 1e-3},
        run_embed_audio,
        config={"audio_config": GEMMA4_AUDIO},
    ),
    "embedding_gemma2": Beside(
        MODELS["embedding_gemma2"],
        "embed_audio",
        "embed_audio.",
        "gemma4-audio",
        {"eps": 1e-3},
        run_embed_audio,
        config={"audio_config": GEMMA4_AUDIO},
    ),
    "dots3_note": Beside(
        MODELS["dots3_note"],
        "model.audio_tower.adapter",
        "audio_encoder.audio_adapter.",
        "internvl",
        {"merge": 1, "hidden": 24},
    ),
    "janus": Beside(
        FIRST["janus"],
        "model.generation_aligner",
        "model.generation_aligner.",
        "mlp",
        {"act": "relu"},
        in_=4,
        config={
            "vq_config": {
                **FIRST["janus"].config["vq_config"],
                "num_hidden_layers": 2,
                "hidden_act": "relu",
            }
        },
    ),
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BESIDE)
def test_projectors_beside_the_main_one(name: str, tmp_path: Path) -> None:
    check_beside(BESIDE[name], tmp_path)


# What is rounded when decides here: norms that cast before or after their weight, sums in fp32.
BF16 = (
    *("gemma3", "gemma3n", "gemma4", "gemma4-standardized", "t5gemma2", "mistral3", "lighton_ocr"),
    *("qwen2_5_vl", "qwen2_5_omni", "glm4v", "glm5_next", "nemotron_h_omni", "ultravbert"),
    "hunyuan_vl",
)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BF16)
def test_models_in_bf16(name: str, tmp_path: Path) -> None:
    """Bit by bit; no further from the truth for HunYuan's convolutions and products in fp32."""
    case = FIRST[name] if name in FIRST else MODELS[name]
    model = case.build().bfloat16()
    model.save_pretrained(tmp_path)
    ours, exact = load_projector(tmp_path), load_projector(tmp_path, dtype=torch.float64)
    upstream = model.get_submodule(case.module)
    for grid, batch, scale in itertools.product(case.grids, (1, 3), (1.0, 1e-3)):
        x = (scale * torch.randn(batch, grid[0] * grid[1], case.in_)).bfloat16()
        given = torch.stack([blocked(y, grid) for y in x]) if ours._block_major else x
        with torch.inference_mode():
            expected = case.run(upstream, x, grid)
            y = ours(given, grid=grid)
            with fast_paths(False):
                plain = ours(given, grid=grid)
            truth = exact(given.double(), grid=grid)
        assert y.dtype == plain.dtype == expected.dtype == torch.bfloat16
        error, allowed = (y - truth).norm(), (expected - truth).norm()
        if name == "hunyuan_vl":
            assert error <= allowed
        elif products()[torch.bfloat16] == "through fp32":  # which sums in another order
            assert torch.equal(plain, expected), (grid, batch, scale)
            assert error <= 1.01 * allowed, (grid, batch, scale)
        else:
            assert torch.equal(y, expected), (grid, batch, scale)


def _hub(name: str, folder: Path, model: nn.Module) -> None:
    """Give a saved model the names that it has elsewhere."""
    state = load_file(folder / "model.safetensors")
    if name == "kimi_k25":  # the hub's
        state = {
            key.replace("model.mm_projector", "mm_projector"): tensor
            for key, tensor in state.items()
        }
    else:  # transformers' own
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["kimi_k25", "hunyuan_vl"])
def test_other_names(name: str, tmp_path: Path) -> None:
    model = MODELS[name].build()
    model.save_pretrained(tmp_path)
    first = load_projector(tmp_path)
    _hub(name, tmp_path, model)
    again = load_projector(tmp_path)
    assert same(first, again)
    assert first.spec == again.spec


# Settings that no released model has.
NINE = ((6, 9), (3, 3))
_MERGE3 = {"vision_config": {"spatial_merge_size": 3}}
SETTINGS = {
    **{
        f"{name}, 3x3": MODELS[name].changed(
            run=packed(first, *patch, side=3), grids=NINE, **_MERGE3
        )
        for name, first, *patch in (
            ("qwen4_exp", "model.visual.merger", 96),
            ("lfm3_vl", PROJECTOR, 96),
            ("glm4v", GLM_FIRST, 96),
        )
    },
    "inkling2, 3x3": MODELS["inkling2"].changed(
        run=functools.partial(run_inkling2, side=3), grids=NINE, **_MERGE3
    ),
    "kimi_k25, 4x4": MODELS["kimi_k25"].changed(
        run=packed("model.mm_projector", 3, 4, 4, side=4),
        grids=((8, 12), (4, 4)),
        vision_config={"merge_kernel_size": [4, 4]},
    ),
    "glm4v, act": MODELS["glm4v"].changed(vision_config={"hidden_act": "gelu"}),
    "glm5_next, act": MODELS["glm5_next"].changed(vision_config={"hidden_act": "quick_gelu"}),
    "hunyuan_vl, act": MODELS["hunyuan_vl"].changed(vision_config={"hidden_act": "silu"}),
    "mistral_large4, act": MODELS["mistral_large4"].changed(projector_hidden_act="mish"),
    "lighton_ocr, act": MODELS["lighton_ocr"].changed(projector_hidden_act="tanh"),  # not read
    "mistral3, act": FIRST["mistral3"].changed(projector_hidden_act="silu"),
    "aya_vision, eps": FIRST["aya_vision"].changed(adapter_layer_norm_eps=1e-2),
    "vipllava, act": FIRST["vipllava"].changed(
        projector_hidden_act="relu", projector_layernorm_eps=1e-2
    ),
    "llama4, 4x4": FIRST["llama4"].changed(
        vision_config={"pixel_shuffle_ratio": 0.25, "intermediate_size": 256}
    ),
    "qwen2_vl, 3x3": FIRST["qwen2_vl"].changed(run=run_in_blocks(3), grids=NINE, **_MERGE3),
    "qwen2_5_vl, 4x4": FIRST["qwen2_5_vl"].changed(
        run=run_in_blocks(4), grids=((8, 12),), vision_config={"spatial_merge_size": 4}
    ),
    "qwen3_vl, 3x3": FIRST["qwen3_vl"].changed(run=run_in_blocks(3), grids=NINE, **_MERGE3),
    "blip2, eps": FIRST["blip2"].changed(qformer_config={"layer_norm_eps": 1e-3}),
    "blip2, act": FIRST["blip2"].changed(qformer_config={"hidden_act": "relu"}),
    "idefics2, act": FIRST["idefics2"].changed(text_config={"hidden_act": "gelu_new"}),
    "idefics2, perceiver's act": FIRST["idefics2"].changed(perceiver_config={"hidden_act": "relu"}),
    **{
        f"llava, {act}": FIRST["llava"].changed(projector_hidden_act=act)
        for act in TRANSFORMERS_NAMES
    },
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_upstreams(name: str, tmp_path: Path) -> None:
    check_model(SETTINGS[name], tmp_path)


# The model; the setting and its value; what is refused; the root and layout that the hint names.
REFUSED: dict[str, tuple[str, str, Any, str, str, str]] = {
    "kimi-k25": (
        *("kimi_k25", "vision_config.merge_kernel_size", [2, 4]),
        "vision_config.merge_kernel_size: [2, 4]; expected [2, 2].",
        *("", "kimi-k25-saved"),
    ),
    "nemotron-omni, one more norm": (
        *("nemotron_h_omni", "text_config.num_nextn_predict_layers", 1),
        "text_config.num_nextn_predict_layers: 1; expected 0.",
        *("mlp1.", "internvl-chat"),
    ),
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_the_presets_have_not(name: str, tmp_path: Path) -> None:
    model, place, value, message, root, layout = REFUSED[name]
    MODELS[model].build().save_pretrained(tmp_path)
    whole = load_projector(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    *parts, field = place.split(".")
    functools.reduce(operator.getitem, parts, config)[field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load_projector(tmp_path)
    given = {"root": root} if root else {}
    call = "".join(f", {key}={text!r}" for key, text in given.items())
    assert str(caught.value) == (
        f"{tmp_path}: config.json: {message} Describe the projector as a document, with a block of "
        f"your own if need be: load_projector('{tmp_path}'{call}, spec=document, "
        f"module_names={layout!r})."
    )
    # The hint can be followed: with a document of these modules the weights are read.
    again = load_projector(tmp_path, spec=whole.spec, module_names=layout, **given)
    assert same(again, whole)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "roots"),
    [
        ("minicpmv4_6", ["model.vision_tower.vit_merger."]),
    ],
)
def test_what_no_family_describes_is_listed_and_said(
    name: str, roots: list[str], tmp_path: Path
) -> None:
    """The projector that is loaded is only one part of what stands between tower and text."""
    {**FIRST, **MODELS}[name].build().save_pretrained(tmp_path)
    found = inspect_checkpoint(tmp_path)
    assert found.unknown == tuple(roots)
    listed = ", ".join(map(repr, roots))
    note = f"{listed} beside it may be another part of the projector, and is not read"
    assert found.notes == (note,)
    lines = [f"a module that is not known under {root!r}" for root in roots]
    assert str(found).splitlines()[1:] == [f"  {line}" for line in (*lines, f"note: {note}")]
    with pytest.warns(UserWarning, match=r"^.*may be another part of the projector"):
        load_projector(tmp_path)
