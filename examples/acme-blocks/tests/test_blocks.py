"""Tests of this package: its names, mobilevlm's conformance checks, and documents."""

import pytest
import torch
from acme_blocks.gate import Gate
from acme_blocks.gated_mlp import GatedMlp

from mobilevlm import BLOCKS, PROJECTORS, build_projector, dump_spec, load_spec
from mobilevlm.testing import check_block, check_projector


def test_the_names_resolve_to_this_package() -> None:
    """The full names do, whatever else is installed."""
    assert BLOCKS.get("acme-blocks/gate") is Gate
    assert PROJECTORS.get("acme-blocks/gated-mlp") is GatedMlp


@pytest.mark.parametrize("bias", [True, False])
def test_the_block_conforms(bias: bool) -> None:
    """Shapes, gradients, documents and compilers: see mobilevlm.testing."""
    check_block(Gate(bias=bias))


@pytest.mark.parametrize("bias", [True, False])
def test_the_projector_conforms(bias: bool) -> None:
    """The same checks, for the whole projector."""
    check_projector("acme-blocks/gated-mlp", bias=bias)


def test_the_gate_scales_every_channel() -> None:
    """With zero weights every gate is sigmoid(0) = 0.5."""
    projector = build_projector({"in": 4, "out": 4, "blocks": ["acme-blocks/gate"]})
    for parameter in projector.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 9, 4)
    torch.testing.assert_close(projector(x), x / 2)


def test_a_document_names_the_package() -> None:
    """A written document can be read back, and names the package of the gate."""
    spec = build_projector("acme-blocks/gated-mlp", 6, 10, bias=False).spec
    text = dump_spec(spec)
    assert '{"type": "acme-blocks/gate", "bias": false}' in text
    assert load_spec(text) == spec
