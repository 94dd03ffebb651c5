"""A projector in one of the small models, and what has to hold of the two wherever they fit."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers import vlms
from mobilevlm import Projector, swap_projector
from mobilevlm.models import check_image_tokens
from mobilevlm.models.hosts import HOSTS

__all__ = [
    "QUICK",
    "SIZES",
    "Swapped",
    "assert_close",
    "check_counts",
    "check_generation",
    "check_gradients",
    "image_tokens",
    "makers",
    "swap",
]

# A host of each form, for tests of all of which these are not slow.
QUICK = ("llava", "gemma3", "smolvlm", "got_ocr2", "mistral3", "llava_onevision", "qwen3_vl")
# Heights and widths in pixels of the pictures of one prompt: square, wide, tall, and several.
SIZES = [[(48, 48)], [(48, 96)], [(80, 40)], [(48, 96), (48, 48)]]
# A processor that takes several for pages of one document, and one that joins tiles in a tensor.
ONE_PICTURE, ONE_SIZE = "GotOcr2Processor", "PerceptionLMProcessor"


@dataclass(frozen=True)
class Swapped:
    """A model in evaluation mode with a projector swapped in, and its processor."""

    model: Any
    processor: Any
    projector: Projector


def makers() -> dict[str, Callable[[], vlms.Made]]:
    """Return what makes a small model of each host, by its model type, in the order of the hosts.

    They stand in `vlms` and in the files beside it whose names begin so. A host that depends on a
    model's tower is named for both.
    """
    for path in sorted(Path(__file__).parent.glob("vlms_*.py")):
        importlib.import_module(f"helpers.{path.stem}")
    order = {name: place for place, name in enumerate(HOSTS)}
    names = sorted(vlms.VLMS, key=lambda name: (order.get(name, len(order)), name))
    return {name: vlms.VLMS[name] for name in names}


def swap(host: str, name: str, **options: Any) -> Swapped:
    """Put a projector of this name in a small model."""
    model, processor = makers()[host]()
    projector = swap_projector(model, name, processor=processor, **options)
    return Swapped(model, processor, projector)


def inputs_of(processor: Any, sizes: Sequence[tuple[int, int]], **kwargs: Any) -> Any:
    """Return one prompt with pictures of these sizes."""
    return processor(
        images=vlms.pictures(*sizes),
        text=[vlms.prompt(processor, len(sizes))],
        return_tensors="pt",
        **kwargs,
    )


def image_token(model: Any) -> int:
    """Return the id of the token that stands for a feature of an image."""
    config = model.config
    found = getattr(config, "image_token_id", None)
    return int(config.image_token_index if found is None else found)


def image_tokens(swapped: Swapped, sizes: Sequence[tuple[int, int]]) -> int:
    """Return how many image tokens a prompt with pictures of these sizes has."""
    inputs = inputs_of(swapped.processor, sizes)
    return int((inputs["input_ids"] == image_token(swapped.model)).sum())


def assert_close(found: Tensor, expected: Tensor, what: str | None = None) -> None:
    """Assert that a model says what it said before it was saved.

    Weights read from a file may lie in memory where products are summed in another order.
    """
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=what)


def check_counts(swapped: Swapped) -> None:
    """The prompt has as many image tokens as the model makes, and as the processor foretells."""
    model, processor = swapped.model, swapped.processor
    for sizes in _possible(processor):
        inputs = inputs_of(processor, sizes, return_mm_token_type_ids=True)
        prompted = int((inputs["input_ids"] == image_token(model)).sum())
        assert prompted == _features(model, inputs), sizes
        foretold = processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens
        assert sum(foretold) in (_marked(inputs), _added(processor, inputs)), sizes
    check_image_tokens(model, processor)  # says the same
    several = _possible(processor)[-1]
    assert torch.isfinite(model(**vlms.batch(processor, several)).logits).all()


def _possible(processor: Any) -> list[list[tuple[int, int]]]:
    """Return the sizes that upstream's processor takes in one prompt."""
    name = type(processor).__name__.removeprefix("MobileVLM")
    if name == ONE_PICTURE:
        return SIZES[:3]
    return [*SIZES[:3], [(48, 96), (48, 96)]] if name == ONE_SIZE else SIZES


def _marked(inputs: Any) -> int:
    """Return how many tokens a processor marks as those of images."""
    kinds = "mm_token_type_ids" if "mm_token_type_ids" in inputs else "token_type_ids"
    return int((inputs[kinds] == 1).sum())


def _added(processor: Any, inputs: Any) -> int:
    """Return how many tokens a processor puts in place of the placeholders; some mark not all."""
    text = processor.tokenizer(vlms.prompt(processor, 0))["input_ids"]
    return inputs["input_ids"].shape[1] - len(text)


def _features(model: Any, inputs: Any) -> int:
    """Return how many features a model makes of the pictures of a prompt."""
    owner = model if hasattr(model, "get_image_features") else model.base_model
    taken = {*inspect.signature(owner.get_image_features).parameters, "image_sizes"}
    with torch.no_grad():
        found = owner.get_image_features(**{k: v for k, v in inputs.items() if k in taken})
    found = getattr(found, "pooler_output", found)
    found = [found] if isinstance(found, Tensor) else found
    return sum(each.numel() // each.shape[-1] for each in found)


def check_generation(swapped: Swapped) -> None:
    """Generating with a cache says what generating without one does."""
    model = swapped.model
    inputs = vlms.batch(swapped.processor)
    with_cache, without = (
        model.generate(
            **inputs,
            use_cache=use_cache,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            bad_words_ids=[[image_token(model)]],
            output_logits=True,
            return_dict_in_generate=True,
        )
        for use_cache in (True, False)
    )
    assert torch.equal(with_cache.sequences, without.sequences)
    assert len(with_cache.logits) == 4
    torch.testing.assert_close(with_cache.logits, without.logits, rtol=0, atol=1e-4)


def check_gradients(swapped: Swapped) -> None:
    """Each parameter of the projector learns, and the same with gradient checkpointing."""
    plain = _gradients(swapped)
    for name, gradient in plain.items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    swapped.model.activation_checkpointing_enable()
    saved = _gradients(swapped)
    swapped.model.activation_checkpointing_disable()
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient, rtol=0, atol=1e-6, msg=name)


def _gradients(swapped: Swapped) -> dict[str, Tensor]:
    """Return the gradients of the projector after a step on a batch, by name."""
    model = swapped.model
    inputs = vlms.batch(swapped.processor)
    inputs["labels"] = inputs["input_ids"]
    model.train()
    model(**inputs).loss.backward()
    model.eval()
    found = {name: each.grad for name, each in swapped.projector.named_parameters()}
    model.zero_grad(set_to_none=True)
    missing = [name for name, gradient in found.items() if gradient is None]
    assert not missing, missing
    return found
