"""The projectors that keep within limits, best first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Grid
from ..projectors import PROJECTORS
from ..projectors.device import check_dtype
from ..projectors.lookup import instantiate
from ..projectors.plan import MAX_PARAMETERS, Plan
from ..projectors.tokens import WIDTHS, token_counts, with_tokens
from ..registry import MobileVLMError, quote
from .around import Around
from .asked import asked
from .comparison import Comparison, Refused, count_reasons, grid_sets
from .cost import Cost

__all__ = ["Limit", "NothingFits", "suggest"]

_RULE = (
    "best first: the most tokens within the limits, then the fewest MACs as run, then the fewest "
    "parameters; on the Pareto front fewer tokens are better."
)

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kMG]?)"
_ONE = re.compile(rf"(<=|<|>=|>|=) ?{_NUMBER}", re.ASCII)
_RANGE = re.compile(rf"{_NUMBER} ?\.\. ?{_NUMBER}", re.ASCII)
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


class NothingFits(SpecError):
    """No projector is within the limits."""


@dataclass(frozen=True)
class Limit:
    """What a count may be.

    Attributes:
        low: The least.
        high: The most; infinity if there is no such limit.
        text: How it was written.
    """

    low: int
    high: float
    text: str

    @classmethod
    def parse(cls, text: object, where: str) -> Limit:
        """Read ``<=64``, ``<64``, ``>=16``, ``>16``, ``=64`` or ``64..144``, with k, M or G.

        >>> limit = Limit.parse("<=20M", "parameters")
        >>> 20_000_000 in limit, 20_000_001 in limit
        (True, False)

        Raises:
            SpecError: It is none of these, or nothing can be within.
        """
        given = text.strip() if isinstance(text, str) else ""
        low, high = 0.0, math.inf
        if one := _ONE.fullmatch(given):
            sign, number = one[1], _number(*one.groups()[1:])
            if sign in ("<=", "="):
                high = math.floor(number)
            elif sign == "<":
                high = math.ceil(number) - 1
            if sign in (">=", "="):
                low = math.ceil(number)
            elif sign == ">":
                low = math.floor(number) + 1
        elif both := _RANGE.fullmatch(given):
            low = math.ceil(_number(*both.groups()[:2]))
            high = math.floor(_number(*both.groups()[2:]))
        else:
            bare = re.fullmatch(_NUMBER, str(text).strip(), re.ASCII)
            hint = f"Write {where}='<={bare[0]}' or '={bare[0]}'." if bare else ""
            expected = "a limit such as '<=64', '=64', '64..144' or '<20M', with k, M or G"
            raise SpecError(quote(text), where, expected, hint)
        if low > high:
            raise SpecError(f"nothing is within {quote(text)}", where)
        return cls(int(low), high, given)

    def __contains__(self, count: int) -> bool:
        return self.low <= count <= self.high

    def ends(self, most: int) -> range:
        """Return the counts to try where any may do: from the upper end down, or else from the low.

        So many that a square number is among them, and none above `most`: queries that are more
        than the tokens that they read reduce nothing.
        """
        if self.high == math.inf:
            return range(max(self.low, 1), min(self.low + 2 * math.isqrt(self.low) + 1, most) + 1)
        top = min(int(self.high), most)
        return range(top, max(self.low, top - 2 * math.isqrt(top), 1) - 1, -1)


def suggest(
    in_: int | None = None,
    out: int | None = None,
    *,
    grid: Sequence[int] | None = None,
    tokens: str | None = None,
    parameters: str | None = None,
    macs: str | None = None,
    tower: object = None,
    lm: object = None,
    dtype: str = "bfloat16",
    max_parameters: int = MAX_PARAMETERS,
    progress: Callable[[int, int, str], object] | None = None,
) -> Comparison:
    """Return the registered projectors that keep within limits, best first.

    Best is who keeps the most tokens of the image, then who takes the fewest MACs as run, then who
    has the fewest parameters. Each family is tried as it is by default. Where an option sets its
    number of tokens, it is also tried with the most tokens within the limit, or, if that has no
    upper end, with the fewest.

    >>> found = suggest(1024, 2048, grid=(24, 24), tokens="<=64", parameters="<=8M")
    >>> [(row.name, row.tokens_out) for row in found.rows][:2]
    [('gemma4', 64), ('gemma3(pool=3)', 64)]

    Args:
        in_: The input width.
        out: The output width.
        grid: The image's token grid (h, w); by default the tower's.
        tokens: How many tokens may come out: ``"<=64"``, ``"<64"``, ``"=64"``, ``"64..144"``.
        parameters: How many parameters it may have: ``"<=20M"``.
        macs: How many MACs it may take as it runs: ``"<5G"``.
        tower: As for `compare_projectors`.
        lm: As for `compare_projectors`.
        dtype: The dtype of activations and of the KV cache.
        max_parameters: Upper limit on parameters.
        progress: Called for each name with how many are done, how many there are, and the name.

    Returns:
        What fits. Its `left_out` says of everything else why it does not.

    Raises:
        SpecError: A limit cannot be read, or nothing fits.
        GridError: The grid is none, or is missing.
    """
    limits = {
        key: Limit.parse(text, key)
        for key, text in {"tokens": tokens, "parameters": parameters, "macs": macs}.items()
        if text is not None
    }
    check_dtype(dtype)
    around = Around.read(in_, out, tower, lm)
    grids, *others = grid_sets(grid, around, packed=False)
    if others:
        raise GridError("several grids", "grid", "one, (h, w)")
    names = PROJECTORS.names()
    rows: list[Cost] = []
    left_out: list[Refused] = []
    for done, name in enumerate(names):
        if progress is not None:
            progress(done, len(names), name)
        for options in _options(name, limits.get("tokens"), grids[0]):
            called = name
            try:
                [each] = asked([(name, options)])
                fitted = each.fit(around, grids)
                called = fitted.name
                plan = Plan(fitted.stack, grids[0], max_parameters=max_parameters)
                _check(limits, tokens=plan.tokens_out or 0, parameters=plan.parameters)
                cost = Cost.of(fitted, grids, around, dtype=dtype, max_parameters=max_parameters)
                _check(limits, macs=cost.macs_run)
            except MobileVLMError as error:  # a broken plugin's too
                left_out.append(Refused(called, grids, error))
            else:
                rows.append(cost)
    if not rows:
        hint = f"{len(left_out)} were tried: {count_reasons(left_out)}."
        raise NothingFits("no projector is within the limits", hint=hint)
    rows.sort(key=lambda row: (-row.tokens_out, row.macs_run, row.parameters, row.name))
    return Comparison(tuple(rows), (_RULE, *around.remarks), tuple(left_out))


def _check(limits: Mapping[str, Limit], **counts: int) -> None:
    """Refuse counts that are not within their limits.

    Raises:
        SpecError: One is not.
    """
    for key, count in counts.items():
        if key in limits and count not in limits[key]:
            raise SpecError(f"{count:,}", key, limits[key].text)


def _options(name: str, limit: Limit | None, grid: Grid) -> list[dict[str, Any]]:
    """Return the options to try: none, and the number of tokens nearest to a limit's end."""
    options: list[dict[str, Any]] = [{}]
    if limit is None:
        return options
    found: set[int] = set()
    default = None
    with suppress(MobileVLMError):  # which trying it reports
        preset = instantiate(name, {})
        for option, way in type(preset).tokens_by.items():
            if callable(way):
                found |= {n for n in limit.ends(math.prod(grid)) if _gives(name, n, grid)}
            else:
                counts = token_counts(name, {}, option, way, grid).values()
                found |= {count for count in counts if count in limit}
        default = preset.stack(*WIDTHS).tokens(*grid)
    if found:
        best = min(found) if limit.high == math.inf else max(found)
        options += [{"tokens": best}] * (best != default)
    return options


def _gives(name: str, tokens: int, grid: Grid) -> bool:
    """Return whether an option gives so many tokens."""
    try:
        with_tokens(name, {}, tokens, grid)
    except MobileVLMError:
        return False
    return True


def _number(digits: str, unit: str) -> float:
    return float(digits) * _UNITS[unit]
