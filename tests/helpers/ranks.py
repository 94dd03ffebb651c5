"""Code run in two processes that are one group."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from torch import distributed as dist

__all__ = ["part", "run_two"]

TESTS = Path(__file__).parents[1]
_MEET = """
import sys
import torch
import torch.distributed as dist
from helpers import ranks

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
"""


def run_two(code: str, folder: Path) -> list[str]:
    """Run code as ranks 0 and 1, which know `rank` and `folder`; return what each prints.

    Raises:
        AssertionError: One of them failed.
    """
    command = [sys.executable, "-W", "ignore", "-c", f"{_MEET}{code}\nranks.part()"]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    both = [
        subprocess.Popen(
            [*command, str(rank), folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(paths)},
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=300) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "".join(err for _, err in said)
    return [out for out, _ in said]


def part() -> NoReturn:
    """Part from the other processes, and end this one without taking the interpreter down first.

    Threads of gloo outlive the group. One that lets go of a tensor while the interpreter ends
    aborts the process: https://github.com/pytorch/pytorch/issues/190489.
    """
    dist.barrier()  # who ends early would break what others still exchange
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
