"""The mistakes that are registered, and how one is."""

from collections.abc import Callable
from typing import Any

import numpy as np
from engine import Array, Case, Engine, Grid

__all__ = ["KINDS", "MISTAKES", "named", "only_last"]

MISTAKES: list[type[Engine]] = []
KINDS: dict[type[Engine], set[str]] = {}


def named(*kinds: str) -> Callable[[type[Engine]], type[Engine]]:
    """Register a mistake, with the kinds of cause that are right names for it."""

    def register(cls: type[Engine]) -> type[Engine]:
        MISTAKES.append(cls)
        KINDS[cls] = {*kinds}
        return cls

    return register


def only_last(method: str, *kinds: str) -> Callable[[type[Engine]], type[Engine]]:
    """Register also the mistake of which only the last of several steps is wrong."""

    def register(wrong: type[Engine]) -> type[Engine]:
        def step(self: Any, *args: Any, **options: Any) -> Array:
            right: Array = getattr(Engine, method)(self, *args, **options)
            changed: Array = getattr(wrong, method)(self, *args, **options)
            self.count += not np.array_equal(right, changed)
            return changed if self.count == self.last else right

        def run_images(self: Any, x: Array, grid: Grid, case: Case) -> dict[str, Array]:
            self.count, self.last = 0, -1
            right = Engine.run_images(self, x, grid, case)
            if self.count < 2:  # no other mistake than in all places
                return right
            self.last, self.count = self.count, 0
            return Engine.run_images(self, x, grid, case)

        members = {"__doc__": f"The same in the last place only: {wrong.__doc__}"}
        last = type(
            f"{wrong.__name__}Last", (wrong,), {**members, method: step, "run_images": run_images}
        )
        named(*kinds)(last)
        return wrong

    return register
