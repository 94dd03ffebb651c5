"""Packs written twice, and with other instruction sets."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["LIMITED", "differences", "same_bytes", "size_of", "write"]

LIMITED = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""What makes a processor one that has AVX2 at most, as in `make test-isa`."""


def write(folder: Path, *names: str, limited: bool = False) -> Path:
    """Write a pack in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": "random", **(LIMITED if limited else {})}
    command = [sys.executable, "-m", "mobilevlm", "vectors", str(folder), *names]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return folder


def size_of(pack: Path) -> int:
    return sum(path.stat().st_size for path in pack.rglob("*") if path.is_file())


def same_bytes(pack: Path, again: Path) -> Iterator[str]:
    """Yield the files of a pack that another one of fewer entries has otherwise."""
    for path in sorted(again.rglob("*.safetensors")):
        name = path.relative_to(again)
        if path.read_bytes() != (pack / name).read_bytes():
            yield str(name)


def differences(checker: ModuleType, pack: Path, other: Path) -> Iterator[str]:
    """Yield what in another pack is not the same, or not right by the first one's tolerances."""
    one, two = checker.Pack(pack), checker.Pack(other)
    if one.names != two.names:
        yield f"entries: {sorted({*one.names} ^ {*two.names})}"
    for name in one.names:
        yield from _between(checker, one[name], two[name])


def _between(checker: ModuleType, entry: Any, other: Any) -> Iterator[str]:
    if entry.weights.read_bytes() != other.weights.read_bytes():
        yield f"{entry.name}: weights"
    for name, case in entry.cases.items():
        if (case.input != other.cases[name].input).any():
            yield f"{entry.name} {name}: input"
        result = checker.compare(case, other.cases[name].expected)
        if not result.ok:
            yield f"{entry.name} {name}: {result.path}: {result.problem}"
