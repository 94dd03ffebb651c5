"""A projector that was recognised, and the check that the tensors are its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..projectors.projector import Projector
from ..registry import quote
from .errors import CheckpointError
from .formats.tensor_file import TensorInfo
from .mapping import Part
from .state import check_keys, check_tensor
from .weights import Weights

__all__ = ["Known", "check_fit", "refuse_packed", "refuse_turned"]


class Known(NamedTuple):
    """A recognised projector.

    Attributes:
        family: The preset's name; ``document`` where a document says it all.
        projector: The projector, on the meta device.
        pairs: The checkpoint's keys, each with a part of ours.
        root: What stands before the projector's keys.
        layout: The name of their naming; empty for a document.
        notes: What the caller should know, in sentences without an end.
    """

    family: str
    projector: Projector
    pairs: list[tuple[str, Part]]
    root: str
    layout: str
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        """The checkpoint's keys that are the projector's."""
        return tuple(dict.fromkeys(key for key, _ in self.pairs))


def check_fit(
    pairs: list[tuple[str, Part]],
    stored: Mapping[str, TensorInfo],
    family: str,
    weights: Weights,
    root: str,
    doubt: str = "",
) -> None:
    """Refuse missing and left-over tensors, other shapes and other dtypes.

    Args:
        pairs: The keys that are needed, without the root, each with a part of ours.
        stored: The tensors that are there, by their keys without the root.
        family: What needs them.
        weights: Where they are.
        root: What stands before the keys.
        doubt: The hint for other keys and shapes, where the caller may be their cause.
    """
    found = {root + key: info.shape for key, info in stored.items()}
    expected = {root + key: part.stored for key, part in pairs}
    hint = doubt or "The file is of another family or incomplete."
    check_keys(found, expected, family, weights.where, hint)
    for key, part in pairs:
        where = f"{weights.where}[{quote(root + key)}]"
        hint = doubt or "Its family or its widths do not match those of the other tensors."
        dtype_hint = "Load the model without quantisation and save it again."
        check_tensor(stored[key], part.stored, part.dtype, where, hint, dtype_hint)


def refuse_packed(where: str, tensor: TensorInfo) -> None:
    """Refuse tensors that are not plain weights, and name the cause."""
    if tensor.fault:
        raise CheckpointError(
            f"a tensor of {tensor.shape}, {tensor.fault}",
            where,
            "a tensor of its own numbers",
            tensor.hint,
        )
    if 0 in tensor.shape:
        raise CheckpointError(
            f"an empty tensor of {tensor.shape}, a DeepSpeed ZeRO-3 placeholder",
            where,
            "the gathered weights",
            "Save inside deepspeed.zero.GatheredParameters, or run zero_to_fp32.py first.",
        )
    if tensor.dtype == torch.uint8 and len(tensor.shape) == 2 and tensor.shape[1] == 1:
        raise CheckpointError(
            f"a tensor of {tensor.shape} and torch.uint8, weights packed in 4 bits",
            where,
            "floating-point weights",
            "Load the model without 4-bit quantisation and save it again.",
        )


def refuse_turned(where: str, weight: tuple[int, ...], bias: tuple[int, ...]) -> None:
    """Refuse a linear layer's weight that its bias shows to be transposed or flattened."""
    if len(bias) != 1 or weight[:1] == bias:
        return
    [n] = bias
    flattened = len(weight) == 1 and weight[0] % n == 0
    if flattened or (len(weight) == 2 and weight[1] == n):
        found = f"a tensor of {weight} beside a bias of {n}"
        expected = str((n, math.prod(weight) // n))
        hint = "It looks transposed or flattened. Save it as upstream does."
        raise CheckpointError(found, where, expected, hint)
