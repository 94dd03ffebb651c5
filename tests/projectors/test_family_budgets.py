"""Every family on packed images at a budget gives what it gives for a list of grids."""

import pytest
import torch
from helpers.built_ins import OPTIONS
from torch import Tensor

from mobilevlm import PROJECTORS, Projector, build_projector

# Sizes that every family takes: even sides, at least 12, some of them equal.
GRIDS = [(12, 16), (16, 12), (12, 16), (20, 24), (16, 16)]
TOKENS = sum(h * w for h, w in GRIDS)
BUDGET = (TOKENS + 45, len(GRIDS) + 2)
PRESETS = [name for name in PROJECTORS.names() if not name.startswith("mlp") or name == "mlp"]
# Token-wise, a merge, a pool, tokens in blocks, convolutions, queries, queries with positions.
quick = pytest.mark.quick("mlp", "internvl", "gemma3", "qwen2-vl", "ldpnet", "blip2", "minicpmv")


def build(name: str, dtype: torch.dtype) -> Projector:
    options = {} if name == "identity" else OPTIONS.get(name, {})
    widths = (8, 8) if name == "identity" else (8, 12)
    return build_projector(name, *widths, dtype=dtype, **options).eval()


def at_budget(projector: Projector, x: Tensor) -> Tensor:
    """The images' tokens, of a run with padding that must not matter."""
    packed = projector.pack_grids(GRIDS, budget=BUDGET)
    padding = x.new_full((BUDGET[0] - TOKENS, 8), float("nan"))
    y = projector(torch.cat([x, padding]), grid=packed)
    assert list(packed.lengths) == projector.tokens(GRIDS)
    assert y.isfinite().all()
    return y[: packed.total]


@quick
@pytest.mark.parametrize("name", PRESETS)
def test_a_budget_gives_what_a_list_of_grids_gives(name: str) -> None:
    projector = build(name, torch.float32)
    for scale in (1e-3, 1.0):
        x = torch.randn(TOKENS, 8) * scale
        with torch.inference_mode():
            y, expected = at_budget(projector, x), projector(x, grid=GRIDS)
        assert (y - expected).abs().max() <= 1e-5 * expected.abs().max(), scale


@quick
@pytest.mark.parametrize("name", PRESETS)
def test_a_budget_gives_the_gradients_that_a_list_of_grids_gives(name: str) -> None:
    projector = build(name, torch.float64)
    x = torch.randn(TOKENS, 8, dtype=torch.float64, requires_grad=True)
    inputs = (x, *(each for each in projector.parameters() if each.requires_grad))

    def run(y: Tensor) -> list[Tensor]:
        return [y, *torch.autograd.grad((y**2).sum(), inputs)]

    have, expected = run(at_budget(projector, x)), run(projector(x, grid=GRIDS))
    # The gradient of a key's bias is zero, and what is computed is a rounding error of the others.
    close = 1e-12 * max(float(each.detach().abs().max()) for each in expected)
    for one, other in zip(have, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=close)


@quick
@pytest.mark.parametrize("name", PRESETS)
def test_an_image_that_is_not_finite_reaches_no_other(name: str) -> None:
    """The first, to whose rows padding may point, and the last, which stands before it."""
    projector, x = build(name, torch.float32), torch.randn(TOKENS, 8)
    packed = projector.pack_grids(GRIDS, budget=BUDGET)
    with torch.inference_mode():
        expected = projector(x, grid=GRIDS).split(packed.lengths)
        for spoiled, rows in ((0, slice(12 * 16)), (4, slice(TOKENS - 16 * 16, TOKENS))):
            lost = x.clone()
            lost[rows] = float("nan")
            y = projector(packed.pad(lost), grid=packed)[: packed.total].split(packed.lengths)
            for place, (one, other) in enumerate(zip(y, expected, strict=True)):
                if place != spoiled:
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
