"""Documents of any depth and width, for tests of what is refused."""

from collections.abc import Callable
from typing import Any


def document(*blocks: Any, **extra: Any) -> dict[str, Any]:
    return {"in": 64, "out": 128, "blocks": list(blocks), **extra}


def nested(levels: int) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "identity"}
    for _ in range(levels - 1):
        block = {"type": "residual", "body": [block]}
    return block


def shared(levels: int) -> dict[str, Any]:
    """A small document with 8 ** levels nodes: every level holds the one below eight times."""
    block: dict[str, Any] = {"type": "identity"}
    for _ in range(levels):
        block = {"type": "residual", "body": [block] * 8}
    return block


def endless() -> dict[str, Any]:
    block: dict[str, Any] = {"type": "residual"}
    block["body"] = [block]
    return block


def levels(number: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 0
    for _ in range(number):
        value = wrap(value)
    return value
