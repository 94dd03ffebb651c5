"""What the processes of a run do together, when torchrun has started several.

A process that was started alone does all of it too: it is the first of one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from mobilevlm import Projector

WAYS = ("ddp", "fsdp", "tp")
# What is gathered and freed by itself: the projector, and each layer of the tower and of the
# language model.
UNITS = (Projector, GradientCheckpointingLayer)


@contextmanager
def processes() -> Iterator[None]:
    """Meet the other processes, and part from them when all have done their work."""
    if not dist.is_torchelastic_launched():  # by torchrun
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
        dist.barrier()  # the first one is still saving
    finally:
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End this process; where there are several, without taking the interpreter down first.

    Threads of gloo outlive `destroy_process_group`. One that lets go of a tensor while the
    interpreter ends aborts the process: https://github.com/pytorch/pytorch/issues/190489.
    """
    if not dist.is_torchelastic_launched():
        raise SystemExit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def say(text: str) -> None:
    """Print a text, once."""
    if rank() == 0:
        print(text)


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the others wait until the first process has done something, and kept it in a cache."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


@dataclass(frozen=True)
class Parallel:
    """How processes train one model.

    Attributes:
        way: ``ddp``: each keeps all weights and takes a part of every batch; gradients are
            averaged. ``fsdp``: so too, but each keeps a part of every weight, frozen or not, and
            gathers those of one layer at a time. ``tp``: each takes all of every batch, and
            computes a part of the projector's layers.
        bf16: Gather and compute in bfloat16; a policy of ``fsdp`` alone.
    """

    way: str = "ddp"
    bf16: bool = False

    def __call__(self, model: nn.Module) -> nn.Module:
        """Return what is to be called; the parameters to train stay those of the model.

        What is frozen must be so before.
        """
        if not dist.is_initialized():
            return model
        if self.way == "ddp":
            return DistributedDataParallel(model)
        if self.way == "tp":
            projector = next(each for each in model.modules() if isinstance(each, Projector))
            if not any(isinstance(each, DTensor) for each in projector.parameters()):
                mesh = init_device_mesh("cpu", (world_size(),))
                parallelize_module(projector, mesh, projector.parallel_styles(mesh.size()))
            return model
        sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        if not sharded:
            self._shard(model)
        for module in sharded:  # by an earlier stage; they look anew at what is frozen
            module.unshard()
            module.reshard()
        return model

    @property
    def shares(self) -> int:
        """Among how many processes each batch is divided."""
        return 1 if self.way == "tp" else world_size()

    def part(self) -> slice:
        """Return which questions of each batch this process takes."""
        return slice(rank() if self.shares > 1 else 0, None, self.shares)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the parts of a batch."""
        value = value.detach().clone()
        if self.shares > 1:
            dist.all_reduce(value)
        return value

    def _shard(self, model: nn.Module) -> None:
        dtypes = (torch.bfloat16, torch.float32) if self.bf16 else ()
        policy = MixedPrecisionPolicy(*dtypes)  # of computing, and of adding gradients up
        for module in list(model.modules()):
            if isinstance(module, UNITS):
                fully_shard(module, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        register_fsdp_forward_method(model, "generate")


DDP = Parallel()


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights in the first process, gathered if they are sharded; the others help."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)
