"""Read a vision tower of timm: off a model, with or without weights, or off a ``config.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid
from ..registry import quote
from .model_config import ModelConfig, token_grid

__all__ = ["TimmFacts", "is_timm", "read_timm"]

# timm's ``config.json`` does not say how many class tokens and registers there are, but for these
# the architecture's name does. The first pattern that is found in it counts; None: it does not.
_PREFIX = (
    (r"radio|lingbot|sapiens|naflex|relpos|_rpn", None),
    (r"siglip|aimv2|vitamin|hiera|^samvit|pe_[a-z]+_gigantic", 0),
    (r"dinov3|_reg4_dinov2", 5),
    (r"_reg4_(gap|map)", 4),
    (r"_reg1_(gap|map)", 1),
    (r"_reg\d", None),
    (r"_gap", 0),
    (r"^deit_[a-z]+_distilled", 2),
    (r"^(vit|deit|deit3|beit|beitv2|eva|eva02)_[a-z0-9_]*patch\d+", 1),
)
# How many pixels a token of the last map stands for, where there is no `pool_size`.
_STRIDES = ((r"^fastvit_mci[34]", 64), (r"^(fastvit|convnext|resnet|swin|pvt)", 32))
_BY_HAND = "Give the tower's facts by hand: in_=1024, grid=(24, 24), prefix_tokens=1."
_GIVE_MODEL = f"Give timm's model itself, with or without weights. {_BY_HAND}"


class TimmFacts(NamedTuple):
    """What `Tower` says of a tower of timm."""

    channels: int
    grid: Grid | None
    patch: Grid | None
    prefix_tokens: int


def is_timm(config: ModelConfig) -> bool:
    """Return whether a config, or a model, is timm's."""
    return _is_model(config) or config.get("architecture") is not None


def read_timm(config: ModelConfig) -> TimmFacts:
    """Read what a tower of timm returns from ``forward_features``.

    Raises:
        SpecError: The config does not say what must be known, such as the number of class tokens.
    """
    return _read_model(config) if _is_model(config) else _read_config(config)


def _is_model(config: ModelConfig) -> bool:
    source = config.source
    return not isinstance(source, Mapping) and hasattr(source, "forward_features")


def _read_model(model: ModelConfig) -> TimmFacts:
    source: Any = model.source
    stride = source.feature_info[-1]["reduction"]
    image = getattr(getattr(source, "patch_embed", None), "img_size", None)
    image = image or source.pretrained_cfg["input_size"][-2:]
    if not hasattr(source, "num_prefix_tokens") and getattr(source, "cls_token", None) is not None:
        found = f"{type(source).__name__} does not say where its class token stands"
        raise SpecError(found, model.where, hint=_BY_HAND)
    return TimmFacts(
        channels=model.width("num_features"),
        grid=token_grid(image, (stride, stride), whole=not hasattr(source, "num_prefix_tokens")),
        patch=(stride, stride),
        prefix_tokens=getattr(source, "num_prefix_tokens", 0),
    )


def _read_config(config: ModelConfig) -> TimmFacts:
    name = str(config.get("architecture"))
    # Of timm's file, and of transformers' TimmWrapperConfig, which may have no `pretrained_cfg`.
    args = config.child("model_args") or config
    trained = config.child("pretrained_cfg") or config
    image = _image(args, trained)
    patch = _patch(name, args, trained)
    is_map = trained.get("pool_size") is not None or _first(_STRIDES, name) is not None
    return TimmFacts(
        channels=_channels(name, config, args),
        grid=token_grid(image, patch, whole=is_map) if image and patch else None,
        patch=patch,
        prefix_tokens=0 if is_map else _prefix(name, config, args),
    )


def _channels(name: str, config: ModelConfig, args: ModelConfig) -> int:
    if name.startswith("vit_") and args.get("embed_dim") is not None:
        return args.width("embed_dim")
    if config.get("num_features") is None and config.get("hidden_size") is None:
        raise SpecError(
            "no 'num_features'", config.where, "timm's config.json, which has it", _GIVE_MODEL
        )
    return config.width("num_features", "hidden_size")


def _image(args: ModelConfig, trained: ModelConfig) -> Grid | None:
    """Return the height and width of images, as the model is made for them."""
    if args.get("img_size") is not None:
        return args.sides("img_size")
    if trained.get("input_size") is None:
        return None
    return _input_size(trained)


def _input_size(trained: ModelConfig) -> Grid:
    size = trained.widths("input_size")
    if len(size) != 3:
        raise SpecError(quote(size), f"{trained.where}.input_size", "channels, height and width")
    return size[1], size[2]


def _patch(name: str, args: ModelConfig, trained: ModelConfig) -> Grid | None:
    """Return the pixels of a token: those that the last stage's map leaves, or a patch's."""
    if trained.get("pool_size") is not None and trained.get("input_size") is not None:
        (h, w), (rows, columns) = _input_size(trained), trained.sides("pool_size")
        if rows > h or columns > w:
            found = f"{rows}x{columns} tokens of {h}x{w} pixels"
            raise SpecError(found, f"{trained.where}.pool_size", "fewer tokens than pixels")
        return h // rows, w // columns
    if args.get("patch_size") is not None:
        return args.sides("patch_size")
    stride = _first(_STRIDES, name)
    if stride is None and (match := re.search(r"patch(\d{1,3})", name, re.ASCII)):
        stride = int(match[1])
    return (stride, stride) if stride else None


def _prefix(name: str, config: ModelConfig, args: ModelConfig) -> int:
    """Return how many class tokens and registers there are, by the arguments or by the name."""
    named = _first(_PREFIX, name)
    given, registers = args.get("class_token"), args.get("reg_tokens")
    if given is not None and registers is not None:
        return bool(given) + args.count("reg_tokens")
    if given is not None and named in (0, 1):  # so the name tells of no registers
        return int(bool(given))
    if named is None or given is not None or registers is not None:
        found = f"timm's config does not say how many class tokens {quote(name)} has"
        raise SpecError(found, config.where, hint=_GIVE_MODEL)
    return named


def _first(table: Any, name: str) -> int | None:
    return next((value for pattern, value in table if re.search(pattern, name)), None)
