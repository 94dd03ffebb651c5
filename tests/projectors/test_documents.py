"""Documents: what they hold, what they mean, and faults inside them."""

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.documents import document, endless, levels, nested
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from mobilevlm import (
    BLOCKS,
    PROJECTORS,
    Block,
    Feature,
    Preset,
    Projector,
    RegistryError,
    SpecError,
    Stack,
    Width,
    build_projector,
    dump_spec,
    load_spec,
    spec_of,
)
from mobilevlm.blocks.core.block import bodies, walk_cache
from mobilevlm.blocks.core.spec import relocate, shown
from mobilevlm.blocks.pointwise import Pointwise
from mobilevlm.blocks.residual import Residual
from mobilevlm.projectors.nested import NestedPreset


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


def test_a_block_says_what_it_counts_as(registries: None) -> None:
    BLOCKS.register("local", local_block(counts_as=property(lambda self: 2048)))
    with walk_cache() as cache:
        blocks = load_spec(document("local", "local", out=64)).blocks
        assert sum(map(cache.count, blocks)) == 4096
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
        ("gelu_tanh", "gelu-tanh"),
        ("tanhh", "tanh"),
        ("Mish", "mish"),
    ],
)
def test_a_misspelt_activation_is_guessed(name: str, meant: str) -> None:
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
