"""Read off a config what a projector must know of a vision tower and of a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import MAX_SIDE, MAX_WIDTH, Grid
from ..registry import did_you_mean, quote
from .model_config import ModelConfig, open_config, token_grid
from .preset import token_order
from .stack import TokenOrder
from .timm_config import is_timm, read_timm
from .tower_families import HOSTS, LM_WIDTHS, TOWERS, Host, TowerFamily

__all__ = ["TEXT_KEYS", "VISION_KEYS", "Tower", "read_tower", "read_width"]

# Where whole models keep the config of their tower and of their language model.
VISION_KEYS = ("vision_config", "vision_tower_config")
TEXT_KEYS = ("text_config", "llm_config", "language_config")
_BY_HAND = "Give the tower's facts by hand: in_=1024, grid=(24, 24), prefix_tokens=1."
# In the order in which they say how wide an embedding is: OPT's may be narrower than its layers.
_WIDTHS = ("word_embed_proj_dim", "hidden_size", "n_embd", "d_model", "n_embed")


@dataclass(frozen=True, kw_only=True)
class Tower:
    """The feature of one image, or of one tile, that a vision tower gives to a projector.

    Of a vision model alone it is ``last_hidden_state``: tokens ``(b, n, c)`` with
    ``n = prefix_tokens + h * w``, packed tokens ``(n, c)`` of images of any size, or a map
    ``(b, c, h, w)``. Of a whole vision-language model it is what its own projector is built for,
    *before* anything that joins tokens, be it in the projector or in front of it (InternVL's and
    Idefics3's shuffle, Qwen's merge, the pooling of Gemma 3): the levels that it selects, joined on
    channels, without the tokens that it drops itself.

    Attributes:
        channels: The width c.
        grid: How many patches there are in height and width; None if images have any size.
        patch: The height and width in pixels of what one token stands for.
        prefix_tokens: How many class tokens and registers stand before the patches.
        token_order: The order of the patches, as in a `Stack`. Qwen 2.5's tower works in windows;
            the order is that of its tokens once they are back in their places.
    """

    channels: int
    grid: Grid | None
    patch: Grid | None
    prefix_tokens: int = 0
    token_order: TokenOrder = "raster"

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MAX_WIDTH:
            raise SpecError(f"{self.channels} channels", "tower", f"1 to {MAX_WIDTH}")
        if self.grid is not None and not all(1 <= side <= MAX_SIDE for side in self.grid):
            raise SpecError(f"a grid of {self.grid}", "tower", f"sides from 1 to {MAX_SIDE}")


def read_tower(config: object) -> Tower:
    """Read what a vision tower gives to a projector. Neither weights nor a library are needed.

    >>> read_tower({"model_type": "clip_vision_model", "hidden_size": 1024, "patch_size": 14})
    Tower(channels=1024, grid=(16, 16), patch=(14, 14), prefix_tokens=1, token_order='raster')

    Args:
        config: The config of a vision model or of a whole vision-language model of transformers,
            as an object or a mapping; a model that has it as ``config``; the path of a model's
            folder or of its ``config.json``; timm's ``config.json``; a model of timm; or a `Tower`.

    Raises:
        SpecError: It cannot be read, or does not say what must be known.
    """
    if isinstance(config, Tower):
        return config
    return _read(open_config(config, "tower"))


def read_width(config: object) -> int:
    """Read how wide a language model's embeddings are, which a projector's output must be.

    >>> read_width({"model_type": "llava", "text_config": {"model_type": "llama"}})
    4096

    Args:
        config: The config of a language model, or of a whole vision-language model of transformers,
            as an object or a mapping; a model that has it as ``config``; or the path of a model's
            folder or of its ``config.json``.

    Raises:
        SpecError: It cannot be read, or does not say.
    """
    lm = open_config(config, "lm")
    lm = lm.child(*TEXT_KEYS) or lm
    default = LM_WIDTHS.get(lm.model_type)
    if default and all(lm.get(key) is None for key in _WIDTHS):
        return default
    return lm.width(*_WIDTHS)


def _read(config: ModelConfig, default: str = "") -> Tower:
    """Read a tower, of a model type of transformers if its config names no known one."""
    vision = config.child(*VISION_KEYS)
    if vision is not None:
        return _read_host(config, vision)
    if is_timm(config):
        return Tower(**read_timm(config)._asdict())
    family = TOWERS.get(config.model_type) or TOWERS.get(default)
    if family is None:
        raise _unknown(config)
    return _read_family(config.with_defaults(family.defaults), family)


def _read_family(config: ModelConfig, family: TowerFamily) -> Tower:
    patch = family.patch(config)
    grid = None
    if not family.free:
        grid = token_grid(config.sides("image_size"), patch, whole=family.staged)
    merge = config.width("spatial_merge_size") if family.packed else 1
    return Tower(
        channels=family.channels(config),
        grid=grid,
        patch=patch,
        prefix_tokens=family.prefix + config.count("num_register_tokens"),
        token_order=token_order("blocked", merge),
    )


def _read_host(config: ModelConfig, vision: ModelConfig) -> Tower:
    """Read the tower of a whole model, and what the model takes of it."""
    host = HOSTS.get(config.model_type, Host(""))
    # Old files leave out the tower's model type, or write the whole model's.
    tower = _read(vision, host.tower if vision.model_type in ("", config.model_type) else "")
    if _drops_first(config, host):
        if not tower.prefix_tokens:
            raise SpecError(
                "the first token is dropped, and the tower has neither class token nor register",
                config.where,
                hint="Set vision_feature_select_strategy to 'full', or give the tower's own config"
                " and what its features lack by hand.",
            )
        tower = replace(tower, prefix_tokens=tower.prefix_tokens - 1)
    layer = config.get("vision_feature_layer")
    layer = host.layer if layer is None else layer
    levels = len(layer) if isinstance(layer, list | tuple) else 1
    grid = None if host.free else tower.grid
    return replace(tower, channels=tower.channels * levels, grid=grid)


def _drops_first(config: ModelConfig, host: Host) -> bool:
    """Return whether a model drops the first token of what its tower returns."""
    if (uses := config.get("vision_use_cls_token")) is not None:  # PerceptionLM's word for it
        return bool(uses)
    own = None if host.always else config.get("vision_feature_select_strategy")
    return (own or host.select) == "default"


def _unknown(config: ModelConfig) -> SpecError:
    kind = config.model_type
    if not kind:
        found = "no 'model_type', 'vision_config' or 'architecture'"
        expected = "the config of a vision model"
        return SpecError(found, config.where, expected, _BY_HAND)
    near = did_you_mean(kind, TOWERS)
    if isinstance(name := config.get("mm_vision_tower"), str):  # LLaVA's and MobileVLM's own format
        near = f"Its tower is {quote(name)}: give that model's folder."
    hint = f"{near} {_BY_HAND}".strip()
    return SpecError(
        f"model type {quote(kind)} is no vision model that is known", config.where, hint=hint
    )
