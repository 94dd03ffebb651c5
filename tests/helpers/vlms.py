"""Small vision-language models of transformers with their processors, with random weights.

An image side of 48 pixels in patches of 8 gives a grid of 6x6. Each maker returns the model, in
evaluation mode, and its processor, with whatever tokens its prompts need.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

__all__ = [
    "CLIP",
    "IMAGE",
    "LLAMA",
    "PATCH",
    "VLMS",
    "Made",
    "batch",
    "logits",
    "pictures",
    "prompt",
    "samples",
    "tokenizer",
]

Made = tuple[Any, Any]

IMAGE, PATCH = 48, 8
CLIP = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE,
    "patch_size": PATCH,
}
LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 192,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "tie_word_embeddings": False,
}
# What the processors put around images, beside the tokens that each maker names.
_STRUCTURE = [
    *("<boi>", "<eoi>", "<img>", "</img>", "<imgpad>", "<global-img>", "<end_of_utterance>"),
    *("<fake_token_around_image>", "<|vision_start|>", "<|vision_end|>", "<break>", "<end>"),
    *("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", "<|im_start|>", "<|im_end|>"),
    *("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL"),
    *(f"TILE_{i}" for i in range(1, 10)),
    *(f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)),
    *(f"<|img_row_{i}_col_{j}|>" for i in range(1, 5) for j in range(1, 5)),
]


def tokenizer(image: str = "<image>", video: str = "<video>", **named: str) -> Any:
    """Return a tokenizer of words and letters; `named` are further tokens by attribute."""
    special = ["<pad>", "<unk>", "<bos>", "<eos>", image, video, *named.values(), *_STRUCTURE]
    words = [*["what", "is", "it", "?", ":", ".", ",", "\n"], *string.ascii_letters, *string.digits]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *words]))}
    assert len(vocabulary) <= LLAMA["vocab_size"], len(vocabulary)
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pieces = Regex(r"\n|\w+|[^\w\s]+")  # a line break is a token, as for real tokenizers
    made.pre_tokenizer = pre_tokenizers.Split(pieces, "removed", invert=True)
    made.add_special_tokens(list(dict.fromkeys(special)))
    made.add_tokens(["\n"])  # a token, as in any real tokenizer; white space else
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": image, "video_token": video, **named},
    )


def llava(**changes: Any) -> Made:
    own = tokenizer()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP),
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_index=own.image_token_id,
        **changes,
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    strategy = config.vision_feature_select_strategy
    return model, transformers.LlavaProcessor(
        _square(transformers.CLIPImageProcessor),
        own,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
    )


def paligemma() -> Made:
    own = tokenizer()
    vision = {**CLIP, "projection_dim": LLAMA["hidden_size"], "vision_use_head": False}
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**vision),
        text_config=transformers.GemmaConfig(**{**LLAMA, "tie_word_embeddings": True}),
        image_token_index=own.image_token_id,
        projection_dim=LLAMA["hidden_size"],
        hidden_size=LLAMA["hidden_size"],
    )
    image = transformers.SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE})
    image.image_seq_length = (IMAGE // PATCH) ** 2
    model = transformers.PaliGemmaForConditionalGeneration(config).eval()
    return model, transformers.PaliGemmaProcessor(image, own)


def gemma3() -> Made:
    own = tokenizer(boi_token="<boi>", eoi_token="<eoi>")
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**CLIP, vision_use_head=False),
        text_config=transformers.Gemma3TextConfig(**{**LLAMA, "tie_word_embeddings": True}),
        image_token_index=own.image_token_id,
        boi_token_index=own.boi_token_id,
        eoi_token_index=own.eoi_token_id,
        mm_tokens_per_image=9,
    )
    image = transformers.Gemma3ImageProcessor(size={"height": IMAGE, "width": IMAGE})
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    return model, transformers.Gemma3Processor(image, own, image_seq_length=9)


def internvl() -> Made:
    own = tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<image>"
    )
    vision = {**CLIP, "image_size": [IMAGE, IMAGE], "patch_size": [PATCH, PATCH]}
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**vision),
        text_config=transformers.Qwen2Config(**LLAMA),
        image_token_id=own.image_token_id,
        image_seq_length=9,
    )
    size = {"height": IMAGE, "width": IMAGE}
    image = transformers.GotOcr2ImageProcessor(
        size=size, crop_to_patches=True, min_patches=1, max_patches=4
    )
    video = transformers.InternVLVideoProcessor(size=size)
    model = transformers.InternVLForConditionalGeneration(config).eval()
    return model, transformers.InternVLProcessor(image, own, video, image_seq_length=9)


def idefics3() -> Made:
    own = tokenizer(
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = transformers.Idefics3Config(
        vision_config=transformers.Idefics3VisionConfig(**CLIP),
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_id=own.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    image = transformers.Idefics3ImageProcessor(
        size={"longest_edge": IMAGE * 2}, max_image_size={"longest_edge": IMAGE}
    )
    model = transformers.Idefics3ForConditionalGeneration(config).eval()
    return model, transformers.Idefics3Processor(image, own, image_seq_len=9)


def _square(cls: Any) -> Any:
    size = {"height": IMAGE, "width": IMAGE}
    return cls(size={"shortest_edge": IMAGE}, crop_size=size)


# By model type. Files beside this one add theirs.
VLMS: dict[str, Callable[[], Made]] = {
    "gemma3": gemma3,
    "idefics3": idefics3,
    "internvl": internvl,
    "llava": llava,
    "paligemma": paligemma,
}


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Return pictures of noise of these heights and widths, the same each time."""
    made = []
    for i, (h, w) in enumerate(sizes):
        pixels = np.random.default_rng(i).integers(1, 255, (h, w, 3), dtype=np.uint8)
        made.append(Image.fromarray(pixels))
    return made


def prompt(processor: Any, images: int = 1, text: str = "what is it ?") -> str:
    """Return a prompt with as many placeholders as images."""
    token = getattr(processor, "boi_token", None)  # Gemma's, whose image token is another
    if token is None or not type(processor).__name__.endswith("Gemma3Processor"):
        token = processor.image_token
    if "Qwen" in type(processor).__name__:  # whose positions tell images apart by what is between
        token = f"<|vision_start|>{token}<|vision_end|>"
    return " ".join([*[token] * images, text])


def batch(processor: Any, sizes: Sequence[tuple[int, int]] = ((48, 48), (48, 64))) -> Any:
    """Return a batch of one prompt for each image, of these heights and widths."""
    images: list[Any] = [[picture] for picture in pictures(*sizes)]
    if type(processor).__name__.endswith("GotOcr2Processor"):  # whose lists are pages
        images = pictures(*sizes)
    return processor(
        images=images,
        text=[prompt(processor)] * len(sizes),
        return_tensors="pt",
        padding=True,
    )


def samples(processor: Any, *images: Sequence[tuple[int, int]]) -> Any:
    """Return a batch of prompts with images of these heights and widths each."""
    return processor(
        images=[pictures(*sizes) for sizes in images],
        text=[prompt(processor, len(sizes)) for sizes in images],
        return_tensors="pt",
        padding=True,
    )


def logits(
    model: Any, processor: Any, sizes: Sequence[tuple[int, int]] = ((48, 48), (48, 64))
) -> Any:
    """Return what a model says to a batch."""
    return model(**batch(processor, sizes)).logits
