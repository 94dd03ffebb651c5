"""DeepSpeed builds projectors sharded, names them and trains them as one process does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.parametrize("case", ["ldp", "ldpnetv2", "c-abstractor", "drop-in ldpnet"])
def test_zero_3_builds_and_trains(case: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(HERE.parent),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }
    found = tmp_path / "found.pt"
    command = [sys.executable, HERE / "zero3.py", case, found]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    result = torch.load(found)
    assert set(result["sharded"].values()) == {(0,)}
    # What a module says of itself is what it was built with.
    assert result["repr"] == result["plain repr"]
    assert result["after"].keys() == result["before"].keys()
    for key, value in result["after"].items():
        assert not torch.equal(value, result["before"][key]), key
        torch.testing.assert_close(value, result["single"][key], rtol=0, atol=1e-6)
