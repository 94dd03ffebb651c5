"""LLaVA's and MobileVLM's factory function, by the same name and with the same modules and keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Linear

from ..blocks.core.activation import activation
from ..blocks.core.block import Step
from ..blocks.core.chain import Chain, run_in_order
from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.fast import hooked
from ..blocks.core.feature import Grid
from ..blocks.core.linear import project
from ..blocks.depthwise import to_nchw
from ..blocks.norm_act import NormAct
from ..blocks.patch_merge import PatchMerge
from ..blocks.pointwise import Pointwise
from ..blocks.residual import Residual
from ..blocks.squeeze_excite import make_divisible
from ..projectors.lookup import to_stack
from ..projectors.packed import PackedGrids
from ..projectors.projector import PackedLayers, Projector
from ..projectors.stack import Stack
from ..projectors.upstream import count_blocks
from ..registry import quote
from .errors import CheckpointError
from .mapping import from_upstream

__all__ = ["UpstreamProjector", "build_vision_projector"]


class UpstreamProjector(Projector):
    """A projector whose modules are upstream's: their classes, names, weights and shapes.

    What dispatches on a module's class, such as adapters and quantisation, meets a `nn.Linear` or
    a `nn.Conv2d` where upstream has one; what takes a module's place is called. It has no
    `blocks`; those of `native()` share its weights.

    Attributes:
        layout: The name of upstream's layout.
        prefix: What stands before the layout's keys in upstream's modules.
    """

    layout: ClassVar[str]
    prefix: ClassVar[str] = ""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack, device="meta")  # checks its size; upstream's modules follow
        del self.blocks

    def unloaded(self) -> Projector:
        """Return a projector of this specification, with this one's keys, on the meta device."""
        with torch.device("meta"):
            return type(self)(self.spec)

    def native(self) -> Projector:
        """Return a projector with our own keys and shapes, which shares these weights.

        Raises:
            CheckpointError: A module was replaced by one with other weights.
        """
        ours = Projector(self.spec, grid=self.grid, device="meta", name=self.name)
        state = {key.removeprefix(self.prefix): value for key, value in self.state_dict().items()}
        try:
            found = from_upstream(ours, self.layout, state)
        except CheckpointError as error:
            raise CheckpointError(
                f"other tensors than its specification builds: {error}",
                "projector",
                hint="Undo what wraps its layers first: merge adapters, remove parametrizations.",
            ) from error
        ours.load_state_dict(found, assign=True)
        return ours.train(self.training)

    def _packed_layers(self) -> PackedLayers:
        return PackedLayers([self._chain], [self._needs_grid], [0])

    def pack_grids(self, grids: Any, budget: Any = None, *, device: Any = None) -> PackedGrids:
        """Work out what packed images of these grids need; see `Projector.pack_grids`.

        Raises:
            GridError: There is a budget, at which upstream's modules do not run; or as there.
        """
        if budget is not None:
            hint = "projector.native() has the same weights, and runs at one."
            raise GridError("upstream's modules do not run at a budget", "budget", "None", hint)
        return super().pack_grids(grids, device=device)


def _as_tokens(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a token-wise module as upstream does, on three axes; ``(b, h, w, c) -> (b, h, w, d)``."""
    y = module(x.flatten(1, 2))
    return y.view(*x.shape[:3], y.shape[-1])


def _as_map(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a module on a map; ``(b, h, w, c) -> (b, h', w', d)``."""
    return module(to_nchw(x)).permute(0, 2, 3, 1)


# ---------------------------------------------------------------------- LLaVA


class LinearProjector(UpstreamProjector, Linear):
    """A linear layer. Keys: ``weight``, ``bias``."""

    layout = "linear"

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        Linear.__init__(self, stack.in_, stack.out)

    def _chain(self, x: Tensor) -> Tensor:
        return _as_tokens(partial(project, self), x)


def _modules(steps: Iterable[Step]) -> Iterator[nn.Module]:
    """Yield what a sequence of upstream's has for linear layers, norms, activations and merges."""
    for step in steps:
        match step.block:
            case Pointwise(bias=bias):
                yield Linear(step.x.channels, step.y.channels, bias=bias)
            case NormAct(norm=norm, eps=eps, act=act):
                if norm == "layer":
                    yield nn.LayerNorm(step.x.channels, eps)
                if act != "none":
                    yield activation(act)
            case PatchMerge() as merge:
                yield merge.build(step.x)


class MlpProjector(UpstreamProjector):
    """Linear layers with GELU between each two, then residual blocks; keys as of a sequence."""

    layout = "mlp"

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        steps, residuals = stack.walk(), count_blocks(stack, Residual)
        modules = [*_modules(steps[: len(steps) - 2 * residuals])]  # a norm is part of each
        modules += [SimpleResBlock(stack.out) for _ in range(residuals)]
        for index, module in enumerate(modules):
            self.add_module(str(index), module)

    def _chain(self, x: Tensor) -> Tensor:
        modules = [module for module in self._modules.values() if module is not None]
        return _as_tokens(partial(run_in_order, modules), x)


class MlpResProjector(MlpProjector):
    """An MLP with residual blocks."""

    layout = "mlp-res"


class MlpNormProjector(MlpProjector):
    """Yi-VL's: a LayerNorm after each linear layer."""

    layout = "mlp-norm"


class SimpleResBlock(nn.Module):
    """``x = norm(x); x + mlp(x)``; ``(..., c) -> (..., c)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(channels)
        self.proj = Chain(Linear(channels, channels), nn.GELU(), Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., c) -> (..., c)``."""
        x = self.pre_norm(x)
        y: Tensor = x + self.proj(x)
        return y


class PoolerProjector(UpstreamProjector):
    """LLaVA-NeXT's. Keys: ``conv_pool.``, ``proj.1.``."""

    layout = "pooler"

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.conv_pool = nn.Conv2d(stack.in_, stack.out, 2, 2)
        self.proj = Chain(nn.GELU(), Linear(stack.out, stack.out))

    def _chain(self, x: Tensor) -> Tensor:
        return _as_tokens(self.proj, _as_map(self.conv_pool, x))


# ---------------------------------------------------------------------- VILA and DeepSeek-VL2


class NvilaProjector(UpstreamProjector):
    """VILA's and NVILA's. Keys: ``layers.``, of a sequence that begins with the merge."""

    layout = "nvila"

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.layers = MergeFirst(*_modules(stack.walk()))

    def _chain(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class NvilaLiteProjector(NvilaProjector):
    """NVILA-Lite's."""

    layout = "nvila-lite"


class MergeFirst(nn.Sequential):
    """A merge, then layers on tokens; ``(b, h, w, c) -> (b, h', w', d)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(b, h, w, c) -> (b, h', w', d)``."""
        merge, *layers = self
        return _as_tokens(partial(run_in_order, layers), merge(x))


class DeepseekVL2Projector(UpstreamProjector):
    """DeepSeek-VL2's. Keys: ``layers.``, of a sequence after the merge."""

    layout = "deepseek-vl2"

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.merge, *layers = _modules(stack.walk())
        self.layers = Chain(*layers)

    def _chain(self, x: Tensor) -> Tensor:
        return _as_tokens(self.layers, self.merge(x))


# ---------------------------------------------------------------------- MobileVLM


class LDPNetProjector(UpstreamProjector):
    """MobileVLM v1's. Keys: ``model.mlp.``, ``model.mb_block.``."""

    layout = "ldpnet"
    prefix = "model."

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.model = LDPBlock(stack.in_, stack.out)

    def _chain(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


class LDPBlock(nn.Module):
    """An MLP and two inverted residuals; ``(b, h, w, c) -> (b, ceil(h/2), ceil(w/2), d)``."""

    def __init__(self, in_: int, out: int) -> None:
        super().__init__()
        self.mlp = Chain(nn.Identity(), Linear(in_, out), nn.GELU(), Linear(out, out))
        self.mb_block = nn.Sequential(
            nn.Identity(), InvertedResidual(out, stride=1), InvertedResidual(out, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(b, h, w, c) -> (b, ceil(h/2), ceil(w/2), d)``."""
        return _as_map(self.mb_block, _as_tokens(self.mlp, x))


class InvertedResidual(nn.Module):
    """MobileNetV3's, without expansion; ``(b, c, h, w) -> (b, c, ceil(h/s), ceil(w/s))``."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.use_res_connect = stride == 1
        depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.block = nn.Sequential(
            nn.Sequential(depthwise, LayerNorm2d(channels), nn.Hardswish()),
            SqueezeExcitation(channels, make_divisible(channels // 4)),
            nn.Sequential(pointwise, LayerNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, h, w) -> (b, c, ceil(h/s), ceil(w/s))``."""
        y: Tensor = self.block(x)
        return x + y if self.use_res_connect else y


class LayerNorm2d(nn.LayerNorm):
    """A LayerNorm over the channels of a map; ``(b, c, h, w) -> (b, c, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, h, w) -> (b, c, h, w)``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate from the mean of all; ``(b, c, h, w) -> (b, c, h, w)``."""

    def __init__(self, channels: int, mid: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, mid, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(mid, channels, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, h, w) -> (b, c, h, w)``."""
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        y: Tensor = x * self.scale_activation(scale)
        return y


class LDPNetV2Projector(UpstreamProjector):
    """MobileVLM v2's. Keys: ``mlp.mlp.``, ``peg.peg.``."""

    layout = "ldpnetv2"

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.mlp = FeatureIRLayer(stack.in_, stack.out)
        self.dwn = TokenDownLayer((12, 12))
        self.peg = PosInjectLayer(stack.out)

    def _chain(self, x: Tensor) -> Tensor:
        mlp, pool = self.mlp, self.dwn
        if (
            (type(mlp), type(pool)) == (FeatureIRLayer, TokenDownLayer)
            and type(mlp.mlp) is Chain
            and not any(map(hooked, (mlp, mlp.mlp, *pool.modules())))
        ):
            x = run_in_order([*mlp.mlp.layers(), pool], x)  # the pool before the last layer
        else:
            x = pool(mlp(x))
        y: Tensor = self.peg(x)
        return y


class FeatureIRLayer(nn.Module):
    """An MLP; ``(b, h, w, c) -> (b, h, w, d)``."""

    def __init__(self, in_: int, out: int) -> None:
        super().__init__()
        self.mlp = Chain(Linear(in_, out), nn.GELU(), Linear(out, out))

    def forward(self, x: Tensor) -> Tensor:
        """``(b, h, w, c) -> (b, h, w, d)``."""
        return _as_tokens(self.mlp, x)


class TokenDownLayer(nn.Module):
    """An average pool to one grid; ``(b, h, w, c) -> (b, h', w', c)``."""

    averages = True

    def __init__(self, size: Grid) -> None:
        super().__init__()
        self.dwn = nn.Sequential(nn.AdaptiveAvgPool2d(size))

    def forward(self, x: Tensor) -> Tensor:
        """``(b, h, w, c) -> (b, h', w', c)``."""
        return _as_map(self.dwn, x)


class PosInjectLayer(nn.Module):
    """A depthwise convolution with a skip; ``(b, h, w, c) -> (b, h, w, c)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.peg = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, groups=channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(b, h, w, c) -> (b, h, w, c)``."""
        return _as_map(self.peg, x) + x


# ---------------------------------------------------------------------- the function

# Upstream's types, as patterns, and the modules that it has for them.
_UPSTREAM: dict[str, type[UpstreamProjector]] = {
    "identity|IdentityMap": MlpProjector,
    "linear": LinearProjector,
    "ldpnet|LDPNetProjector": LDPNetProjector,
    "ldpnetv2|ldpv2|LDPNetV2Projector": LDPNetV2Projector,
    r"mlp\d+x_gelu": MlpProjector,
    r"mlp\d+x_gelu_Norm": MlpNormProjector,
    r"mlp\d+x_res\d+x_gelu": MlpResProjector,
    "pooler|PoolerProjector": PoolerProjector,
    "mlp_downsample|mlp_downsample_2x2_fix": NvilaProjector,
    "mlp_downsample_3x3_fix": NvilaLiteProjector,
    "downsample_mlp_gelu|MlpProjector": DeepseekVL2Projector,
}


def build_vision_projector(config: Any, delay_load: bool = False, **kwargs: Any) -> Projector:
    """Build the projector that a config of LLaVA, MobileVLM or one of their kin names.

    Reads ``mm_projector_type`` (missing: ``linear``), ``mm_hidden_size`` and ``hidden_size``. The
    type is any registered name or alias, by exact match. For the types of LLaVA, LLaVA-NeXT,
    MobileVLM, Yi-VL, VILA and DeepSeek-VL2 the modules are upstream's own classes under upstream's
    own keys (``0.weight``, ``model.mlp.1.weight``), so that their loading and saving code, and
    adapters, work unchanged.

    Args:
        config: An object with those attributes, or a mapping with those keys.
        delay_load: Accepted and without effect, as upstream.
        **kwargs: Accepted and without effect, as upstream.

    Raises:
        SpecError: A width is missing or does not fit.
        RegistryError: The type is not known.
    """
    name = _read(config, "mm_projector_type", "linear")
    if not isinstance(name, str):
        raise SpecError(quote(name), "config.mm_projector_type", "a registered name")
    stack = to_stack(name, _read(config, "mm_hidden_size"), _read(config, "hidden_size"), {})
    written = name.replace("-", "_")  # both read alike in these names
    projector = next(
        (cls for types, cls in _UPSTREAM.items() if re.fullmatch(types, written)), Projector
    )(stack)
    projector.name = name
    return projector


def _read(config: Any, key: str, default: Any = None) -> Any:
    value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    if value is None:
        value = default
    if value is None:
        raise SpecError(f"{key!r} is missing", "config")
    return value
