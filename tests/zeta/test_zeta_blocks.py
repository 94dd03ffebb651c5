"""Zeta's modules without zetascale: names, documents, errors, and a stand-in to build with.

With zetascale itself: `tests/extras/zeta/`.
"""

import importlib.metadata
import json
import logging
import os
import pickle
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import zeta_page
from helpers.plugins import Site

from mobilevlm import (
    BLOCKS,
    GridError,
    SpecError,
    Stack,
    build_projector,
    dump_spec,
    load_spec,
    plan_projector,
)
from mobilevlm.registry.requirements import install_command
from mobilevlm.zeta.load import VERSION, ZetaError
from mobilevlm.zeta.names import ZETA
from mobilevlm.zeta.table import table

ROOT = Path(__file__).parents[2]
ROWS = table().blocks
ATTENTION = (
    "It is zeta.nn.MultiQueryAttention(dim, heads, attn_impl='torch', clip_qkv=None, qk_ln=False, "
    "softmax_scale=None, attn_pdrop=0.0, norm_type='low_precision_layernorm', fc_type='torch', "
    "verbose=0, device=None)."
)
KEYS = "heads, clip_qkv, softmax_scale, norm_type, verbose"


def stack(*blocks: Any, in_: int = 64, out: int = 64) -> Stack:
    return load_spec({"in": in_, "out": out, "blocks": list(blocks)})


def message(error: type[Exception], *blocks: Any, **widths: int) -> str:
    with pytest.raises(error) as caught:
        build_projector(stack(*blocks, **widths))
    assert type(caught.value) is error
    return str(caught.value)


# ---------------------------------------------------------------------- the table


def test_names_page_and_versions_follow_from_the_table() -> None:
    assert zeta_page.PAGE.read_text("utf-8") == zeta_page.page(table())
    assert list(ZETA) == sorted(ROWS)
    assert {name: name for name in BLOCKS.names() if name.startswith("zeta-")}.keys() == ROWS.keys()
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]["zeta"]
    assert f"zetascale=={VERSION}" in extra
    assert table().version == VERSION
    assert f"zetascale=={VERSION}\n" in (ROOT / "constraints-zeta.txt").read_text("utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_a_document_reads_back_and_is_walked(name: str) -> None:
    row = ROWS[name]
    spec = stack({"type": "pointwise", "out": 96}, {"type": name, **row.example}, "pointwise")
    assert load_spec(dump_spec(spec)) == spec
    [_, written, _] = json.loads(dump_spec(spec))["blocks"]
    assert list(written) == ["type", *(["out"] if row.out else []), *row.options]
    assert spec.tokens(8, 6) in (48, 4 * 48, 48 // 4, 6 * 4)  # the last without padding
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec.needs_grid == row.needs_grid


def test_shapes_on_paper() -> None:
    convolution = {"type": "zeta-ws-conv2d", "kernel_size": 3, "stride": 2, "padding": 1, "out": 8}
    plan = plan_projector
    for blocks, channels, tokens in (
        (["zeta-swiglu"], 32, 35),
        (["zeta-pixel-shuffle-downscale"], 16, 140),
        ([convolution], 8, 12),
        ([{**convolution, "stride": 1, "padding": 0, "dilation": 2}], 8, 3),
    ):
        spec = load_spec({"in": 64, "out": channels, "blocks": blocks})
        assert spec.tokens(5, 7) == tokens
    with pytest.raises(GridError) as refused:
        stack({**convolution, "padding": 0}, out=8).tokens(2, 7)
    assert str(refused.value) == (
        "blocks[0] (zeta-ws-conv2d): nothing is left of a grid of 2x7. It is given 2x7 x 64 by "
        "the input."
    )
    with pytest.raises(GridError) as refused:
        plan({"in": 64, "out": 64, "blocks": ["zeta-downsample"]}, grid=(5, 8))
    assert str(refused.value) == (
        "blocks[0] (zeta-downsample): a grid of 5x8; expected sides that are multiples of 2. It "
        "is given 5x8 x 64 by the input."
    )
    assert message(SpecError, "zeta-swiglu", in_=63) == (
        "blocks[0] (zeta-swiglu): 63 channels; expected a multiple of 2. It is given ?x? x 63 by "
        "the input."
    )


# ---------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, f"blocks[0]: key 'heads' is missing. {ATTENTION}"),
        (
            {"heads": "4"},
            f'blocks[0].heads: "4"; expected an integer from 1 to 65536. {ATTENTION}',
        ),
        (
            {"heads": True},
            f"blocks[0].heads: true; expected an integer from 1 to 65536. {ATTENTION}",
        ),
        (
            {"heads": None},
            f"blocks[0].heads: null; expected an integer from 1 to 65536. {ATTENTION}",
        ),
        ({"heads": 0}, f"blocks[0].heads: 0; expected an integer from 1 to 65536. {ATTENTION}"),
        (
            {"heads": 4, "clip_qkv": float("nan")},
            f"blocks[0].clip_qkv: NaN; expected a finite number. {ATTENTION}",
        ),
        (
            {"heads": 4, "clip_qkv": -(10**400)},
            f"blocks[0].clip_qkv: -1{'0' * 75}...; expected a finite number. {ATTENTION}",
        ),
        (
            {"heads": 4, "clip_qkv": float("-inf")},
            f"blocks[0].clip_qkv: -Infinity; expected a finite number. {ATTENTION}",
        ),
        (
            {"heads": 4, "norm_type": "batch"},
            "blocks[0].norm_type: \"batch\"; expected 'layernorm', "
            "'low_precision_layernorm', 'low_precision_rmsnorm' or 'rmsnorm'. " + ATTENTION,
        ),
        (
            {"heads": 4, "norm_type": []},
            "blocks[0].norm_type: []; expected 'layernorm', 'low_precision_layernorm', "
            "'low_precision_rmsnorm' or 'rmsnorm'. " + ATTENTION,
        ),
        (
            {"heads": 4, "dim": 64},
            "blocks[0]: 'dim' is inferred: it is the input width; expected one of "
            f"{KEYS}. {ATTENTION}",
        ),
        (
            {"heads": 4, "device": "cuda"},
            f"blocks[0]: argument 'device' cannot be set from a document; expected one of {KEYS}. "
            f"{ATTENTION}",
        ),
        (
            {"heads": 4, "verbos": 1},
            f"blocks[0]: unknown key 'verbos'; expected one of {KEYS}. Did you mean 'verbose'? "
            f"{ATTENTION}",
        ),
    ],
)
def test_wrong_arguments_show_the_signature(fields: dict[str, Any], expected: str) -> None:
    assert message(SpecError, {"type": "zeta-multi-query-attention", **fields}) == expected


def test_wrong_arguments_of_other_types() -> None:
    lora = "It is zeta.nn.Lora(dim, dim_out, r=8, alpha=2)."
    assert message(SpecError, {"type": "zeta-lora", "dim_out": 64}) == (
        "blocks[0]: 'dim_out' is written 'out'; expected one of out, r, alpha. Did you mean "
        f"'out'? {lora}"
    )
    assert message(SpecError, {"type": "zeta-lora", "out": "wide"}) == (
        "blocks[0].out: \"wide\"; expected an integer, 'in', 'out' or 'same'"
    )
    assert message(SpecError, {"type": "zeta-swiglu", "dim": 64}) == (
        "blocks[0]: unknown key 'dim'; expected no keys. It is zeta.nn.SwiGLU()."
    )
    assert message(SpecError, {"type": "zeta-layer-norm", "stable": 1}) == (
        "blocks[0].stable: 1; expected true or false. It is zeta.nn.LayerNorm(dim, eps=1e-05, "
        "fp16_eps=0.001, stable=False)."
    )
    assert stack({"type": "zeta-lora", "alpha": 3}).blocks[0].model_extra == {"r": 8, "alpha": 3}


def test_layers_are_counted() -> None:
    stack(*[{"type": "zeta-mlp", "depth": 256, "out": 64}] * 15)
    assert message(SpecError, *[{"type": "zeta-mlp", "depth": 256, "out": 64}] * 16) == (
        "blocks[15] (zeta-mlp): too many blocks; expected at most 4,096 in all. It is given ?x? x "
        "64 by blocks[14] (zeta-mlp)."
    )


def test_the_json_schema_holds_the_options() -> None:
    schema = BLOCKS.get("zeta-multi-query-attention").model_json_schema()
    assert schema["required"] == ["heads"]
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {
        "heads": {"type": "integer", "minimum": 1, "maximum": 65536},
        "clip_qkv": {"type": ["number", "null"], "default": None},
        "softmax_scale": {"type": ["number", "null"], "default": None},
        "norm_type": {
            "type": "string",
            "enum": ["layernorm", "low_precision_layernorm", "low_precision_rmsnorm", "rmsnorm"],
            "default": "low_precision_layernorm",
        },
        "verbose": {"type": "integer", "minimum": 0, "maximum": 65536, "default": 0},
    }
    assert list(BLOCKS.get("zeta-lora").model_json_schema()["properties"]) == ["out", "r", "alpha"]


# ---------------------------------------------------------------------- zetascale that fails


def test_zetascale_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("mobilevlm.zeta.load.distribution", missing)
    assert message(ZetaError, "zeta-swiglu", out=32) == (
        "zeta.nn.SwiGLU: zetascale is not installed; expected zetascale 2.8.8. Run: "
        + install_command("zeta")
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "import matplotlib_that_is_missing.pyplot",
            "ModuleNotFoundError: No module named 'matplotlib_that_is_missing'. It requires "
            "'matplotlib_that_is_missing'. Run: {install}",
        ),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "RuntimeError: operator torchvision::nms does not exist. The installed torchvision "
            "does not match torch: install a matching pair.",
        ),
        (
            "from decimal import NoSuchThing",
            "ImportError: cannot import name 'NoSuchThing' from 'decimal' ({decimal}). Install "
            "what it requires: {install}",
        ),
        ("raise SystemExit(3)", "SystemExit: 3. Install what it requires: {install}"),
        ("", "ModuleNotFoundError: No module named 'zeta.nn'. It requires 'zeta'. Run: {install}"),
        (
            None,
            "ModuleNotFoundError: no module 'zeta' in {folder}. Install what it requires: "
            "{install}",
        ),
    ],
)
def test_zetascale_that_cannot_be_imported(source: str | None, reason: str, site: Site) -> None:
    files = {} if source is None else {"zeta/__init__.py": source}
    site.install("zetascale", VERSION, files=files)
    import decimal

    reason = reason.format(
        decimal=decimal.__file__, folder=site.folder, install=install_command("zeta")
    )
    said = message(ZetaError, "zeta-swiglu", out=32)
    assert said == (f"zeta.nn.SwiGLU: zetascale 2.8.8 is installed, but its import fails: {reason}")
    # It can be repaired in the same process.
    site.write("zeta/__init__.py", "")
    site.write("zeta/nn.py", STAND_IN)
    build_projector(stack("zeta-swiglu", out=32))


def test_another_version_of_zetascale(site: Site) -> None:
    site.install("zetascale", "9.0", files={"zeta/__init__.py": ""})
    assert message(ZetaError, "zeta-swiglu", out=32) == (
        "zeta.nn.SwiGLU: zetascale 9.0 is installed; expected zetascale 2.8.8. Its modules differ "
        "from version to version. Run: " + install_command("zeta")
    )


# ---------------------------------------------------------------------- a stand-in for zetascale

STAND_IN = """
import torch
from torch import nn

class SwiGLU(nn.Module):
    def forward(self, x):
        x, gate = x.chunk(2, -1)
        return x * gate

class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.arange(float(dim))[:, None])

    def forward(self, x):
        assert x.is_contiguous()
        return x * self.gamma

class MultiGroupedQueryAttn(nn.Module):
    def __init__(self, dim, query_heads, kv_heads, **options):
        super().__init__()
        if dim % query_heads:
            raise ValueError("heads do not divide")

    def forward(self, query, key, value):
        assert query is key is value
        return query + key.mean(1, keepdim=True), None

class SpatialLinearAttention(nn.Module):
    def __init__(self, dim, heads, dim_head):
        super().__init__()

    def forward(self, x):
        b, c, frames, h, w = x.shape
        return x.flip(4)

class Upsample(nn.Module):
    def __init__(self, dim, upsample_time, nonlin):
        super().__init__()

    def forward(self, x):
        return x.repeat_interleave(3 if len(x[0, 0]) == 5 else 2, 2).repeat_interleave(2, 3)

class Downsample(nn.Module):
    def __init__(self, dim, downsample_time, nonlin):
        super().__init__()

    def forward(self, x):
        return x
"""


@pytest.fixture
def stand_in(site: Site) -> None:
    site.install("zetascale", VERSION, files={"zeta/__init__.py": "", "zeta/nn.py": STAND_IN})


@pytest.mark.usefixtures("stand_in")
def test_every_layout_by_hand() -> None:
    x = torch.randn(2, 5, 7, 64)
    tokens = x.flatten(1, 2)
    heads = {"query_heads": 4, "kv_heads": 2}
    for block, out, expected in (
        ("zeta-swiglu", 32, tokens[..., :32] * tokens[..., 32:]),
        ("zeta-rms-norm", 64, tokens * torch.arange(64.0)),
        (
            {"type": "zeta-multi-grouped-query-attn", **heads},
            64,
            tokens + tokens.mean(1, keepdim=True),
        ),
        ("zeta-spatial-linear-attention", 64, x.flip(2).flatten(1, 2)),
    ):
        projector = build_projector(stack(block, out=out))
        assert torch.equal(projector(tokens, grid=(5, 7)), expected)
        assert [key.rpartition(".")[2] for key in projector.state_dict()] in ([], ["gamma"])
        assert projector.plan((5, 7)).macs == 0


@pytest.mark.usefixtures("stand_in")
def test_arguments_that_zeta_refuses() -> None:
    block = {"type": "zeta-multi-grouped-query-attn", "query_heads": 7, "kv_heads": 1}
    assert message(SpecError, block) == (
        "zeta.nn.MultiGroupedQueryAttn(query_heads=7, kv_heads=1, dropout=0.0, bias=True, "
        "layer_norm=True, layer_norm_eps=1e-05, gamma_init=1.0, dim=64): ValueError: heads do not "
        "divide. Its signature is MultiGroupedQueryAttn(dim, query_heads, kv_heads, dropout=0.0, "
        "bias=True, layer_norm=True, layer_norm_eps=1e-05, gamma_init=1.0, device=None, "
        "dtype=None)."
    )


@pytest.mark.usefixtures("stand_in")
def test_a_module_that_gives_another_shape_than_the_table_says() -> None:
    assert message(SpecError, "zeta-downsample") == (
        "zeta.nn.Downsample(downsample_time=False, nonlin=False, dim=64): an input of (1, 64, 8, "
        "8) gives (1, 64, 8, 8); expected (1, 64, 4, 4). Its signature is Downsample(dim, "
        "downsample_space=True, downsample_time=False, nonlin=False)."
    )
    projector = build_projector(stack("zeta-upsample"))
    assert projector(torch.randn(1, 64, 6, 7)).shape == (1, 64, 12, 14)
    with pytest.raises(SpecError) as caught:
        projector(torch.randn(1, 64, 5, 7))
    assert str(caught.value) == (
        "zeta: an input of (1, 64, 5, 7) gives (1, 64, 15, 14); expected (1, 64, 10, 14). The "
        "defaults give that shape: undo the options that were changed."
    )


def test_what_zeta_silences_speaks_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMEXPR_MAX_THREADS", "5")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    source = (
        "import logging, os, warnings\n"
        "warnings.warn('about itself', FutureWarning)\n"
        "warnings.filterwarnings('ignore')\n"
        "logging.basicConfig(force=True)\n"
        "logging.getLogger().setLevel(logging.CRITICAL)\n"
        "logging.getLogger('torch').setLevel(logging.CRITICAL)\n"
        "os.environ.update(TF_CPP_MIN_LOG_LEVEL='3', NUMEXPR_MAX_THREADS='1')\n"
        "import torch\n"
        "TABLE = torch.zeros(3)\n"
        "if TABLE.is_meta:\n"
        "    raise RuntimeError('on meta')\n"
    )
    files = {"zeta/__init__.py": source, "zeta/nn.py": STAND_IN}
    site.install("zetascale", VERSION, files=files)

    def world() -> tuple[object, ...]:
        loggers = [logging.getLogger(), logging.getLogger("torch")]
        settings = [(logger.level, logger.handlers[:]) for logger in loggers]
        return warnings.filters[:], settings, dict(os.environ)

    before = world()
    build_projector(stack("zeta-swiglu", out=32))
    assert world() == before
