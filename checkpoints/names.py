"""What the files of a model are called, by transformers, the hub and this library."""

from __future__ import annotations

__all__ = ["CARD", "CONFIG", "PICKLE", "PICKLE_INDEX", "WEIGHTS", "WEIGHTS_INDEX"]

CARD = "README.md"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
