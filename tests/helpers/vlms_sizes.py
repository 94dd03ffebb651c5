"""Small models whose images have any size: Mistral 3, LLaVA with Pixtral's tower, and LFM2-VL."""

from typing import Any

import transformers

from .vlms import CLIP, IMAGE, LLAMA, PATCH, VLMS, Made, tokenizer

__all__ = ["lfm2_vl", "llava_pixtral", "mistral3"]

_PIXTRAL = {**CLIP, "image_size": 4 * IMAGE, "head_dim": 12}


def mistral3(**changes: Any) -> Made:
    own = _pixtral_tokenizer()
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**_PIXTRAL),
        text_config=transformers.MistralConfig(**LLAMA),
        image_token_index=own.image_token_id,
        tie_word_embeddings=False,
        **changes,
    )
    model = transformers.Mistral3ForConditionalGeneration(config).eval()
    return model, _pixtral_processor(own, config.spatial_merge_size)


def llava_pixtral(**changes: Any) -> Made:
    own = _pixtral_tokenizer()
    config = transformers.LlavaConfig(
        vision_config=transformers.PixtralVisionConfig(**_PIXTRAL),
        text_config=transformers.MistralConfig(**LLAMA),
        image_token_index=own.image_token_id,
        vision_feature_select_strategy="full",
        **{"vision_feature_layer": -1, **changes},
    )
    return transformers.LlavaForConditionalGeneration(config).eval(), _pixtral_processor(own, 1)


def lfm2_vl() -> Made:
    own = tokenizer(
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )
    config = transformers.Lfm2VlConfig(
        vision_config=transformers.Siglip2VisionConfig(
            **{**CLIP, "num_patches": 36, "vision_use_head": False}
        ),
        text_config=transformers.Lfm2Config(
            **LLAMA, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
        ),
        image_token_id=own.image_token_id,
        projector_hidden_size=80,
        tie_word_embeddings=False,
    )
    image = transformers.Lfm2VlImageProcessor(
        encoder_patch_size=PATCH,
        tile_size=IMAGE,
        min_image_tokens=4,
        max_image_tokens=9,
        max_tiles=4,
    )
    model = transformers.Lfm2VlForConditionalGeneration(config).eval()
    return model, transformers.Lfm2VlProcessor(image, own)


def _pixtral_tokenizer() -> Any:
    return tokenizer(image_break_token="<break>", image_end_token="<end>")


def _pixtral_processor(own: Any, merge: int) -> Any:
    return transformers.PixtralProcessor(
        transformers.PixtralImageProcessor(size={"longest_edge": 2 * IMAGE}, patch_size=PATCH),
        own,
        patch_size=PATCH,
        spatial_merge_size=merge,
        image_token="<image>",
        image_break_token="<break>",
        image_end_token="<end>",
    )


VLMS.update(lfm2_vl=lfm2_vl, llava_pixtral=llava_pixtral, mistral3=mistral3)
