"""LLaVA's and MobileVLM's factory function, by the same name and with the same keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..blocks.errors import SpecError
from ..projectors.lookup import to_stack
from ..projectors.projector import Projector
from ..registry import quote
from .layouts import LAYOUTS, Layout, Part, parts

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
    """A projector whose state dict has upstream's keys and shapes, read and written.

    Args:
        layout: The layout's name, and what stands before its keys.
        *args: As for `Projector`.
        **kwargs: As for `Projector`.
    """

    def __init__(self, layout: tuple[str, str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._upstream = layout

    def _parts(self) -> list[tuple[str, Part]]:
        name, before = self._upstream
        layout: Layout = LAYOUTS[name]
        return [(before + part.theirs, part) for part in parts(self, layout)]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the weights under upstream's keys; the arguments are torch's."""
        destination = kwargs.pop("destination", None)
        prefix = kwargs.pop("prefix", "")
        ours = super().state_dict(*args, **kwargs)
        found = OrderedDict() if destination is None else destination
        for key, part in self._parts():
            found[prefix + key] = part.write(ours[part.key])
        return found

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Rename upstream's keys in place; torch hands what is here on to the modules inside."""
        for key, part in self._parts():
            tensor = state_dict.pop(prefix + key, None)
            if tensor is not None:
                fits = tensor.shape == part.stored
                state_dict[prefix + part.key] = part.read(tensor) if fits else tensor
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


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
