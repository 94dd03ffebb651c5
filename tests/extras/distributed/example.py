"""The programs of examples/train, as torchrun starts them, with a stage 0 of a few steps.

    python example.py PROGRAM ...

is the program in one process. Tests call `run`.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["AS_IT_IS", "BETWEEN", "KILL", "MOST", "SGD", "WRITING", "difference", "run", "weights"]

EXAMPLES = Path(__file__).parents[3] / "examples" / "train"
QUICK = {"tower_steps": 2, "tower_batch": 2, "lm_steps": 4, "lm_batch": 2}
MOST = 1e-6  # the norm of the difference of weights, as a multiple of theirs

# What the environment asks for: another optimizer, processes that are killed, accelerate unchanged.
SGD, KILL, AS_IT_IS = "EXAMPLE_SGD", "EXAMPLE_KILL", "EXAMPLE_AS_IT_IS"
BETWEEN, WRITING = "between two checkpoints", "while one is being written"


def run(processes: int, program: str, cache: Path, *words: str, **environment: str) -> str:
    """Run a program, under torchrun if there are several processes, and return what it printed.

    Args:
        processes: How many.
        program: ``train`` or ``trainer``.
        cache: Where stage 0 is kept.
        *words: The command line.
        **environment: Variables.

    Raises:
        AssertionError: It failed, or was not done within three minutes.
    """
    options = f"--nproc-per-node={processes}", "--local-addr=127.0.0.1", "--monitor-interval=0.1"
    torchrun = ["-m", "torch.distributed.run", "--standalone", *options]
    if processes == 1 and "fsdp" not in words:
        torchrun = []
    small = "--tokens", "16", "--questions", "160", "--unseen", "8"
    command = [sys.executable, "-W", "ignore", *torchrun, __file__, program, *small, *words]
    variables = {
        "GLOO_SOCKET_IFNAME": "lo",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "XDG_CACHE_HOME": str(cache),
    }
    process = subprocess.Popen(
        command,
        env={**os.environ, **variables, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes
        printed, _ = process.communicate()
        raise AssertionError(f"not done in time: {printed}") from None
    # torchrun's report does not say why a process failed, and the end may be all that is shown.
    why = re.search(r"^(terminate called|Fatal Python error)(.*\n){1,12}", printed, re.MULTILINE)
    assert process.returncode == 0, f"{printed}\n{why[0] if why else ''}"
    return printed


def weights(folder: Path) -> dict[str, Tensor]:
    """Return what a program has saved."""
    return load_file(folder / "model.safetensors")


def difference(found: Path, expected: Path) -> float:
    """Return how far saved models are from each other: the norm of it, by that of the weights.

    What is frozen must not have changed.
    """
    mine, others = weights(found), weights(expected)
    assert mine.keys() == others.keys()
    trained = [key for key in mine if "vision_tower" not in key]
    for key in mine.keys() - trained:
        torch.testing.assert_close(mine[key], others[key], rtol=0, atol=0)
    a, b = (torch.cat([state[key].flatten() for key in trained]) for state in (mine, others))
    return float((a - b).norm() / b.norm())


def main(name: str, *words: str) -> None:
    """Run a program in this process."""
    sys.path.insert(0, str(EXAMPLES))
    import distributed
    import pretrain
    import vlm

    vlm.make_vlm = partial(vlm.make_vlm, settings=pretrain.Settings(**QUICK))
    program = importlib.import_module(name)
    if SGD in os.environ:
        torch.optim.AdamW = Momentum
    if name == "trainer" and AS_IT_IS not in os.environ:
        let_accelerate_shard_on_a_cpu(program)
    if KILL in os.environ:
        kill(os.environ[KILL])
    with distributed.processes():
        program.main(words)  # a model that has not learnt in a few steps is no failure here
    distributed.leave(0)


class Momentum(torch.optim.SGD):
    """SGD in AdamW's place; a class, as packages that are imported later derive theirs from it."""

    def __init__(self, params) -> None:
        super().__init__(params, lr=0.1, momentum=0.9)


def let_accelerate_shard_on_a_cpu(trainer) -> None:
    """Make it take this machine for one with accelerators, where alone it thinks of FSDP."""
    from accelerate import DistributedType, PartialState

    make = trainer.training_arguments

    def training_arguments(*args, **kwargs):
        made = make(*args, **kwargs)
        if made.fsdp:
            PartialState().distributed_type = DistributedType.MULTI_XPU
        return made

    trainer.training_arguments = training_arguments


def kill(when: str) -> None:
    """Let the second process be killed, between two checkpoints or while one is being written."""
    from distributed import rank
    from torch.distributed.checkpoint import FileSystemWriter
    from training_checkpoints import Checkpoints

    save, write = Checkpoints.save, FileSystemWriter.write_data

    def save_or_die(self, training, last) -> None:
        if when == BETWEEN and rank() == 1 and len(training.losses) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, training, last)

    def write_and_die(self, plan, planner):
        done = write(self, plan, planner)
        if when == WRITING and rank() == 1 and "stage-2" in str(self.path):
            done.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Checkpoints.save, FileSystemWriter.write_data = save_or_die, write_and_die


if __name__ == "__main__":
    main(*sys.argv[1:])
