"""A projector is data: take a named one apart, change it as a dictionary, build what comes out."""

from __future__ import annotations

import torch

from mobilevlm import build_projector, dump_spec, load_spec, plan_projector, spec_of


def main() -> None:
    """Turn `ldp` into a variant of it."""
    document = spec_of("ldp", 256, 512).model_dump()
    blocks = document["blocks"]
    print("ldp is", " > ".join(block["type"] for block in blocks))

    # Plain Python on plain data: wider kernels, and a squeeze-excite before the tokens shrink.
    for block in blocks:
        if block["type"] == "depthwise-residual":
            block["kernel"] = 7
    shrinks = next(i for i, block in enumerate(blocks) if block.get("stride", 1) > 1)
    blocks.insert(shrinks, {"type": "squeeze-excite"})
    print("now it is", " > ".join(block["type"] for block in blocks))

    projector = build_projector(document)
    with torch.inference_mode():
        y = projector(torch.randn(1, 16 * 16, 256))
    print("\nIt runs: (1, 256, 256) ->", tuple(y.shape))

    text = dump_spec(projector.spec)
    print(f"\nThe file to keep, with every default written out:\n\n{text}")
    print("Read back, it is the same projector:", load_spec(text) == projector.spec)

    before, after = plan_projector("ldp", 256, 512), projector.plan()
    print(f"Parameters: {before.parameters:,} before, {after.parameters:,} after")


if __name__ == "__main__":
    main()
