"""More small vision-language models, whose projectors are called with the tokens of one grid.

The towers of PerceptionLM and FastVLM are timm's.
"""

from typing import Any

import numpy as np
import transformers

from helpers.vlms import CLIP, IMAGE, LLAMA, PATCH, VLMS, Made, _square, tokenizer

__all__ = ["aya_vision", "fast_vlm", "got_ocr2", "perception_lm", "video", "vipllava"]

_SIZE = {"height": IMAGE, "width": IMAGE}
_COHERE = {key: value for key, value in LLAMA.items() if key != "tie_word_embeddings"}


def aya_vision(**changes: Any) -> Made:
    own = tokenizer(image_patch_token="<|IMG_PATCH|>")
    config = transformers.AyaVisionConfig(
        vision_config=transformers.SiglipVisionConfig(**CLIP, vision_use_head=False),
        text_config=transformers.Cohere2Config(**_COHERE),
        image_token_index=own.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=96,
        **changes,
    )
    image = transformers.GotOcr2ImageProcessor(size=_SIZE, min_patches=1, max_patches=4)
    model = transformers.AyaVisionForConditionalGeneration(config).eval()
    return model, transformers.AyaVisionProcessor(
        image, own, patch_size=PATCH, img_size=IMAGE, downsample_factor=2
    )


def cohere2_vision() -> Made:
    own = tokenizer(boi_token="<boi>", eoi_token="<eoi>", img_line_break_token="<|IMG_LINE_BREAK|>")
    config = transformers.Cohere2VisionConfig(
        vision_config=transformers.SiglipVisionConfig(**CLIP, vision_use_head=False),
        text_config=transformers.Cohere2Config(**_COHERE),
        image_token_id=own.image_token_id,
        alignment_intermediate_size=96,
    )
    # Upstream calls the side of a tile, in tokens, its patch size.
    image = transformers.Cohere2VisionImageProcessor(size=_SIZE, patch_size=3, max_patches=4)
    model = transformers.Cohere2VisionForConditionalGeneration(config).eval()
    return model, transformers.Cohere2VisionProcessor(image, own)


def perception_lm(**changes: Any) -> Made:
    own = tokenizer()
    grid = (IMAGE // PATCH, IMAGE // PATCH)
    tower = {
        "embed_dim": CLIP["hidden_size"],
        "depth": 2,
        "num_heads": 4,
        "img_size": [IMAGE, IMAGE],
        "patch_size": PATCH,
        "ref_feat_shape": list(grid),
        "global_pool": "",
        "use_post_transformer_norm": False,
    }
    vision = transformers.TimmWrapperConfig(
        architecture="vit_pe_core_large_patch14_336", model_args=tower, do_pooling=False
    )
    config = transformers.PerceptionLMConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_id=own.image_token_id,
        video_token_id=own.video_token_id,
        projector_pooling_ratio=2,
        **changes,
    )
    image = transformers.PerceptionLMImageProcessor(tile_size=IMAGE, max_num_tiles=4)
    frames = transformers.PerceptionLMVideoProcessor(size=_SIZE)
    model = transformers.PerceptionLMForConditionalGeneration(config).eval()
    return model, transformers.PerceptionLMProcessor(
        frames, image, own, patch_size=PATCH, pooling_ratio=2
    )


def fast_vlm() -> Made:
    own = tokenizer()
    tower = {"layers": [1] * 5, "embed_dims": [8, 8, 16, 32, 32], "inference_mode": True}
    vision = transformers.TimmWrapperConfig(
        architecture="fastvit_mci3", model_args=tower, hidden_size=64
    )
    config = transformers.FastVlmConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**LLAMA),
        image_token_index=own.image_token_id,
        image_seq_length=16,
    )
    image = transformers.CLIPImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 256, "width": 256}
    )
    model = transformers.FastVlmForConditionalGeneration(config).eval()
    return model, transformers.LlavaProcessor(image, own, patch_size=64)


def got_ocr2() -> Made:
    own = tokenizer(image="<imgpad>")
    vision = {
        **CLIP,
        "output_channels": 32,
        "mlp_dim": 64,
        "window_size": 3,
        "global_attn_indexes": [1],
        "initializer_range": 0.02,
    }
    config = transformers.GotOcr2Config(
        vision_config=transformers.models.got_ocr2.GotOcr2VisionConfig(**vision),
        text_config=transformers.Qwen2Config(**LLAMA),
        image_token_index=own.image_token_id,
        tie_word_embeddings=False,
    )
    image = transformers.GotOcr2ImageProcessor(size=_SIZE)
    model = transformers.GotOcr2ForConditionalGeneration(config).eval()
    processor = transformers.GotOcr2Processor(image, own)
    processor.num_image_tokens = 4  # of 6x6; else it takes the tokens of the released model
    return model, processor


def smolvlm() -> Made:
    own = tokenizer(
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = transformers.SmolVLMConfig(
        vision_config=transformers.SmolVLMVisionConfig(**CLIP),
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_id=own.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    edge = {"longest_edge": IMAGE}
    image = transformers.SmolVLMImageProcessor(
        size={"longest_edge": IMAGE * 2}, max_image_size=edge
    )
    frames = transformers.SmolVLMVideoProcessor(size=edge, max_image_size=edge)
    model = transformers.SmolVLMForConditionalGeneration(config).eval()
    return model, transformers.SmolVLMProcessor(image, own, frames, image_seq_len=9)


def vipllava(**changes: Any) -> Made:
    own = tokenizer()
    config = transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP),
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_index=own.image_token_id,
        **{"vision_feature_layer": [-1, -2, 0], **changes},
    )
    model = transformers.VipLlavaForConditionalGeneration(config).eval()
    return model, transformers.LlavaProcessor(
        _square(transformers.CLIPImageProcessor),
        own,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def video(frames: int, h: int = IMAGE, w: int = IMAGE) -> np.ndarray[Any, Any]:
    """Return a video of noise, ``(frames, h, w, 3)``."""
    return np.random.default_rng(frames).integers(1, 255, (frames, h, w, 3), dtype=np.uint8)


VLMS.update(
    aya_vision=aya_vision,
    cohere2_vision=cohere2_vision,
    fast_vlm=fast_vlm,
    got_ocr2=got_ocr2,
    perception_lm=perception_lm,
    smolvlm=smolvlm,
    vipllava=vipllava,
)
