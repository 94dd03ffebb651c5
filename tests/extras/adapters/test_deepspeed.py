"""DeepSpeed shards projectors over processes, names them and trains them as one process does."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mobilevlm import load_projector

HERE = Path(__file__).parent


def run_both(case: str, way: str, folder: Path) -> None:
    """Run zero3.py in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")])
        ),
        "WORLD_SIZE": "2",
    }
    command = [sys.executable, str(HERE / "zero3.py"), case, way, str(folder)]
    with (folder / "log").open("w") as log, contextlib.ExitStack() as stack:
        both = [
            subprocess.Popen(
                command,
                env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            for rank in (0, 1)
        ]
        for process in both:
            stack.enter_context(process)
            stack.callback(process.kill)
        codes = [process.wait(300) for process in both]
    assert codes == [0, 0], (folder / "log").read_text()


@pytest.mark.parametrize(
    ("case", "way"),
    [
        *((case, "init") for case in ("ldp", "ldpnetv2", "c-abstractor", "drop-in ldpnet")),
        *((case, "plain") for case in ("ldp", "qwen2-vl")),
    ],
)
def test_zero_3_trains_on_two_processes_as_one_does(case: str, way: str, tmp_path: Path) -> None:
    run_both(case, way, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert (set(first["built"].values()) == {(0,)}) == (way == "init")
    for result in (first, second):
        assert result["sharded"] == {(0,)}
        # What a module says of itself is what it was built with.
        assert result["repr"] == result["plain repr"]
        assert result["after"].keys() == result["before"].keys()
        for key, value in result["after"].items():
            assert not torch.equal(value, result["before"][key]), key
            torch.testing.assert_close(value, result["single"][key], rtol=0, atol=1e-6)
            torch.testing.assert_close(value, first["after"][key], rtol=0, atol=0)
        assert result["refused"].endswith(
            "Save inside deepspeed.zero.GatheredParameters(projector.parameters())."
        )
    saved = dict(load_projector(tmp_path / "saved").named_parameters())
    assert len(saved) == len(first["after"])
    for mine, theirs in zip(saved.values(), first["after"].values(), strict=True):
        # A drop-in's convolution of one token is a linear layer of ours.
        torch.testing.assert_close(mine, theirs.view_as(mine), rtol=0, atol=0)
