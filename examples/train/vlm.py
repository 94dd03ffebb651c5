"""A small vision-language model of transformers: CLIP, a projector and Llama, as LLaVA has them.

Its parts are ordinary: a `CLIPVisionModel` of 8x8 patches, a `LlamaForCausalLM`, a fast tokenizer
of whole words, a `LlavaProcessor`. Only their sizes are small, and the tokenizer's words few.
"""

from __future__ import annotations

import data
import torch
from pretrain import LANGUAGE_MODEL, TOWER, Settings, pretrained
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

logging.disable_progress_bar()  # of reading weights, a moment each

PATCH = 8  # pixels of a patch's side: 8x8 patches an image
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer whose tokens are the words of the task."""
    sentences = (*data.COLOURS, *data.NUMBERS, *data.PLACES, data.NOTHING, "?")
    words = dict.fromkeys([*SPECIAL, *" ".join(sentences).split()])
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )


def make_processor() -> LlavaProcessor:
    """Make the processor: of an image of any size, 64x64 pixels and as many tokens as patches."""
    square = {"height": data.SIDE, "width": data.SIDE}
    return LlavaProcessor(
        CLIPImageProcessorPil(
            size=square, crop_size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        make_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",  # without CLIP's class token,
        num_additional_image_tokens=1,  # which the processor counts first
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Return the sizes of the model: 0.2 million parameters in CLIP, 0.4 million in Llama."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=data.SIDE,
            patch_size=PATCH,
            initializer_range=0.1,  # with 0.02, made for large models, it learns half as fast
        ),
        text_config=LlamaConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )


def make_vlm(
    seed: int = 0, settings: Settings | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Make the model out of its pretrained parts, and its processor.

    The parts come from stage 0, which runs the first time. The projector, LLaVA's own, is random.

    Args:
        seed: Of the projector.
        settings: Those of stage 0.
    """
    processor = make_processor()
    config = make_config(processor.tokenizer)
    parts = pretrained(config, processor, settings or Settings())
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    tower = CLIPVisionModel.from_pretrained(parts / TOWER)
    language_model = LlamaForCausalLM.from_pretrained(parts / LANGUAGE_MODEL)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.lm_head.load_state_dict(language_model.lm_head.state_dict())
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor
