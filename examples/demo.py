"""One photograph through three projectors: two by name, one composed in a JSON file.

The photo is cut into 14x14 patches, 576 tokens of 588 numbers, and projected to the width of a
small language model. For each projector: its plan, block by block, and how long it takes. The
weights are random, so this shows shapes, sizes and speed, not what a trained projector would see.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from einops import rearrange

from mobilevlm import Projector, build_projector, load_spec

try:
    from PIL import Image
except ImportError:
    raise SystemExit("The demo reads a photo: pip install pillow") from None

HERE = Path(__file__).parent
PATCH, GRID = 14, (24, 24)
WIDTH = 2048


def read_patches(path: Path) -> torch.Tensor:
    """Read a photo as tokens ``(1, 576, 588)``: one per patch, normalised."""
    with Image.open(path) as image:
        photo = image.convert("RGB")
    pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).float()
    pixels = pixels.view(photo.height, photo.width, 3)
    pixels = (pixels - pixels.mean((0, 1))) / pixels.std((0, 1))
    return rearrange(pixels, "(h p) (w q) c -> 1 (h w) (p q c)", p=PATCH, q=PATCH)


def time_projector(projector: Projector, x: torch.Tensor, runs: int = 5) -> float:
    """Return the median milliseconds of a few runs; the first, which warms up, is dropped."""
    took = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        projector(x)
        took.append(1e3 * (time.perf_counter() - start))
    return statistics.median(took[1:])


@torch.inference_mode()
def main() -> None:
    """Project the photo three ways."""
    torch.manual_seed(0)
    x = read_patches(HERE / "astronaut.jpg")
    h, w = GRID
    print(f"astronaut.jpg: {h}x{w} patches of {PATCH}x{PATCH} pixels -> tokens {tuple(x.shape)}")

    projectors = {
        "ldp": build_projector("ldp", x.shape[-1], WIDTH),
        "mlp2x_gelu": build_projector("mlp2x_gelu", x.shape[-1], WIDTH),
        "variant.json": build_projector(load_spec(HERE / "variant.json")),
    }
    summary = []
    for name, projector in projectors.items():
        plan = projector.eval().plan(GRID)
        y = projector(x)
        print(f"\n{name}: {tuple(x.shape)} -> {tuple(y.shape)}\n\n{plan}")
        summary.append((name, plan, time_projector(projector, x)))

    print(f"\n{'':14}{'tokens in -> out':>18}{'parameters':>14}{'GMACs':>8}{'ms':>8}")
    for name, plan, milliseconds in summary:
        tokens = f"{plan.tokens_in} -> {plan.tokens_out}"
        work = f"{(plan.macs or 0) / 1e9:.2f}"
        print(f"{name:14}{tokens:>18}{plan.parameters:>14,}{work:>8}{milliseconds:>8.1f}")


if __name__ == "__main__":
    main()
