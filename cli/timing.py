"""Timing that survives a noisy machine: two things in turns, medians of what each round says."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Comparison", "Spread", "compare", "repeat", "seconds"]

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


@dataclass(frozen=True)
class Spread:
    """What several rounds measured."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise one value per round."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])

    def __str__(self) -> str:
        """Write seconds in the unit that suits the median."""
        size = abs(self.median)
        scale, unit = next((each for each in _UNITS if size >= each[0]), _UNITS[-1])
        return f"{_short(self.median, scale)} {unit} ({self._range(scale)})"

    def plain(self) -> str:
        """Write a number without a unit, such as a ratio."""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"

    def _range(self, scale: float) -> str:
        return f"{_short(self.low, scale)} to {_short(self.high, scale)}"


@dataclass(frozen=True)
class Comparison:
    """Two things timed in turns.

    Attributes:
        a: Seconds per call of the first.
        b: Seconds per call of the second.
        difference: ``a - b`` of each round, in seconds.
        ratio: ``a / b`` of each round.
        ratios: The same, each of them.
    """

    a: Spread
    b: Spread
    difference: Spread
    ratio: Spread
    ratios: tuple[float, ...]


def compare(
    a: Callable[[], Any],
    b: Callable[[], Any],
    rounds: int,
    *,
    number: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> Comparison:
    """Time two things in turns, each `number` calls long; the order turns every other round.

    Both halves of a round see the same machine, so its moods cancel in the difference and in the
    ratio, of which the medians are taken. One round beforehand is thrown away. `tick` is called
    after every round.
    """
    took: list[tuple[float, float]] = []
    with _quiet():
        for index in range(-1, rounds):
            if index % 2:
                time_b = seconds(b, number)
                time_a = seconds(a, number)
            else:
                time_a = seconds(a, number)
                time_b = seconds(b, number)
            if index >= 0:
                took.append((time_a, time_b))
            tick()
    ratios = tuple(x / y for x, y in took)
    return Comparison(
        a=Spread.of(x for x, _ in took),
        b=Spread.of(y for _, y in took),
        difference=Spread.of(x - y for x, y in took),
        ratio=Spread.of(ratios),
        ratios=ratios,
    )


def repeat(call: Callable[[], Any], rounds: int, *, number: int = 1) -> Spread:
    """Time one thing, in seconds per call; one round beforehand is thrown away."""
    with _quiet():
        return Spread.of([seconds(call, number) for _ in range(rounds + 1)][1:])


def seconds(call: Callable[[], Any], number: int = 1) -> float:
    """Return the seconds that one of `number` calls takes; results are dropped at once."""
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the garbage collector out, as `timeit` does: it would hit whoever comes next."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _short(value: float, scale: float) -> str:
    value /= scale
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
