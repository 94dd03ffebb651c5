"""How other projects name and shape a projector's weights.

Our modules stand in order of use, so a layout is a list of upstream's module names in that order,
one for each of our modules that holds parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..blocks.core.block import label
from ..projectors.projector import Projector
from ..projectors.unwrap import unwrap
from ..registry import MobileVLMError, did_you_mean, quote
from .errors import CheckpointError
from .state import own_state

__all__ = ["LAYOUTS", "Fused", "Layout", "Name", "from_upstream", "to_upstream"]


@dataclass(frozen=True)
class Name:
    """Where upstream keeps the parameters of one of our modules.

    Attributes:
        path: Upstream's module, or its parameter where that is bare.
        form: ``plain``; ``bare``: a parameter of the same shape; ``batch``: one with an axis of 1
            before; ``vector``: one without the axis of 1 that ours begins with; ``matrix``: one
            stored (in, out), our linear layer's weight; ``conv``: our linear layer is a
            convolution there.
        kernel: The convolution's sides.
        skip: How many rows stand before ours in a ``batch``, whose numbers have no use.
        join: What stands between the path and the parameter's name.
    """

    path: str
    form: Literal["plain", "bare", "batch", "vector", "matrix", "conv"] = "plain"
    kernel: tuple[int, int] = (1, 1)
    skip: int = 0
    join: str = "."


@dataclass(frozen=True)
class Fused:
    """Several of our modules, such as a GLU's gate and value, in one layer of upstream's.

    Attributes:
        path: Upstream's module.
        order: Our modules, by their place in ours, as their rows stand in upstream's; a GLU's
            value stands before the gate.
        join: What stands between the path and ``weight`` or ``bias``.
    """

    path: str
    order: tuple[int, ...] = (1, 0)
    join: str = "."


Layout: TypeAlias = Callable[[Projector], Sequence[str | Name | Fused]]
"""Says what upstream calls the modules of a projector, in order of use."""


@dataclass(frozen=True)
class Part:
    """One parameter of ours, and where and how upstream keeps it.

    Attributes:
        key: Our key.
        shape: Our shape.
        theirs: Upstream's key.
        stored: Upstream's shape.
        rows: The rows of upstream's tensor that are ours; None is all of them.
        transpose: Whether upstream stores it (in, out).
        skip: How many rows, along its second axis, stand before ours and have no use.
        dtype: What a buffer that holds no weights, such as a counter, must be; None for weights.
    """

    key: str
    shape: torch.Size
    theirs: str
    stored: torch.Size
    rows: tuple[int, int] | None = None
    transpose: bool = False
    skip: int = 0
    dtype: torch.dtype | None = None

    def read(self, tensor: Tensor) -> Tensor:
        """Return our tensor out of upstream's."""
        if self.rows is not None:
            return tensor[slice(*self.rows)].clone()
        if self.skip:
            tensor = tensor[:, self.skip :].clone()
        return (tensor.t().contiguous() if self.transpose else tensor).reshape(self.shape)

    def write(self, tensor: Tensor) -> Tensor:
        """Return upstream's tensor, or its rows, out of ours."""
        if self.transpose:
            return tensor.t().contiguous()
        if self.skip:
            return torch.cat([tensor.new_zeros(self.skip, *self.shape[1:]), tensor])[None]
        return tensor if self.rows is not None else tensor.reshape(self.stored)


def parts(projector: Projector, layout: Layout) -> Iterator[Part]:
    """Pair every parameter of a projector with upstream's."""
    leaves = [
        (path, module)
        for path, module in projector.blocks.named_modules(prefix="blocks")
        if any(parameter is not None for parameter in module._parameters.values())
    ]
    ours = iter(leaves)
    try:
        names = layout(projector)
    except MobileVLMError:
        raise
    except (LookupError, ValueError) as error:  # it looks for blocks that only its family has
        raise _misfit() from error
    told = sum(len(entry.order) if isinstance(entry, Fused) else 1 for entry in names)
    if told != len(leaves):
        raise CheckpointError(
            f"the layout names {told} modules, the projector has {len(leaves)}",
            hint="It belongs to another family.",
        )
    for entry in names:
        if isinstance(entry, Fused):
            yield from _fused([next(ours) for _ in entry.order], entry)
            continue
        name = Name(entry) if isinstance(entry, str) else entry
        path, module = next(ours)
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            shape = stored = parameter.shape
            theirs = f"{name.path}{name.join}{leaf}".removeprefix(".")
            least = {"batch": 1, "vector": 1, "conv": 2 if leaf == "weight" else 0}
            if len(shape) < least.get(name.form, 0) or (name.form == "matrix" and len(shape) > 2):
                raise _misfit()
            if name.form not in ("plain", "conv"):
                theirs = name.path
            if name.form == "matrix":
                stored = torch.Size(reversed(shape))
            elif name.form == "batch":
                stored = torch.Size([1, name.skip + shape[0], *shape[1:]])
            elif name.form == "vector":
                stored = shape[1:]
            elif name.form == "conv" and leaf == "weight":
                area = name.kernel[0] * name.kernel[1]
                stored = torch.Size([shape[0], shape[1] // area, *name.kernel])
            if stored.numel() != shape.numel() + name.skip * shape[1:].numel():
                raise _misfit()  # of a module that it takes for another
            turned = name.form == "matrix"
            yield Part(f"{path}.{leaf}", shape, theirs, stored, None, turned, name.skip)


def _fused(ours: Sequence[tuple[str, nn.Module]], entry: Fused) -> Iterator[Part]:
    for place, (path, module) in enumerate(ours[index] for index in entry.order):
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                if not parameter.dim():
                    raise _misfit()
                n = parameter.shape[0]
                stored = torch.Size([len(ours) * n, *parameter.shape[1:]])
                rows = (place * n, (place + 1) * n)
                theirs = f"{entry.path}{entry.join}{leaf}"
                yield Part(f"{path}.{leaf}", parameter.shape, theirs, stored, rows=rows)


def from_upstream(
    projector: Projector, layout: Layout, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a state dict for a projector out of upstream's, all of it or none.

    Raises:
        CheckpointError: A key is missing or left over, or a shape does not fit.
    """
    found: dict[str, Tensor] = {}
    left = dict.fromkeys(state)
    for part in parts(projector, layout):
        if part.theirs not in state:
            raise CheckpointError("missing", part.theirs, f"a tensor of {tuple(part.stored)}")
        tensor = state[part.theirs]
        left.pop(part.theirs, None)
        if tensor.shape != part.stored:
            raise CheckpointError(
                f"a tensor of {tuple(tensor.shape)}", part.theirs, str(tuple(part.stored))
            )
        found[part.key] = part.read(tensor)
    if left:
        raise CheckpointError(f"tensors left over: {', '.join(left)}")
    return found


def to_upstream(projector: nn.Module, family: str | Layout) -> dict[str, Tensor]:
    """Return a projector's weights under upstream's keys and in its shapes.

    Args:
        projector: The projector; or what DataParallel, DDP or torch.compile made of it.
        family: A layout's name, such as ``llava``, ``qwen2-vl`` or ``ldpnet``; or a layout.

    Raises:
        CheckpointError: It is no projector; there is no such layout, it does not name this
            projector's weights, or these are not those of its specification, as with adapters
            that are not merged.
    """
    layout = find_layout(family) if isinstance(family, str) else family
    inner = unwrap(projector, CheckpointError)
    state = own_state(inner)
    found: dict[str, Tensor] = {}
    for part in parts(inner.unloaded().native(), layout):
        tensor = part.write(state[part.key])
        before = found.get(part.theirs)
        if before is not None:
            if part.rows is None or before.shape[1:] != tensor.shape[1:]:
                raise _misfit()
            tensor = torch.cat([before, tensor])
        found[part.theirs] = tensor
    return found


def _misfit() -> CheckpointError:
    return CheckpointError(
        "the layout does not fit the projector's modules", hint="It belongs to another family."
    )


def find_layout(family: str) -> Layout:
    """Return the layout of that name, exactly but for ``_``, which reads as ``-``.

    Raises:
        CheckpointError: There is none.
    """
    layout = LAYOUTS.get(family.replace("_", "-"))
    if layout is None:
        raise CheckpointError(
            f"unknown layout {quote(family)}",
            hint=did_you_mean(family, LAYOUTS) or f"Known: {', '.join(sorted(LAYOUTS))}.",
        )
    return layout


def _names(*names: str | Name | Fused) -> Layout:
    return lambda projector: names


def _normed(norm: str, *names: str | Name | Fused) -> Layout:
    """The same names with or without the norm, as the projector has one or not."""

    def layout(projector: Projector) -> Sequence[str | Name | Fused]:
        has = any(getattr(block, "norm", "none") != "none" for block in projector.spec.blocks)
        return (norm, *names) if has else names

    return layout


def _count(projector: Projector, type_: str) -> int:
    return sum(label(block) == type_ for block in projector.spec.blocks)


def _mlp(projector: Projector) -> list[str]:
    return [str(2 * step) for step in range(_count(projector, "pointwise"))]


def _janus(projector: Projector) -> list[str]:
    later = _count(projector, "pointwise") - 1
    return ["fc1", *(f"hidden_layers.{step}" for step in range(later))]


def _deepseek_vl2(projector: Projector) -> list[str]:
    from ..blocks.pointwise import Pointwise

    # Two linear layers without an activation between them; of one layer, there is no third block.
    first_two = projector.spec.blocks[1:3]
    pooling = len(first_two) == 2 and all(isinstance(block, Pointwise) for block in first_two)
    layers = _count(projector, "pointwise") - pooling
    first = ["token_pooling_layer"] if pooling else []
    return [*first, *(f"layers.{2 * step}" for step in range(layers))]


def _mlp_res(projector: Projector) -> list[str]:
    linear = _mlp(projector)
    start = 2 * len(linear) - 1
    residuals = _count(projector, "residual")
    return linear + [
        f"{start + step}.{part}"
        for step in range(residuals)
        for part in ("pre_norm", "proj.0", "proj.2")
    ]


def _minicpmv4_6(projector: Projector) -> list[str]:
    return [
        f"mlp.{step}.{part}"
        for step in range(_count(projector, "patch-merge"))
        for part in ("pre_norm", "linear_1", "linear_2")
    ]


def _open_flamingo(projector: Projector) -> list[str | Name | Fused]:
    names: list[str | Name | Fused] = [Name("latents", "bare")]
    for layer in range(_depth(projector)):
        attention, ffn = f"layers.{layer}.0", f"layers.{layer}.1"
        names += [f"{attention}.{part}" for part in ("norm_media", "norm_latents", "to_q")]
        names += [Fused(f"{attention}.to_kv", (0, 1)), f"{attention}.to_out"]
        names += [f"{ffn}.{part}" for part in (0, 1, 3)]
    return [*names, "norm"]


def _idefics(projector: Projector) -> list[str | Name]:
    from ..blocks.resampler import Resampler

    block = projector.spec.blocks[0]
    normed = isinstance(block, Resampler) and block.qk_norm
    q, k = ["q_proj"], ["k_proj"]
    if normed:
        q, k = [*q, "q_layer_norm"], [*k, "k_layer_norm"]
    attention = ["context_layer_norm", "latents_layer_norm", *q, *k, "v_proj", "output_proj"]
    names: list[str | Name] = [Name("latents", "bare")]
    for layer in range(_depth(projector)):
        names += [f"blocks.{layer}.0.{part}" for part in attention]
        names += [f"blocks.{layer}.1.{part}" for part in ("ln", "fc", "c_proj")]
    return [*names, "layer_norm"]


def _idefics2(projector: Projector) -> list[str | Name]:
    mlp = ("gate_proj", "up_proj", "down_proj")
    layer_parts = (
        *("input_context_norm", "input_latents_norm"),
        *(f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj")),
        "post_attention_layernorm",
        *(f"mlp.{part}" for part in mlp),
    )
    return [
        *(f"modality_projection.{part}" for part in mlp),
        Name("perceiver_resampler.latents", "bare"),
        *(
            f"perceiver_resampler.layers.{layer}.{part}"
            for layer in range(_depth(projector))
            for part in layer_parts
        ),
        "perceiver_resampler.norm",
    ]


def _query_resampler(path: str) -> Layout:
    """Whatever stands before the resampler's keys does not stand before the last two."""

    def layout(projector: Projector) -> Sequence[str | Name | Fused]:
        from ..blocks.query_resampler import QueryResampler

        block = projector.spec.blocks[0]
        placed = isinstance(block, QueryResampler) and block.places != "keys"
        first = [f"{path}kv_proj"] if projector.spec.in_ != projector.spec.out else []
        return [
            Name(f"{path}query", "bare"),
            *first,
            f"{path}ln_kv",
            f"{path}ln_q",
            *([Name(f"{path}pos_embed", "bare")] if placed else []),
            Fused(f"{path}attn.in_proj", (0, 1, 2), "_"),
            f"{path}attn.out_proj",
            "ln_post",
            Name("proj", "matrix"),
        ]

    return layout


def _blip2(projector: Projector) -> list[str | Name]:
    from ..blocks.qformer import QFormer

    block = projector.spec.blocks[0]
    every = block.cross_every if isinstance(block, QFormer) else 1
    inner = ("attention.query", "attention.key", "attention.value", "output.dense")
    attention = (*inner, "output.LayerNorm")
    ffn = ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
    names: list[str | Name] = [Name("query_tokens", "batch"), "qformer.layernorm"]
    for layer in range(_depth(projector)):
        path = f"qformer.encoder.layer.{layer}"
        names += [f"{path}.attention.{part}" for part in attention]
        names += [f"{path}.crossattention.{part}" for part in attention if layer % every == 0]
        names += [f"{path}.{part}" for part in ffn]
    return [*names, "language_projection"]


def _depth(projector: Projector) -> int:
    """The number of layers of the one block that has layers."""
    from ..blocks.qformer import QFormer
    from ..blocks.resampler import Resampler

    blocks = projector.spec.blocks
    return sum(block.depth for block in blocks if isinstance(block, QFormer | Resampler))


def _c_abstractor(projector: Projector) -> list[str | Name]:
    from ..blocks.repeat import Repeat

    names: list[str | Name] = []
    stage, number, linear = 0, 0, 0
    for block in projector.spec.blocks:
        kind = label(block)
        if kind in ("parallel", "repeat"):
            for _ in range(block.times if isinstance(block, Repeat) else 1):
                number += 1
                names += _reg_block(f"net.{stage}.b{number}", shortcut=kind == "parallel")
        elif kind == "pool":
            stage, number = 2, 0
        elif kind == "pointwise":
            names.append(f"readout.{2 * linear}")
            linear += 1
        elif kind == "position":
            # Its first row is the CLS token's, which is dropped right after.
            names.append(Name("pos_emb", "batch", skip=projector.spec.prefix_tokens))
        elif kind == "extra-tokens":
            names.append(Name("eos_tokens", "batch"))
    return names


def _reg_block(path: str, *, shortcut: bool) -> list[str | Name]:
    names: list[str | Name] = [
        Name(f"{path}.conv1.conv", "conv"),
        f"{path}.conv1.bn",
        f"{path}.conv2.conv",
        f"{path}.conv2.bn",
        Name(f"{path}.se.fc1", "conv"),
        Name(f"{path}.se.fc2", "conv"),
        Name(f"{path}.conv3.conv", "conv"),
        f"{path}.conv3.bn",
    ]
    if shortcut:
        names += [Name(f"{path}.downsample.conv", "conv"), f"{path}.downsample.bn"]
    return names


def _hunyuan_vl(conv: str, out: str) -> Layout:
    """Transformers' naming, and the checkpoints' own, differ in the two convolutions."""

    def layout(projector: Projector) -> Sequence[str | Name]:
        from ..blocks.patch_merge import PatchMerge

        [merge] = [block for block in projector.spec.blocks if isinstance(block, PatchMerge)]
        return [
            "before_rms",
            Name(conv, "conv", merge.size),
            Name(out, "conv"),
            Name("image_newline", "bare"),
            "mlp",
            Name("image_begin", "vector"),
            Name("image_end", "vector"),
            "after_rms",
        ]

    return layout


def _gemma4_model(projector: Projector) -> list[str | Name]:
    from ..blocks.scale import Scale

    scales = [block for block in projector.spec.blocks if isinstance(block, Scale)]
    first = [Name("vision_tower.std", join="_")] if scales[0].standardize else []
    return [*first, "embed_vision.embedding_projection"]


def _inverted_residual(path: str) -> list[str | Name]:
    return [
        f"{path}.block.0.0",
        f"{path}.block.0.1",
        Name(f"{path}.block.1.fc1", "conv"),
        Name(f"{path}.block.1.fc2", "conv"),
        Name(f"{path}.block.2.0", "conv"),
        f"{path}.block.2.1",
    ]


LAYOUTS: dict[str, Layout] = {
    "aya-vision": _normed("layernorm", Fused("linear_1"), "linear_2"),
    "blip2": _blip2,
    "c-abstractor": _c_abstractor,
    "deepseek-vl": _names("linear1", "linear2"),
    "deepseek-vl2": _deepseek_vl2,
    "gemma3": _names("mm_soft_emb_norm", Name("mm_input_projection_weight", "matrix")),
    "gemma3n": _names("soft_embedding_norm", "embedding_projection"),
    "gemma4": _names("embedding_projection"),
    "gemma4-model": _gemma4_model,
    "glm4v": _names(
        "post_layernorm",
        Name("downsample", "conv", (2, 2)),
        "merger.proj",
        "merger.post_projection_norm",
        "merger.gate_proj",
        "merger.up_proj",
        "merger.down_proj",
    ),
    "got-ocr2": _names("conv_upsampler1", "conv_upsampler2", "multimodal_projector"),
    "granite-docling": _names("ln_in", "coarse.projection", "ln_mid", "mlp_fc2", "ln_out"),
    "hunyuan-vl": _hunyuan_vl("proj_conv", "proj_out"),
    "hunyuan-vl-original": _hunyuan_vl("proj.0", "proj.2"),
    "idefics": _idefics,
    "idefics2": _idefics2,
    "idefics3": _names("modality_projection.proj"),
    "inkling2": _names("proj_in", "proj_out"),
    "internvl-chat": _names("0", "1", "3"),
    "internvl": _normed("layer_norm", "linear_1", "linear_2"),
    "janus": _janus,
    "kimi-k25": _names("pre_norm", "in_proj", "out_proj"),
    "kimi-k25-original": _names("pre_norm", "proj.0", "proj.2"),
    "kimi-k25-saved": _names(
        "model.mm_projector.pre_norm", "mm_projector.proj.0", "mm_projector.proj.2"
    ),
    "ldpnet": _names(
        "mlp.1", "mlp.3", *_inverted_residual("mb_block.1"), *_inverted_residual("mb_block.2")
    ),
    "ldpnetv2": _names("mlp.mlp.0", "mlp.mlp.2", "peg.peg.0"),
    "lfm3-vl": _names("layer_norm", "linear_1", "linear_2"),
    "llama4": _names(
        "vision_adapter.mlp.fc1", "vision_adapter.mlp.fc2", "multi_modal_projector.linear_1"
    ),
    "linear": lambda projector: [""],
    "llama4-model": _names(
        "vision_model.vision_adapter.mlp.fc1",
        "vision_model.vision_adapter.mlp.fc2",
        "multi_modal_projector.linear_1",
    ),
    "llava": _names("linear_1", "linear_2"),
    "llava-pooled": _names(Name("pooler.pool", "conv", (2, 2)), "linear_1", "linear_2"),
    "minicpmv": _query_resampler(""),
    "minicpmv4-6": _minicpmv4_6,
    "mistral-large4": _names(
        "pre_mm_projector_norm",
        "patch_merger.merging_layer",
        "vision_language_adapter.w_in",
        "vision_language_adapter.w_out",
    ),
    "mistral3": _names("norm", "patch_merger.merging_layer", "linear_1", "linear_2"),
    "mlp": _mlp,
    "mlp-res": _mlp_res,
    "nvila": _names("layers.1", "layers.2", "layers.4"),
    "nvila-lite": _names(*(f"layers.{step}" for step in (1, 2, 4, 5, 7))),
    "modernvbert": _names("modality_projection"),
    "open-flamingo": _open_flamingo,
    "paddleocr-vl": _names("pre_norm", "linear_1", "linear_2"),
    "paligemma": _names("linear"),
    "qwen-vl": _query_resampler("attn_pool."),
    "qwen2-vl": _names("ln_q", "mlp.0", "mlp.2"),
    "qwen3-vl": _names("norm", "linear_fc1", "linear_fc2"),
    "ultravbert": _names("modality_projection", "norm"),
    "vipllava": _names("projector_layernorm", "linear_1", "linear_2"),
}
