"""Projectors whose weights are spread over ranks: what they say, how they are saved and loaded."""

from collections.abc import Sequence
from pathlib import Path

import families
import pytest
import torch
from families import images, named, train, weights
from processes import ranks
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from ways import Spread, by_block, replicate, share, whole

from mobilevlm import CheckpointError, Projector, load_projector, save_projector

NAMES = ["ldp", "blip2", "idefics2", "qwen-vl"]
GATHER = (
    "a DTensor of torch.strided; expected a plain tensor. Gather them on every process, with "
    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)) "
    "of torch.distributed.checkpoint.state_dict, and save what the first one gets: "
    "save_projector(projector, folder, state_dict=...)."
)
NONE = (
    "get_model_state_dict gathers them on the first process only, and gives the others none: save "
    "where torch.distributed.get_rank() is 0."
)


def first_parameter(projector: Projector) -> str:
    """Return the key of the first tensor that is sharded."""
    state = projector.state_dict()
    return next(key for key, each in state.items() if hasattr(each, "placements"))


def gathered(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Be refused without the tensors, and gather them as the error says."""
    with pytest.raises(CheckpointError) as refused:
        save_projector(module, folder)
    assert str(refused.value) == f"{first_parameter(module)}: {GATHER}"
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(module, options=options)
    if distributed.get_rank():
        with pytest.raises(CheckpointError) as refused:
            save_projector(module, folder, state_dict=state)
        assert str(refused.value).endswith(NONE)
    return state


def save_and_load(names: Sequence[str], spread: Spread, folder: Path) -> list[str]:
    """Train, save on the first rank, and load on all; return what was compared."""
    batch = images(distributed.get_world_size())[distributed.get_rank()]
    if spread is share:  # all of them see the same
        batch = images(1)[0]
    for name in names:
        with named(name):
            module, plain = spread(families.build(name)), families.build(name)
            train(module, batch)
            inner = module.module if spread is replicate else module
            assert repr(inner).replace("FSDP", "") == repr(plain)
            state = None if spread is replicate else gathered(module, folder / name)
            if distributed.get_rank() == 0:
                save_projector(module, folder / name, state_dict=state)
            distributed.barrier()
            loaded = load_projector(folder / name)
            expected, before = weights(module), weights(plain)
            for key, each in weights(loaded).items():
                assert torch.equal(each, expected[key]), key
            assert any(not torch.equal(each, before[key]) for key, each in expected.items())
            again = spread(loaded)
            assert torch.equal(again(*batch), module(*batch))
    return [*names]


@pytest.mark.parametrize("spread", [replicate, whole, by_block, share])
def test_saved_on_one_rank_and_loaded_on_all(spread: Spread, tmp_path: Path) -> None:
    assert ranks(2, save_and_load, NAMES, spread, tmp_path) == [NAMES, NAMES]
    # One process reads what two have written.
    for name in NAMES:
        assert load_projector(tmp_path / name).spec == families.build(name).spec
