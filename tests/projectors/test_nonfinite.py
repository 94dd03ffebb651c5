"""Searching for the block that makes a NaN."""

import pytest
import torch
from torch import nn

from mobilevlm import NonFiniteError, Projector, build_projector, find_nonfinite

NAN, INF = float("nan"), float("inf")


def found(projector: nn.Module, x: torch.Tensor) -> str:
    with pytest.raises(NonFiniteError) as error, find_nonfinite(projector):
        projector(x)
    return str(error.value)


def ldp() -> Projector:
    torch.manual_seed(0)
    return build_projector("ldp", 8, 16)


def test_non_finite_numbers_pass_through_a_projector() -> None:
    x = torch.zeros(1, 16, 8)
    x[0, 3, 2] = NAN
    assert build_projector("linear", 8, 16)(x).isnan().any()


def test_what_comes_in_is_looked_at_first() -> None:
    x = torch.zeros(1, 16, 8)
    x[0, 3, 2] = NAN
    assert found(ldp(), x) == (
        "x: 1 of 128 numbers are not finite, the first nan at (0, 3, 2); expected finite numbers. "
        "The input of the projector holds them."
    )


def test_a_weight_is_named() -> None:
    projector = ldp()
    with torch.no_grad():
        projector.get_parameter("blocks.3.weight").fill_(INF)
    start, _, end = found(projector, torch.ones(1, 16, 8)).partition(", the first ")
    assert start == "blocks.3: 256 of 256 numbers are not finite"
    assert end.partition("; ")[2] == (
        "expected finite numbers. Its 'weight' holds such numbers: "
        "`inspect_values` finds them in a file."
    )


def test_an_overflow_is_named_with_its_range() -> None:
    projector = build_projector("mlp", 8, 8, dtype=torch.float16)
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.fill_(1.0)
    x = torch.full((1, 4, 8), 2000.0, dtype=torch.float16)
    assert found(projector, x) == (
        "blocks.2: 32 of 32 numbers are not finite, the first inf at (0, 0, 0, 0); expected finite "
        "numbers. Its weights and its input are finite, and the input reaches 16000; torch.float16 "
        "ends at 65504. A dtype of a wider range may hold them."
    )


@pytest.mark.parametrize("name", ["ldp", "internvl", "qwen2-vl", "blip2"])
def test_nothing_is_found_where_nothing_is(name: str) -> None:
    options = {"width": 16, "heads": 2, "depth": 2} if name == "blip2" else {}
    projector = build_projector(name, 8, 16, **options)
    x = torch.randn(2, 16, 8)
    expected = projector(x)
    with find_nonfinite(projector):
        torch.testing.assert_close(projector(x), expected)
    assert not any(module._forward_hooks for module in projector.modules())
    assert not any(module._forward_pre_hooks for module in projector.modules())


def test_hooks_are_gone_after_an_error() -> None:
    projector = ldp()
    found(projector, torch.full((1, 16, 8), NAN))
    assert not any(module._forward_hooks for module in projector.modules())
    assert projector(torch.full((1, 16, 8), NAN)).isnan().any()
