"""Packs of test vectors that several files read and none changes."""

from pathlib import Path

import pytest

from mobilevlm.testing.vectors import write_vectors

# Tokens that come block by block, queries, a pool and a norm, further options, newlines.
SMALL = ("minimax-m3-vl", "kosmos-2", "gemma3", "ldpnetv2", "phi-3-vision")


@pytest.fixture(scope="session")
def small_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of a few families."""
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(folder, SMALL)
    return folder


@pytest.fixture(scope="session")
def full_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of all families."""
    folder = tmp_path_factory.mktemp("all-vectors")
    write_vectors(folder)
    return folder
