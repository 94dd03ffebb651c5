"""Turn a number of tokens that is asked for into the option of a preset that gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Grid, check_grid
from ..registry import quote
from .lookup import instantiate
from .preset import Preset

__all__ = ["WIDTHS", "token_counts", "with_tokens"]

WIDTHS = (1024, 1024)  # of a name for which none are given: counts never depend on them


def with_tokens(
    name: str,
    options: Mapping[str, Any],
    tokens: int,
    grid: Sequence[int] | None = None,
    widths: tuple[int, int] = WIDTHS,
) -> dict[str, Any]:
    """Return the options with the one added that gives this many tokens.

    The preset says in `tokens_by` which of its options that may be.

    >>> with_tokens("flamingo", {}, 32), with_tokens("internvl", {"act": "silu"}, 64, (24, 24))
    ({'queries': 32}, {'act': 'silu', 'merge': 3})

    Args:
        name: The registered name.
        options: The options that are given too.
        tokens: How many tokens are to come out.
        grid: The token grid (h, w), where the number depends on it.
        widths: The input's and the output's width.

    Raises:
        RegistryError: There is no such name.
        SpecError: No value of the option gives that many, the grid is missing, or what is given
            too gives another number.
        GridError: The grid is none, or does not fit.
    """
    if type(tokens) is not int or tokens < 1:
        raise SpecError(quote(tokens), "tokens", "a number of tokens, at least 1")
    sides = None if grid is None else check_grid(grid)
    preset = instantiate(name, options)
    ways = type(preset).tokens_by
    given = [option for option in ways if getattr(preset, option) is not None]
    given = [option for option in given if option in preset.model_fields_set]
    if given or not ways:
        _check(name, preset, given, tokens, sides, widths)
        return dict(options)
    refused: SpecError | None = None
    for option, way in ways.items():
        try:
            if callable(way):
                value = way(tokens, preset)
                changed = instantiate(name, {**options, option: value})
                _check(name, changed, [option], tokens, sides, widths)
            else:
                value = _pick(name, options, option, way, tokens, sides, widths)
        except SpecError as error:  # of two ways, the first one's reason is told
            refused = refused or SpecError(error.found, "tokens", error.expected, error.hint)
            continue
        return {**options, option: value}
    raise refused or SpecError(f"{tokens}", "tokens")


def _count(preset: Preset, grid: Grid | None, widths: tuple[int, int]) -> int | None:
    """Return how many tokens come out; None if that depends on a grid that is not given."""
    return preset.stack(*widths).walk(grid or (None, None))[-1].y.tokens


def _check(
    name: str,
    preset: Preset,
    given: Sequence[str],
    tokens: int,
    grid: Grid | None,
    widths: tuple[int, int],
) -> None:
    """Refuse options that give another number of tokens."""
    count = _count(preset, grid, widths)
    if count == tokens:
        return
    if count is None and not given:
        found = f"{tokens} without a grid, and no option of {name} sets the number of tokens"
        raise SpecError(found, "tokens", hint="Leave out tokens.")
    if count is None:
        raise _without_grid(name)
    options = ", ".join(f"{option}={getattr(preset, option)!r}" for option in given)
    hint = f"Leave out {given[0]} or tokens." if given else "Leave out tokens."
    raise SpecError(f"{options or name} gives {count}", "tokens", f"{tokens}", hint)


def _pick(
    name: str,
    options: Mapping[str, Any],
    option: str,
    values: Sequence[int],
    tokens: int,
    grid: Grid | None,
    widths: tuple[int, int],
) -> int:
    """Return the value of an option that gives so many tokens of a grid."""
    if grid is None:
        raise _without_grid(name, option)
    counts = token_counts(name, options, option, values, grid, widths)
    found = [value for value, count in counts.items() if count == tokens]
    if not found:
        each = ", ".join(f"{count} ({option}={value})" for value, count in counts.items())
        expected = f"one of {each}" if each else "a grid that it takes"
        raise SpecError(f"{tokens} tokens of {grid[0]}x{grid[1]}", "tokens", expected)
    # Of several, the one that leaves nothing of the grid over.
    return min(found, key=lambda value: (any(side % value for side in grid), value))


def token_counts(
    name: str,
    options: Mapping[str, Any],
    option: str,
    values: Sequence[int],
    grid: Grid,
    widths: tuple[int, int] = WIDTHS,
) -> dict[int, int]:
    """Return how many tokens come out of a grid with each value of an option that takes it.

    >>> token_counts("internvl", {}, "merge", range(1, 6), (24, 24))
    {1: 576, 2: 144, 3: 64, 4: 36}

    Args:
        name: The registered name.
        options: The other options.
        option: The option.
        values: Its values.
        grid: The token grid (h, w).
        widths: The input's and the output's width.
    """
    counts: dict[int, int] = {}
    for value in values:
        try:
            count = _count(instantiate(name, {**options, option: value}), grid, widths)
        except (SpecError, GridError):  # it does not take this grid
            continue
        if count is not None:
            counts[value] = count
    return counts


def _without_grid(name: str, option: str = "") -> SpecError:
    by = f"{option} sets the number of tokens, which" if option else "the number of tokens"
    found = f"{by} depends on the grid, of {name}"
    return SpecError(found, "tokens", hint="Give the token grid too: grid=(24, 24).")
