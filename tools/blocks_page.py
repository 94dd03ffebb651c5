"""The page of the built-in blocks: what their classes say, and what they do to one feature.

``python tools/blocks_page.py`` writes `docs/blocks.md`.
"""

import json
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from family_page import listed, table, wrapped
from index import families, standard_plan

from mobilevlm import BLOCKS, Block, Plan, plan_projector
from mobilevlm.blocks.core.activation import TRANSFORMERS_NAMES, Act
from mobilevlm.blocks.core.block import Step, chains, label
from mobilevlm.projectors.docstrings import attributes, paragraphs
from mobilevlm.projectors.table import short_count

PAGE = Path(__file__).parents[1] / "docs" / "blocks.md"
CASE: dict[str, Any] = {"in": 1024, "out": 2048}
GRID = (24, 24)
ACTIVATIONS = set(typing.get_args(typing.get_args(Act)[0]))
WORDS = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "`true` or `false`",
    "string": "text",
    "null": "`null`",
}
MADE_OF_BLOCKS = ("parallel", "preset", "repeat", "residual")
MANY = 16
# Of blocks that need more than their type.
EXAMPLES: dict[str, dict[str, Any]] = {
    "extra-tokens": {"at": "end"},
    "pad-channels": {"count": 64},
    "parallel": {"branches": [["identity"], ["depthwise"]]},
    "pool": {"stride": 2},
    "preset": {"name": "mlp", "depth": 2},
    "qformer": {"heads": 16},
    "region-attention": {
        "query": [{"type": "pool", "stride": 2}, "pointwise"],
        "key": ["pointwise"],
        "value": ["pointwise"],
    },
    "repeat": {"times": 3, "body": [{"type": "pointwise", "out": "same"}]},
    "residual": {"body": ["depthwise", "norm-act"]},
    "scale": {"by": "root-channels"},
    "take-channels": {"count": 512},
}

HEAD = """# Blocks

Look a block up: what it computes, its fields, and the shapes.

A document names a block by its type, `"pointwise"`, or with fields,
`{{"type": "pointwise", "out": 512}}`: [compose](compose.md). What is missing here you
[write yourself](write-a-block.md), or take from [zetascale](zeta.md), whose {zeta} blocks begin
with `zeta-`.

Shapes are `(b, h, w, c)`: images, rows, columns, channels. The examples begin with 24x24 tokens of
1024 channels, 24x24 x 1024, in a projector whose output has 2048; 64 x 2048 are 64 tokens without
rows and columns, which a block that reads the grid refuses. A width, `out`, is a number, `"in"` or
`"out"` for the projector's ends, or `"same"`. JSON's `null` is Python's `None`.

This page is written by `python tools/blocks_page.py`, from the blocks' classes.
"""

ACTIVATION_NAMES = """## Activations

{ours}
`gelu` is the exact form, and `softmax` is over the channels.

{theirs}
Documents write them back as ours.
"""


def built_in() -> dict[str, type[Block]]:
    """Return the built-in blocks by name, without zetascale's."""
    ours = (name for name in BLOCKS.names() if BLOCKS.find(name).source == "built-in")
    return {name: BLOCKS.get(name) for name in ours if not name.startswith("zeta-")}


@cache
def example(name: str) -> tuple[str, Plan]:
    """Return a block as a document has it, and the plan of a stack of it alone."""
    fields = EXAMPLES.get(name, {})
    block = {"type": name, **fields}
    ends = {**CASE, "blocks": [block, "pointwise"]}
    width = plan_projector(ends, grid=GRID).steps[-2].y.channels
    plan = plan_projector({**CASE, "out": width, "blocks": [block]}, grid=GRID)
    return json.dumps(block if fields else name), plan


def users() -> dict[str, list[str]]:
    """Return the families that have each block with their options at default, by the block."""
    found: dict[str, list[str]] = {}
    for family in families():
        for name in dict.fromkeys(names(standard_plan(family).steps)):
            found.setdefault(name, []).append(family)
    return found


def names(steps: Iterable[Step]) -> Iterator[str]:
    """The names of a chain's blocks and of those inside them."""
    for step in steps:
        yield label(step.block)
        for _, inner in chains(step.block, step.x):
            yield from names(inner)


# ---------------------------------------------------------------------------- fields


def described(cls: type[Block], field: str) -> str:
    """What the docstring of the class, or of one that it derives from, says of a field."""
    for base in cls.__mro__:
        if said := attributes(base).get(field):
            return code(said)
    raise SystemExit(f"describe {field!r} under Attributes: in {cls.__name__}")


def kinds(schema: Mapping[str, Any]) -> Iterator[str]:
    """The kinds of value that a field's JSON Schema allows, in words, or the values."""
    if "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from kinds(each)
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        if set(values) >= ACTIVATIONS:
            yield "an [activation](#activations)"
        else:
            yield from (f"`{json.dumps(value)}`" for value in values)
    elif "prefixItems" in schema:
        yield "two integers"
    elif schema["type"] == "array":
        items = schema["items"]
        yield "blocks" if items.get("$comment") == "block" else "lists of " + "".join(kinds(items))
    else:
        yield WORDS[schema["type"]] + limits(schema)


def limits(schema: Mapping[str, Any]) -> str:
    """The limits of a number, in words, such as `` (1 to 64)``."""
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
    said = {key: f"{schema[key]:,}".removesuffix(".0") for key in words if key in schema}
    if said.keys() == {"minimum", "maximum"}:
        return f" ({said['minimum']} to {said['maximum']})"
    return f" ({', '.join(f'{words[key]} {said[key]}' for key in said)})" if said else ""


def field_rows(cls: type[Block]) -> Iterator[Sequence[str]]:
    schemas = cls.model_json_schema().get("properties", {})
    for name, field in cls.model_fields.items():
        default = "must be given" if field.is_required() else f"`{json.dumps(field.default)}`"
        yield f"`{name}`", listed([*kinds(schemas[name])], "or"), default, described(cls, name)


# ---------------------------------------------------------------------------- page


def code(text: str) -> str:
    """Docstrings mark code with two backticks."""
    return text.replace("``", "`")


def overview(name: str, cls: type[Block]) -> Sequence[str]:
    what = code(paragraphs(cls)[0]).partition("; ")[0].removesuffix(".")
    grid = "yes" if cls.needs_grid else "no"
    if name in MADE_OF_BLOCKS:
        grid = "if its blocks do"
    return f"[`{name}`](#{name})", what, str(example(name)[1].steps[-1].y), grid


def section(name: str, cls: type[Block], families: list[str]) -> str:
    document, plan = example(name)
    first, last = plan.steps[0].x, plan.steps[-1].y
    used = ""
    if len(families) > MANY:
        used = f"{len(families)} families of the [zoo](zoo.md) have it by default."
    elif families:
        used = f"By default in {listed([f'[`{each}`](zoo/{each}.md)' for each in families])}."
    parts = [
        f"## {name}",
        *(wrapped(code(part)) for part in paragraphs(cls)),
        table("field | value | default | what it is", field_rows(cls)),
        f"`{document}`: {first} -> {last}, {plan.parameters:,} parameters, "
        f"{short_count(plan.macs)} MACs.",
        wrapped(used),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def page() -> str:
    """Return the text of the page."""
    blocks, used = built_in(), users()
    zeta = sum(name.startswith("zeta-") for name in BLOCKS.names())
    head = "block | what it does | 24x24 x 1024 becomes | reads the grid"
    sections = [section(name, cls, used.get(name, [])) for name, cls in blocks.items()]
    ours = typing.get_args(typing.get_args(Act)[0])
    theirs = [name for name in TRANSFORMERS_NAMES if name not in ours]
    end = ACTIVATION_NAMES.format(
        ours=wrapped(f"A field that is an activation takes {quoted(ours)}."),
        theirs=wrapped(f"The names of transformers are read too: {quoted(theirs)}."),
    )
    overviews = table(head, (overview(*each) for each in blocks.items()))
    return "\n".join([HEAD.format(zeta=zeta), f"{overviews}\n", *sections, end])


def quoted(names: Sequence[str]) -> str:
    return listed([f"`{name}`" for name in names])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
