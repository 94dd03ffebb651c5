"""Whole tiny models of transformers whose projector is one of ours."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .attention import run_blip2, run_masked
from .case import as_image, plain, randomize, run_blocked
from .zoo import CASES, on_grid, run_granite, run_internvl, run_llama4, run_minicpmv

CLIP = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CLIP_TOWER = {**CLIP, "model_type": "clip_vision_model", "projection_dim": 16}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}
QWEN = {"depth": 2, "num_heads": 2, "patch_size": 4}
QWEN3 = {
    **QWEN,
    "hidden_size": 16,
    "out_hidden_size": 24,
    "intermediate_size": 20,
    "num_position_embeddings": 64,
}
# The tower is timm's.
PERCEPTION = {
    "model_type": "timm_wrapper",
    "architecture": "vit_pe_core_tiny_patch16_384",
    "model_args": {"embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 4},
}
ROPE = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4}


def text(model_type: str, **fields: Any) -> dict[str, Any]:
    return {**TEXT, "model_type": model_type, "head_dim": 12, **fields}


def llama() -> dict[str, Any]:
    return {**TEXT, "model_type": "llama"}


class Model:
    """A whole tiny model: its class, its config, where its projector is and how it is run.

    `run` takes the module, tokens ``(b, n, c)`` and their grid, and returns ``(b, m, d)``.
    """

    def __init__(
        self,
        name: str,
        module: str,
        run: Callable[[nn.Module, Tensor, tuple[int, int]], Tensor],
        preset: str,
        in_: int = 16,
        *grids: tuple[int, int],
        out: int = 24,
        classes: tuple[str, str] | None = None,
        task: str = "ForConditionalGeneration",
        **config: Any,
    ) -> None:
        self.module, self.run, self.preset = module, run, preset
        self.in_, self.out = in_, out
        self.grids, self.config = grids or ((8, 8),), config
        self.classes = classes or (f"{name}Config", f"{name}{task}")

    def changed(self, *, run: Any = None, grids: Any = (), **config: Any) -> "Model":
        """The same with other settings, in sections of the config too."""
        other = copy.copy(self)
        other.run, other.grids = run or self.run, grids or self.grids
        other.config = {
            **self.config,
            **{
                key: {**self.config.get(key, {}), **value} if isinstance(value, dict) else value
                for key, value in config.items()
            },
        }
        return other

    def build(self) -> nn.Module:
        import transformers

        config, model = (getattr(transformers, name) for name in self.classes)
        torch.manual_seed(0)
        built: nn.Module = model(config(**self.config))
        randomize(built)
        for name, buffer in built.named_buffers():
            if "vision_tower.std_" in name:  # Gemma 4's statistics
                buffer.normal_()
        return built.eval()


def run_llama4_model(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    model.vision_adapter = model.vision_model.vision_adapter
    y: Tensor = run_llama4(model, x, grid)
    return y


def run_internvl_model(model: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    module = model.multi_modal_projector
    module.pixel_shuffle = lambda y: model.pixel_shuffle(y, 0.5)
    y: Tensor = run_internvl(module, x, grid)
    return y


PROJECTOR = "model.multi_modal_projector"
_LLAMA4_VISION = {
    **CLIP,
    "intermediate_size": 64,
    "projector_input_dim": 20,
    "projector_output_dim": 20,
    "vision_output_dim": 20,
}
_RUN_MISTRAL3 = CASES["mistral3"].run


def run_mistral3(module: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    module.patch_merger.patch_size = 14
    return _RUN_MISTRAL3(module, x, grid)


PERCEIVER = {
    "resampler_n_latents": 5,
    "resampler_depth": 2,
    "resampler_n_heads": 4,
    "resampler_head_dim": 6,
}
BLIP2 = {
    "vision_config": CLIP,
    "qformer_config": {
        "hidden_size": 20,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "intermediate_size": 28,
        "cross_attention_frequency": 3,
        "vocab_size": 50,
    },
    "num_query_tokens": 5,
    "text_config": {
        "model_type": "opt",
        "hidden_size": 24,
        "word_embed_proj_dim": 24,
        "ffn_dim": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 32,
    },
}
MODELS = {
    "llava": Model(
        *("Llava", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "llava-levels": Model(
        *("Llava", PROJECTOR, plain, "mlp", 48),
        vision_config=CLIP_TOWER,
        text_config=llama(),
        vision_feature_layer=[-1, -1, 0],
        projector_hidden_act="quick_gelu",
        multimodal_projector_bias=False,
    ),
    "llava_next": Model(
        *("LlavaNext", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "llava_next_video": Model(
        *("LlavaNextVideo", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "llava_onevision": Model(
        *("LlavaOnevision", PROJECTOR, plain, "mlp"),
        vision_config=SIGLIP,
        text_config=text("qwen2"),
    ),
    "video_llava": Model(
        *("VideoLlava", PROJECTOR, plain, "mlp"), vision_config=CLIP_TOWER, text_config=llama()
    ),
    "vipllava": Model(
        *("VipLlava", PROJECTOR, plain, "vipllava", 32),
        vision_config=CLIP_TOWER,
        text_config=llama(),
        vision_feature_layers=[-1, 0],
        projector_layernorm_eps=1e-3,
    ),
    "paligemma": Model(
        *("PaliGemma", PROJECTOR, plain, "linear"),
        vision_config=SIGLIP,
        text_config=text("gemma"),
        projection_dim=24,
    ),
    "idefics3": Model(
        *("Idefics3", "model.connector", plain, "idefics3"),
        vision_config={**CLIP, "model_type": "idefics3_vision"},
        text_config=llama(),
        image_token_id=5,
    ),
    "smolvlm": Model(
        *("SmolVLM", "model.connector", plain, "idefics3"),
        vision_config={**CLIP, "model_type": "smolvlm_vision"},
        text_config=llama(),
        image_token_id=5,
        scale_factor=4,
    ),
    "internvl": Model(
        *("InternVL", "model", run_internvl_model, "internvl"),
        vision_config={**CLIP, "image_size": [32, 32], "patch_size": [4, 4]},
        text_config=text("qwen2"),
    ),
    "lfm2_vl": Model(
        *("Lfm2Vl", PROJECTOR, on_grid, "internvl", 16, (4, 6), (8, 8)),
        vision_config={**SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 64},
        text_config=text("lfm2", layer_types=["full_attention"]),
        projector_hidden_size=20,
    ),
    "lfm2_vl-bare": Model(
        *("Lfm2Vl", PROJECTOR, on_grid, "internvl", 16, (4, 6), (8, 8)),
        vision_config={**SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 64},
        text_config=text("lfm2", layer_types=["full_attention"]),
        projector_hidden_size=20,
        projector_bias=False,
        projector_use_layernorm=False,
        projector_hidden_act="gelu_pytorch_tanh",
    ),
    "llama4": Model(
        *("Llama4", "", run_llama4_model, "llama4"),
        vision_config=_LLAMA4_VISION,
        text_config=text("llama4_text", intermediate_size_mlp=20, num_local_experts=2),
    ),
    "gemma3": Model(
        *("Gemma3", PROJECTOR, plain, "gemma3"),
        vision_config={**SIGLIP, "layer_norm_eps": 1e-3},
        text_config=text("gemma3_text"),
        mm_tokens_per_image=16,
    ),
    "qwen2_vl": Model(
        *("Qwen2VL", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN, "embed_dim": 16, "hidden_size": 24},
        text_config=text("qwen2_vl_text", rope_parameters=ROPE),
    ),
    "qwen2_5_vl": Model(
        *("Qwen2_5_VL", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN, "hidden_size": 16, "out_hidden_size": 24, "intermediate_size": 20},
        text_config=text("qwen2_5_vl_text", rope_parameters=ROPE),
    ),
    "qwen3_vl": Model(
        *("Qwen3VL", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN3, "deepstack_visual_indexes": [0]},
        text_config=text("qwen3_vl_text", rope_parameters=ROPE),
    ),
    "qwen3_vl_moe": Model(
        *("Qwen3VLMoe", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config={**QWEN3, "deepstack_visual_indexes": [0]},
        text_config=text(
            "qwen3_vl_moe_text",
            rope_parameters=ROPE,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=20,
        ),
    ),
    "qwen3_5": Model(
        *("Qwen3_5", "model.visual.merger", run_blocked, "qwen2-vl", 16, (4, 6), (8, 8)),
        vision_config=QWEN3,
        text_config=text("qwen3_5_text", layer_types=["full_attention"]),
    ),
    "mistral3": Model(
        *("Mistral3", PROJECTOR, run_mistral3, "mistral3", 16, (5, 7), (4, 4)),
        vision_config={**CLIP, "model_type": "pixtral"},
        text_config=text("mistral", rms_norm_eps=1e-3),
    ),
    "mistral3-defaults": Model(
        *("Mistral3", PROJECTOR, run_mistral3, "mistral3", 16, (4, 4)),
        vision_config={**CLIP, "model_type": "pixtral"},
        text_config=text("mistral"),
        multimodal_projector_bias=True,
    ),
    "aya_vision": Model(
        *("AyaVision", PROJECTOR, plain, "aya-vision"),
        vision_config=SIGLIP,
        text_config=text("cohere2"),
        alignment_intermediate_size=40,
    ),
    "cohere2_vision": Model(
        *("Cohere2Vision", PROJECTOR, plain, "aya-vision"),
        vision_config=SIGLIP,
        text_config=text("cohere2"),
        alignment_intermediate_size=40,
    ),
    "got_ocr2": Model(
        *("GotOcr2", PROJECTOR, as_image, "got-ocr2", 16, (8, 12)),
        vision_config={**CLIP, "output_channels": 16, "mlp_dim": 20, "global_attn_indexes": []},
        text_config=text("qwen2"),
    ),
    "perception_lm": Model(
        *("PerceptionLM", PROJECTOR, plain, "perception-lm"),
        vision_config=PERCEPTION,
        text_config=llama(),
        projector_pooling_ratio=2,
    ),
    "janus": Model(
        *("Janus", "model.aligner", plain, "mlp"),
        vision_config={**CLIP, "projection_dim": 24, "mlp_ratio": 2, "depth": 3},
        text_config=llama(),
        vq_config={
            "embed_dim": 4,
            "num_embeddings": 8,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "num_patches": 4,
            "image_token_embed_dim": 4,
            "projection_dim": 4,
            "num_hidden_layers": 1,
        },
    ),
    "minicpmv4_6": Model(
        *("MiniCPMV4_6", "model.merger", run_minicpmv, "minicpmv4-6", 16, (8, 12)),
        vision_config=CLIP,
        text_config=text("qwen3_5_text", layer_types=["full_attention"]),
        insert_layer_id=0,
        merger_times=2,
    ),
    "granite_docling": Model(
        *("GraniteDocling", "model.vision_model.connector", run_granite, "granite-docling"),
        vision_config={**CLIP, "out_hidden_size": 24, "deepstack_visual_indexes": [0]},
        text_config=TEXT,
    ),
    "deepseek_vl": Model(
        *("DeepseekVL", "model.aligner", plain, "mlp", 16, (4, 7)),
        vision_config=SIGLIP,
        text_config=llama(),
    ),
    "idefics": Model(
        *("Idefics", "model.perceiver_resampler", plain, "flamingo", 16, (3, 7)),
        out=16,
        task="ForVisionText2Text",
        vision_config={"embed_dim": 16, **{key: CLIP[key] for key in CLIP if key != "hidden_size"}},
        perceiver_config={**PERCEIVER, "qk_layer_norms_perceiver": True},
        use_resampler=True,
        **{key: TEXT[key] for key in TEXT if key != "num_key_value_heads"},
    ),
    "idefics2": Model(
        *("Idefics2", "model.connector", run_masked, "idefics2", 16, (3, 7)),
        vision_config=CLIP,
        text_config=text("mistral"),
        perceiver_config={**PERCEIVER, "num_key_value_heads": 2, "hidden_size": 24},
        image_token_id=5,
    ),
    "idefics2-eps": Model(
        *("Idefics2", "model.connector", run_masked, "idefics2", 16, (3, 7)),
        vision_config=CLIP,
        text_config=text("mistral", rms_norm_eps=1e-3),
        perceiver_config={**PERCEIVER, "num_key_value_heads": 2},
        image_token_id=5,
    ),
    "blip2": Model(*("Blip2", "", run_blip2, "blip2", 16, (5, 13)), **BLIP2),
}
