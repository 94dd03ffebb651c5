"""Draw the comparison that docs/choose.md shows, in light and in dark.

python tools/compare_picture.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobilevlm import compare_projectors
from mobilevlm.compare import Comparison

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = {"light": DOCS / "compare.svg", "dark": DOCS / "compare-dark.svg"}
# The LLaVA line without reduction, MobileVLM's own, and for each way to have fewer tokens the
# families that are known for it: queries, convolutions, patches merged, pools.
SPECS: list[str | tuple[str, dict[str, Any]]] = [
    "mlp2x_gelu",
    "ldp",
    "ldpnet",
    "ldpnetv2",
    "blip2",
    "flamingo",
    "idefics2",
    "qwen-vl",
    "c-abstractor",
    ("c-abstractor", {"queries": 64}),
    "qwen2-vl",
    ("internvl", {"merge": 3}),
    ("idefics3", {"merge": 4}),
    "deco",
    ("deco", {"side": 8}),
    ("gemma3", {"pool": 2}),
]


def comparison() -> Comparison:
    return compare_projectors(SPECS, 1024, 2048, grid=(24, 24))


if __name__ == "__main__":
    found = comparison()
    for theme, path in PICTURES.items():
        found.plot(path, theme=theme)
