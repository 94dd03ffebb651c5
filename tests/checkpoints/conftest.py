"""Fixtures for checkpoints."""

from pathlib import Path

import pytest
import torch

from mobilevlm import build_projector
from mobilevlm.checkpoints.save import save_projector


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A saved LDP, 16 -> 24."""
    torch.manual_seed(0)
    save_projector(build_projector("ldp", 16, 24), tmp_path / "own")
    return tmp_path / "own"
