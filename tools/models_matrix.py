"""Which projector goes into which model: the table of docs/models.md.

``python tools/models_matrix.py`` swaps each projector into a small model of each host and writes
how many image tokens it makes, or why it is refused. `make test-models` tests what it writes.
"""

import sys
from pathlib import Path
from typing import Any

from matrix import Cells, Matrix

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import torchvision_operators

torchvision_operators.declare()

import torch
from helpers import swapped

from mobilevlm import MobileVLMError

# Options that keep them small, and ask for fewer tokens than a grid of 6x6 has. The first ones run
# in every host: linear layers, convolutions and pools, and the merging of neighbours.
PROJECTORS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {},
    "ldp": {},
    "ldpnet": {},
    "ldpnetv2": {"size": 3},
    "internvl": {},
    "qwen2-vl": {},
    "mistral3": {},
    "c-abstractor": {"queries": 4, "hidden": 32, "depth": 1},
    "deco": {"side": 3},
    "h-reducer": {},
    "oryx": {},
    "blip2": {"queries": 4, "width": 32, "depth": 2, "heads": 4},
    "flamingo": {"queries": 4, "depth": 1, "heads": 2, "head_dim": 16},
    "minicpmv": {"queries": 4, "heads": 4},
}
EVERYWHERE = tuple(PROJECTORS)[:8]
PICTURE = [(48, 48)]  # height and width in pixels
MATRIX = Matrix(
    Path(__file__).parents[1] / "docs" / "models.md", "model type", [*PROJECTORS], str.isdecimal
)


def cell(host: str, name: str) -> str:
    """Swap: how many image tokens a prompt then has for a picture, or why it is refused."""
    torch.manual_seed(0)
    try:
        made = swapped.swap(host, name, **PROJECTORS[name])
    except MobileVLMError as error:
        expected = f"; expected {error.expected}" if error.expected else ""
        return f"{error.where}: {error.found}{expected}"
    return str(swapped.image_tokens(made, PICTURE))


def matrix() -> Cells:
    """The whole table."""
    return {host: {name: cell(host, name) for name in PROJECTORS} for host in swapped.makers()}


if __name__ == "__main__":
    page = MATRIX.path.read_text("utf-8")
    MATRIX.path.write_text(MATRIX.render(page, matrix()), "utf-8")
