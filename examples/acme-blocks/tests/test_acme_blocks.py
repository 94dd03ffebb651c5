"""What this package promises: its names build, run, and survive a document."""

import pytest
import torch
from acme_blocks.gate import Gate

from mobilevlm import BLOCKS, build_projector, dump_spec, load_spec


@pytest.mark.parametrize("name", ["gate", "acme-blocks/gate"])
def test_the_block_is_found_by_name(name: str) -> None:
    """The short name and the whole one lead to the same class."""
    assert BLOCKS.get(name) is Gate
    projector = build_projector({"in": 6, "out": 10, "blocks": [name, "pointwise"]})
    assert projector(torch.randn(2, 7, 6)).shape == (2, 7, 10)  # any number of tokens


@pytest.mark.parametrize("name", ["gated-mlp", "gated_mlp", "acme-blocks/gated-mlp"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_projector_is_found_by_name(name: str, bias: bool) -> None:
    """Tokens give tokens, a map gives a map, and the option reaches every layer."""
    projector = build_projector(name, 6, 10, bias=bias)
    assert projector(torch.randn(2, 16, 6)).shape == (2, 16, 10)
    assert projector(torch.randn(2, 6, 4, 3)).shape == (2, 10, 4, 3)
    assert any("bias" in key for key in projector.state_dict()) is bias


def test_the_gate_scales_every_channel() -> None:
    """With weights of zero every gate is half open."""
    projector = build_projector({"in": 4, "out": 4, "blocks": ["gate"]})
    for parameter in projector.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 9, 4)
    torch.testing.assert_close(projector(x), x / 2)


def test_a_document_names_the_package() -> None:
    """What is written can be read back, and says where the gate comes from."""
    spec = build_projector("gated-mlp", 6, 10, bias=False).spec
    text = dump_spec(spec)
    assert '{"type": "acme-blocks/gate", "bias": false}' in text
    assert load_spec(text) == spec
