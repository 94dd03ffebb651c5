"""What training code asks of a model with a projector: what to train, and how."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..projectors.unwrap import without_wrappers
from .errors import ModelError
from .slots import STALE, core_of, find_projector, unwrapped

__all__ = ["freeze_except_projector", "parameter_groups", "trainable_summary"]


def freeze_except_projector(model: nn.Module) -> nn.Module:
    """Switch gradients off everywhere but in the projector, which is returned.

    Raises:
        ModelError: There is no projector, or it is quantised; nothing has been changed.
    """
    name, projector = find_projector(model)
    for key, parameter in projector.named_parameters():
        if not parameter.is_floating_point():
            raise ModelError(
                f"a parameter of {parameter.dtype}: the projector is quantised",
                f"{name}.{key}",
                "floating-point weights",
                "Load the model with the projector among what is not quantised, in the list "
                "modules_to_not_convert, or llm_int8_skip_modules, of its quantization_config.",
            )
    model.requires_grad_(False)
    return projector.requires_grad_(True)


def parameter_groups(
    model: nn.Module, *, lr: float, projector_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer, of what requires gradients.

    Norms, biases and all else that has fewer than two axes get no weight decay; embeddings do, as
    in transformers' Trainer.

    Args:
        model: The model.
        lr: The learning rate.
        projector_lr: The projector's; default: the same.
        weight_decay: The weight decay of matrices and kernels.

    Returns:
        At most four groups, none of them empty, in a fixed order, decayed and not decayed of the
        rest of the model, then of the projector.

    Raises:
        ModelError: There is no projector.
    """
    _, projector = find_projector(model)
    inside_projector = set(projector.parameters())
    groups: dict[tuple[bool, bool], list[Tensor]] = {
        (own, decays): [] for own in (False, True) for decays in (True, False)
    }
    seen: set[Tensor] = set()
    for parameter, decays in _decays(model):
        if parameter.requires_grad and parameter not in seen:
            seen.add(parameter)
            groups[parameter in inside_projector, decays].append(parameter)
    rates = {False: lr, True: lr if projector_lr is None else projector_lr}
    return [
        {"params": found, "lr": rates[own], "weight_decay": weight_decay if decays else 0.0}
        for (own, decays), found in groups.items()
        if found
    ]


def trainable_summary(model: nn.Module) -> str:
    """Say which parts of a model have gradients, as a table, and whether the projector has any.

    Raises:
        ModelError: There is no projector.
    """
    path, projector = find_projector(model)
    mine = set(projector.parameters())
    parts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if STALE in name.split("."):
            continue
        part = path if parameter in mine else _part(model, name)
        size = _size(parameter)
        total = parts.setdefault(_bare_name(part), [0, 0])
        total[0] += size
        total[1] += size if parameter.requires_grad else 0
    parts["all"] = [sum(column) for column in zip(*parts.values(), strict=True)]
    width = max(map(len, parts))
    lines = [f"{'part':<{width}} {'parameters':>15} {'trainable':>15}"]
    lines += [f"{part:<{width}} {n:>15,} {m:>15,}" for part, (n, m) in parts.items()]
    if not any(parameter.requires_grad for parameter in mine):
        lines.append(
            f"The projector, {_bare_name(path)}, has no gradients: freeze_except_projector(model) "
            "switches them on, and all others off."
        )
    return "\n".join(lines)


def _bare_name(path: str) -> str:
    return without_wrappers(f"{path}.").removesuffix(".")


def _decays(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield each parameter and whether it gets weight decay."""
    for module in model.modules():
        norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            axes = len(getattr(parameter, "ds_shape", parameter.shape))  # DeepSpeed's, of a shard
            yield parameter, axes > 1 and not norm and not name.endswith("bias")


def _part(model: nn.Module, name: str) -> str:
    """Return the part of a model that a parameter is of: a child of the base model, or a head."""
    bare = unwrapped(model)
    core = core_of(bare) if hasattr(bare, "base_model") else bare
    for path, module in model.named_modules():
        if module is core or module is bare:
            for child, _ in module.named_children():
                whole = f"{path}.{child}".removeprefix(".")
                if name.startswith(f"{whole}.") and module.get_submodule(child) is not core:
                    return whole
    return name


def _size(parameter: Tensor) -> int:
    """Return how many numbers a parameter holds, gathered and unpacked."""
    whole = getattr(parameter, "quant_state", None)  # bitsandbytes' 4 bits
    shape = getattr(parameter, "ds_shape", parameter.shape if whole is None else whole.shape)
    return math.prod(shape)
