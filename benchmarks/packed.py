"""What packed images of many sizes cost, against one batch of as many tokens of one size.

python benchmarks/packed.py
"""

from __future__ import annotations

import torch

from mobilevlm import build_projector
from mobilevlm.compare.timing import compare

IMAGES = (1, 4, 16, 64, 256)
CASES = {
    "mlp": {},
    "qwen2-vl": {},
    "internvl": {},
    "gemma3": {"pool": 2},
    "ldp": {},  # depthwise: once per distinct size, no promise
}


def grids_of(count: int) -> list[tuple[int, int]]:
    """Return as many distinct grids, of about 16x16 tokens each."""
    sizes = [(h, w) for h in range(8, 40, 2) for w in range(8, 40, 2)]
    return sorted(sizes, key=lambda grid: abs(grid[0] * grid[1] - 256))[:count]


@torch.inference_mode()
def main() -> None:
    """Print the ratio packed / batch, median of interleaved rounds."""
    torch.manual_seed(0)
    print(f"{'':12}" + "".join(f"{count:>8}" for count in IMAGES) + "   distinct sizes")
    for name, options in CASES.items():
        projector = build_projector(name, 256, 256, **options).eval()
        ratios = []
        for count in IMAGES:
            grids = grids_of(count)
            packed = torch.randn(sum(h * w for h, w in grids), 256)
            batch = packed[: len(packed) // 256 * 256].view(-1, 256, 256)
            result = compare(
                lambda x=packed, g=grids, p=projector: p(x, grid=g),
                lambda x=batch, p=projector: p(x, grid=(16, 16)),
                rounds=15,
            )
            ratios.append(result.ratio.median)
        print(f"{name:12}" + "".join(f"{ratio:8.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
