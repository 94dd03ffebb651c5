"""Timing that is robust to noise: two functions in alternation, and medians over the rounds."""

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
    """The median and the range of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise the values of all rounds."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])

    def __str__(self) -> str:
        """Format seconds, in a unit that suits the median."""
        size = abs(self.median)
        scale, unit = next((each for each in _UNITS if size >= each[0]), _UNITS[-1])
        median, low, high = (_short(each / scale) for each in (self.median, self.low, self.high))
        return f"{median} {unit} ({low} to {high})"

    def plain(self) -> str:
        """Format a number without a unit, such as a ratio."""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """Two functions timed in alternation.

    Attributes:
        a: Seconds per call of the first.
        b: Seconds per call of the second.
        difference: ``a - b`` over the rounds, in seconds.
        ratio: ``a / b`` over the rounds.
        ratios: ``a / b`` of each round.
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
    """Time two functions in alternation, `number` calls each; their order changes every round.

    Both halves of a round run under the same load, so its changes cancel out in the difference and
    the ratio. A warm-up round is dropped. `tick` is called after every round.
    """
    times: list[tuple[float, float]] = []
    with _without_garbage_collection():
        for index in range(rounds + 1):
            first, second = (b, a) if index % 2 == 0 else (a, b)
            pair = seconds(first, number), seconds(second, number)
            times.append(pair if first is a else pair[::-1])
            tick()
    del times[0]
    ratios = tuple(x / y for x, y in times)
    return Comparison(
        a=Spread.of(x for x, _ in times),
        b=Spread.of(y for _, y in times),
        difference=Spread.of(x - y for x, y in times),
        ratio=Spread.of(ratios),
        ratios=ratios,
    )


def repeat(call: Callable[[], Any], rounds: int, *, number: int = 1) -> Spread:
    """Time one function, in seconds per call; a warm-up round is dropped."""
    with _without_garbage_collection():
        return Spread.of([seconds(call, number) for _ in range(rounds + 1)][1:])


def seconds(call: Callable[[], Any], number: int = 1) -> float:
    """Return the mean seconds per call of `number` calls; results are dropped at once."""
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Switch the garbage collector off, as `timeit` does."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
