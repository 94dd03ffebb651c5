"""Models sharded over processes, of which one has images and another text alone."""

from pathlib import Path

import pytest
import torch
from helpers.ranks import run_two

WORKER = """
from helpers.torchvision_operators import declare
declare()
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from helpers.vlms import VLMS, batch
from helpers import vlms_packed, vlms_sizes
from mobilevlm.models import swap_projector
from mobilevlm.models.training import freeze_except_projector

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
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
def test_a_process_without_images_takes_part(tmp_path: Path) -> None:
    """Each calls the projector as often, and in its place: they wait for each other there."""
    first, second = run_two(WORKER, tmp_path)
    assert first.split() == second.split() == ["llava", "mistral3", "qwen2_5_vl", "qwen3_vl"]
