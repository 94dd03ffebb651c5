"""What all ways to count share."""

from __future__ import annotations

import json
from typing import Any

from ...projectors.document import dump_spec
from ...projectors.stack import Stack
from ..forms.form import Slot

__all__ = ["Counter"]


class Counter:
    """How a processor is told how many tokens an image takes.

    Attributes:
        mixin: What its class gets as a base once a projector is swapped in; None where upstream's
            own class counts right once an attribute is set.
    """

    mixin: type | None = None

    def check(self, processor: Any, slot: Slot) -> None:
        """Refuse a processor that gives a model other images than its config says.

        Raises:
            ModelError: It says what each of them says.
        """

    def apply(self, processor: Any, stack: Stack, slot: Slot) -> None:
        """Make a processor count as a projector does. Its class has been changed."""
        if self.mixin is not None:
            grid = None if slot.grid is None else list(slot.grid)
            processor.mobilevlm = {"document": json.loads(dump_spec(stack)), "grid": grid}
            processor.__dict__.pop("stack", None)  # of an earlier swap
