"""A LLaVA with a projector swapped in, whose tower and language model are frozen."""

from collections.abc import Sequence
from typing import Any

import torch
from families import SMALL, Outcome, named, weights
from helpers.vlms import VLMS, batch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.distributed.tensor_parallel import apply_tensor_parallelism
from ways import Spread, expanded

from mobilevlm import swap_projector
from mobilevlm.models import freeze_except_projector

STEPS = 3
FEWER: dict[str, dict[str, Any]] = {"ldpnetv2": {"size": 3}, "c-abstractor": {"queries": 9}}


def made(name: str) -> tuple[Any, list[Any]]:
    """Return a model of which the projector alone is trained, and a batch with and one without."""
    torch.manual_seed(0)
    model, processor = VLMS["llava"]()
    swap_projector(model, name, processor=processor, **SMALL.get(name, {}), **FEWER.get(name, {}))
    freeze_except_projector(model)
    text = processor(text=["what is it ?"], return_tensors="pt")
    return model.train(), [batch(processor), text]


def train(module: nn.Module, *batches: Any) -> None:
    """Take a few steps on the mean loss of batches."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses = [module(**each, labels=each["input_ids"]).loss for each in batches]
        (sum(losses) / len(losses)).backward()
        assert all(weight.grad is not None for weight in trained)
        optimizer.step()


def compared(found: nn.Module, expected: nn.Module, name: str) -> Outcome:
    mine, others, before = weights(found), weights(expected), weights(made(name)[0])
    assert mine.keys() == others.keys() == before.keys()
    moved = [float((others[key] - before[key]).abs().max()) for key in before]
    return Outcome(max(moved), max(float((mine[key] - others[key]).abs().max()) for key in mine))


def shard(model: Any) -> nn.Module:
    projector = model.model.multi_modal_projector
    for part in (projector, *model.model.language_model.layers, model):
        fully_shard(part)
    return model


def compare_llava_data(names: Sequence[str], spread: Spread) -> dict[str, Outcome]:
    """Train on two ranks, of which the second has text alone, and on one with both batches."""
    found = {}
    for name in names:
        with named(name):
            single, batches = made(name)
            train(single, *batches)
            model = spread(made(name)[0])
            train(model, batches[distributed.get_rank()])
            found[name] = compared(model, single, name)
    return found


def compare_llava_tensor(names: Sequence[str]) -> dict[str, Outcome]:
    """Train models that transformers shares, with the language model's plan and ours, and alone."""
    mesh, slot = init_device_mesh("cpu", (2,)), "model.multi_modal_projector"
    found = {}
    for name in names:
        with named(name):
            single, batches = made(name)
            train(single, batches[0])
            model = made(name)[0]
            plan = model.get_submodule(slot).tp_plan(mesh.size())
            ours = expanded(model, {f"{slot}.{path}": style for path, style in plan.items()})
            shared = model._expand_parallel_plan(model.tp_plan) | ours
            apply_tensor_parallelism(model, mesh, shared)
            train(model, batches[0])
            found[name] = compared(model, single, name)
    return found
