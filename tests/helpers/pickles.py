"""Pickles that call something."""

from typing import Any

__all__ = ["EVAL", "RUN", "Call"]

# What runs leaves a file in the working folder: for os.system, and for eval.
RUN = "echo > ran"
EVAL = "open('ran', 'w').close()"


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced
