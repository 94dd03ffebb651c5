"""A projector's own tensors, held against its specification before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..projectors.unwrap import WRAPPERS, inside, unwrap
from ..registry import quote
from .errors import CheckpointError

__all__ = ["own_state", "refuse_dtype"]

# What weights may be.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_GATHER = (
    "Gather them on every process, with get_model_state_dict(model, options="
    "StateDictOptions(full_state_dict=True, cpu_offload=True)) of "
    "torch.distributed.checkpoint.state_dict, and save what the first one gets: "
    "save_projector(projector, folder, state_dict=...)."
)
_GATHER_ZERO = "Save inside deepspeed.zero.GatheredParameters(projector.parameters())."


def own_state(projector: Any, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return a projector's tensors by its document's keys: those its specification builds.

    Args:
        projector: The projector, or what wraps it.
        state_dict: Its tensors by the names of its own `state_dict`, where it does not hold them
            itself.

    Raises:
        CheckpointError: It is no projector, its tensors are sharded, something else stands in a
            layer's place, or a tensor is of another shape or another kind of numbers.
    """
    projector = unwrap(projector, CheckpointError)
    blank = projector.unloaded()
    wanted: dict[str, Tensor] = blank.state_dict()
    if state_dict is None:
        state = _own(projector, wanted)
    else:
        state = _peeled(_checked(state_dict, wanted), wanted)
    gather = _GATHER
    if any(hasattr(parameter, "ds_id") for parameter in projector.parameters()):
        gather = _GATHER_ZERO
    missing = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted]
    if missing or extra:
        some = ", ".join(map(quote, [*missing[:2], *extra[:2]]))
        flat = any("_flat_param" in key for key in extra)
        raise CheckpointError(
            f"{len(missing)} tensors missing and {len(extra)} left over for its specification, "
            f"such as {some}",
            "projector" if state_dict is None else "state_dict",
            hint=gather
            if flat
            else "Undo what wraps its layers first: merge adapters, remove parametrizations."
            if state_dict is None
            else "Give what the projector's own state_dict has, and nothing else.",
        )
    state = {key: _plain(key, state[key], expected, gather) for key, expected in wanted.items()}
    if blank.native() is blank:
        return state
    blank.load_state_dict(state, assign=True)
    found: dict[str, Tensor] = blank.native().state_dict()
    return found


def _checked(state_dict: Any, wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Refuse what is no state dict of tensors, and the empty one that other processes get."""
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state_dict.items()
    ):
        raise CheckpointError(
            f"a {type(state_dict).__name__}", "state_dict", "a mapping of keys to tensors"
        )
    if wanted and not state_dict:
        raise CheckpointError(
            "no tensors",
            "state_dict",
            f"{len(wanted)} tensors",
            "get_model_state_dict gathers them on the first process only, and gives the others "
            "none: save where torch.distributed.get_rank() is 0.",
        )
    return state_dict


def _own(projector: nn.Module, wanted: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a module's state dict, without the names of wrappers that stand inside it."""
    state: dict[str, Any] = projector.state_dict()
    # The innermost first: what is around it stands before its own name.
    for path, module in reversed(list(projector.named_modules())):
        name = inside(module)
        if name is not None:
            outer = f"{path}." if path else ""
            inner = f"{outer}{name}."
            state = {
                outer + key.removeprefix(inner)
                if key.startswith(inner) and key not in wanted
                else key: tensor
                for key, tensor in state.items()
            }
    return state


def _peeled(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take wrappers' names out of keys, where that leads to one key that is wanted."""
    names: dict[str, str] = {}
    for key in wanted:
        names[_bare(key)] = key if _bare(key) not in names else ""
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key if key in wanted else names.get(_bare(key)) or key
        # What two keys lead to stays wanted by the first; the other is left over.
        found[key if name in found or (name != key and name in state) else name] = tensor
    return found


def _bare(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _plain(key: str, tensor: Any, expected: Tensor, gather: str) -> Tensor:
    """Return a plain tensor of the shape and the kind of numbers that are expected."""
    if not isinstance(tensor, Tensor):  # what a module keeps as extra state
        raise CheckpointError(f"a {type(tensor).__name__}", key, "a tensor")
    tensor = tensor.detach()  # a parameter too
    shape = tuple(tensor.shape)
    if hasattr(tensor, "placements"):  # a DTensor
        raise CheckpointError(
            f"a {type(tensor).__name__} of {shape}, of which each process holds a part",
            key,
            "a plain tensor",
            gather,
        )
    if type(tensor) is not Tensor or tensor.layout is not torch.strided:
        raise CheckpointError(
            f"a {type(tensor).__name__} of {tensor.layout}",
            key,
            "a plain tensor",
            "Make one of it first: gather what is sharded, undo quantisation.",
        )
    if tensor.shape != expected.shape:
        empty, flat = not tensor.numel(), len(shape) == 1 < expected.dim()
        cause = ""
        if empty or (flat and tensor.numel() <= expected.numel()):
            cause = f"{', empty' if empty else ''}, as sharded training leaves it on a process"
        raise CheckpointError(
            f"a tensor of {shape}{cause}", key, str(tuple(expected.shape)), gather if cause else ""
        )
    exact = None if expected.is_floating_point() else expected.dtype
    refuse_dtype(tensor.dtype, exact, key, "Convert it first: projector.to(torch.float32).")
    return tensor


def refuse_dtype(found: torch.dtype, exact: torch.dtype | None, where: str, hint: str) -> None:
    """Refuse a stored tensor's dtype: another than `exact`, or no weights' where that is None."""
    if exact is not None:
        if found != exact:
            raise CheckpointError(f"a tensor of {found}", where, str(exact))
    elif found not in _FLOATS:
        expected = "floating-point weights of 16 bits or more"
        raise CheckpointError(f"a tensor of {found}", where, expected, hint)
