"""What is known of each family: read off its class, and off what tests compare it with."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

import papers
from helpers.golden import GOLDEN
from index import families, models, standard_plan
from published.terms import Row
from reference import attention, more_families, zoo
from torch import nn

from mobilevlm import Plan, Preset
from mobilevlm.projectors.docstrings import paragraph, paragraphs
from mobilevlm.projectors.index import aliases

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
        if not (match or PAPER.fullmatch(item)):
            raise ValueError(f"{cls.__name__}: {item!r} is no source")
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


@cache
def marks() -> Sequence[tuple[str, str]]:
    """What tests are marked with: ``@pytest.mark.compares(name, original)``."""
    found = []
    for path in (ROOT / "tests/projectors/zoo").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.compares":
                name, original = map(ast.literal_eval, node.args)
                found.append((name, original))
    return found


def family_of(name: str) -> str:
    """The family that a name belongs to, which may be its own."""
    return aliases().get(name, (name,))[0]


@cache
def compared(name: str) -> Sequence[str]:
    """What the tests compare a family with, from the tests' own tables and marks; classes first."""
    cases = (zoo.CASES | attention.CASES | more_families.CASES).values()
    built = [case.build() for case in cases if family_of(case.preset) == name]
    found = [what for module in built for what in compared_with(module)]
    found += ["golden vectors" for path in GOLDEN.iterdir() if family_of(path.stem) == name]
    found += [original for other, original in marks() if family_of(other) == name]
    return sorted(dict.fromkeys(found), key=lambda what: not what.startswith("`"))


# ---------------------------------------------------------------------------- chains and figures


# The names of classes, of which some compute a part of a projector.
CLASS = re.compile(r"(?:[A-Z][a-z0-9]+){3,}")


def models_of(cls: type[Preset]) -> dict[str, Mapping[str, Any]]:
    """The models that use a family, by the names that people write."""
    return {name: given for name, given in cls.models.items() if not CLASS.fullmatch(name)}


@cache
def plan_of(name: str) -> Plan:
    """The plan of a family for the widths and the grid of the tables."""
    return standard_plan(name)


def types(blocks: Any) -> Iterator[str]:
    """The types of a document's blocks and of those inside them, in order."""
    for block in blocks:
        if isinstance(block, Mapping):
            yield block["type"]
            for value in block.values():
                if isinstance(value, list | tuple):
                    yield from types(value)
        elif isinstance(block, list | tuple):
            yield from types(block)


@cache
def block_types(name: str) -> Sequence[str]:
    """The types of the blocks of a family, in order."""
    return [*types(plan_of(name).stack.model_dump()["blocks"])]


LINEAR, MERGES, CONVOLUTIONS = "Linear layers on every token", "Merges of windows", "Convolutions"
POOLS, QUERIES, OTHERS = "Pools", "Queries and attention", "Others"
KINDS = {
    LINEAR: "As many tokens come out as enter, each by itself. The grid does not matter.",
    MERGES: "The tokens of each window are joined on channels, and linear layers follow: pixel"
    " shuffle, space to depth, patch merger.",
    CONVOLUTIONS: "Convolutions mix neighbouring tokens, and those with a stride leave fewer.",
    POOLS: "Each window of tokens is averaged, or scaled down.",
    QUERIES: "Learned queries, or one query for each window, read the tokens by attention.",
    OTHERS: "They add positions or further tokens, and leave out none.",
}
# A family is of the first kind whose blocks are in its chain.
BLOCKS = {
    QUERIES: {
        *("attention-pool", "cross-attention", "qformer", "query-resampler"),
        *("region-attention", "resampler"),
    },
    CONVOLUTIONS: {"conv", "depthwise", "depthwise-residual"},
    MERGES: {"patch-merge"},
    POOLS: {"pool"},
}


def kind(name: str) -> str:
    """The kind of a family, by the blocks that it is made of."""
    for title, blocks in BLOCKS.items():
        if blocks & set(block_types(name)):
            return title
    return OTHERS if plan_of(name).stack.needs_grid else LINEAR


def relatives(name: str) -> list[str]:
    """The families that the docstring names, and those of the most similar chains; at most 4."""
    text = " ".join(paragraphs(families()[name]))
    named = [other for other in re.findall(r"(?<!`)`([\w.-]+)`", text) if other in families()]
    like = {
        other: SequenceMatcher(None, block_types(name), block_types(other)).ratio()
        for other in families()
        if kind(other) == kind(name)
    }
    by_likeness = sorted(like, key=lambda other: (-like[other], other))
    found = dict.fromkeys([*named, *by_likeness])
    return [other for other in found if other != name][:4]


def published(name: str) -> list[Row]:
    """The rows of docs/papers.md that a family computes; of a setup, the one that says most."""
    found: dict[str, Row] = {}
    for row in (row for _, each in papers.TABLES.values() for row in each):
        if row.setup is None or family_of(row.setup.said) != name:
            continue
        before = found.setdefault(str(row.setup), row)
        if len(row.published) > len(before.published):
            found[str(row.setup)] = row
    return [*found.values()]
