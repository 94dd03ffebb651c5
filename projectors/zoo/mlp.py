"""Linear layers with an activation between each two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from ...blocks.core.activation import Act
from ...blocks.core.block import Block
from ...blocks.core.feature import Width
from ...blocks.norm_act import NormAct
from ...blocks.pointwise import Pointwise
from ..errors import CheckpointError
from ..preset import Aliases, Preset, UpTo64
from ..stack import Stack
from ..upstream import Checkpoint, Match, Upstream, count_blocks, refused

__all__ = ["Mlp", "sequential_names"]


def sequential_names(stack: Stack) -> list[str]:
    """Return the linear layers' names in a sequence that has an activation between each two."""
    return [str(2 * step) for step in range(count_blocks(stack, Pointwise))]


def _names_with_norms(stack: Stack) -> list[str]:
    layers = range(count_blocks(stack, Pointwise))
    return [str(3 * step + part) for step in layers for part in (0, 1)]


def _readout_names(stack: Stack) -> list[str]:
    return [f"readout.{name}" for name in sequential_names(stack)]


def _names_of_janus(stack: Stack) -> list[str]:
    later = count_blocks(stack, Pointwise) - 1
    return ["fc1", *(f"hidden_layers.{step}" for step in range(later))]


def _match(depth: int, ckpt: Checkpoint, first: str, last: str, act: str = "gelu") -> Match:
    bias = any(key.endswith(".bias") for key in ckpt.shapes)
    options: dict[str, Any] = {"depth": depth, "act": act, "bias": bias}
    (hidden, in_), (out, inner) = ckpt.matrix(f"{first}.weight"), ckpt.matrix(f"{last}.weight")
    if hidden == inner != out:
        options["hidden"] = hidden
    return Match(in_, out, options)


def _read(ckpt: Checkpoint) -> Match:
    return _match(2, ckpt, "linear_1", "linear_2", ckpt.act())


def _read_sequential(ckpt: Checkpoint) -> Match:
    layers = sorted(int(key.split(".")[0]) for key in ckpt.shapes if key.endswith("weight"))
    ckpt.check_type(rf"mlp{len(layers)}x_gelu", f"mlp{len(layers)}x_gelu")
    return _match(len(layers), ckpt, "0", str(layers[-1]))


def _read_with_norms(ckpt: Checkpoint) -> Match:
    depth = ckpt.count(r"\d+\.weight") // 2
    match = _match(depth, ckpt, "0", str(3 * depth - 3))
    return replace(match, options={**match.options, "norm": "layer"})


def _read_readout(ckpt: Checkpoint) -> Match:
    depth = ckpt.count(r"readout\.\d+\.weight")
    return _match(depth, ckpt, "readout.0", f"readout.{2 * depth - 2}")


def _read_xtuner(ckpt: Checkpoint) -> Match:
    ckpt.only("pixel_shuffle", False)
    match = _read_sequential(ckpt)
    return replace(match, options={**match.options, "act": ckpt.act("hidden_act")})


def _read_megatron(ckpt: Checkpoint) -> Match:
    (hidden, in_), (out, _) = ckpt.matrix("linear_fc1.weight"), ckpt.matrix("linear_fc2.weight")
    if hidden != out or hidden == in_:  # a merger's, or one with a gate
        raise CheckpointError(
            f"layers {in_} -> {hidden} -> {out}", "linear_fc1.weight", "those of LLaVA's MLP"
        )
    return _match(2, ckpt, "linear_fc1", "linear_fc2")


def _read_janus(ckpt: Checkpoint, part: str = "vision_config", setting: str = "depth") -> Match:
    later = ckpt.layers("hidden_layers")
    # Transformers' default; without its section the config says nothing.
    stated = ckpt.option("depth", f"{part}.{setting}", 2 if ckpt.config.get(part) else 1)
    last = f"hidden_layers.{later - 1}"
    last = last if f"{last}.weight" in ckpt.shapes else "fc1"
    return _match(max(1 + later, stated), ckpt, "fc1", last, ckpt.act(f"{part}.hidden_act"))


def _read_janus_generation(ckpt: Checkpoint) -> Match:
    return _read_janus(ckpt, "vq_config", "num_hidden_layers")


def _read_qwen3_asr(ckpt: Checkpoint) -> Match:
    return _match(2, ckpt, "linear_1", "linear_2", ckpt.act("audio_config.activation_function"))


def _sound_of_phi4(mode: str, prefix: str, path: str) -> Upstream:
    """Return the entry of one of Phi-4 Multimodal's two projectors of sound.

    They stand in one module; what tells them apart is where their roots end.
    """
    names = tuple(f"{path}.{step}_proj_for_{mode}" for step in ("up", "down"))

    def read(ckpt: Checkpoint) -> Match:
        return _match(2, ckpt, *names)

    return Upstream(
        f"phi-4-multimodal-{mode.replace('_', '-')}",
        names,
        prefix=prefix,
        read=read,
        model_types=("phi4_multimodal",),
        prefixes=tuple(f"{name}." for name in names),
        secondary=True,
    )


def _read_deepseek_vl(ckpt: Checkpoint) -> Match:
    return _match(2, ckpt, "linear1", "linear2")


class Mlp(Preset):
    """``Linear(in, hidden) > [act > Linear] x (depth - 1)`` on every token.

    Used by the LLaVA line from 1.5 on; its strings ``mlp1x_gelu`` to ``mlp16x_gelu`` are names of
    this preset at that depth. Yi-VL has a LayerNorm after each linear layer.

    Source: haotian-liu/LLaVA, ``llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`); 01-ai/Yi, ``VL/llava/model/multimodal_projector/builder.py``
    (`build_vision_projector`); Liu et al., "Improved Baselines with Visual Instruction Tuning",
    2023.

    Attributes:
        depth: The number of linear layers.
        act: The activation; ``gelu`` is the exact form.
        bias: Whether the layers have biases.
        hidden: The width of all layers but the last.
        norm: What follows each linear layer, the last too: ``none``, or ``layer``, of eps 1e-5.
    """

    depth: UpTo64 = 2
    act: Act = "gelu"
    bias: bool = True
    hidden: Width = "out"
    norm: Literal["none", "layer"] = "none"

    def expand(self, in_: int, out: int) -> Stack:
        inner, between = (
            Pointwise(out=self.hidden, bias=self.bias),
            NormAct(norm=self.norm, act=self.act),
        )
        blocks: list[Block] = [inner, between] * (self.depth - 1)
        blocks.append(Pointwise(bias=self.bias))
        if self.norm != "none":
            blocks.append(NormAct(norm=self.norm, act="none"))
        return Stack(in_=in_, out=out, blocks=tuple(blocks))

    aliases: ClassVar[Aliases] = {
        "llava": {},
        **{f"mlp{depth}x_gelu": {"depth": depth, "act": "gelu"} for depth in range(1, 17)},
        **{f"mlp{n}x_gelu_Norm": {"depth": n, "act": "gelu", "norm": "layer"} for n in range(1, 5)},
        "AudioFlamingo3MultiModalProjector": {},
        "DeepseekVLAligner": {},
        "FastVlmMultiModalProjector": {},
        "JanusVisionAlignerMLP": {},
        "LlavaMultiModalProjector": {},
        "LlavaNextMultiModalProjector": {},
        "LlavaNextVideoMultiModalProjector": {},
        "LlavaOnevisionMultiModalProjector": {},
        "MusicFlamingoMultiModalProjector": {},
        "VideoLlama3Projector": {},
        "VideoLlavaMultiModalProjector": {},
    }
    models: ClassVar[Aliases] = {
        "Audio Flamingo 3": {},
        "Bunny": {},
        "DeepSeek-VL": {},
        "FastVLM": {},
        "Janus": {},
        "LLaVA": {},
        "LLaVA-1.5": {},
        "LLaVA-1.6": {},
        "LLaVA-NeXT": {},
        "LLaVA-OneVision": {},
        "Video-LLaVA": {},
        "VideoLLaMA 3": {},
        "Yi-VL": {"norm": "layer"},
    }
    upstream = (
        # LLaVA's and MobileVLM's own files, and TinyLLaVA's.
        Upstream(
            "mlp",
            sequential_names,
            prefix=r"mm_projector|vision_projector|(?:connector\.)?_connector",
            tensors=("0.weight", "2.weight"),
            read=_read_sequential,
        ),
        # Yi-VL's.
        Upstream(
            "mlp-norm",
            _names_with_norms,
            prefix="mm_projector|vision_projector",
            tensors=("0.weight", "1.weight", "1.bias", "3.weight"),
            read=_read_with_norms,
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
        # The model's own code of VideoLLaMA 3; what else stands there is no MLP.
        Upstream(
            "mlp-readout",
            _readout_names,
            prefix="mm_projector",
            tensors=("readout.0.weight", "readout.2.weight"),
            read=_read_readout,
        ),
        # XTuner saves the projector in a folder of its own, with a config.
        Upstream(
            "mlp",
            sequential_names,
            prefix="model",
            tensors=("0.weight", "2.weight"),
            read=_read_xtuner,
            model_types=("projector",),
        ),
        Upstream(
            "megatron",
            ("linear_fc1", "linear_fc2"),
            prefix=r"vision_projection\.encoder",
            read=_read_megatron,
            needs_prefix=True,
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
            secondary=True,
            needs_prefix=True,
        ),
        Upstream(
            "llava",
            ("linear_1", "linear_2"),
            prefix="multi_modal_projector",
            read=_read_qwen3_asr,
            model_types=("qwen3_asr",),
        ),
        _sound_of_phi4("speech", "embed_tokens_extend", "audio_embed"),
        _sound_of_phi4("vision_speech", "model", "embed_tokens_extend.audio_embed"),
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
