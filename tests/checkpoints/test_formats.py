"""Readers of formats: what they need, and what they refuse."""

import json

import pytest
import torch
from safetensors.torch import save

from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.formats.safetensors import parse_header


def test_a_header_alone_says_where_each_tensor_is() -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4, dtype=torch.int16)}
    data = save(tensors, {"note": "x"})
    length = int.from_bytes(data[:8], "little")
    found, metadata, size = parse_header(data[8 : 8 + length], "x.safetensors")
    assert (metadata, size) == ({"note": "x"}, len(data))
    for key, tensor in tensors.items():
        info = found[key]
        assert (info.dtype, info.shape) == (tensor.dtype, tuple(tensor.shape))
        assert data[info.start : info.start + info.nbytes] == tensor.numpy().tobytes()


def test_an_empty_tensor_of_huge_sides_is_refused() -> None:
    entry = {"dtype": "U8", "shape": [0, 1 << 61, 1 << 61], "data_offsets": [0, 0]}
    with pytest.raises(CheckpointError, match="does not make sense"):
        parse_header(json.dumps({"a": entry}).encode(), "x")
