"""Every built-in passes the kit that authors of blocks are given."""

import json
import subprocess
import sys
from typing import Any

import pytest
from helpers.built_ins import BUILT_IN, FAMILIES, FIELDS, OPTIONS, PRESETS, VARIANTS

from mobilevlm import BLOCKS, PROJECTORS
from mobilevlm.testing import check_block, check_projector
from mobilevlm.testing.kit import BLOCK_CHECKS, PROJECTOR_CHECKS

COMPILERS = {"compile", "export"}  # the slow properties


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
        "from mobilevlm.testing.global_state import changes, snapshot\n"
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
