"""A CLIP or SigLIP vision tower to include in a GGUF file, with llama.cpp's tensor names."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor

from ..checkpoints.save import DOCUMENT
from ..checkpoints.weights import JSON, Weights
from ..registry import quote
from .errors import ExportError

__all__ = ["VisionTower", "read_vision_tower"]

_PATCH = "embeddings.patch_embedding.weight"
_NAMES = {
    "embeddings.class_embedding": "v.class_embd",
    "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.position_embedding": "v.position_embd",
    "pre_layrnorm": "v.pre_ln",  # transformers' spelling
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_KEY = re.compile(r"(?:encoder\.layers\.(\d+)\.)?(.+?)(\.weight|\.bias)?")
_ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu", "quick_gelu": "quick-gelu"}
# transformers' defaults for fields that a config may omit, and for the images' normalisation.
_CLIP = {
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIGLIP = {
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@dataclass(frozen=True)
class VisionTower:
    """A vision tower.

    Attributes:
        weights: The file or folder of its tensors.
        names: GGUF tensor name to checkpoint key.
        width: The channels of its features.
        hidden: The hidden width of its feed-forward layers.
        heads: The number of attention heads.
        layers: The number of layers to write: one more than needed, if there is one, because
            older versions of llama.cpp leave out the last one.
        feature_layer: The number of layers before the features.
        image: The image's side in pixels.
        patch: A patch's side in pixels.
        eps: The eps of its LayerNorms.
        gelu: Whether its activation is GELU; otherwise quick GELU.
        mean: The mean of each colour channel, subtracted from the pixels.
        std: The standard deviation of each colour channel.
        class_token: Whether a token of no patch comes first, which llama.cpp drops.
        notes: What the model's config says and the file does not.
    """

    weights: Weights
    names: Mapping[str, str]
    width: int
    hidden: int
    heads: int
    layers: int
    feature_layer: int
    image: int
    patch: int
    eps: float
    gelu: bool
    mean: list[float]
    std: list[float]
    class_token: bool
    notes: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        """The side of its token grid."""
        return self.image // self.patch

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors one by one."""
        for name, key in self.names.items():
            [(_, tensor)] = self.weights.read([key])
            yield name, tensor


def read_vision_tower(folder: str | os.PathLike[str]) -> VisionTower:
    """Read the vision tower in a folder of its own, or in a whole LLaVA-like model's.

    The features are those of the layer that the config names (``vision_feature_layer`` or
    ``mm_vision_select_layer``), or else of the layer that its model takes by default: the
    second-to-last one in LLaVA and MobileVLM.

    Raises:
        CheckpointError: The weights cannot be read.
        ExportError: The folder has no tower, or one that llama.cpp does not support.
    """
    weights = Weights(folder)
    roots = [key.removesuffix(_PATCH) for key in weights.keys if key.endswith(_PATCH)]
    where = str(weights.path)
    if len(roots) != 1:
        found = f"{len(roots)} tensors named {_PATCH}"
        raise ExportError(found, where, "the folder of a CLIP or SigLIP vision tower")
    [root] = roots
    keys = [key.removeprefix(root) for key in weights.keys if key.startswith(root)]

    def sizes(key: str, *wanted: int | None) -> list[int]:
        name = f"{where}[{quote(root + key)}]"
        if key not in keys:
            raise ExportError("missing", name, "a CLIP or SigLIP tower")
        found = weights.stored(root + key).shape
        if len(found) != len(wanted) or any(
            side < 1 or want not in (None, side) for side, want in zip(found, wanted, strict=True)
        ):
            said = ", ".join("n" if want is None else str(want) for want in wanted)
            raise ExportError(f"shape {quote(found)}", name, f"({said})")
        return [side for side, want in zip(found, wanted, strict=True) if want is None]

    width, patch, _ = sizes(_PATCH, None, 3, None, None)
    sizes(_PATCH, width, 3, patch, patch)
    [hidden] = sizes("encoder.layers.0.mlp.fc1.weight", None, width)
    [tokens] = sizes("embeddings.position_embedding.weight", None, width)
    clip = "embeddings.class_embedding" in keys
    side = math.isqrt(tokens - clip)
    if not side or side * side != tokens - clip:
        raise ExportError(f"{tokens} positions", where, "a square grid, as llama.cpp requires")
    if hidden == width:
        # llama.cpp tells the two layers apart by their widths, and would swap them.
        found = f"feed-forward layers of width {hidden}"
        raise ExportError(found, where, f"a width other than the tower's {width}")
    count = _layers(keys, where)
    model = weights.config
    own = model.get("vision_config")
    if own is not None and not isinstance(own, dict):
        raise ExportError(quote(own), f"{where}: vision_config", "a JSON object")
    config = {**(_CLIP if clip else _SIGLIP), **_preprocessor(weights), **(own or model)}
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    if type(heads) is not int or heads < 1 or width % heads:
        divisor = f"a divisor of {width}, the tower's width"
        raise ExportError(quote(heads), f"{where}: num_attention_heads", divisor)
    if not _is_number(eps) or not 0 < eps < 1:
        raise ExportError(quote(eps), f"{where}: layer_norm_eps", "a number between 0 and 1")
    act = config["hidden_act"]
    if not isinstance(act, str) or act not in _ACTS:
        raise ExportError(quote(act), f"{where}: hidden_act", f"one of {', '.join(_ACTS)}")
    notes = [*_check_class_token(model, clip, where)]
    if any(key.rpartition(".")[2] == "image_newline" for key in weights.keys):
        notes.append(
            "the model also gets an image in tiles, each row with its image_newline at the end; "
            "this file has none, so llama.cpp gives it the whole image alone"
        )
    layer = _feature_layer(model, count, where)
    layers = min(layer + 1, count)
    return VisionTower(
        weights=weights,
        names={name: root + key for key in keys if (name := _gguf_name(key, layers)) is not None},
        width=width,
        hidden=hidden,
        heads=heads,
        layers=layers,
        feature_layer=layer,
        image=side * patch,
        patch=patch,
        eps=eps,
        gelu=_ACTS[act] == "gelu",
        mean=_channels(config, "image_mean", where),
        std=_channels(config, "image_std", where),
        class_token=clip,
        notes=tuple(notes),
    )


# What a model does with the first token of its tower: by transformers, whose default depends on the
# model, and by LLaVA's own code.
_STRATEGY, _FEATURE = "vision_feature_select_strategy", "mm_vision_select_feature"
_DROPS = {
    _STRATEGY: {"default": True, "full": False},
    _FEATURE: {"patch": True, "cls_patch": False},
}
_DROPPING = ("llava", "llava_next", "llava_next_video", "video_llava", "vipllava")


def _check_class_token(model: Mapping[str, Any], clip: bool, where: str) -> Iterator[str]:
    """Refuse a model that does not drop the class token, or drops a patch where there is none.

    llama.cpp drops the first token if the tower has a class token, and none otherwise.

    Yields:
        What a user should know.
    """
    implied = {_STRATEGY: "default"} if model.get("model_type") in _DROPPING else {}
    said = {name: model[name] for name in _DROPS if name in model} or implied
    for name, value in said.items():
        rules = _DROPS[name]
        if not isinstance(value, str) or value not in rules:
            expected = " or ".join(map(repr, rules))
            raise ExportError(quote(value), f"{where}: {name}", expected)
        right = next(repr(rule) for rule, drops in rules.items() if drops == clip)
        if clip and not rules[value]:
            hint = "llama.cpp always drops the CLS token."
            raise ExportError(quote(value), f"{where}: {name}", right, hint)
        if rules[value] and not clip:
            if name == _FEATURE:  # where code for such towers does not look at it
                yield f"{name} is {value!r}, but the tower has no class token: no token is dropped"
                continue
            found = quote(value) + ("" if name in model else ", by default")
            raise ExportError(
                f"{found}, of a tower without a class token",
                f"{where}: {name}",
                right,
                "transformers would drop a patch, and llama.cpp drops none. If the model was "
                f"trained on all patches, write {right} in its config.json.",
            )


def _gguf_name(key: str, layers: int) -> str | None:
    """Return a tensor's name in GGUF; None if llama.cpp does not need it, such as the last norm."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    number, module, leaf = match.groups()
    name = _NAMES.get(module)
    if name is None or (number is None) != name.startswith("v.") or int(number or 0) >= layers:
        return None
    return f"{name if number is None else f'v.blk.{number}.{name}'}{leaf or ''}"


# The layer that transformers takes where a config names none, by the type of a whole model.
_LAYERS = {
    **dict.fromkeys(("llava", "llava_next", "llava_next_video", "video_llava"), -2),
    **dict.fromkeys(("llava_onevision", "aya_vision"), -1),
}


def _feature_layer(config: Mapping[str, Any], count: int, where: str) -> int:
    """Return the number of layers before the features."""
    names = ("vision_feature_layer", "mm_vision_select_layer")
    field = next((name for name in names if name in config), names[0])
    layer = config[field] if field in config else _default_layer(config, f"{where}: {field}")
    passed = layer if type(layer) is not int or layer >= 0 else count + 1 + layer
    if type(passed) is not int or not 1 <= passed <= count:
        raise ExportError(quote(layer), f"{where}: {field}", f"one of the tower's {count} layers")
    return passed


def _default_layer(config: Mapping[str, Any], where: str) -> int:
    """Return the layer that is taken where none is named: in LLaVA's own code, the last but one."""
    kind = config.get("model_type")
    if "vision_config" not in config or not isinstance(kind, str):
        return -2
    kind = kind.removeprefix(f"{DOCUMENT}-")  # of a model whose projector was swapped
    if kind not in _LAYERS:
        raise ExportError(
            f"none, in a model of type {quote(kind)}",
            where,
            f"one, or a model of type {', '.join(_LAYERS)}",
            "Others may take what the tower's last norm makes, which llama.cpp leaves out here. "
            "If this one does not, write its layer in its config.json.",
        )
    return _LAYERS[kind]


def _layers(keys: Sequence[str], where: str) -> int:
    """Return the number of layers; they must be numbered from 0."""
    matches = (_KEY.fullmatch(key) for key in keys)
    numbers = {match[1] for match in matches if match and match[1]}
    # As text, because a number may have more digits than Python parses.
    missing = next(number for number in map(str, range(len(numbers) + 1)) if number not in numbers)
    if int(missing) < len(numbers):
        found = f"{len(numbers)} layers, but none with the number {missing}"
        raise ExportError(found, where, "layers numbered from 0 without gaps")
    return len(numbers)


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float) and abs(value) < math.inf  # type: ignore[arg-type]


def _channels(config: Mapping[str, Any], field: str, where: str) -> list[float]:
    """Return a field with one number per colour channel."""
    value = config[field]
    least, expected = -math.inf, "three numbers"
    if field == "image_std":
        least, expected = 0, "three numbers above 0"
    valid = isinstance(value, list) and all(_is_number(x) and least < x < 1e6 for x in value)
    if not valid or len(value) != 3:
        raise ExportError(quote(value), f"{where}: {field}", expected)
    return [float(each) for each in value]


def _preprocessor(weights: Weights) -> dict[str, Any]:
    """Read how images are normalised, if the folder has that file."""
    path = weights.path / "preprocessor_config.json"
    found = JSON.read(path) if os.path.exists(path) else {}
    return {field: found[field] for field in ("image_mean", "image_std") if field in found}
