"""The axes of an exported program's input and output, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch.export import ExportedProgram

__all__ = ["Dims", "dims_of", "rename_symbols", "symbols_of"]

Dims: TypeAlias = tuple[int | str, ...]
"""The axes of a tensor: a number, or the name or formula of a free axis."""


def symbols_of(program: ExportedProgram, names: Dims) -> dict[str, str]:
    """Map a program's symbols to the names of the input's axes."""
    sizes = _shape(program, program.graph_signature.user_inputs[0])
    return {
        str(size): str(name)
        for size, name in zip(sizes, names, strict=True)
        if isinstance(size, torch.SymInt)
    }


def rename_symbols(formula: str, symbols: Mapping[str, str]) -> str:
    """Replace the symbols of a formula with names.

    >>> rename_symbols("(s27//2)*s53", {"s27": "height", "s53": "width"})
    '(height//2)*width'
    """
    return re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), formula)


def dims_of(program: ExportedProgram, names: Dims) -> tuple[Dims, Dims]:
    """Return the axes of a program's input and output, given the names of the input's."""
    symbols = symbols_of(program, names)
    signature = program.graph_signature
    x, y = (
        tuple(
            rename_symbols(str(size), symbols) if isinstance(size, torch.SymInt) else size
            for size in _shape(program, values[0])
        )
        for values in (signature.user_inputs, signature.user_outputs)
    )
    return x, y


def _shape(program: ExportedProgram, name: object) -> torch.Size:
    [node] = [node for node in program.graph.nodes if node.name == name]
    shape: torch.Size = node.meta["val"].shape
    return shape
