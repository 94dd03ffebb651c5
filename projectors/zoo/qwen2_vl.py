"""The patch merger of the Qwen-VL models and of models that adopted it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Channels, Preset, TokensBy, UpTo16, token_order
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Qwen2VL"]


def _merge(ckpt: Checkpoint) -> int:
    merge: int = ckpt.option("merge", "vision_config.spatial_merge_size", 2)
    return merge


def _read(ckpt: Checkpoint) -> Match:
    options = {"norm": "layer" if "ln_q.bias" in ckpt.shapes else "rms", "merge": _merge(ckpt)}
    return Match(ckpt.shapes["ln_q.weight"][0], ckpt.matrix("mlp.2.weight")[0], options)


def _read_qwen3_vl(ckpt: Checkpoint) -> Match:
    merge, (hidden, wide) = _merge(ckpt), ckpt.matrix("linear_fc1.weight")
    options = {"hidden": None if hidden == wide else hidden, "merge": merge}
    return Match(wide // merge**2, ckpt.matrix("linear_fc2.weight")[0], options)


def _read_deepstack(ckpt: Checkpoint) -> Match:
    return replace(_read_qwen3_vl(ckpt), preset="qwen3-vl-deepstack")


def _read_merger_list(ckpt: Checkpoint) -> Match:
    # Wide, unlike the main merger's: it normalises what is merged.
    merge, (wide,) = _merge(ckpt), ckpt.shapes["ln_q.weight"]
    options = {"norm": "layer" if "ln_q.bias" in ckpt.shapes else "rms", "merge": merge}
    out, _ = ckpt.matrix("mlp.2.weight")
    return Match(wide // merge**2, out, options, preset="qwen3-vl-deepstack")


def _read_kimi_k25(ckpt: Checkpoint) -> Match:
    if "merge" in ckpt.given:
        merge = ckpt.given["merge"]
    else:
        merge, other = ckpt.setting("vision_config.merge_kernel_size", [2, 2])
        ckpt.only("vision_config.merge_kernel_size", [merge, merge], [merge, other])
    [last] = [key for key in ckpt.shapes if key.endswith("proj.2.weight")]
    out, wide = ckpt.matrix(last)
    # The second name is that of the model's own code.
    eps = ckpt.setting("vision_config.projector_ln_eps", 1e-5)
    eps = ckpt.config.get("projection_layer_norm_eps", eps)
    return Match(wide // merge**2, out, {"eps": eps, "merge": merge})


def _read_paddleocr_vl(ckpt: Checkpoint) -> Match:
    merge, (out, wide) = _merge(ckpt), ckpt.matrix("linear_2.weight")
    return Match(wide // merge**2, out, {"merge": merge}, preset="paddleocr-vl")


def _read_lfm3_vl(ckpt: Checkpoint) -> Match:
    merge, (hidden, wide) = _merge(ckpt), ckpt.matrix("linear_1.weight")
    bias = "linear_1.bias" in ckpt.shapes
    options = {"merge": merge, "hidden": hidden, "act": ckpt.act(), "bias": bias}
    return Match(wide // merge**2, ckpt.matrix("linear_2.weight")[0], options, preset="lfm3-vl")


def _read_inkling2(ckpt: Checkpoint) -> Match:
    merge, (hidden, wide) = _merge(ckpt), ckpt.matrix("proj_in.weight")
    options = {
        "norm": "none",
        "merge": merge,
        "hidden": hidden,
        "act": ckpt.act("vision_config.hidden_act"),
        "bias": "proj_in.bias" in ckpt.shapes,
    }
    return Match(wide // merge**2, ckpt.matrix("proj_out.weight")[0], options)


_PADDLEOCR = {"eps": 1e-5, "token_order": "raster"}
_RMS = {"norm": "rms"}


class Qwen2VL(Preset):
    """``norm > merge 2x2 (hwc) > Linear > GELU > Linear``; a quarter of the tokens comes out.

    Used by Qwen2-VL to Qwen3.5-VL (RMS norm in Qwen2.5), Kimi-K2.5, PaddleOCR-VL, LFM3-VL,
    Inkling 2 (no norm) and many more.

    Source: huggingface/transformers, ``models/qwen2_vl/modeling_qwen2_vl.py`` (`PatchMerger`); Wang
    et al., "Qwen2-VL", 2024.

    Traps: Qwen's towers output their tokens block by block, those of a window together
    (``token_order="blocked"``); PaddleOCR-VL's row by row. The eps is 1e-6, in Kimi and
    PaddleOCR-VL 1e-5. Qwen3-VL's deepstack mergers normalise after the merge.

    Attributes:
        norm: ``layer``, ``rms`` or ``none``.
        eps: Of the norm.
        norm_after: Normalise the tokens after the merge, not before.
        merge: The side of the merged windows.
        hidden: The inner width; None is that of a merged token.
        act: The activation; ``gelu`` is the exact form.
        bias: Whether the linear layers have biases.
        token_order: The order of the input tokens: ``blocked``, window by window, or ``raster``.
    """

    norm: Literal["layer", "rms", "none"] = "layer"
    eps: float = 1e-6
    norm_after: bool = False
    merge: UpTo16 = 2
    hidden: Channels | None = None
    act: Act = "gelu"
    bias: bool = True
    token_order: Literal["raster", "blocked"] = "blocked"

    def expand(self, in_: int, out: int) -> Stack:
        first: tuple[Block, ...] = (PatchMerge(size=(self.merge, self.merge)),)
        if self.norm != "none":
            norm = NormAct(norm=self.norm, eps=self.eps, act="none")
            first = (*first, norm) if self.norm_after else (norm, *first)
        blocks = (
            *first,
            Pointwise(out=self.hidden or "same", bias=self.bias),
            NormAct(norm="none", act=self.act),
            Pointwise(bias=self.bias),
        )
        order = token_order(self.token_order, self.merge)
        return Stack(in_=in_, out=out, blocks=blocks, token_order=order)

    aliases: ClassVar[Aliases] = {
        "inkling2": {"norm": "none", "bias": False},
        "kimi-k25": {"eps": 1e-5},
        "lfm3-vl": {},
        "paddleocr-vl": _PADDLEOCR,
        "qwen2-5-vl": _RMS,
        "qwen3-vl": {},
        "qwen3-vl-deepstack": {"norm_after": True},
        "CohereCompassVisionPatchMerger": {},
        "Cosmos3EdgePatchMerger": {},
        "Dots3NoteVisionMerger": {},
        "Exaone4_5_PatchMerger": _RMS,
        "Lfm3VlMultiModalProjector": {},
        "PaddleOCRProjector": _PADDLEOCR,
        "PatchMerger": {},
        "Qwen2_5OmniPatchMerger": _RMS,
        "Qwen2_5_VLPatchMerger": _RMS,
        "Qwen3OmniMoeVisionPatchMerger": {},
        "Qwen3VLMoeVisionPatchMerger": {},
        "Qwen3VLVisionPatchMerger": {},
        "Qwen3_5MoeVisionPatchMerger": {},
        "Qwen3_5VisionPatchMerger": {},
        "Qwen4ExpVisionPatchMerger": {},
    }
    models: ClassVar[Aliases] = {
        "EXAONE 4.5": _RMS,
        "Inkling 2": {"norm": "none", "bias": False},
        "Kimi-K2.5": {"eps": 1e-5},
        "LFM3-VL": {},
        "PaddleOCR-VL": _PADDLEOCR,
        "Qwen2-VL": {},
        "Qwen2.5-Omni": _RMS,
        "Qwen2.5-VL": _RMS,
        "Qwen3-Omni": {},
        "Qwen3-VL": {},
        "Qwen3.5-VL": {},
    }
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "qwen2-vl",
            ("ln_q", "mlp.0", "mlp.2"),
            prefix=r"merger|vision_encoder\.adapter",
            tensors=("ln_q.weight", "mlp.0.weight"),
            read=_read,
            model_types=(
                *("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
                *("exaone4_5", "dots3_note"),
            ),
            names_suffice=True,
        ),
        Upstream(
            "qwen3-vl",
            ("norm", "linear_fc1", "linear_fc2"),
            prefix="merger|projector",
            read=_read_qwen3_vl,
            model_types=(
                *("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp"),
                *("cohere_compass", "cosmos3_edge", "cosmos3_omni"),
            ),
            names_suffice=True,
        ),
        Upstream(
            "qwen3-vl",
            ("norm", "linear_fc1", "linear_fc2"),
            prefix=r"deepstack_merger_list\.\d+",
            read=_read_deepstack,
            secondary=True,
        ),
        Upstream(
            "qwen2-vl",
            ("ln_q", "mlp.0", "mlp.2"),
            prefix=r"merger_list\.\d+",
            read=_read_merger_list,
            secondary=True,
            needs_prefix=True,
        ),
        # HyperCLOVA X's tower ends with a merger, whose tokens another layer projects.
        Upstream(
            "qwen2-vl",
            ("ln_q", "mlp.0", "mlp.2"),
            prefix="merger",
            read=_read,
            model_types=("hyperclovax_vision_v2",),
            secondary=True,
        ),
        Upstream("kimi-k25", ("pre_norm", "in_proj", "out_proj")),
        Upstream(
            "kimi-k25-original",
            ("pre_norm", "proj.0", "proj.2"),
            prefix="mm_projector",
            read=_read_kimi_k25,
            model_types=("kimi_k25",),
        ),
        # Transformers 5.23 saves the norm under another root than the rest.
        Upstream(
            "kimi-k25-saved",
            ("model.mm_projector.pre_norm", "mm_projector.proj.0", "mm_projector.proj.2"),
            tensors=("mm_projector.proj.2.weight", "model.mm_projector.pre_norm.weight"),
            read=_read_kimi_k25,
            model_types=("kimi_k25",),
            prefixes=("mm_projector.proj.", "model.mm_projector.pre_norm."),
        ),
        Upstream(
            "paddleocr-vl",
            ("pre_norm", "linear_1", "linear_2"),
            prefix="projector|mlp_AR",
            read=_read_paddleocr_vl,
            model_types=("paddleocr_vl",),
            names_suffice=True,
        ),
        Upstream(
            "lfm3-vl",
            ("layer_norm", "linear_1", "linear_2"),
            prefix="multi_modal_projector",
            read=_read_lfm3_vl,
            model_types=("lfm3_vl",),
        ),
        Upstream(
            "inkling2",
            ("proj_in", "proj_out"),
            prefix="visual",
            read=_read_inkling2,
            model_types=("inkling2",),
            prefixes=("proj_in.", "proj_out."),
        ),
        Upstream("inkling2-module", ("linear_1", "linear_2")),
    )
