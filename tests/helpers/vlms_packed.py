"""Small models whose images come in any size, packed: Qwen's, and their processors."""

from typing import Any

import transformers

from helpers.vlms import IMAGE, LLAMA, PATCH, VLMS, Made, tokenizer

__all__ = ["QWEN"]

_VISION = {
    "depth": 3,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": PATCH,
    "out_hidden_size": LLAMA["hidden_size"],
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def _tokens() -> tuple[Any, dict[str, int]]:
    own = tokenizer(
        "<|image_pad|>",
        "<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    names = ("image", "video", "vision_start", "vision_end")
    return own, {f"{name}_token_id": getattr(own, f"{name}_token_id") for name in names}


def _image() -> Any:
    return transformers.Qwen2VLImageProcessor(
        patch_size=PATCH,
        merge_size=2,
        size={"shortest_edge": IMAGE * IMAGE // 4, "longest_edge": IMAGE * IMAGE * 4},
    )


def _video(cls: Any, **changes: Any) -> Any:
    # Of all frames, in Qwen 3's.
    size = {"shortest_edge": IMAGE * IMAGE // 4, "longest_edge": IMAGE * IMAGE * 16}
    return cls(patch_size=PATCH, merge_size=2, size=size, cap_pixels_per_frame=False, **changes)


def qwen2_vl() -> Made:
    own, ids = _tokens()
    vision = {**_VISION, "embed_dim": 48, "hidden_size": LLAMA["hidden_size"], "mlp_ratio": 2}
    del vision["intermediate_size"], vision["out_hidden_size"]
    config = transformers.Qwen2VLConfig(
        vision_config=vision, text_config={**LLAMA, "rope_parameters": _ROPE}, **ids
    )
    model = transformers.Qwen2VLForConditionalGeneration(config).eval()
    video = _video(transformers.Qwen2VLVideoProcessor)
    return model, transformers.Qwen2VLProcessor(_image(), own, video)


def qwen2_5_vl() -> Made:
    own, ids = _tokens()
    vision = {**_VISION, "window_size": 4 * PATCH, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config={**LLAMA, "rope_parameters": _ROPE}, **ids
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    video = _video(transformers.Qwen2VLVideoProcessor)
    return model, transformers.Qwen2_5_VLProcessor(_image(), own, video)


def qwen3_vl(names: str = "Qwen3VL", vision: Any = None, **text: Any) -> Made:
    own, ids = _tokens()
    vision = vision or {"deepstack_visual_indexes": [0, 1]}
    rope = {**_ROPE, "mrope_interleaved": True}
    config = getattr(transformers, f"{names}Config")(
        vision_config={**_VISION, "num_position_embeddings": 36, **vision},
        text_config={**LLAMA, "rope_parameters": rope, **text},
        **ids,
    )
    model = getattr(transformers, f"{names}ForConditionalGeneration")(config).eval()
    video = _video(transformers.Qwen3VLVideoProcessor, fps=None, num_frames=4)
    return model, transformers.Qwen3VLProcessor(_image(), own, video)


def qwen3_vl_moe() -> Made:
    return qwen3_vl("Qwen3VLMoe", **_EXPERTS)


def qwen3_5() -> Made:
    return qwen3_vl("Qwen3_5", {"deepstack_visual_indexes": []}, **_LINEAR)


def qwen3_5_moe() -> Made:
    return qwen3_vl("Qwen3_5Moe", {"deepstack_visual_indexes": []}, **_LINEAR, **_EXPERTS)


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}

QWEN = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
}
VLMS.update(QWEN)
