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


@pytest.mark.quick("depthwise", "pool")
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_block_compiles_and_exports(name: str) -> None:
    others = set(BLOCK_CHECKS) - COMPILERS
    check_block(BLOCKS.get(name)(**FIELDS.get(name, {})), skip=others)


@pytest.mark.parametrize(("name", "fields"), VARIANTS)
def test_its_variants_pass(name: str, fields: dict[str, Any]) -> None:
    check_block(BLOCKS.get(name)(**fields), skip=("import", *COMPILERS))


@pytest.mark.quick(*PRESETS[4::6], "ldp", "ldpnet", "ldpnetv2")
@pytest.mark.parametrize("name", PRESETS)
def test_every_projector_passes(name: str) -> None:
    check_projector(name, **OPTIONS.get(name, {}), skip=("import", "upstream", *COMPILERS))


# What a family's checkpoints say in their config, where these options are not upstream's defaults.
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "aya-vision": ({}, {}),
    "c-abstractor": (
        {"queries": 4, "hidden": 8},
        {"projector_config": {"num_query_tokens": 4}},
    ),
    "deepseek-vl2": ({}, {}),
    "gemma3n": ({}, {}),
    "gemma4": ({"pool": 2}, {"vision_config": {"pooling_kernel_size": 2}}),
    "idefics3": ({"merge": 4}, {"scale_factor": 4}),
    "internvl": ({"hidden": 96}, {}),
    "kimi-k25": ({}, {}),
    "ldpnet": ({}, {}),
    "linear": ({}, {}),
    "mistral3": ({"eps": 1e-3}, {"text_config": {"rms_norm_eps": 1e-3}}),
    "mlp": ({"act": "relu"}, {"projector_hidden_act": "relu"}),
    "mlp-res": ({}, {}),
    "nvila-lite": ({}, {"mm_projector_type": "mlp_downsample_3x3_fix"}),
    "perception-lm": ({"ratio": 2}, {"projector_pooling_ratio": 2}),
    "qwen2-vl": ({"norm": "rms"}, {}),
    "qwen3-vl": ({}, {}),
    "qwen3-vl-deepstack": ({}, {}),
    "vipllava": ({"eps": 1e-3}, {"projector_layernorm_eps": 1e-3}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_family_writes_under_upstreams_names_is_read_back(name: str) -> None:
    options, config = CONFIGS[name]
    others = set(PROJECTOR_CHECKS) - {"upstream"}
    check_projector(name, **options, config=config, skip=others)


@pytest.mark.quick("gemma3", "ldpnetv2")
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
