"""What the pages say of each family: read off its class, and off what tests compare it with."""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.golden import GOLDEN
from index import families, models, standard_plan
from reference import attention, more_families, zoo

from mobilevlm import PROJECTORS, Preset, load_spec, plan_projector
from mobilevlm.projectors.docstrings import attributes, paragraph, paragraphs

ROOT = Path(__file__).parents[1]
# A source: a repository, a path in it (below src/transformers for that one) and the classes or
# functions there; or a paper.
TRANSFORMERS = "huggingface/transformers"
IN_REPOSITORY = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+), ``(?P<path>[\w./-]+)``"
    r"(?: \((?P<names>`[\w.]+`(?:, `[\w.]+`)*)\))?"
)
PLAIN = "plain torch"
PAPER = re.compile(r'\w+ et al\., "[^"]+", \d{4}')


# ---------------------------------------------------------------------------- docstrings


def first_line(cls: type) -> str:
    """A docstring's first sentence, as one line that fits a table."""
    return paragraphs(cls)[0].removesuffix(".").replace("``", "`").replace("|", "\\|")


def used_by(cls: type[Preset]) -> str:
    """The models that use a family, for a cell of a table."""
    return (models(cls) or "-").replace("``", "`").replace("|", "\\|")


def sources(cls: type) -> list[re.Match[str] | str]:
    """The sources that the docstring names: matches of `IN_REPOSITORY`, or papers."""
    found: list[re.Match[str] | str] = []
    for item in paragraph(cls, "Source").removesuffix(".").split("; "):
        match = IN_REPOSITORY.fullmatch(item)
        assert match or PAPER.fullmatch(item), f"{cls.__name__}: {item!r} is no source"
        found.append(match or item)
    return found


# ---------------------------------------------------------------------------- comparisons


def originals(module: nn.Module) -> Iterator[str]:
    """The classes of transformers that a test's original is made of, and what is not theirs."""
    cls = type(module)
    theirs = cls.__module__.startswith("transformers.models.")
    if theirs:
        yield f"`{cls.__name__}`"
    elif list(module.parameters(recurse=False)):
        yield PLAIN
    for child in module.children():  # of theirs only what the test adds
        if not theirs or type(child).__name__ not in inspect.getsource(cls):
            yield from originals(child)


def compared_with(module: nn.Module) -> list[str]:
    """The classes first, each once."""
    return sorted(dict.fromkeys(originals(module)), key=PLAIN.__eq__)


def marks() -> Iterator[tuple[str, str]]:
    """What tests are marked with: ``@pytest.mark.compares(name, original)``."""
    for path in (ROOT / "tests/projectors/zoo").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.compares":
                name, original = map(ast.literal_eval, node.args)
                yield name, original


def checked_against() -> dict[str, list[str]]:
    """What the tests compare each family with, from the tests' own tables and marks."""
    found: dict[type, list[str]] = {cls: [] for cls in families().values()}

    def add(name: str, *references: str) -> None:
        thing = PROJECTORS.get(name)
        found[thing if isinstance(thing, type) else type(thing)] += references

    for case in (zoo.CASES | attention.CASES | more_families.CASES).values():
        add(case.preset, *compared_with(case.build()))
    for path in GOLDEN.iterdir():
        add(path.stem, "golden vectors")
    for name, original in marks():
        add(name, original)
    return {
        name: sorted(dict.fromkeys(found[cls]), key=lambda what: not what.startswith("`"))
        for name, cls in families().items()
    }


# ---------------------------------------------------------------------------- tables and pages


def rows(*cells: tuple[str, ...]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in cells]


def shortened(references: list[str], cls: type[Preset]) -> str:
    """One class, of those that the docstring names if any, and how many more; the rest in full."""
    classes = [what for what in references if what.startswith("`")]
    classes.sort(key=lambda what: what not in (cls.__doc__ or ""))
    more = [f"{classes[0]} and {len(classes) - 1} more"] if len(classes) > 1 else classes
    return "; ".join([*more, *references[len(classes) :]])


def zoo_rows() -> list[str]:
    """One row per family."""
    checked = checked_against()
    return rows(
        *(
            (
                f"[`{name}`](docs/zoo.md#{name})",
                used_by(cls),
                f"{plan.tokens_in} -> {plan.tokens_out}",
                f"{plan.parameters:,}",
                plan.table()[1][-1][-1],
                shortened(checked[name], cls),
                source_cell(cls),
            )
            for name, cls in families().items()
            for plan in [standard_plan(name)]
        )
    )


def source_cell(cls: type[Preset]) -> str:
    """Repositories with their paths, and papers; of transformers, a model's folder will do."""
    places: dict[str, list[str]] = {}
    for source in sources(cls):
        if isinstance(source, str):
            places[source] = []
            continue
        repository, path = source["repository"], source["path"]
        if repository == TRANSFORMERS:
            repository, path = "transformers", path.rpartition("/")[0]
        places.setdefault(repository, []).append(f"`{path}`")
    return "; ".join(f"{place} {', '.join(paths)}".strip() for place, paths in places.items())


def zoo_page() -> str:
    """One section per family: what it computes, its options, names, traps and sources."""
    checked = checked_against()
    sections = [
        "# The zoo\n\nWhat each family of the README's table computes, its options, and the traps"
        " in which a\nreimplementation falls. `mobilevlm show NAME in=.. out=.. grid=..` prints its"
        " blocks. What papers\npublish of them is in [papers.md](papers.md), beside the plan. This"
        " page is written by\n`python tools/readme.py` from the code.\n"
    ]
    for name, cls in families().items():
        lines = [f"## {name}"]
        also = [f"`{other}`" for other in cls.aliases]
        lines += [part.replace("``", "`") for part in paragraphs(cls)]
        if also:
            lines.append(f"Other names: {', '.join(also)}.")
        lines.append(f"Checked against: {', '.join(checked[name])}.")
        said = attributes(cls)
        if missing := sorted(cls.model_fields.keys() - said.keys() - {"prefix_tokens"}):
            raise SystemExit(f"{name}: describe {missing[0]!r} under Attributes: in {cls.__name__}")
        options = rows(
            *(
                (f"`{option}`", f"`{json.dumps(field.default)}`", said[option].replace("``", "`"))
                for option, field in cls.model_fields.items()
                if option != "prefix_tokens"
            )
        )
        if options:
            lines.append(
                "\n".join(["| option | default | what it is |", "|---|---|---|", *options])
            )
        sections.append("\n\n".join(lines) + "\n")
    return "\n".join(sections)


def document_rows() -> list[str]:
    """One row per example document."""
    found = []
    for path in sorted((ROOT / "examples" / "documents").glob("*.json")):
        stack = load_spec(path)
        plan = plan_projector(stack, grid=(24, 24))
        cells = (
            f"[`{path.name}`](../examples/documents/{path.name})",
            f"[`{path.stem}`](zoo.md#{path.stem})",
            f"{stack.in_} -> {stack.out}",
            f"{plan.tokens_in} -> {plan.tokens_out}",
            f"{plan.parameters:,}",
        )
        found.append(cells)
    return rows(*found)
