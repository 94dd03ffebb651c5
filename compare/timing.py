"""Timing that is robust to noise: functions in turns, and medians over the rounds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Pair", "Spread", "compare", "forward", "in_turns", "repeat", "wait"]

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
class Pair:
    """Two functions timed in turns.

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


def in_turns(
    calls: Sequence[Callable[[], Any]],
    rounds: int,
    *,
    number: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Time functions in turns, and return for each the seconds a call of every round.

    All turns of a round run under much the same load, so its changes cancel out where functions
    are compared round by round. The order differs from round to round: each stands in each place,
    and a round is followed by one in the opposite order, so that drift cancels out too. A warm-up
    round is dropped, and results of calls are dropped at once.

    Args:
        calls: The functions.
        rounds: How often each takes its turn.
        number: How many calls make a turn.
        tick: Called after every round, and after that for warming up.
    """
    times: list[list[float]] = [[] for _ in calls]
    with _without_garbage_collection():
        for index in range(rounds + 1):
            for place in _order(len(calls), index):
                times[place].append(_seconds(calls[place], number))
            tick()
    return [each[1:] for each in times]


def _order(count: int, index: int) -> list[int]:
    """Return the order of a round; two rounds start one further than the two before.

    >>> [_order(3, index) for index in range(4)]
    [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]]
    """
    places = [(place + index // 2) % count for place in range(count)]
    return places[::-1] if index % 2 else places


def compare(
    a: Callable[[], Any],
    b: Callable[[], Any],
    rounds: int,
    *,
    number: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> Pair:
    """Time two functions, as `in_turns` does, and summarise their difference and ratio."""
    times = in_turns([a, b], rounds, number=number, tick=tick)
    ratios = tuple(x / y for x, y in zip(*times, strict=True))
    return Pair(
        a=Spread.of(times[0]),
        b=Spread.of(times[1]),
        difference=Spread.of(x - y for x, y in zip(*times, strict=True)),
        ratio=Spread.of(ratios),
        ratios=ratios,
    )


def repeat(call: Callable[[], Any], rounds: int, *, number: int = 1) -> Spread:
    """Time one function, in seconds a call; a warm-up round is dropped."""
    return Spread.of(in_turns([call], rounds, number=number)[0])


def forward(call: Callable[[Tensor], Any], x: Tensor) -> Callable[[], None]:
    """Return a function that calls a module in inference mode and waits for the result."""

    def run() -> None:
        with torch.inference_mode():
            call(x)
        wait(x.device)

    return run


def wait(device: torch.device) -> None:
    """Let an accelerator finish what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _seconds(call: Callable[[], Any], number: int) -> float:
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
