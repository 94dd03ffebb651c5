"""Which projector a checkpoint holds, recognised by config and by tensors' names and shapes.

A recipe says how a family's tensors are named, and reads widths and options off shapes and config.
Fields that a config leaves out have transformers' defaults, which it does not write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..registry import quote
from .errors import CheckpointError

__all__ = ["RECIPES", "Config", "Found", "Recipe", "Shapes", "recognise"]

Config: TypeAlias = Mapping[str, Any]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Found:
    """What a recipe made of a checkpoint: a preset, its options and its two widths."""

    preset: str
    in_: int
    out: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One family's naming.

    Attributes:
        layout: The layout's name, which pairs upstream's tensors with ours.
        root: What the module is called in the models, as a pattern for the end of its path.
        signature: Tensors that must stand under the root.
        read: Makes out the preset from the config and the shapes of the tensors under the root.
        model_types: The configs' model types that this recipe is for; none: LLaVA's original
            naming, whatever the config says.
        owned: Where, under the root, the projector's tensors are; all else there is not ours.
        alone: Whether names and shapes say it all where there is no config.
    """

    layout: str
    root: str
    signature: tuple[str, ...]
    read: Callable[[Config, Shapes], Found]
    model_types: tuple[str, ...] = ()
    owned: tuple[str, ...] = ("",)
    alone: bool = True


def recognise(config: Config, keys: Iterable[str]) -> list[tuple[Recipe, str]]:
    """Return the recipes that fit, each with the root it fits at, ends with a dot or is empty.

    A config's model type decides which recipes are tried; LLaVA's original naming always is.
    """
    keys = list(keys)
    known = set(keys)
    model_type = config.get("model_type")
    fits: list[tuple[Recipe, str]] = []
    for recipe in RECIPES:
        if recipe.model_types and not (
            recipe.alone if model_type is None else model_type in recipe.model_types
        ):
            continue
        pattern = re.compile(rf"(?:.*\.)?(?:{recipe.root})\.")
        first = recipe.signature[0]
        for key in keys:
            if key != first and not key.endswith(f".{first}"):
                continue
            root = key.removesuffix(first)
            if root and not pattern.fullmatch(root):
                continue
            if all(root + part in known for part in recipe.signature):
                fits.append((recipe, root))
    return fits


def _vision(config: Config, field: str, default: Any) -> Any:
    return (config.get("vision_config") or {}).get(field, default)


def _text(config: Config, field: str, default: Any) -> Any:
    return (config.get("text_config") or {}).get(field, default)


# Activations by transformers' names.
_ACTS = {
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "quick-gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}


def _act(config: Config) -> str:
    return _named_act(config.get("projector_hidden_act", "gelu"), "projector_hidden_act")


def _named_act(name: Any, field: str) -> str:
    if not isinstance(name, str) or name not in _ACTS:
        raise CheckpointError(quote(name), f"config.json: {field}", f"one of {', '.join(_ACTS)}")
    return _ACTS[name]


def _only(field: str, value: Any, expected: Any) -> None:
    """Refuse a setting that upstream has and the preset has not."""
    if value != expected:
        raise CheckpointError(
            quote(value),
            f"config.json: {field}",
            quote(expected),
            "Write the projector as a document and load its weights yourself.",
        )


def _matrix(shapes: Shapes, key: str) -> tuple[int, int]:
    """Return a weight's two sides, (out, in)."""
    shape = shapes[key]
    if len(shape) != 2:
        raise CheckpointError(f"a tensor of {shape}", key, "two axes (out, in)")
    return shape[0], shape[1]


def _mlp_of(depth: int, shapes: Shapes, first: str, last: str, act: str = "gelu") -> Found:
    options = {"depth": depth, "act": act, "bias": f"{first}.bias" in shapes}
    in_ = _matrix(shapes, f"{first}.weight")[1]
    return Found("mlp", in_, _matrix(shapes, f"{last}.weight")[0], options)


def _llava(config: Config, shapes: Shapes) -> Found:
    return _mlp_of(2, shapes, "linear_1", "linear_2", _act(config))


def _janus(config: Config, shapes: Shapes) -> Found:
    depth = sum(key.endswith(".weight") for key in shapes)
    last = f"hidden_layers.{depth - 2}" if depth > 1 else "fc1"
    act = _vision(config, "hidden_act", "gelu")
    return _mlp_of(depth, shapes, "fc1", last, _named_act(act, "vision_config.hidden_act"))


def _original_mlp(config: Config, shapes: Shapes) -> Found:
    layers = sorted(int(key.split(".")[0]) for key in shapes if key.endswith("weight"))
    return _mlp_of(len(layers), shapes, "0", str(layers[-1]))


def _original_linear(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "weight")
    return Found("linear", in_, out, {"bias": "bias" in shapes})


def _mlp_res(config: Config, shapes: Shapes) -> Found:
    depth = sum(re.fullmatch(r"\d+\.weight", key) is not None for key in shapes)
    residuals = sum(key.endswith("pre_norm.weight") for key in shapes)
    out, in_ = _matrix(shapes, "0.weight")
    return Found("mlp-res", in_, out, {"depth": depth, "residuals": residuals})


def _paligemma(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "linear.weight")
    return Found("linear", in_, out, {"bias": "linear.bias" in shapes})


def _vipllava(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "linear_1.weight")
    _only("projector_hidden_act", _act(config), "gelu")
    return Found("vipllava", in_, out, {"eps": config.get("projector_layernorm_eps", 1e-5)})


def _idefics3(config: Config, shapes: Shapes) -> Found:
    out, wide = _matrix(shapes, "modality_projection.proj.weight")
    merge = config.get("scale_factor", 2)
    return Found("idefics3", wide // merge**2, out, {"merge": merge})


def _internvl(config: Config, shapes: Shapes) -> Found:
    hidden, wide = _matrix(shapes, "linear_1.weight")
    merge = config.get("downsample_factor") or round(1 / config.get("downsample_ratio", 0.5))
    norm = "layer" if "layer_norm.weight" in shapes else "none"
    out, _ = _matrix(shapes, "linear_2.weight")
    options = {"merge": merge, "norm": norm, "hidden": hidden, "act": _act(config)}
    return Found("internvl", wide // merge**2, out, {**options, "bias": "linear_1.bias" in shapes})


def _internvl_chat(config: Config, shapes: Shapes) -> Found:
    hidden, wide = _matrix(shapes, "1.weight")
    merge = round(1 / config.get("downsample_ratio", 0.5))
    first = config.get("ps_version", "v1") == "v1"
    options = {"merge": merge, "hidden": hidden, "transpose": first}
    return Found("internvl", wide // merge**2, _matrix(shapes, "3.weight")[0], options)


def _llama4(config: Config, shapes: Shapes) -> Found:
    hidden, wide = _matrix(shapes, "vision_model.vision_adapter.mlp.fc1.weight")
    out, _ = _matrix(shapes, "multi_modal_projector.linear_1.weight")
    ratio = _vision(config, "pixel_shuffle_ratio", 0.5)
    _only("vision_config.pixel_shuffle_ratio", ratio, 0.5)
    return Found("llama4", wide // 4, out, {"hidden": hidden})


def _gemma3(config: Config, shapes: Shapes) -> Found:
    in_, out = _matrix(shapes, "mm_input_projection_weight")
    side = _vision(config, "image_size", 224) // _vision(config, "patch_size", 16)
    tokens = round(config.get("mm_tokens_per_image", 256) ** 0.5)
    eps = _vision(config, "layer_norm_eps", 1e-6)
    return Found("gemma3", in_, out, {"pool": side // tokens, "eps": eps})


def _qwen2(config: Config, shapes: Shapes) -> Found:
    in_, (out, _) = shapes["ln_q.weight"][0], _matrix(shapes, "mlp.2.weight")
    norm = "layer" if "ln_q.bias" in shapes else "rms"
    merge = _vision(config, "spatial_merge_size", 2)
    return Found("qwen2-vl", in_, out, {"norm": norm, "merge": merge})


def _qwen3(config: Config, shapes: Shapes) -> Found:
    _, wide = _matrix(shapes, "linear_fc1.weight")
    out, _ = _matrix(shapes, "linear_fc2.weight")
    merge = _vision(config, "spatial_merge_size", 2)
    return Found("qwen2-vl", wide // merge**2, out, {"merge": merge})


def _mistral3(config: Config, shapes: Shapes) -> Found:
    _only("projector_hidden_act", _act(config), "gelu")
    in_, (out, _) = shapes["norm.weight"][0], _matrix(shapes, "linear_2.weight")
    options = {
        "merge": config.get("spatial_merge_size", 2),
        "eps": _text(config, "rms_norm_eps", 1e-6),
        "bias": "linear_1.bias" in shapes,
    }
    return Found("mistral3", in_, out, options)


def _aya(config: Config, shapes: Shapes) -> Found:
    hidden, wide = _matrix(shapes, "linear_1.weight")
    merge = config.get("downsample_factor", 2)
    options = {"merge": merge, "hidden": hidden, "norm": "layernorm.weight" in shapes}
    if options["norm"]:
        _only("adapter_layer_norm_eps", config.get("adapter_layer_norm_eps", 1e-6), 1e-6)
    return Found("aya-vision", wide // merge**2, _matrix(shapes, "linear_2.weight")[0], options)


def _got(config: Config, shapes: Shapes) -> Found:
    in_ = shapes["conv_upsampler1.weight"][1]
    return Found("got-ocr2", in_, _matrix(shapes, "multimodal_projector.weight")[0], {})


def _perception(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "linear_1.weight")
    return Found("perception-lm", in_, out, {"ratio": config.get("projector_pooling_ratio", 1)})


def _ldpnet(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "mlp.1.weight")
    return Found("ldpnet", in_, out, {})


def _ldpnetv2(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "mlp.mlp.0.weight")
    return Found("ldpnetv2", in_, out, {})


_MM = "mm_projector|vision_projector"
_HF = "multi_modal_projector"
_TWO = ("linear_1.weight", "linear_2.weight")

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "llava",
        _HF,
        _TWO,
        _llava,
        ("llava", "llava_next", "llava_next_video", "llava_onevision", "video_llava"),
    ),
    Recipe("vipllava", _HF, ("projector_layernorm.weight", *_TWO), _vipllava, ("vipllava",)),
    Recipe("paligemma", _HF, ("linear.weight",), _paligemma, ("paligemma",)),
    Recipe("janus", "aligner", ("fc1.weight",), _janus, ("janus",)),
    Recipe(
        "idefics3",
        "connector",
        ("modality_projection.proj.weight",),
        _idefics3,
        ("idefics3", "smolvlm"),
        alone=False,
    ),
    Recipe("internvl", _HF, _TWO, _internvl, ("internvl", "lfm2_vl"), alone=False),
    Recipe(
        "internvl-chat",
        "mlp1",
        ("0.weight", "1.weight", "3.weight"),
        _internvl_chat,
        ("internvl_chat",),
        alone=False,
    ),
    Recipe(
        "llama4-model",
        "model",
        (
            "vision_model.vision_adapter.mlp.fc1.weight",
            "multi_modal_projector.linear_1.weight",
        ),
        _llama4,
        ("llama4",),
        ("vision_model.vision_adapter.", "multi_modal_projector."),
        alone=False,
    ),
    Recipe("gemma3", _HF, ("mm_input_projection_weight",), _gemma3, ("gemma3",), alone=False),
    Recipe(
        "qwen2-vl", "merger", ("ln_q.weight", "mlp.0.weight"), _qwen2, ("qwen2_vl", "qwen2_5_vl")
    ),
    Recipe(
        "qwen3-vl",
        "merger",
        ("norm.weight", "linear_fc1.weight", "linear_fc2.weight"),
        _qwen3,
        ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
    ),
    Recipe(
        "mistral3",
        _HF,
        ("patch_merger.merging_layer.weight", "norm.weight", *_TWO),
        _mistral3,
        ("mistral3",),
        alone=False,
    ),
    Recipe("aya-vision", _HF, _TWO, _aya, ("aya_vision", "cohere2_vision"), alone=False),
    Recipe("got-ocr2", _HF, ("conv_upsampler1.weight",), _got, ("got_ocr2",)),
    Recipe("llava", _HF, _TWO, _perception, ("perception_lm",), alone=False),
    # LLaVA's and MobileVLM's own files.
    Recipe("ldpnet", f"{_MM}|model", ("mlp.1.weight", "mb_block.1.block.0.0.weight"), _ldpnet),
    Recipe("ldpnetv2", _MM, ("mlp.mlp.0.weight", "peg.peg.0.weight"), _ldpnetv2),
    Recipe("mlp-res", _MM, ("0.weight", "3.pre_norm.weight"), _mlp_res),
    Recipe("mlp", _MM, ("0.weight", "2.weight"), _original_mlp),
    Recipe("linear", _MM, ("weight",), _original_linear),
)
