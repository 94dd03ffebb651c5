"""The page of one family: docs/zoo/NAME.md."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import papers
from family_facts import (
    PLAIN,
    TRANSFORMERS,
    compared,
    kind,
    models_of,
    plan_of,
    published,
    relatives,
    sources,
)
from index import CASE, SPECIAL, families

from mobilevlm import Preset, build_projector
from mobilevlm.checkpoints.errors import CheckpointError
from mobilevlm.checkpoints.mapping import to_upstream
from mobilevlm.projectors.docstrings import attributes, paragraph, paragraphs
from mobilevlm.projectors.table import short_count
from mobilevlm.projectors.tokens import token_counts
from mobilevlm.projectors.upstream import Checkpoint, Upstream

COLUMNS = 80
MODEL = "path/to/model"
SECTIONS = ("Source", "Note", "Traps")  # paragraphs of a docstring that have a title


def table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A table without the rows that are there twice; empty if it has no row."""
    body = [f"| {' | '.join(row)} |" for row in dict.fromkeys(map(tuple, rows))]
    rule = "|" + "---|" * len(head.split(" | "))
    return "\n".join([f"| {head} |", rule, *body]) if body else ""


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def markdown(text: str, name: str) -> str:
    """A docstring's text, in which the names of other families are links."""

    def link(match: re.Match[str]) -> str:
        other = match[1]
        return f"[`{other}`]({other}.md)" if other in families() and other != name else match[0]

    return re.sub(r"(?<!`)`([\w.-]+)`(?!`)", link, text).replace("``", "`")


def wrapped(text: str, point: str = "") -> str:
    """A paragraph, or a point of a list, in lines of at most 120 characters.

    Code and the texts of links stay on one line, if they are not long.
    """
    whole = r"`[^`]{1,90}`|\[[^]]{1,90}\]"
    lines = textwrap.fill(
        re.sub(whole, lambda match: match[0].replace(" ", "\0"), text),
        120,
        initial_indent=point,
        subsequent_indent=" " * len(point),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("\0", " ")


def literal(value: Any) -> str:
    """A value as Python code has it, text in double quotes.

    >>> literal("gelu"), literal(None), literal(1e-6)
    ('"gelu"', 'None', '1e-06')
    """
    return json.dumps(value) if isinstance(value, str) else repr(value)


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"], "or")
    ('a', 'a, b or c')
    """
    *first, end = names
    return f"{', '.join(first)} {last} {end}" if first else end


# ---------------------------------------------------------------------------- what it is


def head(name: str, cls: type[Preset]) -> list[str]:
    """What it computes, who uses it, what to know, and where it comes from."""
    said = [
        part for part in paragraphs(cls) if not part.startswith(tuple(f"{s}: " for s in SECTIONS))
    ]
    note = paragraph(cls, "Note")
    parts = [markdown(part, name) for part in said]
    if note:
        parts.append(f"Note: {markdown(note, name)}")
    parts.append(f"Source: {'; '.join(map(source, sources(cls)))}.")
    return [f"# {name}", *map(wrapped, parts)]


def source(found: re.Match[str] | str) -> str:
    """A source, with the address of its repository."""
    if isinstance(found, str):
        return found
    repository, path = found["repository"], found["path"]
    if repository == TRANSFORMERS:
        path = f"src/transformers/{path}"
    names = f" ({found['names']})" if found["names"] else ""
    return f"[{repository}](https://github.com/{repository}), `{path}`{names}"


def case(name: str) -> dict[str, Any]:
    return CASE | SPECIAL.get(name, {})


def case_words(name: str) -> str:
    given = case(name)
    h, w = given["grid"]
    return f"{given['in']} -> {given['out']} on {h}x{w} tokens"


def chain(name: str) -> list[str]:
    """The drawing of the chain."""
    given = case(name)
    h, w = given["grid"]
    command = f"mobilevlm show {name} in={given['in']} out={given['out']} grid={h}x{w}"
    return [
        "## The chain",
        wrapped(
            f"Its blocks from top to bottom, and the features between them, at {case_words(name)}."
            f" `{command}` draws it, also for other widths, grids and options."
        ),
        fence("text", plan_of(name).chain(COLUMNS)),
    ]


# ---------------------------------------------------------------------------- options and names


def kind_of(schema: Mapping[str, Any]) -> str:
    """What the value of an option may be, from its JSON Schema."""
    if "anyOf" in schema:
        return ", or ".join(kind_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        values = [f"`{literal(value)}`" for value in schema["enum"]]
        return listed(values, "or") if len(values) < 6 else "an activation"
    what = {
        "integer": "an integer",
        "number": "a number",
        "boolean": "`True` or `False`",
        "null": "`None`",
        "array": "two integers",
    }[schema["type"]]
    low, high = schema.get("minimum"), schema.get("maximum")
    if schema["type"] == "integer":
        what = f"{what}, {low} to {high:,}" if high < 2**20 else f"{what} from {low}"
        return f"{what}, even" if schema.get("multipleOf") == 2 else what
    if low is not None and high is not None:
        return f"{what}, {low:g} to {high:g}"
    return f"{what} above 0" if "exclusiveMinimum" in schema else what


def options(name: str, cls: type[Preset]) -> list[str]:
    """The options with their defaults, and the numbers of tokens that they give."""
    said = attributes(Preset) | attributes(cls)
    if missing := sorted(cls.model_fields.keys() - said.keys()):
        raise SystemExit(f"{name}: describe {missing[0]!r} under Attributes: in {cls.__name__}")
    schema = cls.model_json_schema()["properties"]
    own_first = sorted(cls.model_fields, key="prefix_tokens".__eq__)
    rows = [
        (
            f"`{option}`",
            f"`{literal(cls.model_fields[option].default)}`",
            kind_of(schema[option]),
            markdown(said[option], name),
        )
        for option in own_first
    ]
    parts = ["## Options", table("option | default | value | what it is", rows)]
    if cls.tokens_by:
        parts.append(wrapped(tokens_by(name, cls)))
    return parts


def tokens_by(name: str, cls: type[Preset]) -> str:
    """What ``tokens=n`` does."""
    h, w = grid = tuple(case(name)["grid"])
    said = f"`tokens=n` sets {listed([f'`{option}`' for option in cls.tokens_by], 'or')}"
    for option, way in cls.tokens_by.items():
        if not callable(way):
            counts = token_counts(name, {}, option, way, grid)
            each = [f"{count:,} ({option}={value})" for value, count in counts.items()]
            said += f"; {h}x{w} tokens become {listed(each, 'or')}"
    return f"{said}."


def changed(cls: type[Preset], given: Mapping[str, Any]) -> str:
    """Those of the options that are no defaults, in brackets."""
    said = [
        f"{key}={literal(value)}"
        for key, value in given.items()
        if value != cls.model_fields[key].default
    ]
    return f" ({', '.join(said)})" if said else ""


def names(cls: type[Preset]) -> list[str]:
    """Models, other names and upstream's classes, each with the options that differ."""

    def each(found: Mapping[str, Mapping[str, Any]], quote: str) -> str:
        return ", ".join(
            f"{quote}{name}{quote}{changed(cls, given)}" for name, given in found.items()
        )

    used = models_of(cls)
    parts = {name: given for name, given in cls.models.items() if name not in used}
    classes = {alias: given for alias, given in cls.aliases.items() if alias[0].isupper()}
    others = {alias: given for alias, given in cls.aliases.items() if alias not in classes}
    lines = [
        wrapped(f"{title}: {each(found, quote)}.", "- ")
        for title, found, quote in (
            ("Models that use it", used, ""),
            ("Other names that build it", others, "`"),
            ("Upstream's classes, whose names build it too", classes, "`"),
            ("Upstream's classes of a part of it", parts, "`"),
        )
        if found
    ]
    if not lines:
        return []
    return ["## Models and names", "\n".join(lines)]


# ---------------------------------------------------------------------------- plan and use


def plan(name: str) -> list[str]:
    """The rows of the plan; blocks inside others are counted in theirs."""
    found = plan_of(name)
    header, rows = found.table()
    shown = [row for row in rows if not row[0].startswith(" ")]
    inside = len(shown) < len(rows)
    lines = [f"For one image at {case_words(name)}, all options at their defaults."]
    if inside:
        lines.append("What is inside a block is counted in it.")
    size = f"{found.parameters:,} parameters are {2 * found.parameters / 1e6:,.1f} MB in bf16."
    macs = f"MACs: {short_count(found.macs)} as written, {short_count(found.macs_run)} as run"
    order = "; ".join(found.runs_as)
    return [
        "## The plan",
        " ".join(lines),
        table(" | ".join(header), shown),
        wrapped(f"{size} {macs}{order and f', as {order}'}."),
    ]


def build(name: str) -> list[str]:
    given = case(name)
    (h, w), in_, out = given["grid"], given["in"], given["out"]
    argument = "" if h == w else f", grid=({h}, {w})"
    code = f"""import torch
from mobilevlm import build_projector

projector = build_projector("{name}", {in_}, {out})  # width in, width out
print(projector(torch.randn(1, {h * w}, {in_}){argument}).shape)"""
    printed = f"torch.Size([1, {plan_of(name).tokens_out}, {out}])"
    return ["## Build it", f"{fence('python', code)}\n{fence('text', printed)}"]


def is_refused(entry: Upstream) -> bool:
    return entry.read is not None and entry.read.__qualname__.startswith("refused.")


def places(pattern: str) -> list[str]:
    r"""The modules' names that a pattern of an upstream entry is for.

    >>> places(r"vision\.proj_mlp|(?:connector\.)?_connector"), places(r"list\.\d+")
    (['vision.proj_mlp', 'connector._connector', '_connector'], ['list.N'])
    """
    if choice := re.search(r"\(\?:([^()]*)\)(\??)", pattern):
        before, after = pattern[: choice.start()], pattern[choice.end() :]
        before, bar, start = before.rpartition("|")
        end, *later = after.split("|")
        each = [*choice[1].split("|"), *([""] if choice[2] else [])]
        found = [f"{start}{one}{end}" for one in each]
        return places("|".join([*([before] if bar else []), *found, *later]))
    return [one.replace("\\.", ".").replace("\\d+", "N") for one in pattern.split("|")]


def upstream_shapes(name: str, layout: str) -> dict[str, tuple[int, ...]]:
    """The shapes of what is built by default under a layout's names; none if it does not fit.

    Some layouts are for equal widths only.
    """
    given = case(name)
    for out in (given["out"], given["in"]):
        try:
            state = to_upstream(build_projector(name, given["in"], out, device="meta"), layout)
        except CheckpointError:
            continue
        return {key: tuple(tensor.shape) for key, tensor in state.items()}
    return {}


def unsaid(name: str, entry: Upstream) -> str:
    """What a config has to say because no tensor tells it; empty if nothing."""
    assert entry.read is not None
    config = {"model_type": "".join(entry.model_types[:1])}
    try:
        entry.read(Checkpoint(config, upstream_shapes(name, entry.layout), family=name))
    except CheckpointError as error:
        if error.hint.startswith("No tensor tells it"):
            path = error.where.removeprefix("config.json: ")
            return f"`config.json` has to say `{path}`, {error.expected}. {error.hint}"
    return ""


def load(name: str, cls: type[Preset]) -> list[str]:
    """Where checkpoints have its weights, and how they are loaded and converted."""
    read = [entry for entry in cls.upstream if entry.read is not None]
    parts = ["## Load and convert"]
    given = case(name)
    if read:
        parts += [
            "A layout is a set of names for its weights. They are recognised in these modules of a"
            " model:",
            table("layout | module | model types in `config.json`", map(place, cls.upstream)),
        ]
        if need := unsaid(name, read[0]):
            parts.append(wrapped(need))
        lines = [
            "from mobilevlm import load_projector, save_projector\n",
            f'projector = load_projector("{MODEL}")  # a folder, a file, or "hf://ORG/MODEL"',
            'save_projector(projector, "projector")',
        ]
    elif cls.upstream:
        layout = cls.upstream[0].layout
        parts.append(
            wrapped(
                f"Its weights have the names of `{layout}`, so no checkpoint says that it is this"
                " family. Say so, with its widths:"
            )
        )
        lines = [
            "from mobilevlm import load_projector, save_projector, spec_of\n",
            f'spec = spec_of("{name}", {given["in"]}, {given["out"]})',
            f'projector = load_projector("{MODEL}", spec=spec, module_names="{layout}")',
            'save_projector(projector, "projector")',
        ]
    else:
        parts.append(
            "It has no weights: what is saved says what it computes."
            if not plan_of(name).parameters
            else wrapped(
                "No layout of another project's checkpoints is known for it. It is saved and loaded"
                " under our names; for weights under others, give `load_projector` a `spec=` and"
                " `module_names=`."
            )
        )
        lines = [
            "from mobilevlm import build_projector, load_projector, save_projector\n",
            f'projector = build_projector("{name}", {given["in"]}, {given["out"]})',
            'save_projector(projector, "projector")',
            'projector = load_projector("projector")',
        ]
    parts.append(fence("python", "\n".join(lines)))
    return [*parts, *convert(name, cls, bool(read))]


def place(entry: Upstream) -> tuple[str, str, str]:
    where = [f"`{one}`" for one in places(entry.prefix)] if entry.prefix else ["the model itself"]
    modules, kinds = (
        listed(where, "or"),
        ", ".join(f"`{one}`" for one in entry.model_types) or "any",
    )
    if entry.read is None:
        modules, kinds = "-", "written, not recognised"
    elif is_refused(entry):
        kinds = f"{kinds}: refused, with the reason"
    elif entry.secondary:
        kinds = f"{kinds}, beside the main projector: give `root=`"
    return f"`{entry.layout}`", modules, kinds


def convert(name: str, cls: type[Preset], read: bool) -> list[str]:
    """The commands: to our format, and back to each upstream's names."""
    layouts = [each.layout for each in cls.upstream if upstream_shapes(name, each.layout)]
    commands = []
    if read:
        commands = [
            f"mobilevlm inspect {MODEL}  # what it holds",
            f"mobilevlm convert {MODEL} projector  # to our names",
        ]
    if layouts:
        back = f"mobilevlm convert projector upstream.safetensors --to {layouts[0]}"
        commands.append(f"{back}  # to upstream's")
    return [fence("sh", "\n".join(commands))] if commands else []


# ---------------------------------------------------------------------------- figures


def figures(name: str) -> list[str]:
    """What papers publish of it, beside the plan."""
    if not (rows := published(name)):
        return []
    return [
        "## Published figures",
        "Beside the plan of the same configuration; [papers.md](../papers.md) has all of them, and"
        " explains those that differ.",
        table("paper | published | here | as we say it | verdict", map(paper_row, rows)),
    ]


def paper_row(row: papers.Row) -> tuple[str, ...]:
    where = ", ".join(filter(None, (row.paper, row.place, row.what)))
    said = ", ".join(papers.figure(what, text) for what, text in row.published.items())
    here = ", ".join(
        papers.figure(what, papers.short(value))
        for what, value in row.values.items()
        if what in row.published
    )
    return where, said, here, str(row.setup), row.verdict


WORDS = {
    "golden vectors": "upstream's own code (recorded)",
    PLAIN: "upstream's computation written out in plain torch",
    f"its description in {PLAIN}": "its description written out in plain torch",
}


def parity(name: str) -> list[str]:
    found = compared(name)
    classes = [what for what in found if what.startswith("`")]
    against = [f"of {listed(classes)} (transformers)"] if classes else []
    against += [f"of {WORDS[what]}" for what in found if what not in classes]
    return [
        "## How it is checked",
        wrapped(
            f"Tests compare its outputs, with the same weights and inputs, with those"
            f" {listed(against)}. `mobilevlm vectors OUT {name}` writes test vectors for other"
            " implementations: [porting.md](../porting.md)."
        ),
    ]


def footer(name: str) -> list[str]:
    near = listed([f"[`{other}`]({other}.md)" for other in relatives(name)])
    kinds = kind(name)
    anchor = kinds.lower().replace(" ", "-")
    all_of = f"All of this kind: [{kinds}](../zoo.md#{anchor})"
    return [wrapped(f"Similar families: {near}. {all_of}. All families: [the zoo](../zoo.md).")]


def family_page(name: str) -> str:
    """The text of a family's page."""
    cls = families()[name]
    traps = paragraph(cls, "Traps")
    parts = [
        *head(name, cls),
        *chain(name),
        *options(name, cls),
        *names(cls),
        *(["## Traps", wrapped(sentence(markdown(traps, name)))] if traps else []),
        *plan(name),
        *build(name),
        *load(name, cls),
        *figures(name),
        *parity(name),
        *footer(name),
    ]
    return "\n\n".join(parts) + "\n"
