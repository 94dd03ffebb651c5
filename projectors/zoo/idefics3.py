"""Idefics3's connector."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.patch_merge import PatchMerge
from ...blocks.pointwise import Pointwise
from ..preset import MERGES, Aliases, Preset, TokensBy, UpTo16
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream

__all__ = ["Idefics3"]


def _read(ckpt: Checkpoint) -> Match:
    out, wide = ckpt.matrix("modality_projection.proj.weight")
    merge = ckpt.option("merge", "scale_factor", 2)
    return Match(wide // merge**2, out, {"merge": merge})


def _read_modernvbert(ckpt: Checkpoint) -> Match:
    out, wide = ckpt.matrix("modality_projection.weight")
    merge = ckpt.option("merge", "pixel_shuffle_factor", 4)
    return Match(wide // merge**2, out, {"merge": merge})


def _read_nanovlm(ckpt: Checkpoint) -> Match:
    out, wide = ckpt.matrix("proj.weight")
    merge = ckpt.config["mp_pixel_shuffle_factor"]
    return Match(wide // merge**2, out, {"merge": merge})


def _read_ultravbert(ckpt: Checkpoint) -> Match:
    match = _read_modernvbert(ckpt)
    eps = ckpt.setting("text_config.rms_norm_eps", 1e-6)
    return replace(match, options={**match.options, "norm": "rms", "eps": eps})


class Idefics3(Preset):
    """``merge s x s (hwc) > Linear`` without bias; 1 token of s * s comes out.

    Used by Idefics3 (merge 2), SmolVLM (2 to 4), ModernVBERT, nanoVLM (4) and, with an RMS norm at
    the end, UltraVBERT.

    Source: huggingface/transformers, ``models/idefics3/modeling_idefics3.py``
    (`Idefics3Connector`); Laurençon et al., "Building and better understanding vision-language
    models", 2024.

    Traps: no bias, and no norm but UltraVBERT's; upstream takes square grids only.

    Attributes:
        merge: The side s of the merged windows.
        norm: What follows the linear layer: ``none`` or ``rms``.
        eps: Of the norm.
    """

    merge: UpTo16 = 2
    norm: Literal["none", "rms"] = "none"
    eps: float = 1e-6

    def expand(self, in_: int, out: int) -> Stack:
        blocks: list[Block] = [PatchMerge(size=(self.merge, self.merge)), Pointwise(bias=False)]
        if self.norm != "none":
            blocks.append(NormAct(norm=self.norm, eps=self.eps, act="none"))
        return Stack(in_=in_, out=out, blocks=tuple(blocks))

    aliases: ClassVar[Aliases] = {
        "Idefics3Connector": {},
        "ModernVBertConnector": {"merge": 4},
        "SmolVLMConnector": {},
        "UltraVBertConnector": {"merge": 4, "norm": "rms"},
        "ultravbert": {"merge": 4, "norm": "rms"},
    }
    models: ClassVar[Aliases] = {
        "Idefics3": {},
        "ModernVBERT": {"merge": 4},
        "SmolVLM": {"merge": 3},
        "SmolVLM-256M": {"merge": 4},
        "SmolVLM-500M": {"merge": 4},
        "SmolVLM2": {"merge": 3},
        "SmolVLM2-256M": {"merge": 4},
        "SmolVLM2-500M": {"merge": 4},
        "UltraVBERT": {"merge": 4, "norm": "rms"},
        "nanoVLM": {"merge": 4},
    }
    tokens_by: ClassVar[TokensBy] = {"merge": MERGES}
    upstream = (
        Upstream(
            "idefics3",
            ("modality_projection.proj",),
            prefix="connector",
            read=_read,
            model_types=("idefics3", "smolvlm"),
        ),
        Upstream(
            "modernvbert",
            ("modality_projection",),
            prefix="connector",
            read=_read_modernvbert,
            model_types=("modernvbert",),
        ),
        Upstream(
            "ultravbert",
            ("modality_projection", "norm"),
            prefix="connector",
            read=_read_ultravbert,
            model_types=("ultravbert",),
        ),
        Upstream("nanovlm", ("proj",), prefix="MP", read=_read_nanovlm, needs_prefix=True),
    )
