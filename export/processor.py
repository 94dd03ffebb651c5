"""The processor that a file was checked on: kernels are chosen by it, and so are their sums."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["processor"]

_MACHINES = {"AMD64": "x86-64", "x86_64": "x86-64", "aarch64": "arm64"}
# What products of whole numbers and of half precision depend on, by torch's names.
_UNITS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512_f",),
    "VNNI": ("avx_vnni", "avx512_vnni"),
    "AMX": ("amx_int8",),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "dot products": ("dot",),
    "i8mm": ("i8mm",),
    "SVE": ("sve",),
}


def processor() -> str:
    """Return the architecture and its units, such as ``x86-64 with AVX2, VNNI``."""
    # Older versions of torch say no more than whether there is VNNI.
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", _vnni)()
    units = [unit for unit, names in _UNITS.items() if any(map(found.get, names))]
    machine = platform.machine()
    return " with ".join(filter(None, (_MACHINES.get(machine, machine), ", ".join(units))))


def _vnni() -> dict[str, bool]:
    return {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512_f": torch.cpu._is_avx512_supported(),
        "avx512_vnni": torch.cpu._is_vnni_supported(),
    }
