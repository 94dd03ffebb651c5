"""Layers whose weights a checkpoint does not hold as they are: quantised, or with an adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Hidden", "hidden_layers"]

_TAKE = "Take the unquantised checkpoint."
_OR_TAKE = "Or take the unquantised checkpoint."
_DEQUANTIZE = f"Load the model with transformers, call model.dequantize() and save it. {_OR_TAKE}"
_CONFIG = (
    "Load the model with transformers and quantization_config={}(dequantize=True), and save it. "
    f"{_OR_TAKE}"
)
_MLX = f"Run mlx_vlm.convert with --dequantize. {_OR_TAKE}"
# Names of tensors that a quantised layer has beside its weight or in its place; the format; what
# to do. The first row counts of which a layer has all names.
_FORMATS = (
    (("weight.quant_map",), "bitsandbytes' nf4 or fp4", _DEQUANTIZE),
    (("quant_map",), "bitsandbytes' nf4 or fp4", _DEQUANTIZE),
    (("SCB",), "bitsandbytes' int8", _DEQUANTIZE),
    (("qweight",), "GPTQ or AWQ", _TAKE),
    (("weight_packed",), "compressed-tensors", _CONFIG.format("CompressedTensorsConfig")),
    (("_weight_qdata",), "torchao", f"Call .dequantize() on the model's weights. {_OR_TAKE}"),
    (("weight._data",), "quanto", _TAKE),
    (("codebooks",), "AQLM", _TAKE),
    (("weight_scales",), "EETQ", _TAKE),
    (("W_q",), "HQQ", f"Call .dequantize() on the model's HQQLinear layers. {_OR_TAKE}"),
    (("weight_scale_2",), "ModelOpt's NVFP4", _TAKE),
    (
        ("weight_scale_inv",),
        "fp8 with a scale for each block",
        _CONFIG.format("FineGrainedFP8Config"),
    ),
    (("weight_scale",), "fp8 or int8 with scales", _TAKE),
    (("scales", "biases"), "MLX, affine", _MLX),
    (("scales",), "MLX's mxfp4, mxfp8 or nvfp4", _MLX),
)
_COMPANION = re.compile(
    r"(?:^|(?<=\.))"
    r"(?:weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+|_data|_scale)"
    r"|absmax|quant_map|SCB|weight_format|qweight|qzeros|g_idx|scales|biases|W_q|codes|codebooks"
    r"|weight_(?:packed|shape|scales|scale|scale_inv|scale_2|zero_point|g_idx|global_scale)"
    r"|(?:input|output)_(?:scale|global_scale|zero_point)"
    r"|_weight_(?:qdata|scale|zero_point))\Z"
)
# PEFT's methods keep the layer in base_layer, and name their own tensors after themselves.
_ADAPTER = re.compile(
    r"(?<=\.)(?:base_layer\.|(?:(?:rand|gra|vb|tiny|uni|poly_)?lora|lokr|ia3|b?oft|hada|p?vera|hra"
    r"|hira|lily|miss|shira|road|fourierft|waveft|c3a)_)"
)
_MERGE = (
    "Merge it: load the model and its adapter with PEFT, call merge_and_unload() and save what "
    "that returns."
)


class Hidden(NamedTuple):
    """A layer whose weights a checkpoint does not hold as they are.

    Attributes:
        key: One of its tensors.
        found: What it is.
        hint: One thing to try.
    """

    key: str
    found: str
    hint: str


def hidden_layers(keys: Iterable[str]) -> tuple[list[str], dict[str, Hidden]]:
    """Return the keys that there would be without quantisation and adapters, and what hides them.

    Args:
        keys: The keys of a checkpoint, without wrappers' names.

    Returns:
        The keys of plain layers; and for those of layers that are hidden, what hides them.
    """
    plain: dict[str, None] = {}
    hidden: dict[str, Hidden] = {}
    quantised: dict[str, dict[str, str]] = {}
    for key in keys:
        name = key
        adapter = _ADAPTER.search(name)
        if adapter is not None:
            rest = name[adapter.end() :] if adapter[0] == "base_layer." else "weight"
            name = name[: adapter.start()] + rest
        companion = _COMPANION.search(name)
        if companion is not None:
            layer = name[: companion.start()] + "weight"
            quantised.setdefault(layer, {})[companion[0]] = key
            name = layer
        plain[name] = None
        if adapter is not None:
            hidden.setdefault(name, Hidden(key, "a layer with an adapter beside it", _MERGE))
    for layer, names in quantised.items():
        for needed, what, hint in _FORMATS:
            if all(name in names for name in needed):
                hidden.setdefault(layer, Hidden(names[needed[0]], f"quantised: {what}", hint))
                break
    return [*plain], hidden
