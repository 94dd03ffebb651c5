"""Tests of this package: its names, mobilevlm's conformance checks, and documents."""

import json
from pathlib import Path

import pytest
import torch
from acme_blocks.gate import Gate
from acme_blocks.gated_mlp import GatedMlp
from safetensors.torch import save_file

from mobilevlm import BLOCKS, PROJECTORS, build_projector, dump_spec, load_projector, load_spec
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


def test_a_folder_of_its_model_is_read(tmp_path: Path) -> None:
    """Of the whole model only the projector is read, by the names in its upstream entry."""
    layers = {"fc1": (10, 6), "gate": (10, 10), "fc2": (10, 10)}
    state = {f"gated_projector.{name}.weight": torch.randn(*size) for name, size in layers.items()}
    save_file({**state, "lm_head.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "acme_blocks"}))
    projector = load_projector(tmp_path)
    assert projector.spec == build_projector("acme-blocks/gated-mlp", 6, 10, bias=False).spec
    x = torch.randn(1, 4, 6)
    y = torch.nn.functional.gelu(x @ state["gated_projector.fc1.weight"].T)
    y = y * torch.sigmoid(y @ state["gated_projector.gate.weight"].T)
    torch.testing.assert_close(projector(x), y @ state["gated_projector.fc2.weight"].T)


def test_a_document_names_the_package() -> None:
    """A written document can be read back, and names the package of the gate."""
    spec = build_projector("acme-blocks/gated-mlp", 6, 10, bias=False).spec
    text = dump_spec(spec)
    assert '{"type": "acme-blocks/gate", "bias": false}' in text
    assert load_spec(text) == spec
