"""Fail where a projector is slower than its original: the same weights and tokens, in turns.

python benchmarks/check.py [--threads 1 2] [--rounds 31] [NAME ...]

It needs a quiet machine, so no test runs it. Judged is the interval in which the median of the
rounds' ratios original / ours lies with a confidence of at least 95 %: two of the sorted ratios,
whatever their distribution is (the 10th and the 22nd of 31). A case fails if even the upper end of
it is below the limit: 0.97 in fp32. Where the processor has no units for bf16, ours computes it
through fp32, and is held to be 3 times as fast as the original.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from peers import PEERS, Peer, family
from versus import agree, ours

from mobilevlm import build_vision_projector
from mobilevlm.blocks.core.linear import UNITS
from mobilevlm.compare.timing import compare, forward
from mobilevlm.projectors.table import align


def drop_in(name: str, original: Callable[[], Peer], before: str = "") -> Callable[[], Peer]:
    """A case in which ours is what `build_vision_projector` builds, with upstream's own keys."""

    def peer() -> Peer:
        found = original()
        spec = found.ours.spec
        config = {"mm_projector_type": name, "mm_hidden_size": spec.in_, "hidden_size": spec.out}
        built = build_vision_projector(config).eval()
        built.load_state_dict({before + k: v for k, v in found.module.state_dict().items()})
        return dataclasses.replace(found, ours=built)

    return peer


CASES: dict[str, Callable[[], Peer]] = {
    "mlp2x_gelu": family("llava", 1024, 2048),
    "ldpnet": PEERS["ldpnet 1024->2048"].make,
    "ldpnetv2": PEERS["ldpnetv2 1024->2048"].make,
    "ldpnet drop-in": drop_in("ldpnet", PEERS["ldpnet 1024->2048"].make, "model."),
    "ldpnetv2 drop-in": drop_in("ldpnetv2", PEERS["ldpnetv2 1024->2048"].make),
    "internvl": PEERS["internvl 1024->2048"].make,
    "gemma3": PEERS["gemma3 1152->2560"].make,
    "qwen2-5-vl": PEERS["qwen2-5-vl 1280->3584"].make,
}
BF16_UNITS = UNITS[torch.bfloat16]
HEADER = ["projector", "T", "dtype", "original", "ours", "median ratio", "95 %", "limit", ""]


def limits() -> dict[torch.dtype, float]:
    """Return what the ratio original / ours is held against, for each dtype that is checked."""
    flags = torch.cpu.get_capabilities()
    lacking = not any(flags.get(unit) for unit in BF16_UNITS)
    return {torch.float32: 0.97, **({torch.bfloat16: 3.0} if lacking else {})}


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return two of the values, between which the median lies with at least this confidence.

    Of n values, as many lie below the median as of n tosses of a coin show heads. Too few values
    for the confidence give the smallest and the largest.
    """
    ordered = sorted(values)
    n, cut, outside = len(ordered), 0, 0
    for heads in range(n // 2):
        outside += math.comb(n, heads)  # this many, or fewer, lie below
        if 2 * outside > (1 - confidence) * 2**n:
            break
        cut = heads
    return ordered[cut], ordered[n - 1 - cut]


def machine() -> str:
    """Say what the figures depend on."""
    flags = torch.cpu.get_capabilities()
    wide = ("avx2", "avx512_f", "avx512_vnni", *BF16_UNITS)
    name = flags.get("cpu_name") or platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    versions = (
        f"{package} {version(package)}" for package in ("mobilevlm", "torch", "transformers")
    )
    return "\n".join(
        [
            f"processor: {name}, {platform.machine()}; {' '.join(filter(flags.get, wide)) or '-'}",
            f"versions: Python {platform.python_version()}, {', '.join(versions)}",
        ]
    )


def measure(names: Sequence[str], threads: Sequence[int], rounds: int) -> Iterator[list[str]]:
    """Yield the table's rows; the last cell of one that fails is ``SLOWER``."""
    for name in names:
        torch.manual_seed(0)
        peer = CASES[name]()
        for dtype, limit in limits().items():
            peer.ours.to(dtype)
            peer.module.to(dtype)
            x = peer.x.to(dtype)
            object.__setattr__(peer, "x", x)
            agree(name, peer, dtype)
            for number in threads:
                torch.set_num_threads(number)
                found = compare(forward(peer.theirs, x), forward(ours(peer), x), rounds)
                low, high = interval(found.ratios)
                yield [
                    name,
                    str(number),
                    str(dtype).removeprefix("torch."),
                    f"{1e3 * found.a.median:.2f} ms",
                    f"{1e3 * found.b.median:.2f} ms",
                    f"{found.ratio.median:.3f}",
                    f"{low:.3f} to {high:.3f}",
                    f"{limit:g}",
                    "SLOWER" if high < limit else "ok",
                ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was measured; return 1 if a case failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in CASES]
    if unknown:
        parser.error(f"unknown name {unknown[0]!r}; there are {', '.join(CASES)}")
    print(machine())
    if torch.bfloat16 not in limits():
        print("bfloat16: the processor has units for it, so it is not checked")
    print(f"{args.rounds} rounds; inference, batch 1; ratio: original / ours\n", flush=True)
    rows = list(measure(args.names or list(CASES), args.threads, args.rounds))
    print(align(HEADER, rows, right={1, 3, 4, 5}))
    slower = [row for row in rows if row[-1] != "ok"]
    print(f"{len(slower)} of {len(rows)} cases are slower than their limit")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
