"""The index of a model in shards: which file holds which tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...projectors.document import MAX_BYTES
from ...projectors.json_file import JsonReader
from ...registry import quote
from ..errors import CheckpointError

__all__ = ["INDEX", "JSON", "read_index", "shards_of"]

JSON = JsonReader(CheckpointError, MAX_BYTES, hint="Download it again.")
"""Reads the JSON files beside the weights, such as config.json."""

INDEX = replace(JSON, limit=100_000_000)
"""Reads an index, which names every tensor of a model."""


def read_index(path: Path) -> dict[str, str]:
    """Read an index, and return the names of the shards by the keys of the tensors.

    Raises:
        CheckpointError: It cannot be read, or a shard's name leads out of its folder.
    """
    return shards_of(INDEX.read(path), str(path))


def shards_of(index: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the names of the shards by the keys of the tensors.

    Args:
        index: What an index holds.
        where: What messages call it.

    Raises:
        CheckpointError: A shard's name leads out of its folder.
    """
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(
            "no weight_map", where, "a mapping of keys to file names", "Download it again."
        )
    for name in sorted(set(shards.values())):
        if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name:
            found = f"shard {quote(name)} is not a plain file name"
            raise CheckpointError(found, where, hint="Shards stand beside their index.")
    return shards
