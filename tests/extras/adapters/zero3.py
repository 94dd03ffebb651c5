"""Train a projector under DeepSpeed's ZeRO-3 in a process of its own; `test_deepspeed` runs it.

    python zero3.py CASE FILE

writes what a step makes of its weights, with those of the same step without DeepSpeed.
"""

import importlib
import sys

import deepspeed
import torch
from cases import build, tokens
from torch import Tensor, nn

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_clipping": 0.0,
    "steps_per_print": 1_000_000,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


def gathered(module: nn.Module) -> dict[str, Tensor]:
    with deepspeed.zero.GatheredParameters(list(module.parameters())):
        return {key: value.detach().clone() for key, value in module.named_parameters()}


def optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def main(case: str, path: str) -> None:
    # Gloo does the work; DeepSpeed's own kernel for it would be compiled into the user's cache.
    vars(importlib.import_module("deepspeed.comm.torch"))["build_shm_op"] = lambda: None
    deepspeed.init_distributed("gloo")
    with deepspeed.zero.Init(config_dict_or_path=CONFIG):
        projector = build(case)
    sharded = {key: tuple(value.shape) for key, value in projector.named_parameters()}
    text = repr(projector)
    x, single = tokens(), build(case)
    before = gathered(projector)
    with torch.no_grad():
        for key, value in single.named_parameters():
            value.copy_(before[key])
    engine, *_ = deepspeed.initialize(
        model=projector, config=CONFIG, optimizer=optimizer(projector)
    )
    y = engine(x)
    engine.backward(y.square().mean())
    engine.step()
    alone = optimizer(single)
    single(x).square().mean().backward()
    alone.step()
    torch.save(
        {
            "sharded": sharded,
            "repr": text,
            "plain repr": repr(build(case)),
            "before": before,
            "after": gathered(projector),
            "single": dict(single.named_parameters()),
        },
        path,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
