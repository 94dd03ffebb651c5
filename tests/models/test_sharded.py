"""Models sharded over processes, of which one has images and another text alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
WORKER = """
import copy, sys, torch, torch.distributed as dist
from helpers.torchvision_operators import declare
declare()
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from helpers.vlms import VLMS, batch
from helpers import vlms_packed, vlms_sizes
from mobilevlm.models import swap_projector
from mobilevlm.models.training import freeze_except_projector

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for name in ("llava", "mistral3", "qwen2_5_vl", "qwen3_vl"):
    torch.manual_seed(0)
    model, processor = VLMS[name]()
    swap_projector(model, "ldp", processor=processor)
    projector = freeze_except_projector(model)
    model.model.language_model.requires_grad_(True)
    model.train()
    batches = [batch(processor), processor(text=["what is it ?"], return_tensors="pt")]
    expected = {}
    for each in batches:
        model.zero_grad()
        model(**each, labels=each["input_ids"]).loss.backward()
        for key, p in model.named_parameters():
            if p.grad is not None:
                expected[key] = expected.get(key, 0) + p.grad / 2
    model.zero_grad()
    for part in (projector, *model.model.language_model.layers, model):
        fully_shard(part, mesh=mesh)
    own = batches[rank]
    for _ in range(2):  # the first call is special to torch
        model.zero_grad()
        model(**own, labels=own["input_ids"]).loss.backward()
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for key, grad in found.items():
        torch.testing.assert_close(grad.full_tensor(), expected[key], msg=lambda text: key + text)
    print(name)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
def test_a_process_without_images_takes_part(tmp_path: Path) -> None:
    """Each calls the projector as often, and in its place: they wait for each other there."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        for rank in range(2)
    ]
    (first, fault), (second, other) = (worker.communicate(timeout=300) for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0], fault + other
    assert first.split() == second.split() == ["llava", "mistral3", "qwen2_5_vl", "qwen3_vl"]
