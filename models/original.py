"""Weights of a model's own projector as the start of the one that takes its place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.errors import CheckpointError, listed
from ..checkpoints.families import find_family
from ..checkpoints.known import Known
from ..checkpoints.load import read_projector, recognise_projector
from ..checkpoints.mapping import find_layout, leaves, parts
from ..checkpoints.memory import MemoryWeights
from ..checkpoints.request import Request
from ..checkpoints.state import checked_state_dict
from ..projectors.index import aliases
from ..projectors.projector import Projector
from .dispatched import state_of
from .errors import ModelError

__all__ = ["start_from"]

_LOG = logging.getLogger("mobilevlm")
_WHERE = "init='original'"
_LEAVE_OUT = "Leave out init: the projector then starts from random weights."


@dataclass(frozen=True)
class _Original:
    """The projector that a model has had.

    Attributes:
        modules: Its modules that hold parameters, as ours, in order of use.
        state: Its weights by our keys.
        known: How it was recognised; None where it has been swapped in before.
    """

    modules: Mapping[str, nn.Module]
    state: Mapping[str, Tensor]
    known: Known | None = None

    def name_of(self, module: str) -> str:
        """Return upstream's name of a module, for a message; ours where it has no other."""
        pairs = self.known.pairs if self.known else []
        keys = [key for key, part in pairs if _module(part.key) == module]
        if len(keys) == 1:
            return keys[0]
        return _module(keys[0]) if keys else module


def start_from(
    own: nn.Module, projector: Projector, *, slot: str, config: Mapping[str, Any], family: str
) -> None:
    """Copy into a projector what fits of the one that a model has; whole modules only.

    Where both are of one family, a module is the one of upstream's name. Elsewhere it is, among
    modules of one kind and of the same shapes, the one that has the same place in the order of
    use, if there are as many of them in both. A bias that the original has not is zero. What was
    copied, and what was not, is logged.

    Args:
        own: The module in the model's slot.
        projector: The projector that takes its place.
        slot: The path of the slot.
        config: The model's config, with upstream's model type.
        family: The name that the projector was asked for by; empty for a document.

    Raises:
        ModelError: The module is not known, its weights cannot be read, or nothing fits.
    """
    try:
        original = _read(own, slot, config)
    except CheckpointError as error:
        found = f"the weights at {slot} cannot be taken over: {error}".rstrip(".")
        raise ModelError(found, _WHERE, hint=_LEAVE_OUT) from error
    ours = dict(leaves(projector))
    pairs = _by_names(original, projector, family)
    if pairs is None:
        pairs = _by_order(original.modules, ours)
    pairs = {a: b for a, b in pairs.items() if _fits(ours[a], original.modules[b])}
    report = _report(original, ours, pairs)
    if not pairs:
        raise ModelError(
            f"no module of the projector at {slot} fits: {report}",
            _WHERE,
            "modules of one kind whose shapes agree, as many in both",
            _LEAVE_OUT,
        )
    state = {}
    for a, b in pairs.items():
        for name, tensor in _tensors(ours[a]).items():
            state[f"{a}.{name}"] = original.state.get(f"{b}.{name}", torch.zeros(tensor.shape))
    projector.load_state_dict(state, strict=False)
    level = logging.WARNING if len(pairs) < len(ours) else logging.INFO
    _LOG.log(level, "the projector at %s starts from the original's weights: %s", slot, report)


def _read(own: nn.Module, slot: str, config: Mapping[str, Any]) -> _Original:
    """Return the projector in a slot: one of ours, or upstream's, recognised as in a checkpoint."""
    if isinstance(own, Projector):
        blank = own.unloaded().native()
        return _Original(dict(leaves(blank)), checked_state_dict(own, state_of(own)))
    state = {f"{slot}.{key}": tensor for key, tensor in state_of(own).items()}
    weights = MemoryWeights(state, config, "model")
    known = recognise_projector(weights, Request())
    projector = read_projector(weights, known)
    return _Original(dict(leaves(projector)), projector.state_dict(), known)


def _by_names(original: _Original, projector: Projector, family: str) -> dict[str, str] | None:
    """Pair modules by upstream's names; None unless both are of one family and have such names."""
    known = original.known
    if known is None or not family or _family(family) != _family(known.family):
        return None
    theirs = {(part.theirs, part.rows): _module(part.key) for _, part in known.pairs}
    try:
        names = [(part.key, (part.theirs, part.rows)) for part in _parts(projector, known)]
    except CheckpointError:  # with these options upstream has no names for it
        return None
    return {_module(key): theirs[name] for key, name in names if name in theirs}


def _parts(projector: Projector, known: Known) -> list[Any]:
    return list(parts(projector, find_layout(known.layout)))


def _family(name: str) -> str:
    """Return the registered name of a family that an alias may stand for."""
    return aliases().get(name, (find_family(name).name, {}))[0]


def _by_order(theirs: Mapping[str, nn.Module], ours: Mapping[str, nn.Module]) -> dict[str, str]:
    """Pair modules by their place in the order of use, where that leaves no choice."""
    old, new = _places(theirs), _places(ours)
    pairs = [
        (a, b, kind)
        for kind, places in new.items()
        if len(old.get(kind, ())) == len(places)
        for a, b in zip(places, old[kind], strict=True)
    ]
    # Those of one kind that stand in another order are no match.
    in_order = [
        (a, b)
        for a, b, kind in pairs
        if all((a < c) == (b < d) for c, d, other in pairs if other[0] is kind[0])
    ]
    names, known = list(ours), list(theirs)
    return {names[a]: known[b] for a, b in sorted(in_order)}


_Kind = tuple[type[nn.Module], tuple[tuple[str, torch.Size], ...]]


def _places(modules: Mapping[str, nn.Module]) -> dict[_Kind, list[int]]:
    """Return the places of the modules of each kind and shape."""
    found: dict[_Kind, list[int]] = {}
    for place, module in enumerate(modules.values()):
        shapes = [(name, t.shape) for name, t in _tensors(module).items() if name != "bias"]
        found.setdefault((type(module), tuple(shapes)), []).append(place)
    return found


def _fits(ours: nn.Module, theirs: nn.Module) -> bool:
    """Return whether a module can have another's weights."""
    found = {name: tensor.shape for name, tensor in _tensors(theirs).items()}
    return all(
        found.get(name, tensor.shape if name == "bias" else None) == tensor.shape
        for name, tensor in _tensors(ours).items()
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module's state that are its own, not its children's."""
    own = {**module._parameters, **module._buffers}
    left_out = module._non_persistent_buffers_set
    return {name: t for name, t in own.items() if t is not None and name not in left_out}


def _report(original: _Original, ours: Mapping[str, nn.Module], pairs: Mapping[str, str]) -> str:
    """List what was copied, and what was not, of both."""
    used = set(pairs.values())
    name = original.name_of
    lines = {
        "copied": [f"{a} from {name(b)}" for a, b in pairs.items()],
        "random": [_shown(a, module) for a, module in ours.items() if a not in pairs],
        "not used": [_shown(name(b), m) for b, m in original.modules.items() if b not in used],
    }
    return "; ".join(f"{what}: {listed(items)}" for what, items in lines.items() if items)


def _shown(path: str, module: nn.Module) -> str:
    shapes = (f"{name} {tuple(tensor.shape)}" for name, tensor in _tensors(module).items())
    return f"{path} ({type(module).__name__}: {', '.join(shapes)})"


def _module(key: str) -> str:
    return key.rpartition(".")[0]
