"""Check devices and dtypes before anything is allocated."""

from __future__ import annotations

import torch

from ..blocks.core.dtypes import FLOATS, dtype_name
from ..blocks.core.errors import SpecError
from ..registry import did_you_mean, first_line, quote

__all__ = ["check_device", "check_dtype"]


def check_device(device: torch.device | str) -> torch.device:
    """Return a device on which torch can make a tensor.

    Raises:
        SpecError: There is no such device, or it cannot be used.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # AssertionError, RuntimeError and others, device by device
        raise SpecError(
            f"{quote(str(device))} cannot be used: {first_line(error)}",
            "device",
            "a device that this torch has here",
            "Try device='cpu'.",
        ) from error
    return found


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a floating dtype, given as a `torch.dtype` or by one of its names.

    >>> check_dtype("bf16"), check_dtype("torch.half"), check_dtype(torch.float32)
    (torch.bfloat16, torch.float16, torch.float32)

    Raises:
        SpecError: It is not a floating dtype.
    """
    found = getattr(torch, dtype_name(dtype) or "", None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise SpecError(
            quote(dtype),
            "dtype",
            "a floating-point dtype, such as torch.bfloat16 or 'bf16'",
            did_you_mean(dtype, FLOATS),
        )
    return found
