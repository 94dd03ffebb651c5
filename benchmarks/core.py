"""The library's fixed costs beside their targets: import, list, look up, plan, build, call.

python benchmarks/core.py [--json FILE] [SECTION ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mobilevlm import BLOCKS, PROJECTORS, Projector, build_projector, plan_projector
from mobilevlm.compare.timing import Pair, Spread, compare, repeat

PASS = (sys.executable, "-c", "pass")
IMPORT = (sys.executable, "-c", "import mobilevlm")
LIST = (sys.executable, "-m", "mobilevlm.cli", "list")
LOADED = "import sys, mobilevlm; print(*[m for m in ('torch', 'pydantic') if m in sys.modules])"


@dataclass(frozen=True)
class Row:
    """One figure: what was measured, what was wanted, and the numbers behind it in seconds."""

    what: str
    measured: str
    target: str
    ok: bool
    numbers: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------------- processes


def run(command: Sequence[str]) -> str:
    """Run a command outside the checkout, so that only the installed package is found."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tempfile.gettempdir(), check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{' '.join(command[1:])} failed: {last}")
    return done.stdout.strip()


def import_cost() -> Iterator[Row]:
    """What `import mobilevlm` adds to a Python that does nothing."""
    found = compare(lambda: run(IMPORT), lambda: run(PASS), rounds=20)
    yield row("import mobilevlm, over bare Python", found.difference, 0.020, **asdict(found))
    loaded = run((sys.executable, "-c", LOADED))
    yield Row("import mobilevlm loads torch, pydantic", loaded or "neither", "neither", not loaded)


def list_cost() -> Iterator[Row]:
    """The whole process of `mobilevlm list`."""
    what = "mobilevlm list, whole process"
    try:
        found = compare(lambda: run(LIST), lambda: run(PASS), rounds=10)
    except RuntimeError as error:
        yield Row(what, str(error), "under 300 ms", ok=False)
        return
    yield row(what, found.a, 0.3, **asdict(found))
    yield Row("  bare Python beside it", str(found.b), "", ok=True, numbers=asdict(found.b))


# ---------------------------------------------------------------------- on paper


def lookups() -> Iterator[Row]:
    """Warm look-ups of registered names."""
    calls: dict[str, Callable[[], object]] = {
        'BLOCKS.get("pointwise"), warm': lambda: BLOCKS.get("pointwise"),
        'PROJECTORS.get("ldp"), warm': lambda: PROJECTORS.get("ldp"),
    }
    for what, call in calls.items():
        yield row(what, repeat(call, rounds=30, number=5_000), 20e-6)


def plan_cost() -> Iterator[Row]:
    """Walking on paper, without what a meta-device build has to tell."""

    def walk() -> object:
        return plan_projector("ldp", 1024, 2048, grid=(24, 24))

    yield row("plan_projector(ldp), warm walk", repeat(walk, rounds=30, number=50), 2e-3)


# ---------------------------------------------------------------------- modules


def bare_ldp(in_: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_, out),
        nn.GELU(),
        _depthwise(out),
        nn.Linear(out, out),
        nn.LayerNorm(out),
        nn.GELU(),
        _depthwise(out, stride=2),
        nn.Linear(out, out),
        nn.LayerNorm(out),
    )


def bare_ldpnet(in_: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_, out),
        nn.GELU(),
        nn.Linear(out, out),
        *_inverted_residual(out, stride=1),
        *_inverted_residual(out, stride=2),
    )


def bare_ldpnetv2(in_: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_, out),
        nn.GELU(),
        nn.Linear(out, out),
        nn.AdaptiveAvgPool2d((12, 12)),
        _depthwise(out),
    )


def bare_mlp2x_gelu(in_: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_, out), nn.GELU(), nn.Linear(out, out))


def _depthwise(width: int, stride: int = 1, *, bias: bool = True) -> nn.Module:
    return nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=bias)


def _inverted_residual(width: int, stride: int) -> list[nn.Module]:
    return [
        _depthwise(width, stride, bias=False),
        nn.LayerNorm(width),
        nn.Hardswish(),
        nn.Linear(width, width // 4),
        nn.ReLU(),
        nn.Linear(width // 4, width),
        nn.Hardsigmoid(),
        nn.Linear(width, width, bias=False),
        nn.LayerNorm(width),
    ]


BARE: dict[str, Callable[[int, int], nn.Module]] = {
    "ldp": bare_ldp,
    "ldpnet": bare_ldpnet,
    "ldpnetv2": bare_ldpnetv2,
    "mlp2x_gelu": bare_mlp2x_gelu,
}


def build_cost() -> Iterator[Row]:
    """What building by name adds to constructing the same torch modules by hand, 1024 -> 2048."""
    for name, bare in BARE.items():
        check_same_parameters(build_projector(name, 1024, 2048), bare(1024, 2048))
        found = compare_builds(name, bare)
        ok = found.difference.median <= 3e-3 or found.ratio.median <= 1.10
        yield Row(
            f"build {name}, over bare modules",
            f"{found.difference}, x {found.ratio.plain()}",
            "3 ms or x 1.10",
            ok,
            asdict(found),
        )
        yield Row(f"  bare {name} itself", str(found.b), "", ok=True, numbers=asdict(found.b))


def compare_builds(name: str, bare: Callable[[int, int], nn.Module]) -> Pair:
    return compare(lambda: build_projector(name, 1024, 2048), lambda: bare(1024, 2048), rounds=16)


def check_same_parameters(projector: Projector, bare: nn.Module) -> None:
    """Refuse to compare builds of different things."""
    ours, theirs = ([p.shape for p in module.parameters()] for module in (projector, bare))
    if ours != theirs:
        raise RuntimeError(f"not the same parameters: {ours} and {theirs}")


@torch.inference_mode()
def call_cost() -> Iterator[Row]:
    """What the projector's door adds to its blocks; 64 -> 64 on a 4x4 grid, so that it shows."""
    for name in ("ldp", "mlp2x_gelu"):
        found = compare_calls(build_projector(name, 64, 64).eval())
        what = f"call {name}, over its blocks"
        yield row(what, found.difference, 20e-6, **asdict(found))
        yield Row(f"  {name}'s blocks alone", str(found.b), "", ok=True, numbers=asdict(found.b))


def compare_calls(projector: nn.Module) -> Pair:
    tokens = torch.randn(1, 16, 64)
    feature = tokens.view(1, 4, 4, 64)
    blocks = projector.get_submodule("blocks")
    return compare(lambda: projector(tokens), lambda: blocks(feature), rounds=60, number=200)


# ---------------------------------------------------------------------- the table


SECTIONS: dict[str, Callable[[], Iterator[Row]]] = {
    "import": import_cost,
    "list": list_cost,
    "lookup": lookups,
    "plan": plan_cost,
    "build": build_cost,
    "call": call_cost,
}


def row(what: str, spread: Spread, limit: float, **numbers: Any) -> Row:
    """Hold a time against a limit in seconds."""
    target = f"under {limit * 1e3:g} ms" if limit >= 1e-3 else f"under {limit * 1e6:g} us"
    return Row(what, str(spread), target, spread.median < limit, numbers or asdict(spread))


def machine() -> dict[str, object]:
    """Say what the figures depend on, and nothing that names this one machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}")

    torch.set_num_threads(1)  # these are costs of Python code: a second thread only adds noise
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"\n{'what':<38}  {'median (min to max)':<47}  {'target':<14}")
    rows: list[Row] = []
    for name in arguments.sections or SECTIONS:
        for each in SECTIONS[name]():
            verdict = ("ok" if each.ok else "MISSED") if each.target else ""
            line = f"{each.what:<38}  {each.measured:<47}  {each.target:<14}  {verdict}"
            print(line.rstrip(), flush=True)
            rows.append(each)
    if arguments.json:
        document = {"machine": machine(), "rows": [asdict(each) for each in rows]}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
