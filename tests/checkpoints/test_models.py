"""Whole models of transformers whose projector is one of ours under another name.

Most run the model's own `get_image_features`, with our tokens put where its tower's come out.
"""

import copy
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
from helpers.checkpoints import check_model, equal, same
from reference.case import Run, as_image, blocked, one_by_one, plain, run_blocked
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

from mobilevlm import build_projector, inspect_checkpoint, load_projector, to_upstream
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


def packed(first: str, *patch: int, order: str = "blocked", inside: str = "") -> Run:
    """Run a model that takes packed patches and their grids; `first` is its projector's start."""

    def run(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        b, n, _ = x.shape
        if order == "blocked":
            x = torch.stack([blocked(image, grid) for image in x])
        model = model.get_submodule(inside)
        with fed(model.get_submodule(first), x):
            pixels = torch.randn(b * n, *patch, dtype=x.dtype)
            return features(model, pixels, torch.tensor([[1, *grid]] * b))

    return run


def run_inkling2(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each of its patches is of four; grids count them."""
    b, n, _ = x.shape
    with fed(model.model.vision_tower.merger, torch.stack([blocked(image, grid) for image in x])):
        pixels = torch.randn(b * n // 4, 8, 8, 3, dtype=x.dtype)
        return features(model, pixels, torch.tensor([[1, grid[0] // 2, grid[1] // 2]] * b))


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
    "step3p7": Model(
        *("Step3p7", PROJECTOR, plain, "linear", 64),
        vision_config=CLIP,
        text_config=text("step3p7_text"),
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
    """Bit by bit, but for HunYuan's convolutions, which round otherwise: no worse there."""
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
            truth = exact(given.double(), grid=grid)
        assert y.dtype == expected.dtype == torch.bfloat16
        if name == "hunyuan_vl":
            assert (y - truth).norm() <= (expected - truth).norm()
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


BLOCKS = "vision_config.spatial_merge_size: 3; expected 2."
# The model; the setting and its value; what is refused; the root and layout that the hint names.
REFUSED: dict[str, tuple[str, str, Any, str, str, str]] = {
    "qwen2-vl": (
        *("qwen2_5_omni", "thinker_config.vision_config.spatial_merge_size", 3, BLOCKS),
        *("thinker.visual.merger.", "qwen2-vl"),
    ),
    "qwen3-vl": (
        *("qwen4_exp", "vision_config.spatial_merge_size", 3, BLOCKS),
        *("model.visual.merger.", "qwen3-vl"),
    ),
    "lfm3-vl": (
        *("lfm3_vl", "vision_config.spatial_merge_size", 3, BLOCKS),
        *("model.multi_modal_projector.", "lfm3-vl"),
    ),
    "inkling2": (
        *("inkling2", "vision_config.spatial_merge_size", 3, BLOCKS),
        *("", "inkling2"),
    ),
    "glm4v": (
        *("glm4v", "vision_config.spatial_merge_size", 3, BLOCKS),
        *("", "glm4v"),
    ),
    "kimi-k25": (
        *("kimi_k25", "vision_config.merge_kernel_size", [2, 4]),
        "vision_config.merge_kernel_size: [2, 4]; expected [2, 2].",
        *("", "kimi-k25-saved"),
    ),
    "glm4v, activation": (
        *("glm4v", "vision_config.hidden_act", "gelu"),
        "vision_config.hidden_act: 'gelu'; expected 'silu'.",
        *("", "glm4v"),
    ),
    "hunyuan-vl, activation": (
        *("hunyuan_vl", "vision_config.hidden_act", "silu"),
        "vision_config.hidden_act: 'silu'; expected 'gelu'.",
        *("", "hunyuan-vl-original"),
    ),
    "nemotron-omni, one more norm": (
        *("nemotron_h_omni", "text_config.num_nextn_predict_layers", 1),
        "text_config.num_nextn_predict_layers: 1; expected 0.",
        *("mlp1.", "internvl-chat"),
    ),
    "mistral3, activation": (
        *("mistral_large4", "projector_hidden_act", "silu"),
        "projector_hidden_act: 'silu'; expected 'gelu'.",
        *("", "mistral-large4"),
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


def run_embedder(module: nn.Module, x: Tensor, _: tuple[int, int]) -> Tensor:
    y: Tensor = module(inputs_embeds=x)
    return y


GEMMA4_AUDIO = Model(
    *("Gemma4", "", gemma4("model.vision_tower"), "gemma4", 16, *GRIDS),
    vision_config=gemma4_vision(),
    text_config=text("gemma4_text", **GEMMA4_TEXT),
    audio_config={
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "output_proj_dims": 20,
        "subsampling_conv_channels": (4, 4),
        "rms_norm_eps": 1e-3,
    },
)
GEMMA3N_AUDIO = copy.deepcopy(MODELS["gemma3n"])
GEMMA3N_AUDIO.config["audio_config"]["rms_norm_eps"] = 1e-2
HYPERCLOVA = Model(
    *("HyperCLOVAXVisionV2", "", plain, "linear", 24),
    vision_config={**QWEN2_5, "model_type": "qwen2_5_vl_vision"},
    text_config=text("hyperclovax"),
)
JANUS = copy.deepcopy(FIRST["janus"])
JANUS.config["vq_config"] |= {"num_hidden_layers": 2, "hidden_act": "relu"}
# The model; the root and the module of a projector beside its main one; how it runs; its spec.
SECONDARY: dict[str, tuple[Model, str, str, Run, tuple[Any, ...], dict[str, Any]]] = {
    "qwen3_omni_moe": (
        *(MODELS["qwen3_omni_moe"], "thinker.visual.merger_list.0."),
        *("thinker.model.visual.merger_list.0", run_blocked),
        *(("qwen3-vl-deepstack", 16, 24), {}),
    ),
    "cosmos3_omni": (
        *(MODELS["cosmos3_omni"], "deepstack_merger_list.0."),
        *("model.visual.deepstack_merger_list.0", run_blocked),
        *(("qwen3-vl-deepstack", 16, 24), {}),
    ),
    "gemma3n": (
        *(GEMMA3N_AUDIO, "model.embed_audio.", "model.embed_audio", run_embedder),
        *(("gemma3n", 16, 24), {"eps": 1e-2, "scale": False}),
    ),
    "gemma4": (
        *(GEMMA4_AUDIO, "model.embed_audio.", "model.embed_audio", run_embedder),
        *(("gemma4", 20, 24), {"eps": 1e-3, "scale": False, "pool": 1}),
    ),
    "dots3_note": (
        *(MODELS["dots3_note"], "audio_encoder.audio_adapter.", "model.audio_tower.adapter"),
        *(plain, ("vipllava", 16, 24), {}),
    ),
    "hyperclovax_vision_v2": (
        *(HYPERCLOVA, "model.vision_model.merger.", "model.vision_model.merger", run_blocked),
        *(("qwen2-5-vl", 16, 24), {}),
    ),
    "janus": (
        *(JANUS, "model.generation_aligner.", "model.generation_aligner", plain),
        *(("mlp", 4, 4), {"act": "relu"}),
    ),
}


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SECONDARY)
def test_projectors_beside_the_main_one(name: str, tmp_path: Path) -> None:
    """They are found by their names, listed, and loaded by their roots."""
    case, root, module, run, spec, options = SECONDARY[name]
    model = case.build()
    model.save_pretrained(tmp_path)
    found = inspect_checkpoint(tmp_path)
    assert found.others == (root,)
    assert (found.unknown, found.notes) == ((), ())
    assert f"\n  another under {root!r}" in str(found)
    ours = load_projector(tmp_path, root=root)
    assert ours.spec == build_projector(*spec, **options).spec
    equal(ours, run, model.get_submodule(module), (4, 6), (2, 8))
    stored = load_file(tmp_path / "model.safetensors")
    layout = inspect_checkpoint(tmp_path, root=root).layout
    for key, tensor in to_upstream(ours, layout).items():
        assert torch.equal(stored[root + key], tensor)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "roots"),
    [
        ("step3p7", ["vision_model.vit_downsampler1.", "vision_model.vit_downsampler2."]),
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


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
def test_step_3s_convolutions_are_loaded_as_a_document(tmp_path: Path) -> None:
    """By the names of their modules, as no family describes them."""
    model = MODELS["step3p7"].build()
    model.save_pretrained(tmp_path)
    conv = {"type": "conv", "stride": 2}
    document = {
        "in": 16,
        "out": 24,
        "blocks": [{**conv, "out": 32}, {**conv, "out": 64}, {"type": "pointwise", "bias": False}],
    }
    names = [
        "vision_model.vit_downsampler1",
        "vision_model.vit_downsampler2",
        "vit_large_projector",
    ]
    ours = load_projector(tmp_path, spec=document, module_names=names)
    tower = model.model.vision_model
    x = torch.randn(2, 64, 16)
    with torch.inference_mode():
        maps = tower.downsampler2(tower.downsampler1(x.transpose(1, 2).unflatten(2, (8, 8))))
        expected = model.model.multi_modal_projector(maps.flatten(2).transpose(1, 2))
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
    first = load_projector(
        tmp_path,
        root="vision_model.vit_downsampler1",
        spec={"in": 16, "out": 32, "blocks": [{**conv, "out": 32}]},
        module_names=[""],
    )
    assert torch.equal(first.state_dict()["blocks.0.weight"], tower.downsampler1.weight)
