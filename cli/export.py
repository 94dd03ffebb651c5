"""The verb that writes deployment formats: export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import UsageError, call, settings
from .options import Debug, Force, Json, Words, names
from .output import FAILED, echo, echo_json, explain, progress_bar, reporting
from .wording import reworded

if TYPE_CHECKING:
    from ..projectors.projector import Projector

__all__ = ["export"]

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")  # pickles are refused, with advice

# What `load_projector` takes whatever the family is.
_OF_A_CHECKPOINT = {"root", "family", "grid", "prefix_tokens", "token_order"}


def export(
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME-or-FOLDER",
            help="A checkpoint, a projector or a document.",
            autocompletion=names,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A .pt2, .onnx, .gguf or .pte file.")],
    words: Words = None,
    dynamic_grid: Annotated[bool, typer.Option("--dynamic-grid", help="Accept any grid.")] = False,
    weights: Annotated[
        str | None,
        typer.Option(help="f32, f16, bf16, int8 or q8_0, if the format has it."),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX: the opset.")] = None,
    tower: Annotated[
        Path | None, typer.Option(help="GGUF: the folder of the CLIP or SigLIP vision tower.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="ExecuTorch: the largest batch.")] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a projector, run the file in its own runtime and compare it with PyTorch.

    An earlier export is replaced, any other file only with --force.

    Example: mobilevlm export ./llava-v1.5-7b projector.onnx grid=24x24
    """
    with reporting(debug, as_json):
        from ..export.errors import Mismatch
        from ..export.export import export_projector
        from ..export.formats import find_format

        if "=" in out.name and not out.suffix:
            raise UsageError(
                f"{str(out)!r} is not a file to write",
                hint="Write: mobilevlm export NAME OUT in=1024 out=2048",
            )
        find_format(out)  # before anything is built
        projector = _projector(target, words or [])
        try:
            with progress_bar() as update:
                report = export_projector(
                    projector,
                    out,
                    dynamic_grid=dynamic_grid,
                    weights=weights,
                    opset=opset,
                    tower=tower,
                    max_batch=max_batch,
                    replace=force,
                    progress=lambda stage: update(0, title=f"{stage} ..."),
                )
        except Mismatch as error:
            if debug:
                raise
            explain(str(reworded(error)))
            raise typer.Exit(FAILED) from None
        if as_json:
            echo_json(report.to_dict())
        else:
            echo(report)


def _projector(target: str, words: list[str]) -> Projector:
    """Load a checkpoint, or build a name or a document with random weights."""
    keywords = settings(words)
    if "dtype" in keywords:
        hint = f"Write --weights {keywords['dtype']}."
        raise UsageError("'dtype' is not an option of a projector", hint=hint)
    if os.path.isdir(target) or target.endswith(_WEIGHTS):
        from ..checkpoints.load import load_projector

        own = [name for name in keywords if name not in _OF_A_CHECKPOINT]
        if own and ("family" not in keywords or "path" in own):
            raise UsageError(f"{own[0]!r} comes from the checkpoint", target)
        return load_projector(target, **keywords)
    from ..projectors.build import build_projector

    projector = build_projector(**call(target, words, "export"))
    explain(f"{target} is not a checkpoint: its weights are random", "note")
    return projector
