"""Every family against the real class of transformers: same weights, same inputs, same outputs."""

import re

import pytest
import torch
from reference.case import Case, D, blocked, randomize
from reference.more_families import CASES as MORE
from reference.zoo import CASES as FIRST
from torch import Tensor, nn

from mobilevlm import Projector, build_projector
from mobilevlm.checkpoints.mapping import from_upstream, to_upstream

CASES = FIRST | MORE


def pair(case: Case) -> tuple[nn.Module, Projector, dict[str, Tensor]]:
    """Upstream's module with random weights, ours with the same ones, and upstream's of them."""
    torch.manual_seed(0)
    upstream = case.build().eval()
    randomize(upstream)
    options = {"prefix_tokens": case.prefix, **case.options}
    ours = build_projector(case.preset, case.in_, D, **options).eval()
    state = {k: v for k, v in upstream.state_dict().items() if k not in case.unused}
    ours.load_state_dict(from_upstream(ours, case.layout, state), strict=True)
    return upstream, ours, state


@pytest.mark.parametrize("name", CASES)
def test_equals_upstream(name: str) -> None:
    case = CASES[name]
    upstream, ours, state = pair(case)
    back = to_upstream(ours, case.layout)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    for grid in case.grids:
        for batch in (1, 3):
            for scale in (1.0, 1e-3):
                x = scale * torch.randn(batch, case.prefix + grid[0] * grid[1], case.in_)
                with torch.inference_mode():
                    expected = case.run(upstream, x[:, case.prefix :], grid)
                    given = x
                    if ours._block_major:
                        given = torch.stack([blocked(image, grid) for image in x])
                    y = ours(given, grid=grid)
                assert y.shape == expected.shape
                error = (y - expected).abs().max() / expected.abs().max()
                assert error < 1e-5, (grid, batch, scale, error)


def epsilons(module: nn.Module) -> list[float]:
    """What the norms add, in order: behind a bias even small inputs do not show it."""
    norms = [part for part in module.modules() if re.search("Norm$", type(part).__name__)]
    return [getattr(norm, "eps", None) or norm.variance_epsilon for norm in norms]


@pytest.mark.parametrize("name", MORE)
def test_the_norms_are_upstreams(name: str) -> None:
    case = MORE[name]
    upstream, ours, _ = pair(case)
    unused = getattr(upstream, "ln_q", None)
    found = epsilons(upstream)
    assert epsilons(ours) == (found if unused is None else found[1:])


BF16 = ("qwen2-5-vl", "mistral3", "gemma3", "gemma3n", "glm4v", "nemotron-omni")


@pytest.mark.parametrize("name", BF16)
def test_the_order_of_casts_in_bf16(name: str) -> None:
    """RMS norms that cast before or after the weight differ in every fourth number or so."""
    case = CASES[name]
    upstream, ours, _ = pair(case)
    upstream, ours = upstream.bfloat16(), ours.bfloat16()
    norm = next(module for module in ours.modules() if type(module).__name__ == "RMSNorm")
    theirs = next(
        module
        for module in upstream.modules()
        if "RMSNorm" in type(module).__name__
        and torch.equal(getattr(module, "weight", torch.empty(0)), norm.weight)
    )
    x = torch.randn(4096, norm.weight.shape[0]).bfloat16()
    with torch.inference_mode():
        assert torch.equal(norm(x), theirs(x))
        grid = case.grids[0]
        x = torch.randn(2, grid[0] * grid[1], case.in_).bfloat16()
        expected = case.run(upstream, x, grid)
        given = torch.stack([blocked(image, grid) for image in x]) if ours._block_major else x
        y = ours(given, grid=grid)
    assert (y.float() - expected.float()).norm() / expected.float().norm() < 1e-2
