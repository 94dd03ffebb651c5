"""Documents: what they hold, and what is refused, with which words, before anything is built."""

import itertools
import json
import math
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from mobilevlm import (
    BLOCKS,
    PROJECTORS,
    Block,
    Feature,
    MobileVLMError,
    Preset,
    Projector,
    RegistryError,
    SpecError,
    Stack,
    Width,
    build_projector,
    dump_spec,
    load_spec,
    plan_projector,
    spec_of,
)
from mobilevlm.blocks.core.block import bodies, count
from mobilevlm.blocks.core.spec import check_structure, relocate, shown
from mobilevlm.blocks.pointwise import Pointwise
from mobilevlm.blocks.residual import Residual
from mobilevlm.projectors.nested import NestedPreset

KNOWN = (
    "Known: attention-pool, conv, cross-attention, depthwise, depthwise-residual, extra-tokens, "
    "glu, identity, newline, norm-act, parallel, patch-merge, and others."
)
ACTS = (
    "'gelu', 'gelu-tanh', 'quick-gelu', 'silu', 'relu', 'relu2', 'hardswish', 'softmax' or 'none'"
)
WIDTH = "an integer, 'in', 'out' or 'same'"


def document(*blocks: Any, **extra: Any) -> dict[str, Any]:
    return {"in": 64, "out": 128, "blocks": list(blocks), **extra}


def nested(levels: int) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "identity"}
    for _ in range(levels - 1):
        block = {"type": "residual", "body": [block]}
    return block


def shared(levels: int) -> dict[str, Any]:
    """A small document with 8 ** levels nodes: every level holds the one below eight times."""
    block: dict[str, Any] = {"type": "identity"}
    for _ in range(levels):
        block = {"type": "residual", "body": [block] * 8}
    return block


def endless() -> dict[str, Any]:
    block: dict[str, Any] = {"type": "residual"}
    block["body"] = [block]
    return block


# ---------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("name", ["ldp", "ldpnet", "ldpnetv2", "linear", "mlp", "mlp3x_gelu"])
def test_a_document_says_everything_and_reads_back(name: str, tmp_path: Path) -> None:
    spec = spec_of(name, 64, 128)
    text = dump_spec(spec, tmp_path / "spec.json")
    assert load_spec(text) == spec
    assert load_spec(tmp_path / "spec.json") == spec
    assert load_spec(json.loads(text)) == spec
    assert load_spec(spec.model_dump()) == spec
    assert (tmp_path / "spec.json").read_text("utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_every_default_is_written_out_one_block_a_line() -> None:
    assert dump_spec(spec_of("ldp", 1024, 2048, kernel=5)) == (
        "{\n"
        '  "schema": 1,\n'
        '  "in": 1024,\n'
        '  "out": 2048,\n'
        '  "prefix_tokens": 0,\n'
        '  "token_order": "raster",\n'
        '  "blocks": [\n'
        '    {"type": "pointwise", "out": "out", "bias": true},\n'
        '    {"type": "norm-act", "norm": "none", "eps": 1e-05, "weight": "plain", '
        '"cast": "before", "act": "gelu"},\n'
        '    {"type": "depthwise-residual", "kernel": 5, "stride": 1, "bias": true},\n'
        '    {"type": "pointwise", "out": "out", "bias": true},\n'
        '    {"type": "norm-act", "norm": "layer", "eps": 1e-05, "weight": "plain", '
        '"cast": "before", "act": "gelu"},\n'
        '    {"type": "depthwise-residual", "kernel": 5, "stride": 2, "bias": true},\n'
        '    {"type": "pointwise", "out": "out", "bias": true},\n'
        '    {"type": "norm-act", "norm": "layer", "eps": 1e-05, "weight": "plain", '
        '"cast": "before", "act": "none"}\n'
        "  ]\n"
        "}\n"
    )


@pytest.mark.thread_unsafe
def test_what_fits_in_120_columns_stays_on_one_line_and_a_string_always() -> None:
    class Noted(Block):
        notes: tuple[str, ...] = Field(strict=False)

        def build(self, x: Feature) -> torch.nn.Module:
            return torch.nn.Identity()

    def written(length: int) -> list[str]:
        blocks = [Noted(notes=("a" * length,)), *["identity"] * 6]
        spec = load_spec({"in": 4, "out": 4, "blocks": blocks})
        text = dump_spec(spec)
        assert load_spec(text) == spec
        return text.splitlines()[7:-8]

    BLOCKS.register("noted", Noted)
    try:
        line = f'    {{"type": "noted", "notes": ["{"a" * 84}"]}}'
        assert len(line) == 120
        assert written(84) == [f"{line},"]
        first = ["    {", '      "type": "noted",']
        assert written(85) == [*first, f'      "notes": ["{"a" * 85}"]', "    },"]
        last = [f'        "{"a" * 500}"', "      ]", "    },"]
        assert written(500) == [*first, '      "notes": [', *last]
    finally:
        BLOCKS.unregister("noted")


def test_a_document_is_never_one_line() -> None:
    assert dump_spec(load_spec({"in": 4, "out": 4, "blocks": ["identity"]})).splitlines() == [
        "{",
        '  "schema": 1,',
        '  "in": 4,',
        '  "out": 4,',
        '  "prefix_tokens": 0,',
        '  "token_order": "raster",',
        '  "blocks": [{"type": "identity"}]',
        "}",
    ]


def test_a_spec_is_edited_as_data() -> None:
    edited = spec_of("ldp", 6, 10).model_dump()
    edited["blocks"][2]["kernel"] = 7
    edited["blocks"].insert(3, "norm-act")
    projector = build_projector(edited)
    assert projector.blocks[2].weight.shape == (10, 1, 7, 7)
    assert projector.spec != spec_of("ldp", 6, 10)


def test_short_forms_mean_the_long_ones() -> None:
    short = load_spec(document("pointwise", {"type": "norm_act"}))
    long = load_spec(
        document(
            {"type": "pointwise", "out": "out", "bias": True},
            {"type": "norm-act", "norm": "layer", "eps": 1e-5, "act": "gelu"},
            schema=1,
            prefix_tokens=0,
        )
    )
    assert short == long
    assert hash(short) == hash(long)


def test_a_preset_inside_a_stack_is_expanded_with_its_own_ends() -> None:
    spec = load_spec(
        document(
            {"type": "preset", "name": "mlp", "depth": 2, "out": 96},
            {"type": "residual", "body": [{"type": "preset", "name": "linear", "out": "same"}]},
            {"type": "preset", "name": "linear"},
        )
    )
    assert spec.model_dump()["blocks"] == [
        {"type": "pointwise", "out": 96, "bias": True},
        {
            "type": "norm-act",
            "norm": "none",
            "eps": 1e-5,
            "weight": "plain",
            "cast": "before",
            "act": "gelu",
        },
        {"type": "pointwise", "out": 96, "bias": True},
        {"type": "residual", "body": [{"type": "pointwise", "out": 96, "bias": True}]},
        {"type": "pointwise", "out": 128, "bias": True},
    ]
    assert load_spec(dump_spec(spec)) == spec


def test_a_nested_preset_builds_what_the_preset_builds() -> None:
    plain = build_projector("ldpnet", 6, 16)
    wrapped = build_projector(
        {"in": 6, "out": 16, "blocks": [{"type": "preset", "name": "ldpnet"}]}
    )
    wrapped.load_state_dict(plain.state_dict())
    x = torch.randn(2, 30, 6)
    with torch.inference_mode():
        assert torch.equal(wrapped(x, grid=(5, 6)), plain(x, grid=(5, 6)))


def test_specs_are_frozen_hashable_and_pickle() -> None:
    spec = spec_of("ldpnet", 64, 128)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert len({spec, spec_of("ldpnet", 64, 128)}) == 1
    with pytest.raises(Exception, match="frozen"):
        spec.out = 3  # type: ignore[misc]


def test_the_deepest_document_allowed_is_usable() -> None:
    spec = load_spec(document(nested(16), "pointwise"))
    assert pickle.loads(pickle.dumps(spec)) == load_spec(dump_spec(spec)) == spec
    assert repr(spec).count("Residual") == 15


def test_a_saved_document_is_replaced_at_once_or_not_at_all(tmp_path: Path) -> None:
    class Unregistered(Block):
        def build(self, x: Feature) -> torch.nn.Module:
            return torch.nn.Identity()

    path = tmp_path / "spec.json"
    old = dump_spec(spec_of("linear", 2, 2), path)
    stack = Stack(in_=4, out=4, blocks=(Unregistered(),))
    with pytest.raises(RegistryError):
        dump_spec(stack, path)
    assert path.read_text() == old
    missing = tmp_path / "no" / "x.json"
    for target, what in (
        (missing, "cannot be written: No such file or directory"),
        (tmp_path, "a folder; expected a file to write"),
    ):
        with pytest.raises(SpecError) as caught:
            dump_spec(spec_of("linear", 1, 1), target)
        assert str(caught.value) == f"{target}: {what}"
    assert [file.name for file in tmp_path.iterdir()] == ["spec.json"]


# ---------------------------------------------------------------------- what is refused

HUGE = 1 << 20
REFUSED: list[tuple[Any, str]] = [
    # keys
    (
        document({"type": "depthwise", "kernal": 3}),
        "blocks[0]: unknown key 'kernal'; expected one of kernel, stride, bias. Did you mean "
        "'kernel'?",
    ),
    (
        document("pointwise", inn=3),
        "unknown key 'inn'; expected one of schema, in, out, prefix_tokens, token_order, blocks. "
        "Did you mean 'in'?",
    ),
    ({"in": 64, "blocks": ["pointwise"]}, "key 'out' is missing"),
    ({"in": 64, "out": 3, 5: 3}, "key 5 is not a string"),
    (
        document({"out": 3}),
        'blocks[0]: key \'type\' is missing; expected a block such as {"type": "pointwise"}',
    ),
    (document(5), 'blocks[0]: 5; expected a block such as {"type": "pointwise"}'),
    (document(), "blocks: there are no blocks; expected at least one"),
    (document() | {"blocks": "pointwise"}, 'blocks: "pointwise"; expected a list of blocks'),
    # numbers
    (
        document({"type": "depthwise", "kernel": True}),
        "blocks[0].kernel: true; expected an integer",
    ),
    (
        document({"type": "depthwise", "kernel": "64"}),
        'blocks[0].kernel: "64"; expected an integer',
    ),
    (
        document({"type": "depthwise", "kernel": 64.0}),
        "blocks[0].kernel: 64.0; expected an integer",
    ),
    (
        document({"type": "depthwise", "kernel": b"6"}),
        "blocks[0].kernel: b'6'; expected an integer",
    ),
    (
        document({"type": "depthwise", "kernel": math.nan}),
        "blocks[0].kernel: NaN; expected an integer",
    ),
    (
        document({"type": "depthwise", "kernel": None}),
        "blocks[0].kernel: null; expected an integer",
    ),
    (document({"type": "depthwise", "kernel": 0}), "blocks[0].kernel: 0; expected at least 1"),
    (document({"type": "depthwise", "kernel": -3}), "blocks[0].kernel: -3; expected at least 1"),
    (document({"type": "depthwise", "kernel": 65}), "blocks[0].kernel: 65; expected at most 63"),
    (
        document({"type": "depthwise", "kernel": 10**5000}),
        "blocks[0].kernel: <int>; expected at most 63",
    ),
    (
        document({"type": "depthwise", "kernel": 4}),
        "blocks[0].kernel: 4 is even; expected an odd kernel. Try 5.",
    ),
    (
        document({"type": "norm-act", "eps": math.nan}),
        "blocks[0].eps: NaN; expected a finite number",
    ),
    (
        document({"type": "norm-act", "eps": -math.inf}),
        "blocks[0].eps: -Infinity; expected a finite number",
    ),
    (document({"type": "norm-act", "eps": 0.0}), "blocks[0].eps: 0.0; expected at least 1e-12"),
    (document({"type": "norm-act", "eps": "1e-5"}), 'blocks[0].eps: "1e-5"; expected a number'),
    (document({"type": "pointwise", "bias": 1}), "blocks[0].bias: 1; expected true or false"),
    (document({"type": "pointwise", "out": True}), f"blocks[0].out: true; expected {WIDTH}"),
    (document({"type": "pointwise", "out": "64"}), f'blocks[0].out: "64"; expected {WIDTH}'),
    (
        document({"type": "pointwise", "out": 0}),
        "blocks[0].out: 0; expected a width from 1 to 1048576",
    ),
    (
        document({"type": "pointwise", "out": HUGE + 1}),
        "blocks[0].out: 1048577; expected a width from 1 to 1048576",
    ),
    ({"in": True, "out": 128, "blocks": ["pointwise"]}, "in: true; expected an integer"),
    ({"in": 64, "out": "128", "blocks": ["pointwise"]}, 'out: "128"; expected an integer'),
    (
        {"in": 0, "out": 128.0, "blocks": ["pointwise"]},
        "2 problems\n  - in: 0; expected at least 1\n  - out: 128.0; expected an integer",
    ),
    ({"in": HUGE + 1, "out": 1, "blocks": ["pointwise"]}, "in: 1048577; expected at most 1048576"),
    # choices
    (
        document({"type": "norm-act", "act": "gleu"}),
        f"blocks[0].act: \"gleu\"; expected {ACTS}. Did you mean 'gelu'?",
    ),
    (
        document({"type": "norm-act", "act": "lambda"}),
        f'blocks[0].act: "lambda"; expected {ACTS}',
    ),
    (
        document({"type": "norm-act", "act": "torch.nn.ReLU"}),
        f'blocks[0].act: "torch.nn.ReLU"; expected {ACTS}',
    ),
    (document({"type": "pool"}), "blocks[0]: mode 'avg' needs 'stride'"),
    (
        document({"type": "pool", "stride": 2, "size": [3, 3]}),
        "blocks[0]: mode 'avg' takes no 'size'. Use 'stride'.",
    ),
    (
        document({"type": "pool", "mode": "adaptive", "size": [3, 0]}),
        "blocks[0].size[1]: 0; expected at least 1",
    ),
    # schema
    (
        document("pointwise", schema=2),
        "schema: 2 is newer than this version reads; expected 1. Upgrade mobilevlm.",
    ),
    (document("pointwise", schema=0), "schema: 0; expected 1"),
    (document("pointwise", schema=True), "schema: true; expected 1"),
    (document("pointwise", schema="1"), 'schema: "1"; expected 1'),
    # names
    (
        document("ldp"),
        "blocks[0].type: unknown block 'ldp'. 'ldp' is a projector, not a block.",
    ),
    (document("pointwsie"), "blocks[0].type: unknown block 'pointwsie'. Did you mean 'pointwise'?"),
    (document("Pointwise"), "blocks[0].type: unknown block 'Pointwise'. Did you mean 'pointwise'?"),
    *(
        (document({"type": name}), f"blocks[0].type: unknown block {name!a}. {KNOWN}")
        for name in ("os.system", "_target_", "torch.nn.Linear", "../../x", "ld\u0440", "", "~", 5)
    ),
    (
        document("acme-blocks/gate"),
        "blocks[0].type: unknown block 'acme-blocks/gate'. It comes from 'acme-blocks', which is "
        "not installed or offers no such thing.",
    ),
    (
        document({"_target_": "os.system"}),
        'blocks[0]: key \'type\' is missing; expected a block such as {"type": "pointwise"}',
    ),
    (
        document({"type": "pointwise", "_target_": "os.system"}),
        "blocks[0]: unknown key '_target_'; expected one of out, bias",
    ),
    (
        document({"type": "preset", "name": "ldpp"}),
        "blocks[0] (preset): unknown projector 'ldpp'. Did you mean 'ldp' or 'ldpnet'? It is given "
        "?x? x 64 by the input.",
    ),
    (
        document({"type": "preset", "name": "ldp", "kernal": 3}),
        "blocks[0] (preset): ldp: unknown key 'kernal'; expected one of prefix_tokens, kernel, "
        "eps, skip. Did you mean 'kernel'? It is given ?x? x 64 by the input.",
    ),
    (
        document({"type": "preset", "name": "ldp", "prefix_tokens": 1}),
        "blocks[0] (preset): prefix tokens are dropped on entry only. Set prefix_tokens of the "
        "whole stack. It is given ?x? x 64 by the input.",
    ),
    # widths that do not meet
    (
        document("pointwise", {"type": "pointwise", "out": 96}, "norm-act"),
        "blocks[2] (norm-act): it ends the chain with 96 channels; expected 128, the projector's "
        "'out'. It is given ?x? x 96 by blocks[1] (pointwise).",
    ),
    (
        document({"type": "residual", "body": [{"type": "preset", "name": "lpd"}]}),
        "blocks[0].body[0] (preset): unknown projector 'lpd'. Did you mean 'ldp' or 'mlp'? It is "
        "given ?x? x 64 by the input.",
    ),
    (
        document(
            {
                "type": "parallel",
                "branches": [["identity"], ["identity", {"type": "preset", "name": "lpd"}]],
            }
        ),
        "blocks[0].branches[1][1] (preset): unknown projector 'lpd'. Did you mean 'ldp' or 'mlp'? "
        "It is given ?x? x 64 by .branches[1][0] (identity).",
    ),
    (
        document({"type": "repeat", "times": 4096, "body": ["identity"]}),
        "blocks[0] (repeat): too many blocks; expected at most 4,096 in all. It is given ?x? x 64 "
        "by the input.",
    ),
    (
        document({"type": "repeat", "times": 100, "body": ["identity"] * 50}),
        "blocks[0] (repeat): too many blocks; expected at most 4,096 in all. It is given ?x? x 64 "
        "by the input.",
    ),
    (
        document(*[{"type": "residual", "body": ["identity"]}] * 2049),
        "blocks[2048] (residual): too many blocks; expected at most 4,096 in all. It is given ?x? "
        "x 64 by blocks[2047] (residual).",
    ),
    (document("pointwise", "scale"), "blocks[1]: key 'by' is missing"),
    (
        document({"type": "residual", "body": [{"type": "repeat", "body": ["identity"]}]}),
        "blocks[0].body[0]: key 'times' is missing",
    ),
    (
        document("pointwise", token_order="bloked"),
        "token_order: \"bloked\"; expected 'raster' or 'blocked'. Did you mean 'blocked'?",
    ),
    (
        document("pointwise", token_order="rastr"),
        "token_order: \"rastr\"; expected 'raster' or 'blocked'. Did you mean 'raster'?",
    ),
    (
        document(["\u0430"]),
        'blocks[0]: [\'\\u0430\']; expected a block such as {"type": "pointwise"}',
    ),
    (
        document("identity", {"type": "pointwise", "out": 7}),
        "blocks[1] (pointwise): it ends the chain with 7 channels; expected 128, the projector's "
        "'out'. It is given ?x? x 64 by blocks[0] (identity).",
    ),
    (
        document("identity"),
        "blocks[0] (identity): it ends the chain with 64 channels; expected 128, the projector's "
        "'out'. It is given ?x? x 64 by the input.",
    ),
    (
        document("pointwise", {"type": "residual", "body": [{"type": "pointwise", "out": 7}]}),
        "blocks[1] (residual): its body ends with ?x? x 7, its skip carries ?x? x 128; expected "
        "the same on both sides. It is given ?x? x 128 by blocks[0] (pointwise).",
    ),
    # size and shape of the document
    (
        document(*["identity"] * 4096, "pointwise"),
        "blocks: 4,097 blocks; expected at most 4,096",
    ),
    (
        document(*["identity"] * 10**6),
        "blocks: too big; expected at most 65,536 values in a document",
    ),
    *(
        (
            document(nested(levels), "pointwise"),
            "blocks[0].body[0].body[0].body[0].body[0].body[0].body[0]...: nested too deep; "
            "expected at most 16 levels",
        )
        for levels in (17, 18, 1000, 100_000)
    ),
    (
        document(shared(14)),
        "blocks[0].body[0].body[0].body[0].body[0].body[0].body[0]...: too big; expected at most "
        "65,536 values in a document",
    ),
    (document(endless()), "blocks[0].body[0]: it contains itself"),
    (
        document(*["lpd"] * 4000),
        "4000 problems"
        + "".join(
            f"\n  - blocks[{index}].type: unknown block 'lpd'. {KNOWN}" for index in range(10)
        )
        + "\n  - and 3990 more",
    ),
    (
        document(*[{"type": "preset", "name": "mlp", "depth": 64, "out": 128}] * 40),
        "blocks[32] (preset): too many blocks; expected at most 4,096 in all. It is given ?x? x "
        "128 by blocks[31] (preset).",
    ),
    # what is no JSON
    (
        document() | {"blocks": {"pointwise"}},
        "blocks: a set; expected a list or an object of JSON",
    ),
    (
        document() | {"blocks": itertools.repeat("identity")},
        "blocks: a repeat; expected a list or an object of JSON",
    ),
    (
        document({"type": "residual", "body": deque(["identity"])}, "pointwise"),
        "blocks[0].body: a deque; expected a list or an object of JSON",
    ),
    (
        document({"type": "pool", "mode": "adaptive", "size": {3, 4}}),
        "blocks[0].size: a set; expected a list or an object of JSON",
    ),
    (
        document({"type": "pool", "mode": "adaptive", "size": "34"}),
        'blocks[0].size: "34"; expected two numbers, [h, w]',
    ),
    (document("pointwise", in_=64), "key 'in' is given twice"),
    # a residual whose body changes the grid, seen before any grid is known
    (
        document({"type": "residual", "body": [{"type": "depthwise", "stride": 2}]}, "pointwise"),
        "blocks[0] (residual): its body ends with 360x360 x 64, its skip carries 720x720 x 64; "
        "expected the same on both sides. It is given ?x? x 64 by the input.",
    ),
    # bounds
    (document("pointwise", prefix_tokens=1025), "prefix_tokens: 1025; expected at most 1024"),
    (document("pointwise", prefix_tokens=-1), "prefix_tokens: -1; expected at least 0"),
    (
        document({"type": "depthwise", "stride": 65}),
        "blocks[0].stride: 65; expected at most 64",
    ),
    (
        document({"type": "squeeze-excite", "mid": HUGE + 1}),
        "blocks[0].mid: 1048577; expected at most 1048576",
    ),
]


def short(value: Any) -> str:
    return value[1].replace("\n", " ")[:50]


@pytest.mark.parametrize(("bad", "message"), REFUSED, ids=[short(case) for case in REFUSED])
def test_bad_documents_are_refused_in_one_sentence(bad: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(bad)
    assert str(caught.value) == message


TEXT: list[tuple[str, str]] = [
    ('{"in": 64, "in": 64, "out": 128, "blocks": []}', "key 'in' is given twice"),
    (
        '{"in": 64, "out": 128, "blocks": [{"type": "pointwise", "out": 3, "out": 4}]}',
        "blocks[0]: key 'out' is given twice",
    ),
    ('{"in": 64,\n "out": }', "document: not JSON: Expecting value at line 2, column 9"),
    (
        '{"in": 64,}',
        "document: not JSON: Illegal trailing comma before end of object at line 1, column 10"
        if sys.version_info >= (3, 13)
        else "document: not JSON: Expecting property name enclosed in double quotes at line 1, "
        "column 11",
    ),
    ('{"in": 64} x', "document: not JSON: Extra data at line 1, column 12"),
    (
        "{'in': 64}",
        "document: not JSON: Expecting property name enclosed in double quotes at line 1, column 2",
    ),
    (
        "{in: 64}",
        "document: not JSON: Expecting property name enclosed in double quotes at line 1, column 2",
    ),
    (
        "\ufeff{}",
        "document: not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig) at line 1, column 1",
    ),
    ('{"a":' * 100_000, "document: nested too deep; expected at most 16 levels"),
    (
        '{"blocks":' + "[" * 500 + "]" * 500 + "}",
        "blocks[0][0][0][0][0][0][0][0][0][0][0][0][0][0]"
        "[0][0][0]...: nested too deep; expected at most 16 levels",
    ),
    (
        '{"in": 64, "out": 128, "blocks": [{"type": "norm-act", "eps": 1e400}]}',
        "blocks[0].eps: Infinity; expected a finite number",
    ),
    (
        '{"in": 64, "out": 128, "blocks": [{"type": "norm-act", "eps": NaN}]}',
        "blocks[0].eps: NaN; expected a finite number",
    ),
    ("{" + " " * 16_000_000, "document: 16,000,001 characters; expected at most 16,000,000"),
    ("", "source: empty; expected a path, JSON text or a mapping"),
]


@pytest.mark.parametrize(("text", "message"), TEXT, ids=[short(case) for case in TEXT])
def test_bad_text_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text)
    assert str(caught.value) == message


def test_a_duplicate_among_very_many_keys_costs_no_more_than_reading_them() -> None:
    keys = ", ".join(f'"k{index}": 0' for index in range(400_000))
    with pytest.raises(SpecError) as caught:
        load_spec("{" + keys + ', "last": 0, "last": 1}')
    assert str(caught.value) == "key 'last' is given twice"


def test_an_integer_of_5000_digits_in_text() -> None:
    with pytest.raises(SpecError, match="not usable JSON: Exceeds the limit"):
        load_spec('{"in": ' + "9" * 5000 + "}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "empty.json").write_text("")
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(16_000_001)
    cases = {
        tmp_path / "none.json": "cannot be read: No such file or directory; expected a JSON "
        "document",
        tmp_path: "not a regular file; expected a JSON document",
        Path("/dev/null"): "not a regular file; expected a JSON document",
        tmp_path / "binary.json": "cannot be read: 'utf-8' codec can't decode byte 0xff in "
        "position 0: invalid start byte; expected a JSON document",
        tmp_path / "list.json": "a JSON list; expected a JSON object",
        tmp_path / "empty.json": "not JSON: Expecting value at line 1, column 1",
        tmp_path / "big.json": "16,000,001 bytes; expected at most 16,000,000",
    }
    for path, message in cases.items():
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        assert str(caught.value) == f"{path}: {message}"
        assert isinstance(caught.value.__cause__, FileNotFoundError) == (path.name == "none.json")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "binary")
    assert caught.value.hint == ""
    with pytest.raises(SpecError) as caught:
        load_spec("ldp")
    assert str(caught.value) == (
        "ldp: cannot be read: No such file or directory; expected a JSON document. A registered "
        "name is built with build_projector('ldp', ...) or shown with: mobilevlm show ldp"
    )


def test_a_files_name_is_no_projectors_even_where_there_is_no_file(tmp_path: Path) -> None:
    name = str(tmp_path / "nofile.json")
    with pytest.raises(RegistryError) as caught:
        build_projector(name, 4, 4)
    assert caught.value.hint == f"It is a file that is not there: write load_spec('{name}')."


def test_the_largest_document_allowed_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = dump_spec(spec_of("ldp", 4, 8), tmp_path / "x")
    monkeypatch.setattr("mobilevlm.projectors.document.MAX_BYTES", len(text))
    assert load_spec(text) == load_spec(tmp_path / "x") == spec_of("ldp", 4, 8)


def test_a_huge_product_is_refused_before_anything_is_allocated() -> None:
    wide = {"type": "pointwise", "out": HUGE}
    huge = document(wide, wide) | {"out": HUGE}
    count = (64 + 1) * HUGE + (HUGE + 1) * HUGE
    for call in (lambda: build_projector(huge), lambda: plan_projector(huge).parameters):
        with pytest.raises(SpecError) as caught:
            call()
        assert str(caught.value) == (
            f"the blocks hold {count:,} parameters; expected at most 2,000,000,000. Pass "
            "max_parameters=... if that is meant."
        )
    assert plan_projector(huge, max_parameters=10**13).parameters == count
    projector = build_projector(huge, device="meta", max_parameters=10**13)
    assert projector.blocks[1].weight.is_meta


CALLS: list[tuple[Any, type[MobileVLMError], str]] = [
    (
        lambda: build_projector("ldp"),
        SpecError,
        'ldp: the input width is missing. Write build_projector("ldp", 1024, 2048).',
    ),
    (
        lambda: build_projector("ldp", out=2048),
        SpecError,
        'ldp: the input width is missing. Write build_projector("ldp", 1024, 2048).',
    ),
    (
        lambda: build_projector("ldp", 1024),
        SpecError,
        'ldp: the output width is missing. Write build_projector("ldp", 1024, 2048).',
    ),
    (lambda: build_projector("ldp", "1024", 2048), SpecError, 'in: "1024"; expected an integer'),
    (lambda: build_projector("ldp", 1024, True), SpecError, "out: true; expected an integer"),
    (
        lambda: build_projector("ldp", 1024, 2048, kernal=5),
        SpecError,
        "ldp: unknown key 'kernal'; expected one of prefix_tokens, kernel, eps, skip. Did you "
        "mean 'kernel'?",
    ),
    (
        lambda: build_projector("ldp", 1024, 2048, kernel=4),
        SpecError,
        "ldp.kernel: 4 is even; expected an odd kernel. Try 5.",
    ),
    (
        lambda: build_projector("mlp2x_gelu", 64, 128, depth=3),
        SpecError,
        "mlp2x_gelu: option 'depth' is part of the name. mlp2x_gelu means depth=2: choose another "
        "name.",
    ),
    (
        lambda: build_projector("identity", 3, 4),
        SpecError,
        "blocks[0] (identity): it ends the chain with 3 channels; expected 4, the projector's "
        "'out'. It is given ?x? x 3 by the input.",
    ),
    (
        lambda: build_projector(document("pointwise"), 65),
        SpecError,
        "in: the document says 64, the call says 65",
    ),
    (
        lambda: build_projector(document("pointwise"), 64.0),
        SpecError,
        "in: the document says 64, the call says 64.0",
    ),
    (
        lambda: build_projector(document("pointwise"), out="\u0430"),
        SpecError,
        "out: the document says 128, the call says '\\u0430'",
    ),
    (
        lambda: build_projector(spec_of("linear", 64, 128), out=64.0),
        SpecError,
        "out: the document says 128, the call says 64.0",
    ),
    (
        lambda: build_projector(document("pointwise"), kernel=3),
        SpecError,
        "unknown option 'kernel'. Options belong to a registered name; a document says everything "
        "itself.",
    ),
    (
        lambda: build_projector("ldp", 1, 2, **{"in": 1}),
        SpecError,
        "in: the input width is given twice",
    ),
    (
        lambda: build_projector(Path("spec.json")),
        SpecError,
        f"spec: {Path('spec.json')!r}; expected a registered name, a mapping or a Stack. Read a "
        "file with load_spec(path).",
    ),
    (
        lambda: load_spec(5),
        SpecError,
        "source: 5; expected a path, JSON text or a mapping",
    ),
    (
        lambda: Pointwise(outt=3),
        SpecError,
        "Pointwise: unknown key 'outt'; expected one of out, bias. Did you mean 'out'?",
    ),
    (
        lambda: Residual(body=[nested(17)]),
        SpecError,
        "Residual.body[0].body[0].body[0].body[0].body[0].body[0]....: nested too deep; expected "
        "at most 16 levels",
    ),
    *(
        (
            lambda name=name: build_projector(name, 64, 128),
            RegistryError,
            f"unknown projector {name!a}. {hint}",
        )
        for name, hint in {
            "mlp0x_gelu": "Did you mean 'mlp1x-gelu' or 'mlp2x-gelu'?",
            "mlp9x_gelu": "Did you mean 'mlp1x-gelu' or 'mlp2x-gelu'?",
            "mlp2x_gelu\n": "Did you mean 'mlp2x-gelu' or 'mlp1x-gelu'?",
            "mlp\u0663x_gelu": "Did you mean 'mlp1x-gelu' or 'mlp2x-gelu'?",
            "ldpnetANYTHING": "Did you mean 'ldpnet'?",
            "LDP": "Did you mean 'ldp'?",
            "pointwise": "'pointwise' is a block, not a projector.",
        }.items()
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), CALLS, ids=[case[2][:50] for case in CALLS])
def test_bad_calls_are_refused_in_one_sentence(
    call: Any, kind: type[MobileVLMError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


def test_names_are_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def refuse(name: str, *_: Any) -> None:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(importlib, "import_module", refuse)
    for name in ("os.system", "_target_", "torch.nn.Linear", "../../x", "json:loads"):
        with pytest.raises(SpecError):
            load_spec(document({"type": name}))
        with pytest.raises(RegistryError):
            build_projector(name, 1, 1)


def test_a_preset_cannot_take_the_keywords_of_the_call() -> None:
    from mobilevlm import Preset

    for *_, name in (["grid"], ["out"], ["device"], ["type", "spec", "out", "name", "grid"]):
        taken = dict.fromkeys((*_, name), 3)
        with pytest.raises(SpecError) as caught:
            type("Bad", (Preset,), {"__annotations__": dict.fromkeys(taken, int), **taken})
        assert str(caught.value) == f"Bad: a preset cannot have an option called {name!r}"


@pytest.mark.thread_unsafe
def test_a_local_block_stands_in_documents_under_its_short_name() -> None:
    class Gate(Block):
        bias: bool = True

        def build(self, x: Feature) -> torch.nn.Module:
            return torch.nn.Linear(x.channels, x.channels, bias=self.bias)

    BLOCKS.register("gate", Gate)
    try:
        spec = load_spec(document("pointwise", {"type": "gate", "bias": False}))
        assert spec.model_dump()["blocks"][1] == {"type": "gate", "bias": False}
        assert load_spec(dump_spec(spec)) == spec
        assert build_projector(spec)(torch.randn(1, 16, 64)).shape == (1, 16, 128)
    finally:
        BLOCKS.unregister("gate")


def test_pydantics_own_doors_are_ours_too() -> None:
    assert Stack.model_validate(document("pointwise")) == load_spec(document("pointwise"))
    for call, message in (
        (
            lambda: Stack.model_validate(document(endless())),
            "blocks[0].body[0]: it contains itself",
        ),
        (lambda: Stack.model_validate(3), "3; expected a mapping"),
        (lambda: Stack(**{"in": 1, "in_": 1}), "key 'in' is given twice"),
        (
            lambda: load_spec(["\u0430"]),
            "source: ['\\u0430']; expected a path, JSON text or a mapping",
        ),
        (
            lambda: dump_spec(["\u0430"]),
            "stack: ['\\u0430']; expected a Stack. A projector's is projector.spec; load_spec "
            "makes one of a mapping.",
        ),
        (lambda: Stack.model_validate_json("{}"), "JSON is read with load_spec"),
        (
            lambda: dump_spec({}),
            "stack: {}; expected a Stack. A projector's is projector.spec; load_spec makes one of "
            "a mapping.",
        ),
        (
            lambda: Projector("ldp"),
            "stack: 'ldp'; expected a Stack. build_projector takes names and mappings.",
        ),
        (
            lambda: build_projector("ldp", 4, 4, dtype=torch.int8),
            "dtype: torch.int8; expected a floating-point dtype, such as torch.bfloat16 or 'bf16'",
        ),
        (
            lambda: build_projector("ldp", 4, 4, dtype="bfloat61"),
            "dtype: 'bfloat61'; expected a floating-point dtype, such as torch.bfloat16 or 'bf16'. "
            "Did you mean 'bfloat16' or 'float16'?",
        ),
        (
            lambda: build_projector(' {"in": 8, "out": 8, "blocks": ["pointwise"]}'),
            "spec: the text of a document; expected a name or a mapping. Read it with load_spec.",
        ),
        (
            lambda: build_projector("ldp", 4, 4, eps=-1.0),
            "ldp.eps: -1.0; expected at least 1e-12",
        ),
    ):
        with pytest.raises(SpecError) as caught:
            call()
        assert str(caught.value) == message


def test_a_stack_stands_in_other_models_of_pydantic() -> None:
    stacks = TypeAdapter(dict[str, Stack])
    stack = load_spec(document("pointwise"))
    assert stacks.validate_python({"a": stack, "b": document("pointwise")}) == {
        "a": stack,
        "b": stack,
    }
    with pytest.raises(ValidationError, match="a valid dictionary or instance of Stack"):
        stacks.validate_python({"a": 3})


def test_what_is_validated_already_is_returned_as_it_is() -> None:
    stack = load_spec(document("pointwise"))
    assert Stack.model_validate(stack) is stack


def levels(number: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 0
    for _ in range(number):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("allowed", "refused", "message"),
    [
        ([0] * 65_536, [0] * 65_537, "too big; expected at most 65,536 values in a document"),
        ([[]] * 65_536, [[]] * 65_537, "too big; expected at most 65,536 values in a document"),
        (
            levels(17, lambda value: {"a": value}),
            levels(18, lambda value: {"a": value}),
            f"{'.'.join('a' * 16)}: nested too deep; expected at most 16 levels",
        ),
        (
            levels(65, lambda value: [value]),
            levels(66, lambda value: [value]),
            f"{'[0]' * 19}...: nested too deep; expected at most 16 levels",
        ),
        (
            levels(16, lambda value: Residual(body=[value or "identity"])),
            lambda: levels(17, lambda value: Residual(body=[value or "identity"])),
            "Residual.body[0].body[0].body[0].body[0].body[0].body[0]....: nested too deep; "
            "expected at most 16 levels",
        ),
        (
            {"a": "b" * 10**6},
            {"a" * 60: {1}},
            f"{'a' * 60}: a set; expected a list or an object of JSON",
        ),
        ({}, {"a" * 61: {1}}, f"{'a' * 57}...: a set; expected a list or an object of JSON"),
        ({"a": {"b": 1}}, {"a": {(1,): 2}}, "a: key (1,) is not a string"),
        ({}, {("\u0430",): 2}, "key ('\\u0430',) is not a string"),
        ({}, {"\u0430 b": {1}}, "['\\u0430 b']: a set; expected a list or an object of JSON"),
    ],
)
def test_the_shape_of_a_document_has_limits(allowed: Any, refused: Any, message: str) -> None:
    check_structure(allowed)
    with pytest.raises(SpecError) as caught:
        check_structure(refused() if callable(refused) else refused)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "blocks",
    [
        ["identity"] * 4096,
        [{"type": "repeat", "times": 4095, "body": ["identity"]}],
        [{"type": "residual", "body": ["identity"]}] * 2048,
    ],
)
def test_4096_blocks_are_allowed(blocks: list[Any]) -> None:
    spec = load_spec({"in": 8, "out": 8, "blocks": blocks})
    assert count(spec.blocks) == 4096


@pytest.mark.parametrize(
    ("block", "most"),
    [
        ({"type": "resampler", "queries": 1, "depth": 256, "heads": 1, "head_dim": 1}, 3),
        ({"type": "qformer", "queries": 1, "depth": 256, "heads": 1}, 2),
    ],
)
def test_layers_built_by_a_number_are_counted(block: dict[str, Any], most: int) -> None:
    load_spec({"in": 1, "out": 1, "blocks": [block] * most})
    with pytest.raises(SpecError) as caught:
        load_spec({"in": 1, "out": 1, "blocks": [block] * 48})
    name = block["type"]
    assert str(caught.value) == (
        f"blocks[{most}] ({name}): too many blocks; expected at most 4,096 in all. It is given 1 x "
        f"1 by blocks[{most - 1}] ({name})."
    )


def test_a_block_says_what_it_counts_as(registries: None) -> None:
    BLOCKS.register("local", local_block(counts_as=property(lambda self: 2048)))
    assert count(load_spec(document("local", "local", out=64)).blocks) == 4096
    with pytest.raises(SpecError) as caught:
        load_spec(document("local", {"type": "residual", "body": ["local"]}))
    assert str(caught.value) == (
        "blocks[1] (residual): too many blocks; expected at most 4,096 in all. It is given ?x? x "
        "64 by blocks[0] (local)."
    )


def test_what_pydantic_says_otherwise_is_said_alike() -> None:
    class Table(Block):
        rows: dict[str, int] | None = None

        @field_validator("rows")
        @classmethod
        def _some(cls, rows: dict[str, int] | None) -> dict[str, int] | None:
            if rows == {}:
                raise ValueError("no rows")
            return rows

        def build(self, x: Feature) -> torch.nn.Module:
            return torch.nn.Identity()

    with pytest.raises(SpecError) as caught:
        Table(rows=3)
    assert str(caught.value) == "Table.rows: 3; expected a valid dictionary"
    with pytest.raises(SpecError) as caught:
        Table(rows={})
    assert str(caught.value) == "Table.rows: {}; expected value error, no rows"
    assert caught.value.__suppress_context__  # of pydantic's words


def test_nothing_is_expanded_of_too_many_blocks(registries: None) -> None:
    BLOCKS.register("local", local_block(expand=lambda self, x: 1 // 0))
    with pytest.raises(SpecError) as caught:
        load_spec(document(*[{"type": "residual", "body": ["identity"]}] * 2048, "local"))
    assert str(caught.value) == (
        "blocks[2048] (local): too many blocks; expected at most 4,096 in all. It is given ?x? x "
        "64 by blocks[2047] (residual)."
    )


def test_an_empty_tuple_is_no_chain() -> None:
    class Noted(Block):
        notes: tuple[str, ...] = ()

        def build(self, x: Feature) -> torch.nn.Module:
            return torch.nn.Identity()

    assert bodies(Noted()) == {}


def test_ten_problems_are_all_shown() -> None:
    for number in (10, 11):
        with pytest.raises(SpecError) as caught:
            load_spec(document(*[{"type": "pointwise", "bias": 0}] * number))
        lines = [f"  - blocks[{index}].bias: 0; expected true or false" for index in range(10)]
        more = ["  - and 1 more"] if number == 11 else []
        assert str(caught.value).splitlines() == [f"{number} problems", *lines, *more]


def test_widths_are_looked_at_before_a_preset_computes_with_them(registries: None) -> None:
    class Halves(Preset):
        a: int = 0
        b: int = 0
        c: int = 0
        d: int = 0
        e: int = 0

        def expand(self, in_: int, out: int) -> Stack:
            return Stack(in_=in_, out=out, blocks=(Pointwise(out=in_ // 2 + out // 2), Pointwise()))

    PROJECTORS.register("halves", Halves)
    PROJECTORS.register("quarters", Halves(a=1, b=1, c=1, d=1, e=1))
    for widths, message in (
        (("8", 8), 'in: "8"; expected an integer'),
        ((8, "8"), 'out: "8"; expected an integer'),
    ):
        with pytest.raises(SpecError) as caught:
            build_projector("halves", *widths)
        assert str(caught.value) == message
    with pytest.raises(SpecError) as caught:
        build_projector("quarters", 8, 8, e=2, d=2, c=2, b=2, a=2)
    assert str(caught.value) == (
        "quarters: option 'a' is part of the name. quarters means a=1: choose another name."
    )


def test_a_fault_inside_keeps_its_cause() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(document({"type": "preset", "name": "lpd"}))
    assert isinstance(caught.value.__cause__, RegistryError)
    with pytest.raises(SpecError) as caught:
        build_projector("ldp", 4, 4, eps=-1.0)
    assert caught.value.__suppress_context__  # of pydantic's words
    with pytest.raises(SpecError) as caught:
        load_spec(document("pointwisp"))
    assert isinstance(caught.value.__cause__, RegistryError)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("swish", "silu"),
        ("gelu_new", "gelu-tanh"),
        ("gelu_pytorch_tanh", "gelu-tanh"),
        ("gelu-pytorch-tanh", "gelu-tanh"),
        ("gelu_tanh", "gelu-tanh"),
        ("quick_gelu", "quick-gelu"),
        ("relu_squared", "relu2"),
    ],
)
def test_an_activation_is_known_by_its_other_names(name: str, meant: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_projector("mlp", 4, 4, act=name)
    assert caught.value.hint == f"Did you mean {meant!r}?"
    with pytest.raises(SpecError) as caught:
        load_spec(document({"type": "norm-act", "act": name}))
    assert caught.value.hint == f"Did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("where", "inner", "joined"),
    [
        ("a", "[0]", "a[0]"),
        ("a", ".b", "a.b"),
        ("a", "b", "a.b"),
        ("a", "", "a"),
        ("a", "a[0]", "a[0]"),
        ("", "[0]", "[0]"),
        ("", "", ""),
    ],
)
def test_paths_are_joined(where: str, inner: str, joined: str) -> None:
    assert relocate(SpecError("x", inner), where).where == joined


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a" * 78, f'"{"a" * 78}"'),
        ("a" * 79, f"'{'a' * 76}..."),
        ("\u0430", '"\\u0430"'),
        (True, "true"),
        (math.inf, "Infinity"),
        ([1, True], "[1, True]"),
        ({1}, "{1}"),
        (levels(100_000, lambda value: (value,)), "<tuple>"),
    ],
)
def test_values_are_shown_in_short(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_smaller_cap_is_kept() -> None:
    with pytest.raises(SpecError, match="expected at most 10"):
        build_projector("linear", 4, 4, max_parameters=10)
    projector = build_projector("linear", 4, 4, max_parameters=20)
    assert projector.plan().max_parameters == 20


def local_block(**members: Any) -> type[Block]:
    members.setdefault("build", lambda self, x: torch.nn.Identity())
    return type("Local", (Block,), {"__module__": __name__, **members})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"flow": lambda self, x: 1 // 0},
            "blocks[0] (local): walking failed: ZeroDivisionError: integer division or modulo by "
            "zero. It is given ?x? x 64 by the input.",
        ),
        (
            {"flow": lambda self, x: None},
            "blocks[0] (local): its flow returned None; expected a Feature. It is given ?x? x 64 "
            "by the input.",
        ),
        (
            {"flow": lambda self, x: x.replace(channels=-5)},
            "blocks[0] (local): its flow returned Feature(channels=-5, grid=(None, None), "
            "layout='raster', ends=(64, 128)); expected a Feature. It is given ?x? x 64 by the "
            "input.",
        ),
        (
            {"flow": lambda self, x: x.replace(channels=0)},
            "blocks[0] (local): its flow returned Feature(channels=0, grid=(None, None), "
            "layout='raster', ends=(64, 128)); expected a Feature. It is given ?x? x 64 by the "
            "input.",
        ),
        (
            {"flow": lambda self, x: x.replace(channels=64.0)},
            "blocks[0] (local): its flow returned Feature(channels=64.0, grid=(None, None), "
            "layout='raster', ends=(64, 128)); expected a Feature. It is given ?x? x 64 by the "
            "input.",
        ),
        (
            {"expand": lambda self, x: 5},
            "blocks[0] (local): walking failed: TypeError: 'int' object is not iterable. It is "
            "given ?x? x 64 by the input.",
        ),
    ],
)
@pytest.mark.thread_unsafe
def test_faults_of_other_peoples_blocks_name_the_block(
    members: dict[str, Any], message: str
) -> None:
    BLOCKS.register("local", local_block(**members))
    try:
        with pytest.raises(SpecError) as caught:
            load_spec(document("local", "pointwise"))
        assert str(caught.value) == message
        assert "walking failed" not in message or caught.value.__cause__ is not None
    finally:
        BLOCKS.unregister("local")


class Wrong(Preset):
    """A preset that gives something else than it was asked for."""

    how: str = "widths"

    def expand(self, in_: int, out: int) -> Stack:
        if self.how == "raise":
            raise KeyError("boom")
        if self.how == "type":
            return {}  # type: ignore[return-value]
        if self.how == "itself":
            again = {"type": "preset", "name": "wrong", "how": "itself"}
            return Stack.parse({"in": in_, "out": out, "blocks": [again]})
        prefix = 3 if self.how == "prefix" else 0
        width = 5 if self.how == "widths" else out
        return Stack(in_=in_, out=width, prefix_tokens=prefix, blocks=(Pointwise(),))


@pytest.mark.thread_unsafe
def test_faults_of_other_peoples_presets_name_the_preset() -> None:
    for how, message in {
        "raise": "Wrong: expand failed: KeyError: 'boom'",
        "type": "Wrong: expand returned {}; expected a Stack 4 -> 8",
        "widths": "Wrong: expand returned Stack(schema_=1, in_=4, out=5, prefix_tokens=0, "
        "token_order='raster', blocks=...; expected a Stack 4 -> 8",
    }.items():
        with pytest.raises(SpecError) as caught:
            Wrong(how=how).stack(4, 8)
        assert str(caught.value) == message
    assert Wrong(how="prefix").stack(4, 8).prefix_tokens == 3
    assert Wrong(how="prefix", prefix_tokens=1).stack(4, 8).prefix_tokens == 1
    PROJECTORS.register("wrong", Wrong)
    try:
        with pytest.raises(SpecError, match="RecursionError"):
            build_projector("wrong", 4, 8, how="itself")
    finally:
        PROJECTORS.unregister("wrong")


def test_a_block_of_no_registered_name_is_called_by_its_class() -> None:
    with pytest.raises(SpecError) as caught:
        Stack(in_=4, out=4, blocks=(local_block(flow=lambda self, x: None)(),))
    assert str(caught.value) == (
        "blocks[0] (Local): its flow returned None; expected a Feature. It is given ?x? x 4 by "
        "the input."
    )


def test_a_block_that_forgets_a_known_grid() -> None:
    forgets = local_block(flow=lambda self, x: x.replace(grid=(None, None)))
    stack = Stack(in_=4, out=4, blocks=(forgets(),))
    with pytest.raises(SpecError) as caught:
        stack.tokens(2, 2)
    assert str(caught.value) == ("blocks: the number of tokens is not known after the last block")


def test_a_preset_inside_a_block_that_is_in_no_stack() -> None:
    block = Residual(body=[{"type": "preset", "name": "mlp2x_gelu", "out": "same"}])
    x = Feature(channels=4, grid=(2, 3), ends=(4, 8))
    assert block.flow(x) == x
    for name, y in (
        ("ldp", Feature(channels=8, grid=(1, 2), ends=(4, 8))),
        ("idefics3", Feature(channels=8, grid=(1, 1), ends=(4, 8))),
    ):
        options = {"merge": 2} if name == "idefics3" else {}
        inner = NestedPreset(name=name, **options)
        grid = x.replace(grid=(2, 2)) if options else x
        assert inner.flow(grid) == y
    assert block.build(x)(torch.randn(1, 2, 3, 4)).shape == (1, 2, 3, 4)


def test_faults_of_files_and_presets_keep_their_cause(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        dump_spec(spec_of("linear", 1, 1), tmp_path / "none" / "spec.json")
    assert str(caught.value) == (
        f"{tmp_path}/none/spec.json: cannot be written: No such file or directory"
    )
    assert isinstance(caught.value.__cause__, FileNotFoundError)

    class Fails(Preset):
        def expand(self, in_: int, out: int) -> Stack:
            return Stack(in_=in_ // 0, out=out, blocks=())

    with pytest.raises(SpecError) as caught:
        Fails().stack(1, 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.thread_unsafe
def test_what_no_json_can_say_is_not_written() -> None:
    class Holds(Block):
        thing: Any = None

        def build(self, x: Feature) -> torch.nn.Module:
            return torch.nn.Identity()

    BLOCKS.register("holds", Holds)
    try:
        stack = Stack(in_=4, out=4, blocks=(Holds(thing=object()),))
        with pytest.raises(SpecError) as caught:
            dump_spec(stack)
        assert str(caught.value) == (
            "stack: cannot be written as JSON: Unable to serialize unknown type: <class 'object'>"
        )
    finally:
        BLOCKS.unregister("holds")


def test_a_width_inside_another_type_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        local_block(__annotations__={"mid": Width | None}, mid=None)
    assert str(caught.value) == (
        "Local.mid: a Width stands inside another type; expected a field that is a Width, and "
        "nothing else"
    )


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
def test_a_class_fact_cannot_become_a_field() -> None:
    with pytest.raises(SpecError) as caught:
        local_block(__annotations__={"needs_grid": bool}, needs_grid=False)
    assert str(caught.value) == (
        "Local: a block cannot have a field called 'needs_grid'. Annotate it as ClassVar[bool]."
    )


def test_saving_replaces_documents_only_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("mine")
    (tmp_path / "link.json").symlink_to("real.json")
    for name, what in (
        (
            "real.json",
            "already there, and nothing in it says that this library wrote it; expected a new file "
            "or an earlier result. Name another; replace=True replaces it, and what it holds is "
            "lost.",
        ),
        (
            "link.json",
            "a link to 'real.json'; expected a file of its own. Name another; replace=True "
            "replaces it, and what it holds is lost.",
        ),
        (
            "spec.pt",
            "the suffix .pt means another format; expected a .json file. Name it 'spec.json'.",
        ),
    ):
        with pytest.raises(SpecError) as caught:
            dump_spec(spec_of("linear", 1, 1), tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {what}"
    dump_spec(spec_of("linear", 1, 1), tmp_path / "link.json", replace=True)
    assert not (tmp_path / "link.json").is_symlink()
    assert load_spec(tmp_path / "link.json") == spec_of("linear", 1, 1)
    assert (tmp_path / "real.json").read_text() == "mine"
    dump_spec(spec_of("linear", 1, 2), tmp_path / "link.json")  # a document by now
    assert load_spec(tmp_path / "link.json") == spec_of("linear", 1, 2)


def test_saving_keeps_pipes_and_the_usual_mode(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    text = dump_spec(spec_of("linear", 1, 1), tmp_path / "pipe")
    assert os.read(reader, 10_000).decode() == text  # a pipe stays one
    os.close(reader)
    (tmp_path / "private.json").write_text("")
    (tmp_path / "private.json").chmod(0o600)
    dump_spec(spec_of("linear", 1, 1), tmp_path / "private.json")
    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "plain").write_text("")
    dump_spec(spec_of("linear", 1, 1), tmp_path / "new.json")
    assert (tmp_path / "new.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
