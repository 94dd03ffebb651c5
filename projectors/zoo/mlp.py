"""Linear layers with an activation between each two."""

from __future__ import annotations

from typing import ClassVar

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ..preset import Aliases, Preset, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream, count_blocks, refused

__all__ = ["Mlp", "sequential_names"]


def sequential_names(stack: Stack) -> list[str]:
    """Return the linear layers' names in a sequence that has an activation between each two."""
    return [str(2 * step) for step in range(count_blocks(stack, Pointwise))]


def _names_of_janus(stack: Stack) -> list[str]:
    later = count_blocks(stack, Pointwise) - 1
    return ["fc1", *(f"hidden_layers.{step}" for step in range(later))]


def _match(depth: int, ckpt: Checkpoint, first: str, last: str, act: str = "gelu") -> Match:
    bias = any(key.endswith(".bias") for key in ckpt.shapes)
    options = {"depth": depth, "act": act, "bias": bias}
    in_, out = ckpt.matrix(f"{first}.weight")[1], ckpt.matrix(f"{last}.weight")[0]
    return Match(in_, out, options)


def _read(ckpt: Checkpoint) -> Match:
    return _match(2, ckpt, "linear_1", "linear_2", ckpt.act())


def _read_sequential(ckpt: Checkpoint) -> Match:
    layers = sorted(int(key.split(".")[0]) for key in ckpt.shapes if key.endswith("weight"))
    ckpt.check_type(rf"mlp{len(layers)}x_gelu", f"mlp{len(layers)}x_gelu")
    return _match(len(layers), ckpt, "0", str(layers[-1]))


def _read_janus(ckpt: Checkpoint, part: str = "vision_config") -> Match:
    depth = sum(key.endswith(".weight") for key in ckpt.shapes)
    last = f"hidden_layers.{depth - 2}" if depth > 1 else "fc1"
    return _match(depth, ckpt, "fc1", last, ckpt.act(f"{part}.hidden_act"))


def _read_janus_generation(ckpt: Checkpoint) -> Match:
    return _read_janus(ckpt, "vq_config")


def _read_deepseek_vl(ckpt: Checkpoint) -> Match:
    return _match(2, ckpt, "linear1", "linear2")


class Mlp(Preset):
    """``Linear(in, out) > [act > Linear(out, out)] x (depth - 1)`` on every token.

    Used by the LLaVA line from 1.5 on; its strings ``mlp1x_gelu`` to ``mlp8x_gelu`` are names of
    this preset at that depth.

    Source: haotian-liu/LLaVA, ``llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`).

    Attributes:
        depth: The number of linear layers.
        act: The activation; ``gelu`` is the exact form.
        bias: Whether the layers have biases.
    """

    depth: UpTo64 = 2
    act: Act = "gelu"
    bias: bool = True

    def expand(self, in_: int, out: int) -> Stack:
        layer = Pointwise(bias=self.bias)
        blocks: list[Block] = [layer]
        for _ in range(self.depth - 1):
            blocks += [NormAct(norm="none", act=self.act), layer]
        return Stack(in_=in_, out=out, blocks=tuple(blocks))

    aliases: ClassVar[Aliases] = {
        "llava": {},
        **{f"mlp{depth}x-gelu": {"depth": depth, "act": "gelu"} for depth in range(1, 9)},
    }
    upstream = (
        # LLaVA's and MobileVLM's own files.
        Upstream(
            "mlp",
            sequential_names,
            prefix="mm_projector|vision_projector",
            tensors=("0.weight", "2.weight"),
            read=_read_sequential,
        ),
        Upstream(
            "mlp",
            sequential_names,
            prefix=r"projector\.readout|aligner\.layers",
            tensors=("0.weight",),
            read=_read_sequential,
            model_types=("video_llama_3", "multi_modality"),
        ),
        Upstream(
            "mlp",
            sequential_names,
            prefix="layers",
            tensors=("0.weight",),
            read=_read_sequential,
            model_types=("v2l_projector", "vila"),
        ),
        Upstream(
            "llava",
            ("linear_1", "linear_2"),
            prefix="multi_modal_projector",
            read=_read,
            model_types=(
                *("llava", "llava_next", "llava_next_video", "llava_onevision", "video_llava"),
                *("fast_vlm", "audioflamingo3", "musicflamingo"),
            ),
            names_suffice=True,
        ),
        Upstream(
            "janus",
            _names_of_janus,
            prefix="aligner",
            tensors=("fc1.weight",),
            read=_read_janus,
            model_types=("janus",),
            names_suffice=True,
        ),
        Upstream(
            "janus",
            _names_of_janus,
            prefix="generation_aligner",
            tensors=("fc1.weight",),
            read=_read_janus_generation,
            model_types=("janus",),
            secondary=True,
        ),
        Upstream(
            "deepseek-vl",
            ("linear1", "linear2"),
            prefix="aligner",
            read=_read_deepseek_vl,
            model_types=("deepseek_vl",),
        ),
        Upstream(
            "deepseek-vl",
            ("linear1", "linear2"),
            prefix="aligner",
            tensors=("high_res_vision_proj.weight",),
            read=refused("aligner joins the features of two towers"),
            model_types=("deepseek_vl_hybrid",),
        ),
    )
