"""A projector's tensors, checked against its specification before they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..projectors.unwrap import inside, is_beside, unwrap, without_wrappers
from .errors import CheckpointError
from .formats.tensor_file import TensorInfo
from .hidden import hidden_layers

__all__ = ["check_keys", "check_tensor", "checked_state_dict"]

# What weights may be.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_GATHER = (
    "Gather them on every process, with get_model_state_dict(model, options="
    "StateDictOptions(full_state_dict=True, cpu_offload=True)) of "
    "torch.distributed.checkpoint.state_dict, and save what the first one gets: "
    "save_projector(projector, folder, state_dict=...)."
)
_GATHER_ZERO = "Save inside deepspeed.zero.GatheredParameters(projector.parameters())."
_FIRST_PROCESS = (
    "get_model_state_dict gathers them on the first process only, and gives the others none: save "
    "where torch.distributed.get_rank() is 0."
)


def checked_state_dict(
    projector: Any, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return a projector's tensors by its document's keys: those its specification builds.

    Args:
        projector: The projector, or what wraps it.
        state_dict: Its tensors by the names of its own `state_dict`, if it does not hold them
            itself.

    Raises:
        CheckpointError: It is not a projector, `state_dict` is not a mapping of keys to tensors,
            its tensors are sharded, a layer was replaced, or a tensor has another shape or
            another dtype.
    """
    projector = unwrap(projector, CheckpointError)
    if state_dict is not None and not (
        isinstance(state_dict, Mapping) and all(isinstance(key, str) for key in state_dict)
    ):
        found = f"a {type(state_dict).__name__}"
        raise CheckpointError(found, "state_dict", "a mapping of keys to tensors")
    blank = projector.unloaded()
    wanted: dict[str, Tensor] = blank.state_dict()
    if state_dict is None:
        state = _unwrapped_state(projector, wanted)
    else:
        state = _without_wrappers(state_dict, wanted)
    gather = _GATHER
    if any(hasattr(parameter, "ds_id") for parameter in projector.parameters()):
        gather = _GATHER_ZERO
    if any("_flat_param" in key for key in state if key not in wanted):
        hint = gather
    elif state_dict is None or hidden_layers(state)[1]:
        hint = "Undo what wraps its layers first: merge adapters, remove parametrizations."
    elif not state_dict:
        hint = _FIRST_PROCESS
    else:
        hint = "Give what the projector's own state_dict has, and nothing else."
    where = "projector" if state_dict is None else "state_dict"
    check_keys(_shapes(state), _shapes(wanted), "its specification", where, hint)
    state = {key: _plain(key, state[key], tensor, gather) for key, tensor in wanted.items()}
    blank.load_state_dict(state, assign=True)
    own: dict[str, Tensor] = blank.native().state_dict()
    return own


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shapes by key; a module's extra state, which is not a tensor, has none."""
    return {key: getattr(tensor, "shape", ()) for key, tensor in state.items()}


def _unwrapped_state(projector: nn.Module, wanted: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a module's state dict, without the names of wrappers inside it."""
    state: dict[str, Any] = projector.state_dict()
    # The innermost first: its name comes after those of what is around it.
    for path, module in reversed(list(projector.named_modules())):
        name = inside(module)
        if name is not None:
            outer = f"{path}." if path else ""
            inner = f"{outer}{name}."
            wrapped = [key for key in state if key.startswith(inner) and key not in wanted]
            renamed = {key: outer + key.removeprefix(inner) for key in wrapped}
            state = {renamed.get(key, key): tensor for key, tensor in state.items()}
    return state


def _without_wrappers(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Take wrappers' names out of keys where that gives exactly one key that is wanted."""
    names: dict[str, str] = {}
    for key in wanted:
        names[without_wrappers(key)] = key if without_wrappers(key) not in names else ""
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if is_beside(key) and key not in wanted:
            continue
        name = key if key in wanted else names.get(without_wrappers(key)) or key
        # Of two keys that give the same one, the first is taken; the other is left over.
        found[key if name in found or (name != key and name in state) else name] = tensor
    return found


def _plain(key: str, tensor: Any, expected: Tensor, gather: str) -> Tensor:
    """Return a plain tensor of the shape and the dtype that are expected."""
    if not isinstance(tensor, Tensor):  # what a module keeps as extra state
        raise CheckpointError(f"a {type(tensor).__name__}", key, "a tensor")
    tensor = tensor.detach()  # a parameter too
    if type(tensor) is not Tensor or tensor.layout is not torch.strided:
        found = f"a {type(tensor).__name__} of {tensor.layout}"
        hint = "Make one of it first: gather what is sharded, undo quantisation."
        if hasattr(tensor, "placements"):  # a DTensor
            hint = gather
        raise CheckpointError(found, key, "a plain tensor", hint)
    # Sharded training leaves a process with an empty tensor or a flat part.
    flat = tensor.dim() == 1 < expected.dim() and tensor.numel() <= expected.numel()
    shape_hint = gather if flat or not tensor.numel() else ""
    exact = None if expected.is_floating_point() else expected.dtype
    dtype_hint = "Convert it first: projector.to(torch.float32)."
    check_tensor(tensor, expected.shape, exact, key, shape_hint, dtype_hint)
    return tensor


def check_keys(
    found: Mapping[str, Any], expected: Mapping[str, Any], what: str, where: str, hint: str
) -> None:
    """Refuse missing and left-over tensors.

    Args:
        found: The shapes of the tensors that are there, by key.
        expected: The shapes of the tensors that are needed, by key.
        what: What needs them.
        where: Where they are.
        hint: One thing to try.
    """
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in expected]
    if missing or extra:
        lines = [f"\n  missing  {_ascii_key(key)} {tuple(expected[key])}" for key in missing]
        lines += [f"\n  extra    {_ascii_key(key)} {tuple(found[key])}" for key in extra]
        shown = "".join(lines[:12]) + ("\n  ..." if len(lines) > 12 else "")
        tensors = "tensor" if len(missing) == 1 else "tensors"
        count = f"{len(missing)} {tensors} missing and {len(extra)} left over"
        raise CheckpointError(f"{count} for {what}{shown}", where, hint=hint)


def _ascii_key(key: str) -> str:
    """Show a key in ASCII, cut off if it is very long, and without quotes."""
    return ascii(key if len(key) <= 200 else key[:197] + "...")[1:-1]


def check_tensor(
    found: Tensor | TensorInfo,
    shape: Sequence[int],
    dtype: torch.dtype | None,
    where: str,
    shape_hint: str = "",
    dtype_hint: str = "",
) -> None:
    """Refuse a tensor of another shape, or another dtype; None allows those that weights have."""
    if tuple(found.shape) != tuple(shape):
        message = f"a tensor of {tuple(found.shape)}"
        raise CheckpointError(message, where, str(tuple(shape)), shape_hint)
    if dtype is not None and found.dtype != dtype:
        raise CheckpointError(f"a tensor of {found.dtype}", where, str(dtype))
    if dtype is None and found.dtype not in _FLOATS:
        expected = "floating-point weights of 16 bits or more"
        raise CheckpointError(f"a tensor of {found.dtype}", where, expected, dtype_hint)
