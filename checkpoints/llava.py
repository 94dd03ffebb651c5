"""LLaVA's and MobileVLM's factory function, by the same name and with the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks.errors import SpecError
from ..projectors.lookup import to_stack
from ..projectors.projector import Projector
from ..registry import quote
from .layouts import LAYOUTS, from_upstream, parts

__all__ = ["UpstreamProjector", "build_vision_projector"]

# Upstream's types, with what stands before the layout's keys in upstream's modules.
_UPSTREAM = {
    "identity": ("mlp", ""),
    "linear": ("linear", ""),
    "ldpnet": ("ldpnet", "model."),
    "ldpnetv2": ("ldpnetv2", ""),
    **{f"mlp{n}x-gelu": ("mlp", "") for n in range(1, 9)},
    "mlp2x-res2x-gelu": ("mlp-res", ""),
}


class UpstreamProjector(Projector):
    """A projector whose modules and weights have upstream's names and shapes.

    Each module with weights stands at upstream's place in the tree, and there alone, so that what
    lists, saves, loads or replaces modules and weights by name finds upstream's. `blocks` holds the
    same modules in order of use, and follows where one is replaced.

    Args:
        layout: The layout's name, and what stands before its keys.
        *args: As for `Projector`.
        **kwargs: As for `Projector`.
    """

    def __init__(self, layout: tuple[str, str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layout = layout
        # Upstream's parent and name of each module, and ours.
        self._places: list[tuple[nn.Module, str, nn.Module, str]] = []
        name, before = layout
        found = list(parts(self, LAYOUTS[name]))
        modules = dict(self.named_modules())
        self.__dict__["blocks"] = self._modules.pop("blocks")
        for part in found:
            path, _, leaf = part.key.rpartition(".")
            module = modules[path]
            if type(module) is nn.Linear and len(part.stored) == 4:
                module.__class__ = _Convolution
                module._parameters[leaf] = nn.Parameter(module.weight.detach()[..., None, None])
            above, _, place = path.rpartition(".")
            self._put(module, (before + part.theirs).split(".")[:-1], modules[above], place)

    def _put(self, module: nn.Module, theirs: list[str], ours: nn.Module, place: str) -> None:
        if not theirs:  # upstream's module is the projector itself: they share their parameters
            self._parameters = module._parameters
            return
        parent: nn.Module = self
        for name in theirs[:-1]:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        if theirs[-1] not in parent._modules:
            parent.add_module(theirs[-1], module)
            self._places.append((parent, theirs[-1], ours, place))

    def forward(self, x: Tensor, grid: Any = None) -> Tensor:
        """Project, as `Projector.forward` does."""
        for parent, name, ours, place in self._places:
            if ours._modules[place] is not parent._modules[name]:
                ours._modules[place] = parent._modules[name]
        return super().forward(x, grid)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of every module, as torch does."""
        self.blocks.train(mode)
        return super().train(mode)

    def unloaded(self) -> Projector:
        """Return a projector of this specification, with this one's keys, on the meta device."""
        return UpstreamProjector(self._layout, self.spec, grid=self.grid, device="meta")

    def native(self) -> Projector:
        """Return a projector with our own keys and shapes, which shares these weights.

        Raises:
            CheckpointError: A module was replaced by one with other weights.
        """
        ours = Projector(self.spec, grid=self.grid, device="meta")
        name, before = self._layout
        state = {key.removeprefix(before): tensor for key, tensor in self.state_dict().items()}
        ours.load_state_dict(from_upstream(ours, LAYOUTS[name], state), assign=True)
        return ours.train(self.training)


class _Convolution(nn.Linear):
    """A linear layer whose weight is kept as a 1x1 convolution's, (out, in, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """Project; ``(..., in) -> (..., out)``."""
        return F.linear(x, self.weight.flatten(1), self.bias)


def build_vision_projector(config: Any, delay_load: bool = False, **kwargs: Any) -> Projector:
    """Build the projector that a LLaVA or MobileVLM config names.

    Reads ``mm_projector_type`` (missing: ``linear``), ``mm_hidden_size`` and ``hidden_size``. The
    type is any registered name, by exact match. For upstream's own types the module reads and
    writes upstream's own keys (``0.weight``, ``model.mlp.1.weight``), so that their loading and
    saving code works unchanged.

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
    layout = _UPSTREAM.get(name.replace("_", "-"))
    return Projector(stack) if layout is None else UpstreamProjector(layout, stack)


def _read(config: Any, key: str, default: Any = None) -> Any:
    value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    if value is None:
        value = default
    if value is None:
        raise SpecError(f"{key!r} is missing", "config")
    return value
