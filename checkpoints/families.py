"""Which projector a checkpoint holds, recognised by config and by tensors' names and shapes.

A recipe says how a family's tensors are named, and reads widths and options off shapes and config.
Fields that a config leaves out have transformers' defaults, which it does not write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..registry import quote
from .errors import CheckpointError

__all__ = ["RECIPES", "Config", "Found", "Recipe", "Shapes", "inner_config", "recognise"]

Config: TypeAlias = Mapping[str, Any]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Found:
    """What a recipe made of a checkpoint: a preset, its two widths and its options.

    The grid is told where the weights have a row for each of its places.
    """

    preset: str
    in_: int
    out: int
    options: dict[str, Any]
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Recipe:
    """One family's naming.

    Attributes:
        layout: The layout's name, which pairs upstream's tensors with ours.
        root: What the module is called in the models, as a pattern for the end of its path; empty
            where its parts stand at the top.
        signature: Tensors that must stand under the root.
        read: Makes out the preset from the config and the shapes of the tensors under the root.
        model_types: The configs' model types that this recipe is for; none: a naming that says
            enough, such as LLaVA's original, whatever the config says.
        owned: Where, under the root, the projector's tensors are; all else there is not ours.
        alone: Whether names and shapes say it all where there is no config.
        beside: Whether it stands beside the model's main projector, which is meant unless a root
            is given.
    """

    layout: str
    root: str
    signature: tuple[str, ...]
    read: Callable[[Config, Shapes], Found]
    model_types: tuple[str, ...] = ()
    owned: tuple[str, ...] = ("",)
    alone: bool = True
    beside: bool = False


def recognise(config: Config, keys: Iterable[str]) -> list[tuple[Recipe, str]]:
    """Return the recipes that fit, each with the root it fits at, ends with a dot or is empty.

    A config's model type decides which recipes are tried; those without one always are.
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


def _part(config: Config, part: str, field: str, default: Any) -> Any:
    return (config.get(part) or {}).get(field, default)


def inner_config(config: Config) -> Config:
    """Return the config of the vision-language model inside one that is built around it.

    Retrievers, robots and models that also speak keep it whole, model type and all.
    """
    for part in ("vlm_config", "thinker_config"):
        inner = config.get(part)
        if isinstance(inner, Mapping):
            return inner
    return config


def _vision(config: Config, field: str, default: Any) -> Any:
    return _part(config, "vision_config", field, default)


def _text(config: Config, field: str, default: Any) -> Any:
    return _part(config, "text_config", field, default)


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


def _in_blocks(config: Config, field: str = "spatial_merge_size", expected: Any = 2) -> None:
    """Refuse other blocks than 2x2: ``token_order="blocked"`` knows no others."""
    _only(f"vision_config.{field}", _vision(config, field, expected), expected)


def _matrix(shapes: Shapes, key: str) -> tuple[int, int]:
    """Return a weight's two sides, (out, in)."""
    shape = shapes[key]
    if len(shape) != 2:
        raise CheckpointError(f"a tensor of {shape}", key, "two axes (out, in)")
    return shape[0], shape[1]


def _mlp_of(depth: int, shapes: Shapes, first: str, last: str, act: str = "gelu") -> Found:
    bias = any(key.endswith(".bias") for key in shapes)
    options = {"depth": depth, "act": act, "bias": bias}
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


def _modernvbert(config: Config, shapes: Shapes) -> Found:
    out, wide = _matrix(shapes, "modality_projection.weight")
    merge = config.get("pixel_shuffle_factor", 4)
    return Found("idefics3", wide // merge**2, out, {"merge": merge})


def _ultravbert(config: Config, shapes: Shapes) -> Found:
    found = _modernvbert(config, shapes)
    norm = {"norm": "rms", "eps": _text(config, "rms_norm_eps", 1e-6)}
    return replace(found, options={**found.options, **norm})


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


def _qianfan(config: Config, shapes: Shapes) -> Found:
    hidden, wide = _matrix(shapes, "1.weight")
    merge = round(1 / config.get("downsample_ratio", 0.5))
    options = {"merge": merge, "hidden": hidden, "act": _act(config)}
    return Found("internvl", wide // merge**2, _matrix(shapes, "3.weight")[0], options)


def _nemotron_omni(config: Config, shapes: Shapes) -> Found:
    # With these there is one more norm, which the preset has not.
    field = "num_nextn_predict_layers"
    _only(f"text_config.{field}", _text(config, field, 0), 0)
    hidden, wide = _matrix(shapes, "1.weight")
    merge = round(1 / config.get("downsample_ratio", 0.5))
    options = {"merge": merge, "hidden": hidden}
    return Found("nemotron-omni", wide // merge**2, _matrix(shapes, "3.weight")[0], options)


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


def _t5gemma2(config: Config, shapes: Shapes) -> Found:
    return _gemma3(config.get("encoder") or {}, shapes)


def _gemma3n(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "embedding_projection.weight")
    return Found("gemma3n", in_, out, {"eps": _vision(config, "rms_norm_eps", 1e-6)})


def _gemma4(config: Config, shapes: Shapes) -> Found:
    out, in_ = _matrix(shapes, "embed_vision.embedding_projection.weight")
    options = {
        "pool": _vision(config, "pooling_kernel_size", 3),
        "eps": _vision(config, "rms_norm_eps", 1e-6),
        "standardize": "vision_tower.std_bias" in shapes,
    }
    return Found("gemma4", in_, out, options)


def _qwen2(config: Config, shapes: Shapes) -> Found:
    _in_blocks(config)
    in_, (out, _) = shapes["ln_q.weight"][0], _matrix(shapes, "mlp.2.weight")
    norm = "layer" if "ln_q.bias" in shapes else "rms"
    return Found("qwen2-vl", in_, out, {"norm": norm})


def _qwen3(config: Config, shapes: Shapes) -> Found:
    _in_blocks(config)
    hidden, wide = _matrix(shapes, "linear_fc1.weight")
    out, _ = _matrix(shapes, "linear_fc2.weight")
    return Found("qwen2-vl", wide // 4, out, {"hidden": None if hidden == wide else hidden})


def _kimi_k25(last: str) -> Callable[[Config, Shapes], Found]:
    def read(config: Config, shapes: Shapes) -> Found:
        _in_blocks(config, "merge_kernel_size", [2, 2])
        out, wide = _matrix(shapes, f"{last}.weight")
        # The second name is that of the model's own code.
        eps = config.get("projection_layer_norm_eps", _vision(config, "projector_ln_eps", 1e-5))
        return Found("qwen2-vl", wide // 4, out, {"eps": eps})

    return read


def _paddleocr_vl(config: Config, shapes: Shapes) -> Found:
    out, wide = _matrix(shapes, "linear_2.weight")
    merge = _vision(config, "spatial_merge_size", 2)
    return Found("paddleocr-vl", wide // merge**2, out, {"merge": merge})


def _lfm3_vl(config: Config, shapes: Shapes) -> Found:
    _in_blocks(config)
    hidden, wide = _matrix(shapes, "linear_1.weight")
    options = {"hidden": hidden, "act": _act(config), "bias": "linear_1.bias" in shapes}
    return Found("lfm3-vl", wide // 4, _matrix(shapes, "linear_2.weight")[0], options)


def _inkling2(config: Config, shapes: Shapes) -> Found:
    _in_blocks(config)
    hidden, wide = _matrix(shapes, "proj_in.weight")
    act = _named_act(_vision(config, "hidden_act", "gelu"), "vision_config.hidden_act")
    options = {"norm": "none", "hidden": hidden, "act": act, "bias": "proj_in.bias" in shapes}
    return Found("qwen2-vl", wide // 4, _matrix(shapes, "proj_out.weight")[0], options)


# Language models whose norms' eps is 1e-5 if their config does not say; it is 1e-6 in others.
_EPS_1E5 = ("ministral3", "mistral_large4_text")


def _mistral(norm: str, first: str, last: str) -> Callable[[Config, Shapes], Found]:
    def read(config: Config, shapes: Shapes) -> Found:
        _only("projector_hidden_act", _act(config), "gelu")
        kind = _text(config, "model_type", "")
        options = {
            "merge": config.get("spatial_merge_size", 2),
            "eps": _text(config, "rms_norm_eps", 1e-5 if kind in _EPS_1E5 else 1e-6),
            "bias": f"{first}.bias" in shapes,
        }
        out, _ = _matrix(shapes, f"{last}.weight")
        return Found("mistral3", shapes[f"{norm}.weight"][0], out, options)

    return read


def _glm4v(config: Config, shapes: Shapes) -> Found:
    _in_blocks(config)
    _only("vision_config.hidden_act", _vision(config, "hidden_act", "silu"), "silu")
    in_ = shapes["post_layernorm.weight"][0]
    hidden, out = _matrix(shapes, "merger.gate_proj.weight")
    options = {"eps": _vision(config, "rms_norm_eps", 1e-5), "hidden": hidden}
    return Found("glm4v", in_, out, options)


def _glm5_next(config: Config, shapes: Shapes) -> Found:
    found = _glm4v(config, shapes)
    limit = {"limit": _vision(config, "swiglu_limit", 10.0)}
    return replace(found, options={**found.options, **limit})


def _hunyuan_vl(config: Config, shapes: Shapes) -> Found:
    _only("vision_config.hidden_act", _vision(config, "hidden_act", "gelu"), "gelu")
    options = {
        "merge": _vision(config, "spatial_merge_size", 2),
        "eps": _vision(config, "rms_norm_eps", 1e-5),
    }
    out, _ = _matrix(shapes, "mlp.weight")
    return Found("hunyuan-vl", shapes["before_rms.weight"][0], out, options)


def _voxtral(config: Config, shapes: Shapes) -> Found:
    hidden, wide = _matrix(shapes, "linear_1.weight")
    in_ = (config.get("audio_config") or {}).get("hidden_size", 1280)
    options = {
        "frames": wide // in_,
        "hidden": hidden,
        "act": _act(config),
        "bias": "linear_1.bias" in shapes,
    }
    return Found("voxtral", in_, _matrix(shapes, "linear_2.weight")[0], options)


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


def _layers(shapes: Shapes, path: str) -> int:
    """Return how many numbered modules stand at a path."""
    found = (re.match(rf"{re.escape(path)}\.(\d+)\.", key) for key in shapes)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _qwen3_deepstack(config: Config, shapes: Shapes) -> Found:
    return replace(_qwen3(config, shapes), preset="qwen3-vl-deepstack")


def _minicpmv4_6(config: Config, shapes: Shapes) -> Found:
    _only("merge_kernel_size", [*config.get("merge_kernel_size", (2, 2))], [2, 2])
    times = _layers(shapes, "mlp")
    out, _ = _matrix(shapes, f"mlp.{times - 1}.linear_2.weight")
    _, wide = _matrix(shapes, "mlp.0.linear_1.weight")
    return Found("minicpmv4-6", wide // 4, out, {"times": times})


def _granite_docling(config: Config, shapes: Shapes) -> Found:
    merge = _vision(config, "scale_factor", 4)
    out, wide = _matrix(shapes, "coarse.projection.weight")
    return Found("granite-docling", wide // merge**2, out, {"merge": merge})


def _granite_deepstack(path: str) -> Callable[[Config, Shapes], Found]:
    def read(config: Config, shapes: Shapes) -> Found:
        merge = _vision(config, "scale_factor", 4) // (2 if path == "fine" else 1)
        out, wide = _matrix(shapes, "linear_1.weight")
        return Found("internvl", wide // merge**2, out, {"merge": merge})

    return read


def _deepseek_vl(config: Config, shapes: Shapes) -> Found:
    return _mlp_of(2, shapes, "linear1", "linear2")


def _idefics(config: Config, shapes: Shapes) -> Found:
    queries, width = _matrix(shapes, "latents")
    q, _ = _matrix(shapes, "blocks.0.0.q_proj.weight")
    head_dim = _part(config, "perceiver_config", "resampler_head_dim", 96)
    options = {
        "queries": queries,
        "depth": _layers(shapes, "blocks"),
        "heads": q // head_dim,
        "head_dim": head_dim,
        "act": "relu",
        "qk_norm": "blocks.0.0.q_layer_norm.weight" in shapes,
    }
    return Found("flamingo", width, width, options)


def _idefics2(config: Config, shapes: Shapes) -> Found:
    perceiver = "perceiver_config"
    _only("text_config.hidden_act", _text(config, "hidden_act", "silu"), "silu")
    _only(f"{perceiver}.hidden_act", _part(config, perceiver, "hidden_act", "silu"), "silu")
    hidden, in_ = _matrix(shapes, "modality_projection.gate_proj.weight")
    queries, out = _matrix(shapes, "perceiver_resampler.latents")
    first = "perceiver_resampler.layers.0.self_attn"
    head_dim = _part(config, perceiver, "resampler_head_dim", 96)
    eps = _part(config, perceiver, "rms_norm_eps", 1e-6)
    if _part(config, perceiver, "hidden_size", 4096) != out:
        # Then transformers takes the language model's width, and its eps with it.
        eps = _text(config, "rms_norm_eps", 1e-6)
    options = {
        "hidden": hidden,
        "queries": queries,
        "depth": _layers(shapes, "perceiver_resampler.layers"),
        "heads": _matrix(shapes, f"{first}.q_proj.weight")[0] // head_dim,
        "kv_heads": _matrix(shapes, f"{first}.k_proj.weight")[0] // head_dim,
        "head_dim": head_dim,
        "eps": eps,
    }
    return Found("idefics2", in_, out, options)


def _blip2(config: Config, shapes: Shapes) -> Found:
    qformer = "qformer_config"
    _only(f"{qformer}.hidden_act", _part(config, qformer, "hidden_act", "gelu"), "gelu")
    eps = _part(config, qformer, "layer_norm_eps", 1e-12)
    _only(f"{qformer}.layer_norm_eps", eps, 1e-12)
    first = "qformer.encoder.layer.0"
    _, queries, width = shapes["query_tokens"]
    options = {
        "width": width,
        "queries": queries,
        "depth": _layers(shapes, "qformer.encoder.layer"),
        "heads": _part(config, qformer, "num_attention_heads", 12),
        "hidden": _matrix(shapes, f"{first}.intermediate_query.dense.weight")[0],
        "cross_every": _part(config, qformer, "cross_attention_frequency", 2),
    }
    _, in_ = _matrix(shapes, f"{first}.crossattention.attention.key.weight")
    return Found("blip2", in_, _matrix(shapes, "language_projection.weight")[0], options)


def _refused(why: str) -> Callable[[Config, Shapes], Found]:
    """Read nothing: say why a known model's projector cannot be one of ours."""

    def read(config: Config, shapes: Shapes) -> Found:
        raise CheckpointError(
            f"{quote(config.get('model_type'))}, whose {why}",
            "config.json: model_type",
            "a projector of one image's features alone",
            "Run it with the model's own code.",
        )

    return read


def _minicpmv(config: Config, shapes: Shapes) -> Found:
    queries, out = _matrix(shapes, "query")
    in_ = _matrix(shapes, "kv_proj.weight")[1] if "kv_proj.weight" in shapes else out
    places = "keys"
    if "pos_embed" in shapes:  # 2.0 slices images, and computes places for each slice's grid
        places = "both" if "slice_mode" in config else "resized"
    return Found("minicpmv", in_, out, {"queries": queries, "places": places})


def _qwen_vl(config: Config, shapes: Shapes) -> Found:
    queries, out = _matrix(shapes, "attn_pool.query")
    linear = "attn_pool.kv_proj.weight"
    in_ = _matrix(shapes, linear)[1] if linear in shapes else out
    return Found("qwen-vl", in_, out, {"queries": queries})


def _deepseek_vl2(config: Config, shapes: Shapes) -> Found:
    for field, only in (("projector_type", "downsample_mlp_gelu"), ("downsample_ratio", 2)):
        found = _part(config, "projector_config", field, only)
        _only(f"projector_config.{field}", found, only)
    pooling = "token_pooling_layer.weight" in shapes
    depth = sum(re.fullmatch(r"layers\.\d+\.weight", key) is not None for key in shapes)
    inner, wide = _matrix(shapes, "layers.0.weight")
    out, _ = _matrix(shapes, f"layers.{2 * depth - 2}.weight")
    options = {"mode": "pooling" if pooling else "mlp", "depth": depth, "ratio": inner // out}
    return Found("deepseek-vl2", wide if pooling else wide // 4, out, options)


def _nvila(config: Config, shapes: Shapes) -> Found:
    kind = config.get("mm_projector_type")
    turned = kind == "mlp_downsample"  # VILA 1.5, which leaves the tokens column by column
    if not turned:
        _only("mm_projector_type", kind, "mlp_downsample_2x2_fix")
    out, wide = _matrix(shapes, "layers.2.weight")
    return Found("nvila", wide // 4, out, {"transpose": turned})


def _nvila_lite(config: Config, shapes: Shapes) -> Found:
    _only("mm_projector_type", config.get("mm_projector_type"), "mlp_downsample_3x3_fix")
    _, wide = _matrix(shapes, "layers.2.weight")
    return Found("nvila-lite", wide // 9, _matrix(shapes, "layers.7.weight")[0], {})


def _c_abstractor(config: Config, shapes: Shapes) -> Found:
    field = "num_query_tokens"  # which stood outside of the projector's part at first
    queries = _part(config, "projector_config", field, config.get(field))
    if queries is None:
        raise CheckpointError(
            "missing",
            f"config.json: projector_config.{field}",
            "the number of tokens that come out of the pool",
            "No tensor tells it: write it into a config.json beside the weights.",
        )
    hidden, in_, *_ = shapes["net.0.b1.conv1.conv.weight"]
    depth, linear = (
        sum(re.fullmatch(pattern, key) is not None for key in shapes)
        for pattern in (r"net\.0\.b\d+\.conv1\.conv\.weight", r"readout\.\d+\.weight")
    )
    rows = shapes["pos_emb"][1] if "pos_emb" in shapes else 0
    side = math.isqrt(rows)
    options = {
        "queries": queries,
        "hidden": hidden,
        "depth": depth,
        "mlp_depth": linear,
        "position": rows > 0,
        "end": shapes["eos_tokens"][1] if "eos_tokens" in shapes else 0,
        "prefix_tokens": int(rows != side**2),  # an older table has a row for the CLS token
    }
    out, _ = _matrix(shapes, f"readout.{2 * linear - 2}.weight")
    return Found("c-abstractor", in_, out, options, (side, side) if rows else None)


def _open_flamingo(config: Config, shapes: Shapes) -> Found:
    queries, width = _matrix(shapes, "latents")
    q, _ = _matrix(shapes, "layers.0.0.to_q.weight")
    # No config is saved along; its heads are always 64 wide.
    options = {"queries": queries, "depth": _layers(shapes, "layers"), "heads": q // 64}
    return Found("flamingo", width, width, options)


_MM = "mm_projector|vision_projector"
_HF = "multi_modal_projector"
_TWO = ("linear_1.weight", "linear_2.weight")
_VILA = ("v2l_projector", "vila")

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "llava",
        _HF,
        _TWO,
        _llava,
        (
            *("llava", "llava_next", "llava_next_video", "llava_onevision", "video_llava"),
            *("fast_vlm", "audioflamingo3", "musicflamingo"),
        ),
    ),
    Recipe(
        "mlp",
        r"projector\.readout",
        ("0.weight", "2.weight"),
        _original_mlp,
        ("video_llama_3",),
        alone=False,
    ),
    Recipe("vipllava", _HF, ("projector_layernorm.weight", *_TWO), _vipllava, ("vipllava",)),
    Recipe("paligemma", _HF, ("linear.weight",), _paligemma, ("paligemma", "qwen2_audio")),
    Recipe(
        "linear",
        rf"{_HF}|vit_large_projector|projector\.layers",
        ("weight",),
        _original_linear,
        ("mllama", "step3p7", "deepseek_ocr2", "unlimited_ocr"),
        alone=False,
    ),
    Recipe("janus", "aligner", ("fc1.weight",), _janus, ("janus",)),
    Recipe(
        "idefics3",
        "connector",
        ("modality_projection.proj.weight",),
        _idefics3,
        ("idefics3", "smolvlm"),
        alone=False,
    ),
    Recipe(
        "modernvbert",
        "connector",
        ("modality_projection.weight",),
        _modernvbert,
        ("modernvbert",),
        alone=False,
    ),
    Recipe(
        "ultravbert",
        "connector",
        ("modality_projection.weight", "norm.weight"),
        _ultravbert,
        ("ultravbert",),
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
    *(
        Recipe(
            "internvl-chat",
            "mlp1",
            ("0.weight", "1.weight", "3.weight"),
            read,
            (model_type,),
            alone=False,
        )
        for read, model_type in ((_qianfan, "qianfan_ocr"), (_nemotron_omni, "nemotron_h_omni"))
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
    Recipe(
        "gemma3",
        _HF,
        ("mm_input_projection_weight",),
        _gemma3,
        ("gemma3", "shieldgemma2"),
        alone=False,
    ),
    Recipe("gemma3", _HF, ("mm_input_projection_weight",), _t5gemma2, ("t5gemma2",), alone=False),
    Recipe(
        "gemma3n",
        "embed_vision",
        ("embedding_projection.weight", "soft_embedding_norm.weight"),
        _gemma3n,
        ("gemma3n",),
        ("embedding_projection.", "soft_embedding_norm."),
        alone=False,
    ),
    Recipe(
        "gemma4-model",
        "model|encoder",
        ("embed_vision.embedding_projection.weight",),
        _gemma4,
        ("gemma4", "diffusion_gemma", "embedding_gemma2"),
        ("embed_vision.embedding_projection.", "vision_tower.std_"),
        alone=False,
    ),
    Recipe(
        "qwen2-vl",
        r"merger|vision_encoder\.adapter",
        ("ln_q.weight", "mlp.0.weight"),
        _qwen2,
        (
            *("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
            *("exaone4_5", "dots3_note"),
        ),
    ),
    Recipe(
        "qwen3-vl",
        "merger|projector",
        ("norm.weight", "linear_fc1.weight", "linear_fc2.weight"),
        _qwen3,
        (
            *("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp"),
            *("cohere_compass", "cosmos3_edge", "cosmos3_omni"),
        ),
    ),
    Recipe(
        "kimi-k25-original",
        "mm_projector",
        ("pre_norm.weight", "proj.0.weight", "proj.2.weight"),
        _kimi_k25("proj.2"),
        ("kimi_k25",),
        alone=False,
    ),
    # Transformers 5.23 saves the norm under another root than the rest.
    Recipe(
        "kimi-k25-saved",
        "",
        ("mm_projector.proj.2.weight", "model.mm_projector.pre_norm.weight"),
        _kimi_k25("mm_projector.proj.2"),
        ("kimi_k25",),
        ("mm_projector.proj.", "model.mm_projector.pre_norm."),
        alone=False,
    ),
    Recipe(
        "paddleocr-vl",
        "projector|mlp_AR",
        ("pre_norm.weight", *_TWO),
        _paddleocr_vl,
        ("paddleocr_vl",),
    ),
    Recipe("lfm3-vl", _HF, ("layer_norm.weight", *_TWO), _lfm3_vl, ("lfm3_vl",), alone=False),
    Recipe(
        "inkling2",
        "visual",
        ("proj_in.weight", "proj_out.weight"),
        _inkling2,
        ("inkling2",),
        ("proj_in.", "proj_out."),
        alone=False,
    ),
    Recipe(
        "mistral3",
        f"{_HF}|vision_projection",
        ("patch_merger.merging_layer.weight", "norm.weight", *_TWO),
        _mistral("norm", "linear_1", "linear_2"),
        ("mistral3", "lighton_ocr"),
        alone=False,
    ),
    Recipe(
        "mistral-large4",
        "",
        ("patch_merger.merging_layer.weight", "pre_mm_projector_norm.weight"),
        _mistral(
            "pre_mm_projector_norm", "vision_language_adapter.w_in", "vision_language_adapter.w_out"
        ),
        ("mistral_large4",),
        ("patch_merger.", "pre_mm_projector_norm.", "vision_language_adapter."),
        alone=False,
    ),
    *(
        Recipe(
            "glm4v",
            "visual",
            ("merger.proj.weight", "post_layernorm.weight", "downsample.weight"),
            read,
            model_types,
            ("merger.", "post_layernorm.", "downsample."),
            alone=False,
        )
        for read, model_types in (
            (_glm4v, ("glm4v", "glm4v_moe", "glm46v", "glmga", "glm_ocr")),
            (_glm5_next, ("glm5_next",)),
        )
    ),
    *(
        Recipe(
            layout,
            "patch_merger|perceive",
            (f"{conv}.weight", "before_rms.weight", "image_newline"),
            _hunyuan_vl,
            ("hunyuan_vl",),
            # All but its image_sep, which is of no use.
            (
                *("before_rms.", "proj", "image_newline", "mlp."),
                *("image_begin", "image_end", "after_rms."),
            ),
            alone=False,
        )
        for layout, conv in (("hunyuan-vl", "proj_conv"), ("hunyuan-vl-original", "proj.0"))
    ),
    Recipe("aya-vision", _HF, _TWO, _aya, ("aya_vision", "cohere2_vision"), alone=False),
    Recipe("got-ocr2", _HF, ("conv_upsampler1.weight",), _got, ("got_ocr2", "pp_chart2table")),
    Recipe("llava", _HF, _TWO, _perception, ("perception_lm",), alone=False),
    Recipe(
        "qwen3-vl",
        r"deepstack_merger_list\.\d+",
        ("norm.weight", "linear_fc1.weight", "linear_fc2.weight"),
        _qwen3_deepstack,
        ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
        beside=True,
    ),
    Recipe(
        "minicpmv4-6",
        "merger",
        ("mlp.0.pre_norm.weight", "mlp.0.linear_1.weight"),
        _minicpmv4_6,
        ("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"),
    ),
    Recipe(
        "granite-docling",
        "connector",
        ("ln_in.weight", "coarse.projection.weight"),
        _granite_docling,
        ("granite_docling",),
        ("ln_in.", "coarse.projection.", "ln_mid.", "mlp_fc2.", "ln_out."),
        alone=False,
    ),
    *(
        Recipe(
            "internvl",
            rf"{path}\.deepstack_mergers\.\d+",
            ("layer_norm.weight", *_TWO),
            _granite_deepstack(path),
            ("granite_docling",),
            alone=False,
            beside=True,
        )
        for path in ("coarse", "fine")
    ),
    Recipe(
        "deepseek-vl",
        "aligner",
        ("linear1.weight", "linear2.weight"),
        _deepseek_vl,
        ("deepseek_vl",),
        alone=False,
    ),
    Recipe(
        "deepseek-vl",
        "aligner",
        ("high_res_vision_proj.weight",),
        _refused("aligner joins the features of two towers"),
        ("deepseek_vl_hybrid",),
        alone=False,
    ),
    Recipe(
        "idefics",
        "perceiver_resampler",
        ("latents", "blocks.0.0.q_proj.weight"),
        _idefics,
        ("idefics",),
        alone=False,
    ),
    Recipe(
        "idefics2",
        "connector",
        ("modality_projection.gate_proj.weight", "perceiver_resampler.latents"),
        _idefics2,
        ("idefics2",),
        alone=False,
    ),
    Recipe(
        "blip2",
        "model",
        ("query_tokens", "qformer.layernorm.weight", "language_projection.weight"),
        _blip2,
        ("blip-2",),
        ("query_tokens", "qformer.", "language_projection."),
        alone=False,
    ),
    Recipe(
        "blip2",
        "model",
        ("query_tokens", "qformer.embeddings.layernorm.weight"),
        _refused("Q-Former reads the instruction too"),
        ("instructblip", "instructblipvideo"),
        alone=False,
    ),
    # Models that bring their own code.
    Recipe(
        "minicpmv",
        "resampler",
        ("query", "ln_kv.weight", "proj"),
        _minicpmv,
        ("minicpmv", "minicpmo"),
        alone=False,
    ),
    Recipe(
        "qwen-vl",
        "visual",
        ("attn_pool.query", "ln_post.weight", "proj"),
        _qwen_vl,
        ("qwen",),
        ("attn_pool.", "ln_post.", "proj"),
    ),
    Recipe(
        "deepseek-vl2",
        "projector",
        ("layers.0.weight",),
        _deepseek_vl2,
        ("deepseek_vl_v2",),
        alone=False,
    ),
    Recipe(
        "mlp",
        r"aligner\.layers",
        ("0.weight",),
        _original_mlp,
        ("multi_modality",),
        alone=False,
    ),
    *(
        Recipe(name, _MM, ("layers.1.weight", last), read, _VILA, alone=False)
        for name, last, read in (
            ("nvila", "layers.4.weight", _nvila),
            ("nvila-lite", "layers.7.weight", _nvila_lite),
        )
    ),
    Recipe("mlp", "layers", ("0.weight",), _original_mlp, _VILA, alone=False),
    # Namings that say enough.
    Recipe(
        "c-abstractor",
        f"{_MM}|abstractor|projector",
        ("net.0.b1.conv1.conv.weight", "readout.0.weight"),
        _c_abstractor,
    ),
    Recipe(
        "open-flamingo",
        "perceiver",
        ("latents", "layers.0.0.to_kv.weight"),
        _open_flamingo,
    ),
    Recipe("llava", _HF, _TWO, _voxtral, ("voxtral", "voxtral_realtime", "glmasr"), alone=False),
    # LLaVA's and MobileVLM's own files.
    Recipe("ldpnet", f"{_MM}|model", ("mlp.1.weight", "mb_block.1.block.0.0.weight"), _ldpnet),
    Recipe("ldpnetv2", _MM, ("mlp.mlp.0.weight", "peg.peg.0.weight"), _ldpnetv2),
    Recipe("mlp-res", _MM, ("0.weight", "3.pre_norm.weight"), _mlp_res),
    Recipe("mlp", _MM, ("0.weight", "2.weight"), _original_mlp),
    Recipe("linear", _MM, ("weight",), _original_linear),
)
