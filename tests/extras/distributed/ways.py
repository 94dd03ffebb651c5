"""Ways to spread a projector over all ranks."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

from mobilevlm import Projector

__all__ = [
    "Spread",
    "by_block",
    "expanded",
    "replicate",
    "replicate_static",
    "share",
    "share_by_transformers",
    "share_from_meta",
    "whole",
    "whole_from_meta",
]

Spread = Callable[..., nn.Module]


def replicate(projector: nn.Module) -> nn.Module:
    """Let each rank have all weights, by DDP."""
    return DistributedDataParallel(projector)


def replicate_static(projector: nn.Module) -> nn.Module:
    """Let each rank have all weights, by DDP that is told that each step is like the first."""
    return DistributedDataParallel(projector, static_graph=True)


def whole(projector: Projector, **options: Any) -> Projector:
    """Shard a projector's weights as one group."""
    return fully_shard(projector, **options)


def by_block(projector: Projector, **options: Any) -> Projector:
    """Shard the weights of each block as a group."""
    for block in projector.blocks:
        fully_shard(block, **options)
    return fully_shard(projector, **options)


def whole_from_meta(projector: Projector, **options: Any) -> Projector:
    """Shard a projector before it has weights, and fill it with those of another."""
    return filled(whole(projector.unloaded(), **options), projector)


def share(projector: Projector) -> Projector:
    """Share a projector among all ranks."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    parallelize_module(projector, mesh, projector.parallel_styles(mesh.size()))
    return projector


def share_from_meta(projector: Projector) -> Projector:
    """Share a projector before it has weights, and fill it with those of another."""
    return filled(share(projector.unloaded()), projector)


def filled(spread: Projector, projector: Projector) -> Projector:
    """Fill one that has no weights yet with those of another."""
    assert all(weight.is_meta for weight in spread.parameters())
    spread.to_empty(device="cpu")
    # The other ranks get theirs from the first one.
    state = projector.state_dict() if distributed.get_rank() == 0 else {}
    full = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(spread, state, options=full)
    return spread


def share_by_transformers(projector: Projector) -> Projector:
    """Share a projector among all ranks as transformers shares its models."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    plan = projector.tp_plan(mesh.size())
    apply_tensor_parallelism(projector, mesh, expanded(projector, plan))
    return projector


def expanded(module: nn.Module, plan: Mapping[str, str]) -> dict[str, str]:
    """Return a plan for modules with their parameters, which are shared before the modules."""
    weights = (name for name, _ in module.named_parameters())
    found = {name: plan[path] for name in weights if (path := name.rpartition(".")[0]) in plan}
    return found | plan
