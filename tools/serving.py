"""One compilation serves every batch of packed images within a budget: counted, family by family.

python tools/serving.py [--batches 1000] [--budgets 256 512 1024 2048 4096] [NAME ...]

For each family, batches of random grids are dealt out to the budgets. Each batch runs compiled,
with torch's count of compilations, and in eager mode with whatever reads a value on the host
refused; both are compared with a plain call on the list of grids. On a GPU each budget is captured
once as a CUDA graph, which is replayed for every batch, and timed beside eager mode.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from rich.progress import Progress
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from mobilevlm import PROJECTORS, GridError, Projector, build_projector
from mobilevlm.projectors.packed import PackedGrids
from mobilevlm.testing import HostReadError, refuse_host_reads

WIDTHS = (32, 48)
IMAGES = 8
# Options that keep families with many layers small, as they change no shape of a token.
SMALL = {
    "blip2": {"depth": 2, "heads": 4, "queries": 8},
    "c-abstractor": {"depth": 1, "hidden": 32, "queries": 16},
    "flamingo": {"depth": 1, "heads": 2, "head_dim": 16, "queries": 8},
    "idefics2": {"depth": 1, "heads": 2, "head_dim": 16, "hidden": 32, "kv_heads": 1, "queries": 8},
    "identity": {},
}
# Of the sides of images that every family takes.
STEP, LARGEST = 12, 48
TOLERANCE = 1e-4  # of sums in another order, relative to the largest number


@dataclass
class Result:
    """What was counted for a family."""

    batches: int = 0
    compilations: int = 0
    host_reads: int = 0
    difference: float = 0.0
    eager_us: list[float] = field(default_factory=list)
    graph_us: list[float] = field(default_factory=list)


def build(name: str, device: str) -> Projector:
    torch.manual_seed(0)
    out = WIDTHS[0] if name == "identity" else WIDTHS[1]
    return build_projector(name, WIDTHS[0], out, device=device, **SMALL.get(name, {})).eval()


def random_grids(chosen: random.Random, patches: int) -> list[tuple[int, int]]:
    """Return one to `IMAGES` grids that fit a budget."""
    grids: list[tuple[int, int]] = []
    for _ in range(chosen.randint(1, IMAGES)):
        room = patches - sum(h * w for h, w in grids)
        sides = [side for side in range(STEP, LARGEST + 1, STEP) if side * STEP <= room]
        if not sides:
            break
        h = chosen.choice(sides)
        w = chosen.choice([side for side in sides if h * side <= room])
        grids.append((h, w))
    return grids


@torch.inference_mode()
def serve(
    name: str, budgets: Sequence[int], batches: int, device: str, tick: Callable[[], None]
) -> Result:
    """Run batches of a family."""
    projector, chosen, result = build(name, device), random.Random(0), Result()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(projector, backend=counter, fullgraph=True, dynamic=False)
    for first, patches in enumerate(budgets):
        graph = None
        for _ in range(first, batches, len(budgets)):
            grids = random_grids(chosen, patches)
            packed = projector.pack_grids(torch.tensor(grids), (patches, IMAGES), device=device)
            x = torch.randn(sum(h * w for h, w in grids), WIDTHS[0], device=device)
            padded, expected = packed.pad(x), projector(x, grid=grids)
            eager = partial(projector, padded, grid=packed)
            ways = [compiled(padded, grid=packed)]
            try:
                with refuse_host_reads():
                    ways.append(eager())
            except HostReadError as error:
                result.host_reads += 1
                print(f"{name}: {error}", file=sys.stderr)
            if device == "cuda":
                graph = graph or Graph(projector, padded, packed)
                ways.append(graph.replay(padded, packed))
                result.eager_us.append(microseconds(eager))
                result.graph_us.append(microseconds(graph.graph.replay))
            for y in ways:
                result.difference = max(result.difference, difference(y[: packed.total], expected))
            result.batches += 1
            tick()
    result.compilations = counter.frame_count
    return result


class Graph:
    """A forward captured as a CUDA graph, with buffers for what changes from batch to batch."""

    def __init__(self, projector: Projector, x: Tensor, packed: PackedGrids) -> None:
        self.x, self.packed = x.clone(), packed.to(x.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries allocate what they need in their first calls
                projector(self.x, grid=self.packed)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.y = projector(self.x, grid=self.packed)

    def replay(self, x: Tensor, packed: PackedGrids) -> Tensor:
        self.x.copy_(x)
        self.packed.copy_(packed)
        self.graph.replay()
        return self.y.clone()


def microseconds(call: Callable[[], object]) -> float:
    """Time one call on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def difference(y: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number; infinity if one is NaN."""
    largest = (y - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    return largest.nan_to_num(nan=math.inf).item()


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where a batch compiled again, read a value, or differs."""
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help="families; default: all")
    parser.add_argument("--batches", type=int, default=100, help="batches of each family")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(words)
    names = given.names or PROJECTORS.names()
    refused, failed = {}, False
    print(f"{'family':24}batches  recompilations  host reads  difference")
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=given.batches * len(names))
        tick = partial(progress.advance, task)
        for place, name in enumerate(names):
            progress.update(task, description=name, completed=place * given.batches)
            try:
                build(name, given.device).pack_grids([], budget=(1, 1))
            except GridError as error:
                refused[name] = str(error)
                continue
            found = serve(name, given.budgets, given.batches, given.device, tick)
            again = found.compilations - min(len(given.budgets), found.batches)
            line = f"{name:24}{found.batches:7}{again:16}{found.host_reads:12}"
            line += f"{found.difference:12.1e}"
            if found.graph_us:
                eager, graph = map(statistics.median, (found.eager_us, found.graph_us))
                line += f"   eager {eager:.0f} us, CUDA graph {graph:.0f} us"
            progress.console.print(line, highlight=False, soft_wrap=True)
            failed |= bool(again or found.host_reads or not found.difference <= TOLERANCE)
    for name, reason in refused.items():
        print(f"{name:24}not at a budget: {reason}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
