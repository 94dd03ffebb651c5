"""A projector of our blocks and zetascale's: trained a few steps, saved, and loaded again.

In a clone, first: ``pip install -c constraints-zeta.txt ".[zeta]"``.
"""

from __future__ import annotations

import tempfile

import torch
from torch.nn import functional as F

from mobilevlm import build_projector, load_projector, save_projector

SPEC = {
    "in": 96,
    "out": 128,
    "blocks": [
        {"type": "pointwise", "out": 64},
        {"type": "residual", "body": [{"type": "zeta-multi-query-attention", "heads": 4}]},
        {"type": "depthwise-residual", "stride": 2},
        "zeta-squeeze-excitation",
        {"type": "zeta-feed-forward", "out": 256},
        "zeta-swiglu",
    ],
}


def main() -> None:
    """Teach it to give random tokens, which shows that every block learns."""
    torch.manual_seed(0)
    projector = build_projector(SPEC)
    print(projector.plan((8, 8)))

    x, goal = torch.randn(4, 64, 96), torch.randn(4, 16, 128)
    optimizer = torch.optim.AdamW(projector.parameters(), lr=3e-3)
    for step in range(1, 31):
        optimizer.zero_grad()
        loss = F.mse_loss(projector(x), goal)
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.2f}")

    projector.eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        save_projector(projector, folder)
        loaded = load_projector(folder).eval()
        print("Read back, it gives the same:", torch.equal(loaded(x), projector(x)))


if __name__ == "__main__":
    main()
