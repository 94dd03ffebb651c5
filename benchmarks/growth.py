"""Cost as work grows: time per unit of work should stay flat.

python benchmarks/growth.py [--picture FILE] [--json FILE] [CURVE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.testing
from packed import grids_of

from mobilevlm import SpecError, build_projector, dump_spec, load_spec, plan_projector
from mobilevlm.compare.timing import repeat
from mobilevlm.projectors.table import align
from mobilevlm.registry import Registry

Point = tuple[int, float]  # how much work, and seconds


def timed(call: Callable[[], object], rounds: int = 5) -> float:
    with torch.inference_mode():
        return repeat(call, rounds).low


def batch() -> Iterator[Point]:
    """Images at once, ldpnetv2 256 -> 512, 24x24."""
    projector = build_projector("ldpnetv2", 256, 512).eval()
    for size in (1, 2, 4, 8, 16, 32, 64):
        x = torch.randn(size, 576, 256)
        yield size, timed(lambda x=x: projector(x))


def tokens() -> Iterator[Point]:
    """Tokens of one image, ldp 256 -> 512."""
    projector = build_projector("ldp", 256, 512).eval()
    for side in (8, 16, 32, 64, 128):
        x = torch.randn(1, side * side, 256)
        yield side * side, timed(lambda x=x: projector(x))


def packed() -> Iterator[Point]:
    """Packed images, each of a size of its own, qwen2-vl 256 -> 512; per token."""
    projector = build_projector("qwen2-vl", 256, 512).eval()
    for count in (1, 4, 16, 64, 256):
        grids = grids_of(count)
        total = sum(h * w for h, w in grids)
        x = torch.randn(total, 256)
        yield total, timed(lambda x=x, g=grids: projector(x, grid=g))


def width() -> Iterator[Point]:
    """Multiply-accumulates, a linear layer of n -> n, 64 tokens."""
    for size in (512, 1024, 2048, 4096, 8192):
        projector = build_projector("linear", size, size).eval()
        x = torch.randn(1, 64, size)
        yield 64 * size * size, timed(lambda x=x, p=projector: p(x))


def _chain(blocks: int) -> dict[str, Any]:
    return {"in": 8, "out": 8, "blocks": ["pointwise", "norm-act"] * (blocks // 2)}


def chain_call() -> Iterator[Point]:
    """Blocks in a chain, 8 -> 8 channels: calling it."""
    for blocks in (2, 10, 50, 200):
        projector = build_projector(_chain(blocks)).eval()
        x = torch.randn(1, 16, 8)
        yield blocks, timed(lambda x=x, p=projector: p(x), rounds=30)


def chain_build() -> Iterator[Point]:
    """Blocks in a chain: checking, planning and building it."""
    for blocks in (2, 10, 50, 200, 1000, 4000):
        document = _chain(blocks)
        yield blocks, timed(lambda d=document: build_projector(d))


def document() -> Iterator[Point]:
    """Blocks in a document: reading its text and writing it again."""
    for blocks in (10, 100, 1000, 4096):
        text = dump_spec(load_spec(_chain(blocks)))
        yield blocks, timed(lambda t=text: dump_spec(load_spec(t)))


def depth() -> Iterator[Point]:
    """Blocks, of which 1, 3, 7 and 15 are residuals around all others: reading and planning."""
    for levels in (1, 3, 7, 15):
        blocks: list[Any] = ["pointwise"] * 3_900
        for _ in range(levels):
            blocks = [{"type": "residual", "body": blocks}]
        document = {"in": 8, "out": 8, "blocks": blocks}
        yield 3_900 + levels, timed(lambda d=document: plan_projector(d).rows, rounds=3)


def unknown() -> Iterator[Point]:
    """Unknown names of 125 characters in a document: refusing it and saying why."""
    for blocks in (64, 256, 1024, 4096):
        names = [f"z{number:04}" + "q" * 120 for number in range(blocks)]
        document = {"in": 8, "out": 8, "blocks": names}
        yield blocks, timed(lambda d=document: _refused(d), rounds=3)


def misspelt() -> Iterator[Point]:
    """Misspelt names, each near to a known one: refusing the document and saying why."""
    for blocks in (64, 256, 1024, 4096):
        names = [f"pointwize-{number:04}" for number in range(blocks)]
        document = {"in": 8, "out": 8, "blocks": names}
        yield blocks, timed(lambda d=document: _refused(d), rounds=3)


def _refused(document: dict[str, Any]) -> str:
    try:
        load_spec(document)
    except SpecError as error:
        return str(error)
    raise AssertionError("it was not refused")


def registry() -> Iterator[Point]:
    """Entries in a registry: registering all of them and looking each up."""
    for entries in (10, 100, 1000, 10_000):

        def fill(entries: int = entries) -> None:
            found: Registry[object] = Registry(
                "thing", group="growth", builtins={}, accepts=lambda _: True, expected="a thing"
            )
            for number in range(entries):
                found.register(f"name-{number}", object())
            for number in range(entries):
                found.get(f"name-{number}")

        yield entries, timed(fill, rounds=3)


def plan() -> Iterator[Point]:
    """Grids in turn: planning ldp on each."""
    for count in (1, 10, 100, 1000):

        def walk(count: int = count) -> None:
            for side in range(count):
                plan_projector("ldp", 16, 16, grid=(side + 1, side + 1))

        yield count, timed(walk, rounds=3)


CURVES = {
    curve.__name__: curve
    for curve in (
        *(batch, tokens, packed, width, chain_call, chain_build, document, depth, unknown),
        *(misspelt, registry, plan),
    )
}


def recompiles() -> int:
    """Count how often `torch.compile(dynamic=True)` compiles ldpnet for nine grids."""
    projector = build_projector("ldpnet", 16, 24).eval()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(projector, backend=counter, dynamic=True)
    with torch.inference_mode():
        for h, w in [(8, 8), (6, 10), (9, 7), (24, 24), (5, 5), (12, 30), (40, 4), (7, 7), (16, 8)]:
            compiled(torch.randn(2, h * w, 16), grid=(h, w))
    return int(counter.frame_count)


def draw(found: dict[str, list[Point]], file: Path) -> None:
    """Draw every curve, relative to its largest amount of work."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no picture: pip install matplotlib", file=sys.stderr)
        return
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in found.items():
        last = points[-1][1] / points[-1][0]
        largest = points[-1][0]
        axes.plot(
            [work / largest for work, _ in points],
            [seconds / work / last for work, seconds in points],
            marker="o",
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="work (1 is the most)", ylabel="time per work")
    axes.set_title("Cost per unit of work, relative to that of the most work")
    axes.legend()
    figure.savefig(file, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", nargs="*", choices=[[], *CURVES])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, list[Point]] = {}
    for name in args.curves or CURVES:
        curve = CURVES[name]
        points = found[name] = list(curve())
        print(f"\n{name}: {curve.__doc__}")
        rows = [
            [f"{work:,}", f"{1e3 * seconds:.3f}", f"{1e6 * seconds / work:.4g}"]
            for work, seconds in points
        ]
        print(align(["work", "ms", "us per unit"], rows, right={0, 1, 2}))
    if not args.curves:
        print(f"\ntorch.compile(dynamic=True), nine grids: compiled {recompiles()} time(s)")
    if args.picture:
        draw(found, args.picture)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
