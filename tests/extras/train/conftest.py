"""These tests need what `make test-train` installs, and examples/train on the path."""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "train"))
mpl.use("agg")

import pretrain

QUICK = pretrain.Settings(tower_steps=2, tower_batch=2, lm_steps=4, lm_batch=2)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def stage0(cache: Path, monkeypatch: pytest.MonkeyPatch) -> pretrain.Settings:
    """A stage 0 of a few steps, made once for all tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return QUICK


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
