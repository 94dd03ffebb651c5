"""What documents and calls are refused, with which words, before anything is built."""

import itertools
import math
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from helpers.documents import document, endless, levels, nested, shared

from mobilevlm import (
    BLOCKS,
    MobileVLMError,
    RegistryError,
    SpecError,
    build_projector,
    dump_spec,
    load_spec,
    plan_projector,
    spec_of,
)
from mobilevlm.blocks.core.block import walk_cache
from mobilevlm.blocks.core.spec import check_structure
from mobilevlm.blocks.pointwise import Pointwise
from mobilevlm.blocks.residual import Residual

KNOWN = (
    "Known: attention-pool, conv, cross-attention, depthwise, depthwise-residual, extra-tokens, "
    "glu, identity, newline, norm-act, pad-channels, parallel, and others."
)
ACTS = (
    "'gelu', 'gelu-tanh', 'quick-gelu', 'silu', 'relu', 'relu2', 'leaky-relu', 'hardswish', "
    "'mish', 'tanh', 'sigmoid', 'softmax' or 'none'"
)
WIDTH = "an integer, 'in', 'out' or 'same'"
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
        "blocks[0] (preset): unknown projector 'ldpp'. Did you mean 'ldp' or 'ldpv2'? It is given "
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
        "token_order: \"bloked\"; expected 'raster', 'blocked', 'blocked-3x3' or 'blocked-4x4'. "
        "Did you mean 'blocked' or 'blocked-4x4'?",
    ),
    (
        document("pointwise", token_order="rastr"),
        "token_order: \"rastr\"; expected 'raster', 'blocked', 'blocked-3x3' or 'blocked-4x4'. "
        "Did you mean 'raster'?",
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
    ("{" + " " * 16_000_000, "document: too long; expected at most 16,000,000 bytes"),
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
        tmp_path: "cannot be read: a folder, not a file; expected a JSON document",
        Path("/dev/null"): "cannot be read: not a regular file; expected a JSON document",
        tmp_path / "binary.json": "not usable JSON: 'utf-8' codec can't decode byte 0xff in "
        "position 0: invalid start byte",
        tmp_path / "list.json": "a JSON list; expected a JSON object",
        tmp_path / "empty.json": "not JSON: Expecting value at line 1, column 1",
        tmp_path / "big.json": "too long; expected at most 16,000,000 bytes",
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
            "mlp0x_gelu": "Did you mean 'mlp10x_gelu' or 'mlp1x_gelu'?",
            "mlp2x_gelu\n": "Did you mean 'mlp2x_gelu' or 'mlp12x_gelu'?",
            "mlp\u0663x_gelu": "Did you mean 'mlp1x_gelu' or 'mlp2x_gelu'?",
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

    import_module = importlib.import_module

    def refuse(name: str, *arguments: Any) -> Any:
        if name != "mobilevlm.projectors":  # the registry that hints look into, too
            raise AssertionError(f"{name} was imported")
        return import_module(name, *arguments)

    BLOCKS.names()  # reads the tables of built-in names, which is an import of ours
    monkeypatch.setattr(importlib, "import_module", refuse)
    for name in ("os.system", "_target_", "torch.nn.Linear", "../../x", "json:loads"):
        with pytest.raises(SpecError):
            load_spec(document({"type": name}))
        with pytest.raises(RegistryError):
            build_projector(name, 1, 1)


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
    with walk_cache() as cache:
        assert sum(map(cache.count, spec.blocks)) == 4096


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


def test_ten_problems_are_all_shown() -> None:
    for number in (10, 11):
        with pytest.raises(SpecError) as caught:
            load_spec(document(*[{"type": "pointwise", "bias": 0}] * number))
        lines = [f"  - blocks[{index}].bias: 0; expected true or false" for index in range(10)]
        more = ["  - and 1 more"] if number == 11 else []
        assert str(caught.value).splitlines() == [f"{number} problems", *lines, *more]
