"""What compilers and exporters make of a module."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch.export import Dim

from .report import Finding, attempt
from .subject import Subject, difference

__all__ = ["compile_", "export"]

_STATIC = (
    "Let shapes alone decide shapes and branches: no .item(), .tolist(), nonzero(), mask indexing "
    "or `if` on values, and no Python side effects in forward."
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Compile from a clean slate; what torch warns about and prints meanwhile is not the author's.

    Its trace is a logger that heeds its own level only; pytest would show thousands of its lines.
    """
    trace, disabled = logging.getLogger("torch.__trace"), logging.root.manager.disable
    level = trace.level
    torch.compiler.reset()
    logging.disable()
    trace.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        trace.setLevel(level)
        logging.disable(disabled)
        torch.compiler.reset()


def compile_(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` gives the same numbers, on a second grid too."""
    target = subject.targets[0]
    module = target.module()
    with _quiet(), torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for batch, case in enumerate(target.cases[:2], 2):
            x = case.input(batch)
            expected = case.run(module, x)
            with attempt("torch.compile(fullgraph=True)", case.where, "one graph", _STATIC):
                off = difference(compiled(x, *case.args), expected)
            if off:
                found = f"compiled, it gives something else: {off}"
                raise Finding(found, case.where, "the same", _STATIC)


def export(subject: Subject) -> None:
    """`torch.export` takes it with a dynamic batch, and the program gives the same numbers."""
    target = subject.targets[0]
    module, case = target.module(), target.cases[0]
    x, other = case.input(2), case.input(5)
    shapes = ({0: Dim("batch")}, *((None,) * len(arg) for arg in case.args))
    with _quiet(), torch.no_grad():
        expected = case.run(module, other)
        with attempt("torch.export with a dynamic batch", case.where, "a program", _STATIC):
            program = torch.export.export(module, (x, *case.args), dynamic_shapes=shapes)
            off = difference(program.module()(other, *case.args), expected)
    if off:
        found = f"exported, it gives something else for another batch: {off}"
        raise Finding(found, case.where, "the same", _STATIC)
