"""What stands in a model: every family, and every drop-in for upstream's types."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mobilevlm import PROJECTORS, Projector, build_projector, build_vision_projector

V, D = 48, 64  # the widths of the vision encoder and of the language model
GRID = (12, 12)
SMALL: dict[str, dict[str, Any]] = {
    "blip2": {"depth": 2},
    "idefics2": {"depth": 1},
    # The mean of 65,531 random embeddings is nearly zero.
    "ovis2": {"words": 95},
}
DROP_INS = ["linear", "mlp2x_gelu", "mlp2x_res2x_gelu", "ldpnet", "ldpnetv2"]
NATIVE = [
    entry.name
    for entry in PROJECTORS.entries()
    if entry.source == "built-in"
    and isinstance(PROJECTORS.get(entry.name), type)  # a name for set options is none
    and entry.name != "identity"  # which has no weights
]
CASES = [*(f"drop-in {name}" for name in DROP_INS), *NATIVE]


def build(case: str) -> Projector:
    """A projector in eval mode, by the name of its case."""
    drop_in = case.removeprefix("drop-in ")
    if drop_in != case:
        config = SimpleNamespace(mm_projector_type=drop_in, mm_hidden_size=V, hidden_size=D)
        return build_vision_projector(config).eval()
    return build_projector(case, V, D, grid=GRID, **SMALL.get(case, {})).eval()


class Model(nn.Module):
    """A model that holds its projector as LLaVA's does."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.mm_projector = projector
        self.lm = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lm(self.mm_projector(x))
        return y


def tokens() -> Tensor:
    return torch.randn(2, GRID[0] * GRID[1], V)


def distance(y: Tensor, expected: Tensor) -> float:
    """How far a result is from what is expected, relative to that."""
    assert y.shape == expected.shape
    return float((y - expected).norm() / expected.norm())
