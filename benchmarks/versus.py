"""Our projectors beside the originals: the same weights, the same tokens, in turns.

python benchmarks/versus.py [--threads 1 2] [--batch 1 8] [--dtype float32 bfloat16] [--train]
                            [--device cpu cuda] [--rounds N] [--json FILE] [NAME ...]

Without --device it runs on the CPU, and then on an accelerator that torch finds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Peer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mobilevlm.blocks.core.chain import order
from mobilevlm.compare.timing import compare, forward, repeat, wait
from mobilevlm.projectors.macs import count_macs
from mobilevlm.projectors.table import align

HEADER = [
    "projector",
    "device",
    "T",
    "B",
    "dtype",
    "run",
    "peer",
    "ours",
    "ratio",
    "best/best",
    "target",
]
HEADER += ["x of limit"]


def gemm_peak(dtype: torch.dtype, device: str) -> float:
    """Measure the best matrix product of a device, now, in multiply-accumulates a second."""
    x = torch.randn(576, 2048, dtype=dtype, device=device)
    weight = torch.randn(2048, 2048, dtype=dtype, device=device)

    def product() -> None:
        torch.nn.functional.linear(x, weight)
        wait(x.device)

    calls: list[Callable[[], Any]] = [product]
    if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        calls.append(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""))
    best = min(repeat(call, 7).low for call in calls)
    return 576 * 2048 * 2048 / best


def training(call: Callable[[Tensor], Tensor], module: Any, x: Tensor) -> Callable[[], None]:
    def run() -> None:
        module.zero_grad(set_to_none=True)
        call(x).sum().backward()
        wait(x.device)

    return run


def agree(name: str, peer: Peer, dtype: torch.dtype) -> None:
    """Refuse to time two things that do not compute the same."""
    if peer.work != 1.0:
        return
    with torch.inference_mode():
        a, b = peer.theirs(peer.x), ours(peer)(peer.x)
    error = float((a - b).abs().max() / a.abs().max())
    if error > (1e-5 if dtype == torch.float32 else 5e-2):
        raise RuntimeError(f"{name}: ours and the peer differ by {error:.1e}")


def ours(peer: Peer) -> Callable[[Tensor], Tensor]:
    """Our call; Qwen's family takes its tokens in blocks, upstream's run makes them so itself."""
    if peer.ours.spec.token_block == 1:
        return lambda x: peer.ours(x, grid=peer.grid)
    h, w = peer.grid

    def call(x: Tensor) -> Tensor:
        x = x.unflatten(1, (h // 2, 2, w // 2, 2)).transpose(2, 3).flatten(1, 4)
        return peer.ours(x, grid=peer.grid)

    return call


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    names = [name for name in PEERS if not args.names or any(n in name for n in args.names)]
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name, advance=1)
            torch.manual_seed(0)
            try:
                peer = PEERS[name].make()
            except (FileNotFoundError, ImportError) as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
                continue
            for device, dtype_name in itertools.product(args.device, args.dtype):
                dtype = getattr(torch, dtype_name)
                # What an original makes of its own accord, such as positions, belongs there too.
                torch.set_default_device(None if device == "cpu" else device)
                peer.ours.to(device, dtype)
                peer.module.to(device, dtype)
                object.__setattr__(peer, "x", peer.x.to(device, dtype))
                agree(name, peer, dtype)
                for threads in args.threads if device == "cpu" else [1]:
                    torch.set_num_threads(threads)
                    for batch in args.batch:
                        yield case(name, peer, dtype_name, threads, batch, args)
            torch.set_default_device(None)


def case(
    name: str, peer: Peer, dtype: str, threads: int, batch: int, args: argparse.Namespace
) -> dict[str, Any]:
    x = peer.x.expand(batch, -1, -1).contiguous()
    call = ours(peer)
    if args.train:
        a, b = training(peer.theirs, peer.module, x), training(call, peer.ours, x)
    else:
        a, b = forward(peer.theirs, x), forward(call, x)
    found = compare(a, b, args.rounds)
    target = PEERS[name].targets.get(dtype, (0.0, 0.0))[threads > 1]
    if x.device.type != "cpu":
        target = 0.0
    row = {
        "name": name,
        "peer": PEERS[name].group,
        "device": x.device.type,
        "threads": threads,
        "batch": batch,
        "dtype": dtype,
        "run": "train" if args.train else "infer",
        "theirs_s": found.a.median,
        "ours_s": found.b.median,
        "ratio": found.ratio.median / peer.work,
        "best": found.a.low / found.b.low / peer.work,
        "target": target if batch == 1 and not args.train else None,
    }
    if not args.train:
        macs = batch * needed(peer)
        row["of_limit"] = found.b.low / (macs / gemm_peak(x.dtype, x.device.type))
    return row


def needed(peer: Peer) -> int:
    """Multiply-accumulates that remain once a pool has gone before its linear layer."""
    plan = peer.ours.plan(peer.grid)
    x = torch.empty(1, *peer.grid, peer.ours.spec.in_, device="meta")
    chain = plan._meta
    places = order(tuple(chain))  # before anybody counts: who counts, watches
    with count_macs(chain) as counted, torch.no_grad():
        for place in places:
            x = chain[place](x)
    return counted[""]


def cells(row: dict[str, Any]) -> list[str]:
    target = row["target"]
    verdict = "" if not target else f"{target:g} {'ok' if row['ratio'] >= target else 'missed'}"
    return [
        row["name"],
        row["device"],
        str(row["threads"]),
        str(row["batch"]),
        row["dtype"],
        row["run"],
        f"{1e3 * row['theirs_s']:.2f} ms",
        f"{1e3 * row['ours_s']:.2f} ms",
        f"{row['ratio']:.2f}",
        f"{row['best']:.2f}",
        verdict,
        f"{row['of_limit']:.2f}" if "of_limit" in row else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    devices = ["cpu"]
    if torch.accelerator.is_available():
        devices.append(str(torch.accelerator.current_accelerator()))
    parser.add_argument("--device", nargs="+", default=devices)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = list(measure(args))
    print(align(HEADER, list(map(cells, rows)), right={6, 7, 8, 9, 11}))
    median = statistics.median(row["ratio"] for row in rows)
    print(f"{len(rows)} cases, median ratio {median:.2f}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
