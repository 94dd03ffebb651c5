"""Small models that cut an image in tiles: LLaVA-NeXT, also for videos, and LLaVA-OneVision."""

import itertools
from typing import Any

import transformers

from .vlms import CLIP, IMAGE, LLAMA, PATCH, VLMS, Made, tokenizer

__all__ = ["llava_next", "llava_next_video", "llava_onevision"]

_SIDES = {"height": IMAGE, "width": IMAGE}


def llava_next(**changes: Any) -> Made:
    return _next("LlavaNext", **changes)


def llava_next_video(**changes: Any) -> Made:
    video = transformers.LlavaNextVideoVideoProcessor(
        size={"shortest_edge": IMAGE}, crop_size=_SIDES
    )
    return _next("LlavaNextVideo", video, **changes)


def _next(names: str, video: Any = None, **changes: Any) -> Made:
    own = tokenizer()
    pinpoints = [[48, 96], [96, 48], [96, 96], [144, 48], [48, 144]]
    vision = changes.pop("vision_config", transformers.CLIPVisionConfig(**CLIP))
    made = {name: getattr(transformers, names + name) for name in ("Config", "Processor")}
    config = made["Config"](
        vision_config=vision,
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_index=own.image_token_id,
        image_grid_pinpoints=pinpoints,
        **({} if video is None else {"video_token_index": own.video_token_id}),
        **changes,
    )
    processor = made["Processor"](
        image_processor=transformers.LlavaNextImageProcessor(
            size={"shortest_edge": IMAGE}, crop_size=_SIDES, image_grid_pinpoints=pinpoints
        ),
        tokenizer=own,
        **({} if video is None else {"video_processor": video}),
        patch_size=PATCH,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(vision.model_type == "clip_vision_model"),
    )
    model = getattr(transformers, f"{names}ForConditionalGeneration")(config)
    return model.eval(), processor


def llava_onevision(**changes: Any) -> Made:
    own = tokenizer()
    vision = {**CLIP, "vision_use_head": False}
    pinpoints = [[IMAGE * h, IMAGE * w] for h, w in itertools.product(range(1, 5), repeat=2)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=changes.pop("vision_config", transformers.SiglipVisionConfig(**vision)),
        text_config=transformers.Qwen2Config(**LLAMA),
        image_token_index=own.image_token_id,
        video_token_index=own.video_token_id,
        image_grid_pinpoints=pinpoints,
        **changes,
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config).eval()
    return model, transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=_SIDES, image_grid_pinpoints=pinpoints),
        own,
        transformers.LlavaOnevisionVideoProcessor(size=_SIDES),
        num_image_tokens=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )


VLMS.update(
    llava_next=llava_next, llava_next_video=llava_next_video, llava_onevision=llava_onevision
)
