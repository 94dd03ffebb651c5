"""What the exporters' packages say while they are imported is not a test's business."""

import importlib
from importlib.util import find_spec

import pytest

from mobilevlm.blocks.core.quiet import quiet
from mobilevlm.export import check

if find_spec("executorch"):
    with quiet():
        importlib.import_module("executorch.runtime")
        importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is about time: one turn says as much."""
    monkeypatch.setattr(check, "_ENOUGH", 0.0)
    monkeypatch.setattr(check, "_CALLS", 1)
