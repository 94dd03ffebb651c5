"""A block of your own: one class with its module, registered under a name, used in a document."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobilevlm import BLOCKS, Block, Feature, build_projector, dump_spec, load_spec


class GateModule(nn.Module):
    """``x * sigmoid(linear(x))`` on every token; ``(b, h, w, c) -> (b, h, w, c)``."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel by its gate."""
        return x * torch.sigmoid(self.linear(x))


@BLOCKS.register("gate")
class Gate(Block):
    """Scale every channel by a learned, input-dependent gate."""

    needs_grid = False  # every token on its own: any number of them will do

    bias: bool = True

    def build(self, x: Feature) -> nn.Module:
        """Make the module; `x` says how wide the feature is that arrives."""
        return GateModule(x.channels, bias=self.bias)


def main() -> None:
    """Use the block as if it had always been there."""
    projector = build_projector(
        {
            "in": 64,
            "out": 128,
            "blocks": ["pointwise", {"type": "gate", "bias": False}, "norm-act", "pointwise"],
        }
    )
    print(projector.plan((8, 8)))

    with torch.inference_mode():
        y = projector(torch.randn(1, 77, 64))  # 77 is not a square: no block reads the grid
    print("\n(1, 77, 64) ->", tuple(y.shape))

    text = dump_spec(projector.spec)
    print(f"\n{text}")
    print("Read back, it is the same projector:", load_spec(text) == projector.spec)


if __name__ == "__main__":
    main()
