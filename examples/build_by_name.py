"""Projectors by name: which there are, what each would cost, and one of them at work."""

from __future__ import annotations

import torch

from mobilevlm import PROJECTORS, MobileVLMError, build_projector, plan_projector


def main() -> None:
    """List, plan, build, run, and miss."""
    print("There are:", ", ".join(PROJECTORS.names()))

    # Planning allocates nothing, so comparing big ones is free.
    print("\nFrom CLIP ViT-L/14-336 (24x24 tokens of 1024) to a language model 2048 wide:")
    for name in ("linear", "mlp2x_gelu", "ldp", "ldpnet", "ldpnetv2"):
        plan = plan_projector(name, 1024, 2048, grid=(24, 24))
        print(f"  {name:12}{plan.tokens_out:>4} tokens{plan.parameters:>14,} parameters")

    projector = build_projector("ldp", 64, 128, kernel=5)  # options are keywords
    tokens = torch.randn(2, 24 * 18, 64)
    feature_map = torch.randn(2, 64, 24, 18)
    with torch.inference_mode():
        print("\nldp, 64 -> 128:")
        print("  tokens", tuple(tokens.shape), "->", tuple(projector(tokens, grid=(24, 18)).shape))
        print("  a map ", tuple(feature_map.shape), "->", tuple(projector(feature_map).shape))
    print("  tokens out of a 24x18 grid, asked beforehand:", projector.tokens(24, 18))

    print("\nA name misspelt:")
    try:
        build_projector("lpd", 64, 128)
    except MobileVLMError as error:
        print(" ", error)


if __name__ == "__main__":
    main()
