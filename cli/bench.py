"""The verb that times a projector: bench."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import call
from .options import Debug, Json, NameOrFile, Words, complete_dtype, dtype_of
from .output import echo, echo_json, progress_bar, reporting
from .table import echo_table

if TYPE_CHECKING:
    from torch import Tensor

    from ..projectors.projector import Projector

__all__ = ["bench"]


def bench(
    target: NameOrFile,
    words: Words = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: torch's default.")] = 0,
    dtype: Annotated[
        str,
        typer.Option(help="The dtype to compute in, such as bf16.", autocompletion=complete_dtype),
    ] = "float32",
    device: Annotated[str, typer.Option(help="The device, such as cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=3, max=10_000, help="How often each is timed.")] = 20,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time a projector as it runs against its plain form, in alternation. Prints medians.

    Example: mobilevlm bench ldpnetv2 in=1024 out=2048 grid=24x24 --batch 8
    """
    with reporting(debug, as_json):
        import torch

        from ..blocks.core.fast import fast_paths
        from ..compare.timing import compare
        from ..projectors.build import build_projector
        from ..projectors.device import check_device

        keywords = call(target, words or (), "bench", needs_grid=True)
        kind = dtype_of(dtype)
        if threads:
            torch.set_num_threads(threads)
        torch.manual_seed(0)
        where = check_device(device)
        projector = build_projector(**keywords, device=where, dtype=getattr(torch, kind)).eval()
        rows = []
        total, done = 2 * (rounds + 1), count(1)
        with progress_bar("timing") as update:
            for run in (_infer, _train):
                x = _input(projector, batch)
                step = run(projector, x)

                def plain(step: Any = step) -> None:
                    with fast_paths(False):
                        step()

                found = compare(plain, step, rounds, tick=lambda: update(next(done), total))
                rows.append((run.__name__[1:], found))
        if as_json:
            echo_json(
                {
                    run: {
                        "plain_s": found.a.median,
                        "as_it_runs_s": found.b.median,
                        "ratio": found.ratio.median,
                    }
                    for run, found in rows
                }
            )
            return
        table = [[run, str(found.a), str(found.b), found.ratio.plain()] for run, found in rows]
        echo_table(["run", "plain", "as it runs", "ratio"], table)
        for line in projector.plan().runs_as:
            echo(f"runs as: {line}")


def _input(projector: Projector, batch: int) -> Tensor:
    import torch

    h, w = projector.grid or (1, 1)
    first = next(projector.parameters(), torch.empty(0))
    tokens = h * w + projector.spec.prefix_tokens
    return torch.randn(batch, tokens, projector.spec.in_, device=first.device, dtype=first.dtype)


def _infer(projector: Projector, x: Tensor) -> Any:
    from ..compare.timing import forward

    return forward(projector, x)


def _train(projector: Projector, x: Tensor) -> Any:
    from ..compare.timing import wait

    x.requires_grad_()  # so that a projector without parameters has a backward pass too

    def run() -> None:
        projector.zero_grad(set_to_none=True)
        x.grad = None
        projector(x).sum().backward()
        wait(x.device)

    return run
