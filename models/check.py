"""Whether a processor and a model agree on how many tokens an image takes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..blocks.core.feature import Grid
from ..projectors.projector import Projector
from .classes import SwappedModel
from .dispatched import home_of
from .errors import ModelError
from .host import KEY
from .hosts import find_host
from .slots import core_of, get_slot, slot_path, unwrapped

__all__ = ["check_image_tokens"]

_PASSED_ON = ("image_sizes",)  # to the tower, among the keyword arguments that are not named
_SIDE = 16  # patches, of a model that takes images of any size


def check_image_tokens(model: Any, processor: Any) -> None:
    """Check that a prompt holds as many image tokens as the model makes features of its images.

    A square, a wide and a tall image are tried, and all three in one prompt: the image tokens
    in ``input_ids``, the rows of ``get_image_features``, and what the processor says without an
    image, ``_get_num_multimodal_tokens``, where it can. The model runs its vision tower on black
    images of its working size, without gradients.

    Args:
        model: A vision-language model of transformers, its projector swapped or its own; also
            inside DDP, torch.compile or PEFT.
        processor: Its processor.

    Raises:
        ModelError: The first that differs; the model cannot take what the processor makes; or
            the model was loaded by a class that does not know its projector, which is random.
    """
    model = unwrapped(model)
    _check_class(model)
    side = _side(model.config)
    square, wide, tall = (side, side), (side, 2 * side), (2 * side, side)
    alone: dict[Grid, int] = {}
    for size in (square, wide, tall):
        case = _Case(model, processor, [size])
        case.compare()
        alone[size] = max(case.replaced, default=0)
    for sizes in ([square, wide, tall], [square, square]):
        try:
            case = _Case(model, processor, sizes)
        except ModelError:  # some take several only of one size, some none
            continue
        # Some take fewer tokens for each of several images, which no size can tell.
        as_alone = sum(alone[size] for size in sizes) in case.replaced
        case.compare(declared=as_alone)
        break


class _Case:
    """A prompt with images, and what a processor makes of it."""

    def __init__(self, model: Any, processor: Any, sizes: Sequence[Grid]) -> None:
        self.model, self.processor, self.sizes = model, processor, sizes
        count = "an image" if len(sizes) == 1 else f"{len(sizes)} images in a prompt"
        self.where = f"{count} of {', '.join(f'{h}x{w}' for h, w in sizes)} pixels"
        try:
            self.inputs, self.replaced = _inputs(processor, sizes)
        except Exception as error:  # whatever a processor of another model may raise
            raise self._error("the processor refuses", error) from error

    def compare(self, *, declared: bool = True) -> None:
        """Raise at the first number that differs."""
        try:
            features = _features(self.model, self.inputs)
        except Exception as error:
            found = "the model cannot take what the processor makes"
            raise self._error(found, error) from error
        token = _image_token(self.model.config)
        tokens = int((self.inputs["input_ids"] == token).sum())
        if not tokens:
            raise ModelError(
                f"no token {token} in the prompt, the image token of the model's config",
                self.where,
                f"{features:,}, one for each feature",
                "Take the processor, and so the tokenizer, of the model's own folder.",
            )
        if tokens != features:
            found = f"{tokens:,} image tokens in the prompt, {features:,} features"
            raise self._differs(found, "as many of both")
        counted = _declared(self.processor, self.sizes) if declared else None
        if counted is not None and self.replaced and counted not in self.replaced:
            found = f"_get_num_multimodal_tokens says {counted:,} tokens"
            raise self._differs(found, f"{self.replaced[0]:,}, as the prompt has")

    def _error(self, found: str, error: Exception) -> ModelError:
        return self._differs(f"{found}: {type(error).__name__}: {error}".rstrip(" .:"))

    def _differs(self, found: str, expected: str = "") -> ModelError:
        return ModelError(found, self.where, expected, _hint(self.model))


def _image_token(config: Any) -> int:
    token = getattr(config, "image_token_id", None)
    number: int = config.image_token_index if token is None else token
    return number


def _check_class(model: Any) -> None:
    """Refuse a model whose config has a projector that its class does not build."""
    if getattr(model.config, KEY, None) is None or isinstance(model, SwappedModel):
        return
    host = find_host(model.config)
    own = get_slot(model, host.slot)
    if not isinstance(own, Projector):
        raise ModelError(
            f"a {type(model).__name__}, whose {type(own).__name__} has random weights: its folder "
            "holds another projector",
            "model",
            f"a MobileVLM{type(model).__name__}",
            "Load the folder that a MobileVLM class saved, with mobilevlm.models.load_model or an "
            "Auto class.",
        )


def _side(config: Any) -> int:
    """Return a side of the images that a model works on, in pixels."""
    vision = getattr(config, "vision_config", config)
    side = getattr(vision, "image_size", None)
    if isinstance(side, Sequence):
        side = max(side)
    patch = getattr(vision, "patch_size", None) or 14
    if isinstance(patch, Sequence):
        patch = max(patch)
    few: int = _SIDE * patch
    return few if side is None else min(side, 2 * few)


def _inputs(processor: Any, sizes: Sequence[Grid]) -> tuple[Any, list[int]]:
    """Return what the processor makes, and the numbers of tokens that may be an image's.

    Some processors count what stands around an image as its own, others do not.
    """
    from PIL import Image

    images = [Image.new("RGB", (w, h)) for h, w in sizes]
    text = processor.image_token * len(sizes)
    inputs = processor(
        images=images,
        text=[text],
        return_tensors="pt",
        return_mm_token_type_ids=True,
    )
    kinds = inputs.pop("mm_token_type_ids", inputs.get("token_type_ids"))
    offsets = processor(images=images, text=[text], return_text_replacement_offsets=True).get(
        "text_replacement_offsets"
    )
    found = [] if kinds is None else [int((kinds == 1).sum())]
    if offsets:
        encoded = [
            processor.tokenizer(each["replacement"], add_special_tokens=False)["input_ids"]
            for each in offsets[0]
        ]
        found.insert(0, sum(map(len, encoded)))
    return inputs, found


def _declared(processor: Any, sizes: Sequence[Grid]) -> int | None:
    """Return what a processor says without an image; None if it does not."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)
    return None if count is None else sum(count([list(size) for size in sizes])["num_image_tokens"])


def _features(model: Any, inputs: Any) -> int:
    """Return how many features a model makes of its images."""
    core: Any = core_of(model)
    taken = {*inspect.signature(type(core).get_image_features).parameters, *_PASSED_ON}
    like = next(p for p in model.parameters() if p.is_floating_point())
    device = home_of(core, like)
    given = {
        key: value.to(device, like.dtype if value.is_floating_point() else None)
        for key, value in inputs.items()
        if key in taken and isinstance(value, Tensor)
    }
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            outputs = core.get_image_features(**given, return_dict=True)
    finally:
        model.train(training)
    features = getattr(outputs, "pooler_output", outputs)
    if isinstance(features, Tensor):
        features = [features]
    return sum(each.numel() // each.shape[-1] for each in features)


def _hint(model: Any) -> str:
    """Say how to get a processor that fits."""
    if not isinstance(model, SwappedModel):
        return "Take the processor of the model's own folder."
    path = slot_path(model, find_host(model.config))
    return (
        f"swap_projector(model, model.get_submodule({path!r}), processor=processor) tells the "
        "model's own processor what the projector makes."
    )
