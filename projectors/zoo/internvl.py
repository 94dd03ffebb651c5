"""InternVL's projector and its variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.core.feature import Width
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset
from ..stack import Stack
from ..upstream import (
    Config,
    Match,
    Shapes,
    Upstream,
    matrix,
    only,
    projector_act,
    setting,
    with_norm,
)

__all__ = ["InternVL"]


def _read(config: Config, shapes: Shapes) -> Match:
    hidden, wide = matrix(shapes, "linear_1.weight")
    merge = config.get("downsample_factor") or _merge(config)
    options = {
        "merge": merge,
        "norm": "layer" if "layer_norm.weight" in shapes else "none",
        "hidden": hidden,
        "act": projector_act(config),
        "bias": "linear_1.bias" in shapes,
    }
    return Match(wide // merge**2, matrix(shapes, "linear_2.weight")[0], options)


def _merge(config: Config) -> int:
    merge: int = round(1 / setting(config, "downsample_ratio", 0.5))
    return merge


def _read_sequential(config: Config, shapes: Shapes, preset: str = "", **options: Any) -> Match:
    hidden, wide = matrix(shapes, "1.weight")
    merge = _merge(config)
    options = {"merge": merge, "hidden": hidden, **options}
    return Match(wide // merge**2, matrix(shapes, "3.weight")[0], options, preset=preset)


def _read_internvl_chat(config: Config, shapes: Shapes) -> Match:
    first_version = setting(config, "ps_version", "v1") == "v1"
    return _read_sequential(config, shapes, transpose=first_version)


def _read_qianfan_ocr(config: Config, shapes: Shapes) -> Match:
    return _read_sequential(config, shapes, act=projector_act(config))


def _read_nemotron_omni(config: Config, shapes: Shapes) -> Match:
    only(config, "text_config.num_nextn_predict_layers", 0)  # each adds a norm
    return _read_sequential(config, shapes, "nemotron-omni")


def _read_nvila(config: Config, shapes: Shapes) -> Match:
    # VILA 1.5's, which leaves the tokens column by column.
    transpose = config.get("mm_projector_type") == "mlp_downsample"
    if not transpose:
        only(config, "mm_projector_type", "mlp_downsample_2x2_fix", default=None)
    out, wide = matrix(shapes, "layers.2.weight")
    return Match(wide // 4, out, {"transpose": transpose}, preset="nvila")


def _read_deepstack(part: int) -> Callable[[Config, Shapes], Match]:
    """Granite-Docling's mergers; those of its fine path merge `part` times less each way."""

    def read(config: Config, shapes: Shapes) -> Match:
        merge = setting(config, "vision_config.scale_factor", 4) // part
        out, wide = matrix(shapes, "linear_1.weight")
        return Match(wide // merge**2, out, {"merge": merge})

    return read


_NAMES = with_norm("layer_norm", "linear_1", "linear_2")


class InternVL(Preset):
    """``merge 2x2 (hwc) > norm > Linear > act > Linear``; a quarter of the tokens comes out.

    Used by InternVL 2 to 3.5, QianfanOCR and, with options, NVILA, LFM2-VL and Nemotron-Omni; NVILA
    pads odd sides, LFM2-VL has an inner width of its own and its norm is optional, Nemotron-Omni
    has an RMS norm whose weight multiplies in fp32, squared ReLU and no biases.

    Source: huggingface/transformers, ``models/internvl/modeling_internvl.py``
    (`InternVLModel.pixel_shuffle`, `InternVLMultiModalProjector`).

    Traps: the CLS token is dropped before (``prefix_tokens=1``); InternVL's first version and
    VILA before NVILA order the merged tokens column by column (``transpose``).

    Attributes:
        merge: The side of the merged windows.
        odd: What to do with odd sides: ``refuse``, or ``pad`` with zeros.
        transpose: Order the merged tokens column by column.
        norm: ``layer``, ``rms`` or ``none``.
        eps: Of the norm.
        hidden: The inner width.
        act: The activation.
        bias: Whether the linear layers have biases.
    """

    merge: Annotated[int, Field(ge=1, le=16)] = 2
    odd: Literal["refuse", "pad"] = "refuse"
    transpose: bool = False
    norm: Literal["layer", "rms", "none"] = "layer"
    eps: float = 1e-5
    hidden: Width = "out"
    act: Act = "gelu"
    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        merge = PatchMerge(size=(self.merge, self.merge), odd=self.odd, transpose=self.transpose)
        norms: tuple[Block, ...] = ()
        if self.norm != "none":
            cast: Literal["before", "after"] = "after" if self.norm == "rms" else "before"
            norms = (NormAct(norm=self.norm, eps=self.eps, cast=cast, act="none"),)
        return Stack(
            in_=in_,
            out=out,
            blocks=(
                merge,
                *norms,
                Pointwise(out=self.hidden, bias=self.bias),
                NormAct(norm="none", act=self.act),
                Pointwise(bias=self.bias),
            ),
        )

    aliases: ClassVar[Aliases] = {
        "lfm2-vl": {},
        "nemotron-omni": {"norm": "rms", "act": "relu2", "bias": False},
        "nvila": {"odd": "pad"},
    }
    upstream = (
        Upstream(
            "internvl",
            _NAMES,
            prefix="multi_modal_projector",
            tensors=("linear_1.weight", "linear_2.weight"),
            read=_read,
            model_types=("internvl", "lfm2_vl"),
        ),
        Upstream(
            "internvl-chat",
            ("0", "1", "3"),
            prefix="mlp1",
            tensors=("0.weight", "1.weight", "3.weight"),
            read=_read_internvl_chat,
            model_types=("internvl_chat",),
        ),
        Upstream(
            "internvl-chat",
            ("0", "1", "3"),
            prefix="mlp1",
            tensors=("0.weight", "1.weight", "3.weight"),
            read=_read_qianfan_ocr,
            model_types=("qianfan_ocr",),
        ),
        Upstream(
            "internvl-chat",
            ("0", "1", "3"),
            prefix="mlp1",
            tensors=("0.weight", "1.weight", "3.weight"),
            read=_read_nemotron_omni,
            model_types=("nemotron_h_omni",),
        ),
        Upstream(
            "nvila",
            ("layers.1", "layers.2", "layers.4"),
            prefix="mm_projector|vision_projector",
            tensors=("layers.1.weight", "layers.4.weight"),
            read=_read_nvila,
            model_types=("v2l_projector", "vila"),
        ),
        Upstream(
            "internvl",
            _NAMES,
            prefix=r"coarse\.deepstack_mergers\.\d+",
            tensors=("layer_norm.weight", "linear_1.weight", "linear_2.weight"),
            read=_read_deepstack(1),
            model_types=("granite_docling",),
            secondary=True,
        ),
        Upstream(
            "internvl",
            _NAMES,
            prefix=r"fine\.deepstack_mergers\.\d+",
            tensors=("layer_norm.weight", "linear_1.weight", "linear_2.weight"),
            read=_read_deepstack(2),
            model_types=("granite_docling",),
            secondary=True,
        ),
    )
