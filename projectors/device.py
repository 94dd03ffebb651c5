"""Devices, tried before anything is put on them."""

from __future__ import annotations

import torch

from ..blocks.errors import SpecError
from ..registry import first_line, quote

__all__ = ["check_device"]


def check_device(device: torch.device | str) -> torch.device:
    """Return a device on which torch can make a tensor.

    Raises:
        SpecError: It cannot, or there is no such device.
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
