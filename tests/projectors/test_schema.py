"""The JSON Schema for editors: what it takes and refuses, beside what `load_spec` says."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.plugins import Site
from jsonschema import Draft202012Validator

from mobilevlm import PROJECTORS, SpecError, dump_spec, load_spec, spec_of
from mobilevlm.projectors.schema import document_schema

SCHEMA = document_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.json"))
NAMES = [entry.name for entry in PROJECTORS.entries() if entry.source == "built-in"]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["title"] == "A projector of mobilevlm"
    assert {key: SCHEMA["properties"][key] for key in ("schema", "in", "out")} == {
        "schema": {
            "const": 1,
            "default": 1,
            "type": "integer",
            "description": 'The version of the document format, written ``"schema"``.',
        },
        "in": {
            "maximum": 1_048_576,
            "minimum": 1,
            "type": "integer",
            "description": 'The input width, written ``"in"``.',
        },
        "out": {
            "maximum": 1_048_576,
            "minimum": 1,
            "type": "integer",
            "description": "The output width.",
        },
    }
    refs = [each["$ref"] for each in SCHEMA["$defs"]["block"]["anyOf"][1:]]
    assert "#/$defs/preset%20ldp" in refs


def test_broken_plugins_are_left_out(site: Site) -> None:
    points = "[mobilevlm.blocks]\nsway = north_tools:Sway\n"
    points += "[mobilevlm.projectors]\nswing = north_tools:Swing\n"
    site.install("north-tools", "1.0", points, {"north_tools.py": "1 / 0"})
    assert document_schema() == SCHEMA


@pytest.mark.parametrize("name", NAMES)
def test_every_projector_fits(name: str) -> None:
    VALIDATOR.validate(json.loads(dump_spec(spec_of(name, 64, 64))))
    for spelling in (name, name.replace("-", "_")):
        VALIDATOR.validate(with_blocks({"type": "preset", "name": spelling}))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_fits(path: Path) -> None:
    VALIDATOR.validate(json.loads(path.read_text("utf-8")))


def with_blocks(*blocks: Any, **fields: Any) -> dict[str, Any]:
    return {"in": 8, "out": 8, "blocks": list(blocks), **fields}


@pytest.mark.parametrize(
    "document",
    [
        with_blocks("pointwise", "norm_act"),
        with_blocks({"type": "pointwise", "out": "same"}, schema=1, prefix_tokens=1),
        with_blocks({"type": "patch-merge", "size": 2}, {"type": "pointwise"}),
        with_blocks({"type": "patch_merge", "size": [1, 2]}, "pointwise"),
        with_blocks({"type": "residual", "body": ["depthwise", "squeeze-excite"]}),
        with_blocks({"type": "parallel", "branches": [["identity"], ["pointwise"]]}),
        with_blocks({"type": "preset", "name": "mlp", "act": "silu", "out": 8}),
    ],
)
def test_both_take_it(document: dict[str, Any]) -> None:
    VALIDATOR.validate(document)
    load_spec(document)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"in": 8, "blocks": ["pointwise"]},
        with_blocks(),
        with_blocks("pointwise", schema=2),
        with_blocks("pointwise", extra=1),
        with_blocks("pointwise", prefix_tokens=-1),
        with_blocks("point-wise"),
        with_blocks(["pointwise"]),
        with_blocks(3),
        with_blocks(None),
        with_blocks("preset"),
        with_blocks("ldp"),
        with_blocks("residual"),
        with_blocks({"out": 8}),
        with_blocks({"type": "pointwise", "kernel": 3}),
        with_blocks({"type": "pointwise", "out": "width"}),
        with_blocks({"type": "pointwise", "out": 0}),
        with_blocks({"type": "pointwise", "bias": "yes"}),
        with_blocks({"type": "depthwise", "kernel": "3"}),
        with_blocks({"type": "residual", "body": []}),
        with_blocks({"type": "residual", "body": [{"type": "depthwise", "kernal": 3}]}),
        with_blocks({"type": "parallel", "branches": [["identity"]]}),
        with_blocks({"type": "preset", "name": "mlp", "depths": 2}),
        with_blocks({"type": "preset", "name": "mlp2x_gelu", "act": "silu"}),
        with_blocks({"type": "preset", "name": "nothing"}),
        with_blocks({"type": "preset", "name": ["mlp"]}),
        with_blocks({"type": ["pointwise"]}),
        with_blocks({"type": "preset", "depth": 2}),
    ],
)
def test_both_refuse_it(document: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(SpecError):
        load_spec(document)


def test_fields_are_described() -> None:
    pool = SCHEMA["$defs"]["pool"]
    assert pool["properties"]["ceil"]["description"] == (
        "For ``avg`` and ``max``: keep windows cut off by the border; else they are dropped."
    )
    assert pool["description"].startswith("Pool the grid")
