"""One block class per usable module of Zeta's, made from its row when it is asked for."""

from __future__ import annotations

from types import new_class
from typing import Any

from .block import ZetaBlock, ZetaOutBlock
from .table import Row, table

__all__ = ["block_class"]


def block_class(row: Row) -> type[ZetaBlock]:
    """Make the block class of a row."""
    facts = {
        "row": row,
        "needs_grid": row.needs_grid,
        "mixes_tokens": row.mixes_tokens,
        "__doc__": f"``zeta.nn.{row.signature}``.",
        "__module__": __name__,
        "__qualname__": row.module,
    }
    base = ZetaBlock if row.out is None else ZetaOutBlock
    made: type[ZetaBlock] = new_class(
        row.module, (base,), exec_body=lambda body: body.update(facts)
    )
    return made


def __getattr__(name: str) -> Any:
    for row in table().blocks.values():
        if row.module == name:
            return globals().setdefault(name, block_class(row))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
