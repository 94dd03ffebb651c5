"""The verbs for checkpoints: inspect, convert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..registry import quote
from .arguments import UsageError, document, settings
from .options import (
    Debug,
    Family,
    Force,
    Grid,
    Json,
    ModuleNames,
    PrefixTokens,
    Root,
    Spec,
    TokenOrder,
    complete_dtype,
    dtype_of,
    grid_of,
)
from .output import FAILED, echo, echo_json, explain, reading_bar, reporting
from .table import echo_table

if TYPE_CHECKING:
    from ..checkpoints.values import Values

__all__ = ["convert", "inspect"]


Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="With --family: its options, as act=relu."),
]


def inspect(
    path: Annotated[
        str, typer.Argument(help="A safetensors file, a model's folder, or hf://ORG/MODEL.")
    ],
    options: Options = None,
    root: Root = None,
    family: Family = None,
    spec: Spec = None,
    module_names: ModuleNames = None,
    prefix_tokens: PrefixTokens = None,
    token_order: TokenOrder = None,
    values: Annotated[
        bool, typer.Option("--values", help="Read the weights too; fail at NaN or infinity.")
    ] = False,
    grid: Grid = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which projector a checkpoint holds. Reads headers and config, no weights by default."""
    with reporting(debug, as_json):
        from ..checkpoints.inspection import inspect_checkpoint

        meant = _meant(
            inspect_checkpoint,
            options,
            root=root,
            family=family,
            spec=spec,
            module_names=module_names,
            prefix_tokens=prefix_tokens,
            token_order=token_order,
            grid=grid_of(grid),
        )
        inspection = inspect_checkpoint(path, **meant)
        facts = inspection.to_dict()
        found: Sequence[Values] = ()
        if values:
            from ..checkpoints.values import inspect_values

            with reading_bar(path) as progress:
                found = inspect_values(path, progress=progress, **meant)
            facts["values"] = [each.to_dict() for each in found]
        if as_json:
            echo_json(facts)
        else:
            echo(inspection)
            if values:
                echo()
                _echo_values(found)
        bad = sum(not each.finite for each in found)
        if bad:
            explain(f"{path}: {bad} of {len(found)} tensors hold NaN or infinite values")
            raise typer.Exit(FAILED)


def _meant(
    function: Callable[..., object],
    options: list[str] | None,
    *,
    spec: Path | None,
    module_names: str | None,
    **given: Any,
) -> dict[str, Any]:
    """Return the arguments that say which projector of a checkpoint is meant.

    Raises:
        UsageError: A word is wrong.
        SpecError: The document cannot be read.
    """
    from ..checkpoints.request import Request

    words = settings(options or [])
    taken = {*signature(function).parameters} - {*signature(Request.of).parameters}
    for word in words:
        if word in taken:
            hint = "Write --force." if word == "replace" else "Leave it out."
            raise UsageError(f"{word!r} is not an option of a projector", hint=hint)
    return {
        **given,
        "spec": None if spec is None else document(str(spec)),
        "module_names": None if module_names is None else _names(module_names),
        **words,
    }


def _names(text: str) -> str | list[str]:
    """Return the modules' names; or, of one name alone, the layout that has it."""
    from ..checkpoints.errors import CheckpointError
    from ..checkpoints.mapping import find_layout

    if "," in text:
        return text.split(",")
    try:
        find_layout(text)
    except CheckpointError:
        return [text]
    return text


def _echo_values(found: Sequence[Values]) -> None:
    rows = []
    for each in found:
        figures = (each.minimum, each.maximum, each.mean, each.std)
        rows.append(
            [
                quote(each.key, 200)[1:-1],
                str(each.dtype).removeprefix("torch."),
                "x".join(map(str, each.shape)) or "-",
                f"{each.nan:,}",
                f"{each.infinite:,}",
                *("-" if figure is None else f"{figure:.4g}" for figure in figures),
            ]
        )
    header = ["tensor", "dtype", "shape", "NaN", "inf", "min", "max", "mean", "std"]
    echo_table(header, rows, right=range(3, 9))


def convert(
    path: Annotated[
        str, typer.Argument(help="A checkpoint: a file, a model's folder, or hf://ORG/MODEL.")
    ],
    out: Annotated[Path, typer.Argument(help="A folder; with --to a safetensors file.")],
    options: Options = None,
    from_pickle: Annotated[
        bool,
        typer.Option("--from-pickle", help="Read a pickle (.bin, .pt); no code in it is run."),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="LAYOUT", help="Write upstream's keys: mlp, ldpnet, llava."),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", help="A prefix for upstream's keys: model.mm_projector.")
    ] = "",
    root: Root = None,
    family: Family = None,
    spec: Spec = None,
    module_names: ModuleNames = None,
    prefix_tokens: PrefixTokens = None,
    token_order: TokenOrder = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="The dtype to write, such as bf16; default: unchanged.",
            autocompletion=complete_dtype,
        ),
    ] = None,
    grid: Grid = "",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a checkpoint's projector to our own format, or back to upstream's keys.

    A NaN, an infinity or a tensor that does not fit is an error, and nothing is written. An earlier
    result in our own format is replaced, any other file only with --force, and the input never.

    Example: mobilevlm convert --from-pickle mm_projector.bin projector
    """
    with reporting(debug, as_json):
        import torch

        from ..checkpoints.convert import convert_checkpoint

        if prefix and to is None:
            raise UsageError("--prefix without --to", hint="Our own format has its own keys.")
        meant = _meant(
            convert_checkpoint,
            options,
            root=root,
            family=family,
            spec=spec,
            module_names=module_names,
            prefix_tokens=prefix_tokens,
            token_order=token_order,
            grid=grid_of(grid),
        )
        kind = None if dtype is None else dtype_of(dtype)
        with reading_bar(path) as progress:
            inspection = convert_checkpoint(
                path,
                out,
                from_pickle=from_pickle,
                to=to,
                prefix=prefix,
                dtype=None if kind is None else getattr(torch, kind),
                replace=force,
                progress=progress,
                **meant,
            )
        for note in inspection.notes:
            explain(f"{path}: {note}", "note")
        written = kind or str(inspection.dtype).removeprefix("torch.")
        if as_json:
            echo_json({**inspection.to_dict(), "out": str(out), "written": written})
        else:
            widths = f"{inspection.spec.in_} -> {inspection.spec.out}"
            echo(f"{out}: {to or inspection.title}, {widths}, {written}")
