"""The verb that sets projectors side by side: compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..registry import did_you_mean
from .arguments import (
    UsageError,
    bracketed,
    check_name,
    document,
    is_file,
    is_setting,
    require,
    settings,
)
from .options import Debug, Force, Json, complete_dtype, dtype_of, names
from .output import FAILED, echo, echo_json, explain, progress_bar, reporting
from .table import echo_table
from .wording import reworded

if TYPE_CHECKING:
    from ..compare.asked import Spec
    from ..compare.comparison import Comparison

__all__ = ["compare"]

_FOR_ALL = ("in", "out", "grid", "tower", "lm", "tokens")
_TARGETS = "NAME, NAME(KEY=VALUE,...) or FILE"


def _limit(examples: str) -> Any:
    return typer.Option(metavar="LIMIT", help=f"With --all: {examples}.")


def compare(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET|KEY=VALUE",
            help=f"{_TARGETS}; in=1024 out=2048, or tower=FOLDER lm=FOLDER; grid=24x24,16x32; "
            "tokens=64 asks each name for that many.",
            autocompletion=names,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All registered projectors that keep within limits.")
    ] = False,
    tokens: Annotated[str | None, _limit('"<=64", "=64" or "64..144"')] = None,
    parameters: Annotated[str | None, _limit('such as "<=20M"')] = None,
    macs: Annotated[str | None, _limit('of MACs as run, such as "<5G"')] = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Take the grids as one set of packed images.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="The dtype of activations, KV cache and --time; default: bf16, timed in f32 too.",
            autocompletion=complete_dtype,
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a .png, .svg or .pdf.")
    ] = None,
    time: Annotated[
        bool, typer.Option("--time", help="Build them, and measure time and memory.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=3, max=10_000, help="--time: how often each is timed.")
    ] = 20,
    batch: Annotated[int, typer.Option(min=1, help="--time: images in a batch.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="--time: threads; 0: torch's default.")] = 0,
    device: Annotated[str, typer.Option(help="--time: the device, such as cuda.")] = "cpu",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare projectors: tokens, parameters, MACs, memory, and what they save a language model.

    Only --time builds them. An earlier picture is replaced, any other file only with
    --force.

    Example: mobilevlm compare ldp "c-abstractor(queries=64)" mine.json in=1024 out=2048 grid=24x24
    """
    with reporting(debug, as_json):
        limits = {"tokens": tokens, "parameters": parameters, "macs": macs}
        limits = {key: limit for key, limit in limits.items() if limit is not None}
        asked = [word for word in targets or () if not is_setting(word)]
        keywords = _for_all(word for word in targets or () if is_setting(word))
        kind = None if dtype is None else dtype_of(dtype)
        if kind is not None:
            keywords["dtype"] = kind
        if everything:
            found = _suggested(asked, packed, keywords, limits)
        elif limits:
            hint = "Limits choose among all projectors: add --all."
            raise UsageError(f"--{next(iter(limits))} without --all", hint=hint)
        else:
            found = _compared(asked, packed, keywords)
        if picture is not None:
            found.plot(picture, replace=force)
        if time:
            from ..compare.measure import DTYPES, measure

            if packed and batch > 1:
                raise UsageError("--batch with --packed", hint="Write grid= with all the images.")
            with progress_bar("timing") as update:
                found = measure(
                    found,
                    batch=batch,
                    dtypes=DTYPES if kind is None else [kind],
                    rounds=rounds,
                    device=device,
                    threads=threads or None,
                    progress=update,
                )
        for each in (*found.refused, *found.left_out):
            reworded(each.error)
        if as_json:
            drawn = {} if picture is None else {"picture": str(picture)}
            echo_json({**found.to_dict(), **drawn})
        else:
            _print(found)
            if picture is not None:
                echo(f"picture: {picture}")


def _for_all(words: Iterable[str]) -> dict[str, Any]:
    """Read what holds for all projectors.

    Raises:
        UsageError: A word is wrong, or none of these.
    """
    keywords = settings(words, several_grids=True)
    for key, value in keywords.items():
        if key not in _FOR_ALL:
            brackets = f"An option of a projector stands behind its name: NAME({key}={value})."
            raise UsageError(
                f"{key!r} is not an option of the comparison",
                expected=f"one of {', '.join(_FOR_ALL)}",
                hint=did_you_mean(key, _FOR_ALL) or brackets,
            )
    return keywords


def _compared(asked: Sequence[str], packed: bool, keywords: dict[str, Any]) -> Comparison:
    from ..compare.comparison import compare_projectors

    if not asked:
        raise UsageError("nothing to compare", expected=_TARGETS, hint="Or write --all.")
    specs = [_spec(target, keywords) for target in asked]
    if "tower" not in keywords:
        require("grid", keywords, asked[0], "Write grid=24x24.")
    with progress_bar("planning") as update:
        update(0)
        return compare_projectors(specs, in_=keywords.pop("in", None), packed=packed, **keywords)


def _spec(target: str, keywords: Mapping[str, Any]) -> Spec:
    """Return what a target names; the widths of a name have to be known."""
    if is_file(target):
        return target, document(target)
    name, options = bracketed(target)
    check_name(name, _quoted)
    _require_widths(keywords, name)
    return name, options


def _quoted(name: str, options: Mapping[str, Any]) -> str:
    """Return a name with its options as a target; a shell takes brackets in quotes only."""
    given = ",".join(f"{key}={value}" for key, value in options.items())
    return f'"{name}({given})"' if given else name


def _require_widths(keywords: Mapping[str, Any], target: str) -> None:
    for key, model in (("in", "tower"), ("out", "lm")):
        if model not in keywords:
            require(key, keywords, target, f"Write {key}=... or {model}=FOLDER.")


def _suggested(
    asked: Sequence[str], packed: bool, keywords: dict[str, Any], limits: Mapping[str, Any]
) -> Comparison:
    from ..compare.suggest import NothingFits, suggest

    if asked:
        raise UsageError(f"{asked[0]} with --all", hint="All names are tried: leave it out.")
    if "tokens" in keywords:
        hint = f'Write --tokens "={keywords["tokens"]}".'
        raise UsageError("tokens= with --all", hint=hint)
    grids = keywords.pop("grid", [None])
    if packed or len(grids) > 1:
        raise UsageError("several grids with --all", expected="one grid, of one image")
    _require_widths(keywords, "--all")
    in_, grid = keywords.pop("in", None), grids[0]
    with progress_bar("planning") as update:
        try:
            return suggest(in_, grid=grid, progress=update, **keywords, **limits)
        except NothingFits as error:
            explain(str(reworded(error)), found=error.found, hint=error.hint)
            raise typer.Exit(FAILED) from None


def _print(found: Comparison) -> None:
    header, rows = found.table()
    several = len({row.grids for row in found.rows}) > 1
    echo_table(header, rows, right=range(2, len(header)), titles=2 if several else 1)
    echo()
    for line in found.notes():
        echo(line)
