"""The axes of what goes in and comes out, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch.export import ExportedProgram

__all__ = ["Dims", "dims_of", "renamed", "symbols_of"]

Dims: TypeAlias = tuple[int | str, ...]
"""The axes of a tensor; one that is free has a name or a formula."""


def symbols_of(program: ExportedProgram, names: Dims) -> dict[str, str]:
    """Return the names of a program's symbols: those of the input's axes that they stand for."""
    sizes = _shape(program, program.graph_signature.user_inputs[0])
    return {
        str(size): str(name)
        for size, name in zip(sizes, names, strict=True)
        if isinstance(size, torch.SymInt)
    }


def renamed(formula: str, symbols: Mapping[str, str]) -> str:
    """Write a symbol, or a formula of several, by names.

    >>> renamed("(s27//2)*s53", {"s27": "height", "s53": "width"})
    '(height//2)*width'
    """
    return re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), formula)


def dims_of(program: ExportedProgram, names: Dims) -> tuple[Dims, Dims]:
    """Return the axes of a program's input and output, given the names of the input's."""
    symbols = symbols_of(program, names)
    signature = program.graph_signature
    x, y = (
        tuple(
            renamed(str(size), symbols) if isinstance(size, torch.SymInt) else size
            for size in _shape(program, values[0])
        )
        for values in (signature.user_inputs, signature.user_outputs)
    )
    return x, y


def _shape(program: ExportedProgram, name: object) -> torch.Size:
    [node] = [node for node in program.graph.nodes if node.name == name]
    shape: torch.Size = node.meta["val"].shape
    return shape
