"""Train a projector under DeepSpeed's ZeRO-3, as one of two processes; `test_deepspeed` runs it.

    python zero3.py CASE WAY FOLDER

writes what steps make of its weights, with those of the same steps in one process, and saves the
projector. WAY is init where `zero.Init` builds it in shards, or plain.
"""

import contextlib
import importlib
import os
import sys
from pathlib import Path

import deepspeed
import torch
from cases import build, tokens
from helpers.ranks import part
from torch import Tensor, nn

from mobilevlm import CheckpointError, save_projector

STEPS = 3
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.0,
    "steps_per_print": 1_000_000,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


def whole(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    return deepspeed.zero.GatheredParameters(list(module.parameters()))


def gathered(module: nn.Module) -> dict[str, Tensor]:
    with whole(module):
        return {key: value.detach().clone() for key, value in module.named_parameters()}


def optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def train_alone(case: str, start: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Return what the same steps make of the same weights, with the images of both processes."""
    single = build(case)
    with torch.no_grad():
        for key, value in single.named_parameters():
            value.copy_(start[key])
    steps = optimizer(single)
    for _ in range(STEPS):
        steps.zero_grad()
        single(x).square().mean().backward()
        steps.step()
    return {key: value.detach() for key, value in single.named_parameters()}


def save(projector: nn.Module, folder: Path, *, first: bool) -> str:
    """Save as the refusal says; return that."""
    try:
        save_projector(projector, folder)
    except CheckpointError as error:
        refused = str(error)
    with whole(projector):
        if first:
            save_projector(projector, folder)
    return refused


def main(case: str, way: str, path: str) -> None:
    # Gloo does the work; DeepSpeed's own kernel for it would be compiled into the user's cache.
    vars(importlib.import_module("deepspeed.comm.torch"))["build_shm_op"] = lambda: None
    deepspeed.init_distributed("gloo")
    rank, folder = int(os.environ["RANK"]), Path(path)
    torch.manual_seed(rank)  # processes start from the weights of the first
    init = deepspeed.zero.Init(config_dict_or_path=CONFIG) if way == "init" else None
    with init or contextlib.nullcontext():
        projector = build(case)
    built = {key: tuple(value.shape) for key, value in projector.named_parameters()}
    engine, *_ = deepspeed.initialize(
        model=projector, config=CONFIG, optimizer=optimizer(projector)
    )
    sharded = {tuple(value.shape) for value in projector.parameters()}
    before = gathered(projector)
    torch.manual_seed(2)
    x = tokens()
    for _ in range(STEPS):
        engine.backward(engine(x[rank : rank + 1]).square().mean())
        engine.step()
    refused = save(projector, folder / "saved", first=rank == 0)
    result = {
        "built": built,
        "sharded": sharded,
        "repr": repr(projector),
        "plain repr": repr(build(case)),
        "before": before,
        "after": gathered(projector),
        "single": train_alone(case, before, x),
        "refused": refused,
    }
    torch.save(result, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
    part()
