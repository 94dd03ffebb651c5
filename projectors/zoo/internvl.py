"""InternVL's projector and its variants."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.core.feature import Width
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream, with_norm

__all__ = ["InternVL"]


def _read(ckpt: Checkpoint) -> Match:
    hidden, wide = ckpt.matrix("linear_1.weight")
    merge = ckpt.option("merge", "downsample_factor", None) or _merge(ckpt)
    options = {
        "merge": merge,
        "norm": "layer" if "layer_norm.weight" in ckpt.shapes else "none",
        "hidden": hidden,
        "act": ckpt.act(),
        "bias": "linear_1.bias" in ckpt.shapes,
    }
    return Match(wide // merge**2, ckpt.matrix("linear_2.weight")[0], options)


def _merge(ckpt: Checkpoint) -> int:
    if "merge" in ckpt.given:
        return int(ckpt.given["merge"])
    merge: int = round(1 / ckpt.setting("downsample_ratio", 0.5))
    return merge


def _read_chat(ckpt: Checkpoint) -> Match:
    hidden, wide = ckpt.matrix("1.weight")
    merge, preset = _merge(ckpt), ""
    options: dict[str, Any] = {"merge": merge, "hidden": hidden}
    match ckpt.config["model_type"]:
        case "internvl_chat":
            options["transpose"] = ckpt.setting("ps_version", "v1") == "v1"
        case "qianfan_ocr":
            options["act"] = ckpt.act()
        case "nemotron_h_omni":
            ckpt.only("text_config.num_nextn_predict_layers", 0)  # each adds a norm
            preset = "nemotron-omni"
    return Match(wide // merge**2, ckpt.matrix("3.weight")[0], options, preset=preset)


def _read_nvila(ckpt: Checkpoint) -> Match:
    # VILA 1.5's, which leaves the tokens column by column.
    transpose = ckpt.config.get("mm_projector_type") == "mlp_downsample"
    if not transpose:
        ckpt.only("mm_projector_type", "mlp_downsample_2x2_fix", default=None)
    out, wide = ckpt.matrix("layers.2.weight")
    return Match(wide // 4, out, {"transpose": transpose}, preset="nvila")


def _read_deepstack(ckpt: Checkpoint) -> Match:
    # Granite-Docling's mergers; those of its fine path merge half as much.
    fine = "fine.deepstack" in ckpt.root
    merge = ckpt.setting("vision_config.scale_factor", 4) // (2 if fine else 1)
    out, wide = ckpt.matrix("linear_1.weight")
    return Match(wide // merge**2, out, {"merge": merge})


def _read_dots3_note_audio(ckpt: Checkpoint) -> Match:
    hidden, in_ = ckpt.matrix("proj.1.weight")
    return Match(in_, ckpt.matrix("proj.3.weight")[0], {"merge": 1, "hidden": hidden})


_NAMES = with_norm("layer_norm", "linear_1", "linear_2")


_NEMOTRON = {"norm": "rms", "act": "relu2", "bias": False}


class InternVL(Preset):
    """``merge 2x2 (hwc) > norm > Linear > act > Linear``; a quarter of the tokens comes out.

    Used by InternVL 2 to 3.5, QianfanOCR and, with options, NVILA, LFM2-VL and Nemotron-Omni; NVILA
    pads odd sides, LFM2-VL has an inner width of its own and its norm is optional, Nemotron-Omni
    has an RMS norm whose weight multiplies in fp32, squared ReLU and no biases.

    Source: huggingface/transformers, ``models/internvl/modeling_internvl.py``
    (`InternVLModel.pixel_shuffle`, `InternVLMultiModalProjector`); Chen et al., "How Far Are We to
    GPT-4V?", 2024.

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

    merge: UpTo16 = 2
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
        blocks = (
            merge,
            *norms,
            Pointwise(out=self.hidden, bias=self.bias),
            NormAct(norm="none", act=self.act),
            Pointwise(bias=self.bias),
        )
        return Stack(in_=in_, out=out, blocks=blocks)

    aliases: ClassVar[Aliases] = {
        "lfm2-vl": {},
        "mlp_downsample": {"odd": "pad", "transpose": True},
        "mlp_downsample_2x2_fix": {"odd": "pad"},
        "nemotron-omni": _NEMOTRON,
        "nvila": {"odd": "pad"},
        "InternVLMultiModalProjector": {},
        "Lfm2VlMultiModalProjector": {},
        "NemotronH_Omni_Reasoning_V3MultiModalProjector": _NEMOTRON,
        "QianfanOCRMultiModalProjector": {},
    }
    models: ClassVar[Aliases] = {
        "InternVL1.5": {},
        "InternVL2": {},
        "InternVL2.5": {},
        "InternVL3": {},
        "InternVL3.5": {},
        "LFM2-VL": {},
        "NVILA": {"odd": "pad"},
        "Nemotron-Omni": _NEMOTRON,
        "QianfanOCR": {},
        "VILA1.5": {"odd": "pad", "transpose": True},
    }
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
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
            read=_read_chat,
            model_types=("internvl_chat", "qianfan_ocr", "nemotron_h_omni"),
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
            prefix=r"(?:coarse|fine)\.deepstack_mergers\.\d+",
            tensors=("layer_norm.weight", "linear_1.weight", "linear_2.weight"),
            read=_read_deepstack,
            model_types=("granite_docling",),
            secondary=True,
        ),
        Upstream(
            "dots3-note-audio",
            ("proj.0", "proj.1", "proj.3"),
            prefix="audio_adapter",
            read=_read_dots3_note_audio,
            secondary=True,
            needs_prefix=True,
        ),
    )
