"""Run a function on several processes that talk to each other by gloo, on this machine."""

from __future__ import annotations

import faulthandler
import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from helpers.torchvision_operators import declare
from torch import distributed

__all__ = ["ranks"]

# Each process is a fork of one that has imported these, so that it starts at once.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "transformers", "mobilevlm"]
)


def ranks(
    number: int, function: Callable[..., Any], *args: Any, seconds: float = 150, **kwargs: Any
) -> list[Any]:
    """Call a function of a test module on so many ranks; return what each of them returns.

    Each rank is a process with one thread, the same seed and a default process group.

    Args:
        number: How many processes.
        function: What each of them calls; it is found by its name.
        *args: Its arguments; they are pickled, and so is what it returns.
        seconds: When to end those that are still running.
        **kwargs: Its keywords.

    Raises:
        AssertionError: On a rank the function raised an error, or did not return in time: the
            message holds its traceback. Or a rank ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        started: dict[Connection, Any] = {}
        for rank in range(number):
            mine, yours = _SERVER.Pipe(duplex=False)
            call = pickle.dumps((function, args, kwargs))
            process = _SERVER.Process(
                target=_run, args=(yours, rank, number, folder, seconds, call), daemon=True
            )
            process.start()
            yours.close()
            started[mine] = process
        try:
            return _collect(list(started), Path(folder), time.monotonic() + seconds + 5)
        finally:
            for connection, process in started.items():
                process.kill()
                process.join()
                connection.close()


def _collect(connections: list[Connection], folder: Path, deadline: float) -> list[Any]:
    """Return what the ranks send, in their order."""
    found: dict[int, Any] = {}
    while len(found) < len(connections):
        waiting = {each: rank for rank, each in enumerate(connections) if rank not in found}
        ready = [waiting[each] for each in wait(list(waiting), max(0, deadline - time.monotonic()))]
        faults = [] if ready else [_late(folder, sorted(waiting.values()))]
        for rank in ready:
            try:
                error, found[rank] = pickle.loads(connections[rank].recv_bytes())
            except EOFError:
                error = "it ended"
            if error is not None:
                faults.append(f"rank {rank} of {len(connections)}: {error}")
        if faults:
            raise AssertionError("\n".join(faults))
    return [found[rank] for rank in range(len(connections))]


def _late(folder: Path, late: list[int]) -> str:
    """Say which ranks were not done in time, and where they stood."""
    stacks = [f"rank {rank}: {(folder / f'stack{rank}').read_text()}" for rank in late]
    return "\n".join([f"ranks {late} were not done in time", *stacks])


def _run(
    connection: Connection, rank: int, number: int, folder: str, seconds: float, call: bytes
) -> None:
    """Call a function as one rank, and send what it returns or raises."""
    with open(Path(folder, f"stack{rank}"), "w") as stack:
        faulthandler.dump_traceback_later(seconds, file=stack)
        torch.set_num_threads(1)
        torch.manual_seed(2048)
        try:
            distributed.init_process_group(
                "gloo",
                init_method=f"file://{folder}/meet",
                rank=rank,
                world_size=number,
                timeout=timedelta(seconds=seconds),
            )
            declare()
            function, args, kwargs = pickle.loads(call)
            result = None, function(*args, **kwargs)
            distributed.barrier()  # who ends early would break what others still exchange
            distributed.destroy_process_group()
        except BaseException:
            result = traceback.format_exc(), None
        connection.send_bytes(pickle.dumps(result))
        faulthandler.cancel_dump_traceback_later()
