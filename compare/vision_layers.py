"""What vision towers hold, read off a config: plain ones, SAM's and ConvNeXt's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Grid
from ..projectors.model_config import ModelConfig
from ..registry import quote
from .parts import Flag, Part, flag, linear, norm
from .parts import gated as gated_mlp

__all__ = [
    "Count",
    "Vit",
    "Work",
    "attention_pool",
    "convnext",
    "gated",
    "inner_width",
    "map_head",
    "pooler",
    "sam",
    "swiglu",
    "two",
    "windows",
]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The parameters of a tower, and its multiply-accumulates for one image."""

    parameters: int = 0
    macs: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(parameters=self.parameters + other.parameters, macs=self.macs + other.macs)


Count = Callable[[ModelConfig, Grid], Work]


def on(tokens: int, part: Part) -> Work:
    """Return what a part costs that works on so many tokens."""
    return Work(parameters=part.parameters, macs=part.macs * tokens)


def width_of(config: ModelConfig) -> int:
    return config.width("embed_dim", "hidden_size")


def channels(config: ModelConfig) -> int:
    """Return how many channels images have; BLIP's config does not say it."""
    keys = ("num_channels", "in_channels")
    return 3 if all(config.get(key) is None for key in keys) else config.width(*keys)


def inner_width(config: ModelConfig) -> int:
    """Return the width inside of an MLP."""
    if config.get("intermediate_size") is not None:
        return config.width("intermediate_size")
    return int(width_of(config) * config.ratio("mlp_ratio"))


# ---------------------------------------------------------------------------- MLPs


def two(config: ModelConfig) -> Part:
    """An MLP of two layers with biases."""
    width, inner = width_of(config), inner_width(config)
    return linear(width, inner, True) + linear(inner, width, True)


def two_by_ratio(config: ModelConfig) -> Part:
    """An MLP as `two`, whose width inside is a multiple of the layer's; by default four times."""
    width = width_of(config)
    inner = 4 * width if config.get("mlp_ratio") is None else int(width * config.ratio("mlp_ratio"))
    return linear(width, inner, True) + linear(inner, width, True)


def gated(bias: Flag) -> Callable[[ModelConfig], Part]:
    """Return an MLP of three layers: gate, up and down."""
    return lambda config: gated_mlp(width_of(config), inner_width(config), flag(config, bias))


def swiglu(config: ModelConfig) -> Part:
    """DINOv2's MLP, which is gated in the largest one."""
    if not config.get("use_swiglu_ffn"):
        return two_by_ratio(config)
    inner = int(int(width_of(config) * config.ratio("mlp_ratio")) * 2 / 3)
    return gated_mlp(width_of(config), -(-inner // 8) * 8, True)


# ---------------------------------------------------------------------------- heads


def pooler(config: ModelConfig, tokens: int) -> Work:
    """A layer that the class token passes."""
    out = config.width("pooler_output_size", "hidden_size")
    return on(1, linear(width_of(config), out, True))


def attention_pool(config: ModelConfig, tokens: int) -> Work:
    """AIMv2's: a learned query reads all tokens."""
    if not config.get("use_head"):
        return Work()
    width, bias = width_of(config), config.get("qkv_bias")
    work = on(tokens, linear(width, width, bias) * 2) + on(1, linear(width, width, True))
    return work + Work(parameters=width, macs=2 * width * tokens)


def map_head(config: ModelConfig, tokens: int) -> Work:
    """SigLIP's: a learned query reads all tokens, and passes an MLP."""
    if config.get("vision_use_head") is False:
        return Work()
    width = width_of(config)
    work = on(tokens, linear(width, width, True) * 2) + on(1, linear(width, width, True) * 2)
    work += on(1, two(config) + norm(width, True))
    return work + Work(parameters=width, macs=2 * width * tokens)


def nothing(config: ModelConfig, tokens: int) -> Work:
    return Work()


# ---------------------------------------------------------------------------- towers


def all_pairs(config: ModelConfig, index: int, grid: Grid, tokens: int) -> int:
    return tokens * tokens


def windows(config: ModelConfig, index: int, grid: Grid, tokens: int) -> int:
    """Qwen 2.5's: all tokens meet in a few layers, else only those of a window."""
    if index in config.items("fullatt_block_indexes"):
        return tokens * tokens
    merge, (patch, _) = config.width("spatial_merge_size"), config.sides("patch_size")
    side = max(1, config.width("window_size") // merge // patch) * merge
    rows, columns = ((n // side) * side**2 + (n % side) ** 2 for n in grid)
    return rows * columns


def grid_places(config: ModelConfig) -> int:
    """Return how many patches the config's own image has, each with a learned position."""
    (h, w), (down, right) = config.sides("image_size"), config.sides("patch_size")
    return (h // down) * (w // right)


def no_part(config: ModelConfig) -> Part:
    return Part()


@dataclass(frozen=True, kw_only=True)
class Vit:
    """A plain vision transformer: one width, every layer the same.

    Attributes:
        classes: How many class tokens there are, with positions of their own.
        patch_bias: Whether the patches' projection has a bias.
        frames: Whether it takes each image as ``temporal_patch_size`` frames.
        places: Returns how many learned positions there are, without those of class tokens.
        positions: Whether there are such.
        norms: How many norms stand around the layers.
        norm_bias: Whether norms have a bias.
        qkv: Whether queries, keys and values have a bias.
        key: Whether keys have one as the others do, or by a key of their own.
        out: Whether attention's output has one.
        qk_norm: Whether queries and keys are normalised, over all heads and without a bias.
        mlp: The layers' MLP.
        scales: Whether each branch of a layer is scaled by channel.
        inside: Returns what else each layer has.
        outside: Returns what else stands around the layers.
        pairs: Returns how many pairs of tokens meet in a layer.
        head: Returns what pools the tokens at the end, on which transformers spends work too.
    """

    classes: int = 0
    patch_bias: bool = True
    frames: bool = False
    places: Callable[[ModelConfig], int] = grid_places
    positions: Flag = True
    norms: int = 1
    norm_bias: bool = True
    qkv: Flag = True
    key: Flag = True
    out: Flag = True
    qk_norm: Flag = False
    mlp: Callable[[ModelConfig], Part] = two
    scales: Flag = False
    inside: Callable[[ModelConfig], Part] = no_part
    outside: Callable[[ModelConfig], Part] = no_part
    pairs: Callable[[ModelConfig, int, Grid, int], int] = all_pairs
    head: Callable[[ModelConfig, int], Work] = nothing

    def __call__(self, config: ModelConfig, grid: Grid) -> Work:
        """Return what the tower costs on a grid of patches."""
        width = width_of(config)
        tokens = self.classes + config.count("num_register_tokens") + prod(grid)
        pixels = prod(config.sides("patch_size")) * channels(config)
        if self.frames:
            pixels *= config.width("temporal_patch_size")
        outside = norm(width, self.norm_bias) * self.norms + self.outside(config)
        outside += norm(width) * (tokens - prod(grid))
        if flag(config, self.positions):
            outside += norm(width) * (self.places(config) + self.classes)
        work = on(prod(grid), linear(pixels, width, self.patch_bias)) + on(0, outside)
        layer = self._layer(config)
        for index in range(config.count("num_hidden_layers", "depth")):
            pairs = self.pairs(config, index, grid, tokens)
            work += on(tokens, layer) + Work(macs=2 * width * pairs)
        return work + self.head(config, tokens)

    def _layer(self, config: ModelConfig) -> Part:
        width, biased = width_of(config), flag(config, self.qkv)
        layer = linear(width, width, biased) * 2
        layer += linear(width, width, biased and flag(config, self.key))
        layer += linear(width, width, flag(config, self.out))
        if flag(config, self.qk_norm):
            layer += norm(width) * 2
        if flag(config, self.scales):
            layer += norm(width) * 2
        layer += norm(width, self.norm_bias) * 2
        return layer + self.mlp(config) + self.inside(config)


def sam(config: ModelConfig, grid: Grid) -> Work:
    """Segment Anything's: windows, padded at the border, and relative positions in them."""
    width, heads = width_of(config), config.width("num_attention_heads")
    pixels = prod(config.sides("patch_size")) * channels(config)
    work = on(prod(grid), linear(pixels, width, True))
    own = grid_places(config)
    if config.get("use_abs_pos"):
        work += Work(parameters=own * width)
    if config.get("mlp_dim") is None:
        inner = int(width * config.ratio("mlp_ratio"))
    else:
        inner = config.width("mlp_dim")
    mlp = linear(width, inner, True) + linear(inner, width, True) + norm(width, True) * 2
    mix = linear(width, 3 * width, config.get("qkv_bias")) + linear(width, width, True)
    everywhere = config.items("global_attn_indexes")
    (image, _), (patch, _) = config.sides("image_size"), config.sides("patch_size")
    for index in range(config.count("num_hidden_layers")):
        side = 0 if index in everywhere else config.count("window_size")
        h, w = (side, side) if side else grid
        many = -(-grid[0] // h) * -(-grid[1] // w)
        work += on(many * h * w, mix) + on(prod(grid), mlp)
        work += Work(macs=many * 2 * width * (h * w) ** 2)
        if config.get("use_rel_pos"):
            rows = 2 * (2 * (side or image // patch) - 1)
            macs = many * h * w * (h + w) * width
            work += Work(parameters=rows * (width // heads), macs=macs)
    out = config.width("output_channels")
    neck = linear(width, out) + linear(9 * out, out) + norm(out, True) * 2
    return work + on(prod(grid), neck)


def convnext(
    config: ModelConfig, grid: Grid, *, scaled: bool = True, response: bool = False
) -> Work:
    """ConvNeXt: stages of convolutions, each with half of the grid of the one before.

    Args:
        config: The tower's config.
        grid: The grid of the last stage.
        scaled: Whether each layer is scaled by channel.
        response: Whether each layer has the global response norm of ConvNeXt V2.
    """
    config = config.completed({"hidden_sizes": (96, 192, 384, 768), "depths": (3, 3, 9, 3)})
    widths, depths = config.widths("hidden_sizes"), config.widths("depths")
    if len(widths) != len(depths):
        raise SpecError(quote(depths), f"{config.where}.depths", f"{len(widths)} numbers")
    patch = 4 if config.get("patch_size") is None else config.width("patch_size")
    before, work = channels(config), Work()
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        step = 2 if stage else patch
        tokens = prod(grid) * 4 ** (len(widths) - 1 - stage)
        work += on(tokens, linear(before * step * step, width, True))
        work += Work(parameters=2 * (before if stage else width))
        layer = linear(49, width, True) + norm(width, True)
        layer += linear(width, 4 * width, True) + linear(4 * width, width, True)
        if scaled and config.get("layer_scale_init_value"):
            layer += norm(width)
        if response:
            layer += norm(4 * width, True)
        work += on(tokens, layer * depth)
        before = width
    return work + Work(parameters=2 * before)
