"""Fixtures for checkpoints."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import hub_server
from helpers.hub_models import upload, write_shards
from helpers.hub_server import Hub

from mobilevlm import build_projector
from mobilevlm.checkpoints.save import save_projector


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A saved LDP, 16 -> 24."""
    torch.manual_seed(0)
    save_projector(build_projector("ldp", 16, 24), tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine; nothing else is asked, and all caches are empty."""
    with hub_server.serve() as hub:
        hub_server.use(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def small(tmp_path: Path, hub: Hub) -> Path:
    """A model of three shards on the hub, 16 -> 32, and where it is on this machine."""
    write_shards(tmp_path / "small", 16, 32, beside=50_000)
    upload(hub, tmp_path / "small")
    return tmp_path / "small"
