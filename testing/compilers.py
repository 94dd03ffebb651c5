"""Compiling and exporting a module."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.export import Dim

from ..blocks.core.quiet import quiet
from .cases import Subject, expect_same
from .report import attempt

__all__ = ["compile_", "export"]

_STATIC = (
    "Shapes and branches may depend on shapes only: no .item(), .tolist(), nonzero(), mask "
    "indexing or `if` on values, and no Python side effects in forward."
)


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Reset the compiler's state around the body, and hide what torch prints and logs."""
    # A logger that only obeys its own level: pytest would show thousands of its lines.
    trace = logging.getLogger("torch.__trace")
    level = trace.level
    trace.setLevel(logging.CRITICAL)
    torch.compiler.reset()
    try:
        with quiet(show_on_error=False):
            yield
    finally:
        trace.setLevel(level)
        torch.compiler.reset()


def compile_(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` gives the same numbers, also on a second grid."""
    variant = subject.variants[0]
    module = variant.module()
    with _fresh_compiler(), torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for batch, case in enumerate(variant.cases[:2], 2):
            x = case.input(batch)
            expected = case.run(module, x)
            with attempt("torch.compile(fullgraph=True)", case.where, "one graph", _STATIC):
                y = compiled(x, *case.args)
            expect_same(y, expected, "compiled, it gives a different output", case.where, _STATIC)


def export(subject: Subject) -> None:
    """`torch.export` works with a dynamic batch, and the program gives the same numbers."""
    variant = subject.variants[0]
    module, case = variant.module(), variant.cases[0]
    x, other = case.input(2), case.input(5)
    shapes = ({0: Dim("batch")}, *((None,) * len(arg) for arg in case.args))
    with _fresh_compiler(), torch.no_grad():
        expected = case.run(module, other)
        with attempt("torch.export with a dynamic batch", case.where, "a program", _STATIC):
            program = torch.export.export(module, (x, *case.args), dynamic_shapes=shapes)
            y = program.module()(other, *case.args)
    found = "exported, it gives a different output for another batch"
    expect_same(y, expected, found, case.where, _STATIC)
