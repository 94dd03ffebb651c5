"""The names of Zeta's modules as blocks, and where their classes are."""

import json
from pathlib import Path

__all__ = ["ZETA"]

# Not by `table`: whoever lists the blocks needs the names alone.
_TABLE = json.loads(Path(__file__).with_name("table.json").read_text("utf-8"))
ZETA = {name: f"mobilevlm.zeta.blocks:{row['module']}" for name, row in _TABLE["blocks"].items()}
