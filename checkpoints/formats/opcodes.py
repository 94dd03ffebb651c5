"""What a pickle would do, read off its opcodes; none of them is run."""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from typing import Any

from ...registry import quote

__all__ = ["opcode_fault"]

# A tensor's arguments are far fewer. A tuple may become a key, and hashing one recurses.
MAX_TUPLE = 1_000


def opcode_fault(
    data: bytes, limit: int, names: Collection[str], opcodes: Collection[str] = ()
) -> str:
    """Say what a pickle has that no dict of tensors needs; empty if there is nothing of that.

    Args:
        data: The pickle.
        limit: How many opcodes there may be.
        names: What a GLOBAL may name, as ``module name``.
        opcodes: The opcodes that there may be; by default any.

    Raises:
        LookupError, ValueError: The pickle is damaged.
    """
    # For each value on the stack: how many values it comes to if it is a tuple, written out.
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    arg: Any
    for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if count >= limit:
            return f"a pickle of more than {limit:,} opcodes"
        if opcodes and name not in opcodes:
            return f"the opcode {name} in its pickle"
        if name == "GLOBAL" and arg not in names:
            return f"it asks for {quote(str(arg).replace(' ', '.'))}, which is not a tensor"
        if name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[int(arg or 0)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(arg or 0)])
        else:
            taken = opcode.stack_before
            if pickletools.markobject in taken:
                start = marks.pop() - taken.index(pickletools.markobject)
            else:
                start = len(stack) - len(taken)
            size = 1 + sum(stack[start:]) if "TUPLE" in name else 1
            if size > MAX_TUPLE:
                return f"a tuple of more than {MAX_TUPLE:,} values in its pickle"
            stack[start:] = [size] * len(opcode.stack_after)
    return ""
