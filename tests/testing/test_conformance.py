"""Every built-in passes the kit that authors of blocks are given."""

import json
import subprocess
import sys
from typing import Any

import pytest

from mobilevlm import BLOCKS, PROJECTORS
from mobilevlm.testing import check_block, check_projector
from mobilevlm.testing.kit import BLOCK_CHECKS, PROJECTOR_CHECKS

# Fields that must be given; deep blocks shallow.
FIELDS: dict[str, dict[str, Any]] = {
    "extra-tokens": {"at": "begin"},
    "parallel": {"branches": [["identity"], ["depthwise"]]},
    "pool": {"stride": 2},
    "preset": {"name": "ldp"},
    "qformer": {"depth": 2},
    "repeat": {"times": 2, "body": ["depthwise"]},
    "resampler": {"depth": 2},
    "residual": {"body": ["depthwise"]},
    "scale": {"by": 0.5},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("conv", {"stride": 2}),
    ("depthwise", {"stride": 2, "kernel": 5}),
    ("depthwise-residual", {"stride": 2}),
    ("extra-tokens", {"at": "end", "count": 3}),
    ("norm-act", {"norm": "rms", "act": "silu"}),
    ("parallel", {"branches": [["newline"], ["newline", "conv"]], "join": "cat"}),
    ("patch-merge", {"odd": "pad"}),
    ("patch-merge", {"odd": "drop", "transpose": True}),
    ("pool", {"mode": "adaptive", "size": [2, 2]}),
    ("pool", {"mode": "bilinear", "stride": 2}),
    ("pool", {"mode": "max", "stride": 2, "ceil": True}),
    ("residual", {"body": [{"type": "pointwise", "out": "same"}]}),
]
# Widths that fit, and deep or wide projectors small.
OPTIONS: dict[str, dict[str, Any]] = {
    "aya-vision": {"hidden": 64},
    "blip2": {"depth": 2, "width": 48},
    "c-abstractor": {"hidden": 48, "depth": 1},
    "cohere2-vision": {"hidden": 64},
    "flamingo": {"depth": 2},
    "idefics": {"depth": 2},
    "idefics2": {"hidden": 64, "depth": 2},
    "identity": {"out": 48},
    "llama4": {"hidden": 64},
}
COMPILERS = {"compile", "export"}  # the slow properties
# Zeta's have a suite of their own, where zetascale is installed.
BUILT_IN = [
    name
    for name in BLOCKS.names()
    if BLOCKS.find(name).source == "built-in" and not name.startswith("zeta-")
]
PRESETS = [name for name in PROJECTORS.names() if PROJECTORS.find(name).source == "built-in"]
FAMILIES = [name for name in PRESETS if isinstance(PROJECTORS.get(name), type)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_block_passes(name: str) -> None:
    check_block(BLOCKS.get(name)(**FIELDS.get(name, {})), skip=("import", *COMPILERS))


@pytest.mark.quick("depthwise", "pool", "qformer")
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_block_compiles_and_exports(name: str) -> None:
    others = set(BLOCK_CHECKS) - COMPILERS
    check_block(BLOCKS.get(name)(**FIELDS.get(name, {})), skip=others)


@pytest.mark.parametrize(("name", "fields"), VARIANTS)
def test_its_variants_pass(name: str, fields: dict[str, Any]) -> None:
    check_block(BLOCKS.get(name)(**fields), skip=("import", *COMPILERS))


@pytest.mark.parametrize("name", PRESETS)
def test_every_projector_passes(name: str) -> None:
    check_projector(name, **OPTIONS.get(name, {}), skip=("import", *COMPILERS))


@pytest.mark.quick("gemma3", "internvl", "ldpnetv2", "mlp", "qwen2-vl")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_compiles_and_exports(name: str) -> None:
    others = set(PROJECTOR_CHECKS) - COMPILERS
    check_projector(name, **OPTIONS.get(name, {}), skip=others)


def test_importing_them_changes_nothing() -> None:
    """All at once; the kit would start an interpreter for each."""
    targets = [
        entry.target.partition(":")[0]
        for registry in (BLOCKS, PROJECTORS)
        for entry in registry.entries()
        if entry.source == "built-in"
    ]
    code = (
        "import importlib, json, sys\n"
        "from mobilevlm.testing.world import changes, snapshot\n"
        "before = snapshot()\n"
        "for name in json.loads(sys.argv[1]): importlib.import_module(name)\n"
        "print(changes(before))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(targets)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")
