"""The memory of activations on paper, against what torch's allocator gives out in a forward."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mobilevlm import build_projector, compare_projectors, fast_paths
from mobilevlm.compare.activations import peak_bytes

IN, OUT, GRID = 256, 512, (12, 12)


def allocated(projector: nn.Module, x: torch.Tensor, folder: Path) -> int:
    """The most bytes that a forward holds at once, its input included."""
    trace = folder / "trace.json"
    with torch.inference_mode():
        projector(x, grid=GRID)  # what is made once
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            projector(x, grid=GRID)
    found.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    now = most = x.nbytes
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most


# Of dense convolutions torch's kernels need more inside; these have none. The pools and the
# depthwise convolutions of some have a little.
@pytest.mark.quick("mlp2x_gelu-0", "qwen-vl-0", "ldpnetv2-0.03")
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("mlp2x_gelu", 0),
        ("internvl", 0),
        ("ldpnet", 0),
        ("perception-lm", 0),
        ("flamingo", 0),
        ("qwen-vl", 0),
        ("ldp", 0.03),
        ("ldpnetv2", 0.03),
        ("c-abstractor", 0.03),
    ],
)
def test_it_is_what_the_allocator_gives_out(name: str, tolerance: float, tmp_path: Path) -> None:
    [cost] = compare_projectors([name], IN, OUT, grid=GRID).rows
    projector = build_projector(name, IN, OUT)
    found = allocated(projector, torch.randn(1, GRID[0] * GRID[1], IN), tmp_path)
    assert found == pytest.approx(cost.activation_bytes("float32"), rel=tolerance)


def test_half_precision_takes_half() -> None:
    [cost] = compare_projectors(["mlp2x_gelu"], IN, OUT, grid=GRID).rows
    assert cost.activation_bytes() * 2 == cost.activation_bytes("float32")
    assert cost.activation_bytes() == cost.activation_bytes("bfloat16")


def test_it_counts_blocks_in_the_order_in_which_they_run() -> None:
    def bytes_of() -> int:
        [cost] = compare_projectors(["ldpnetv2"], IN, OUT, grid=(24, 24)).rows
        return cost.activation_bytes("float32")

    rows = 576 * OUT * 4
    with fast_paths(False):  # the activation's input, and its output
        assert bytes_of() == 576 * IN * 4 + 2 * rows
    # The pool runs before the second layer, and the activation in place.
    assert bytes_of() == 576 * IN * 4 + rows + 144 * OUT * 4


def test_it_counts_what_is_held_and_only_that() -> None:
    def freed() -> None:
        x = torch.empty(10, device="meta")
        for _ in range(3):
            x = x + 1
        x.add_(1)
        x[:5].view(5, 1)

    def held() -> list[torch.Tensor]:
        return [torch.empty(10, device="meta") for _ in range(3)]

    assert peak_bytes(freed) == 80  # of a sum, the old one and the new one
    assert peak_bytes(held) == 120


def test_attention_has_no_table_of_scores() -> None:
    q = torch.empty(1, 4, 8, 16, device="meta")
    k = torch.empty(1, 4, 4096, 16, device="meta")
    attention = nn.functional.scaled_dot_product_attention
    assert peak_bytes(lambda: attention(q, k, k)) == q.nbytes
