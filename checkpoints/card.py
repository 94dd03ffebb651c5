"""The model card of a saved projector: what it is, its plan, its source, and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from ..blocks.core.block import label
from ..blocks.core.feature import Grid
from ..projectors.document import MAX_BYTES
from ..projectors.files import open_regular
from ..projectors.matching import matching_preset
from ..projectors.plan import Plan
from ..projectors.projector import Projector
from ..registry import MobileVLMError, printable
from ..registry.requirements import OWN, clone_first, install_own
from .source import MARK, Source, read_card, source_of

__all__ = ["card_title", "describes_another", "is_card", "model_card"]

_GRID = (24, 24)  # that is stated for a projector without a grid of its own
_TAGS = (OWN, "projector", "vision-language")
_UNSEALED = "0" * 64


def model_card(projector: Projector, source: Source | None = None, address: str = "") -> str:
    """Return the model card of a projector, in Markdown; of the same projector the same text.

    Args:
        projector: The projector.
        source: Where its weights came from; default: what the projector says.
        address: What `load_projector` is to be given; empty for the folder that the card is in.
    """
    source = source_of(projector) if source is None else source
    plan = _plan(projector)
    parts = [
        _front_matter(source),
        f"<!-- mobilevlm card {_UNSEALED} {source.dump()} -->",
        f"\n# {_code(_name(projector, source))}, {_widths(projector)}\n",
        "A vision-language projector, the module between a vision encoder and a language model, "
        f"written by `{OWN}`. `config.json` describes it, `model.safetensors` holds its weights "
        "and that description.\n",
        *_facts(projector, plan, source),
        *_table(plan),
        *_loading(projector, plan, address),
    ]
    card = "\n".join(parts) + "\n"
    return card.replace(_UNSEALED, _digest(card), 1)


def card_title(projector: Projector, source: Source) -> str:
    """Return the name of a projector and its widths: ``ldp, 1024 -> 2048``."""
    return f"{printable(_name(projector, source))}, {_widths(projector)}"


def _name(projector: Projector, source: Source) -> str:
    return source.family or matching_preset(projector.spec) or "projector"


def _widths(projector: Projector) -> str:
    return f"{projector.spec.in_} -> {projector.spec.out}"


def is_card(path: Path) -> bool:
    """Return whether a file is a model card as this library wrote it, and was not edited since."""
    try:
        with open_regular(path) as file:
            card = file.read(MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    mark = MARK.search(card)
    return mark is not None and _digest(card.replace(mark[1], _UNSEALED, 1)) == mark[1]


def describes_another(folder: Path, card: str) -> bool:
    """Return whether a folder has a card of this library's that does not name this projector."""
    there = read_card(folder)
    title = next(line for line in card.splitlines() if line.startswith("# "))
    return MARK.search(there) is not None and title not in there.splitlines()


def _digest(card: str) -> str:
    return sha256(card.encode("utf-8")).hexdigest()


def _front_matter(source: Source) -> str:
    """Return the YAML that the hub reads; its texts are JSON's, which YAML reads alike."""
    facts = {"license": source.licence, "base_model": source.name if source.on_hub else ""}
    lines = [f"{key}: {json.dumps(text)}" for key, text in facts.items() if text]
    tags = [f"- {tag}" for tag in _TAGS]
    return "\n".join(["---", f"library_name: {OWN}", *lines, "tags:", *tags, "---"])


def _facts(projector: Projector, plan: Plan | None, source: Source) -> Iterator[str]:
    """Yield the facts of a projector as a list."""
    spec = projector.spec
    yield f"- Blocks: {', '.join(_code(label(block)) for block in spec.blocks)}"
    if plan is not None:
        tokens = f"{plan.tokens_in or 'n'} -> {plan.tokens_out or 'm'}"
        where = "" if plan.grid is None else f" on a grid of {_sides(plan.grid)}"
        yield f"- Tokens: {tokens}{where}"
        yield f"- Parameters: {plan.parameters:,}"
    if spec.prefix_tokens:
        yield f"- Prefix tokens, which it drops: {spec.prefix_tokens}"
    if spec.token_order != "raster":
        yield f"- Order of the input tokens: {_code(spec.token_order)}"
    yield f"- Source: {_origin(source)}"
    yield f"- Licence: {_licence(source)}\n"


def _origin(source: Source) -> str:
    """Return where the weights came from, in a sentence."""
    parts = [
        ("", source.name),
        ("revision ", source.revision),
        ("family ", source.family),
        ("tensors under ", source.root),
    ]
    known = ", ".join(what + _code(text) for what, text in parts if text)
    if not known:
        return "not recorded"
    return f"read from {known}. What was changed since is not recorded."


def _licence(source: Source) -> str:
    if source.licence:
        return _code(source.licence)
    if source == Source():
        return "not stated"
    return "that of the source's weights, which is not known here"


def _table(plan: Plan | None) -> Iterator[str]:
    """Yield the plan as `mobilevlm show` prints it."""
    if plan is not None:
        grid = "" if plan.grid is None else f", for a grid of {_sides(plan.grid)}"
        yield f"## Plan{grid}\n\n```text\n{plan}\n```\n"


def _loading(projector: Projector, plan: Plan | None, address: str) -> Iterator[str]:
    """Yield how to load and call the projector."""
    spec = projector.spec
    own = projector.grid  # it may size a learned table, so it has to be known before
    given = "" if own is None else f", grid={own}"
    grid = plan.grid if plan is not None and plan.grid is not None else "(h, w)"
    call = f"projector(x, grid={grid})" if own is None and spec.needs_grid else "projector(x)"
    before, after = ("n", "m") if plan is None else (plan.tokens_in, plan.tokens_out)
    if isinstance(before, int):
        before += spec.prefix_tokens
    shapes = f"(b, {before or 'n'}, {spec.in_}) -> (b, {after or 'm'}, {spec.out})"
    install = install_own("hub" if address else "")
    place = json.dumps(address or "FOLDER")
    run = clone_first(f"In a clone of `{OWN}` run") or "Run"
    yield f"## Load\n\n{run} `{install}`, then:\n"
    yield "```python"
    yield f"from {OWN} import load_projector\n"
    yield f"projector = load_projector({place}{given})"
    yield f"y = {call}  # {shapes}"
    yield "```"


def _plan(projector: Projector) -> Plan | None:
    """Return a plan that can be printed, for a grid if the blocks take it; else None.

    A block's module may not run without values, and a plan of it then has no MACs.
    """
    for grid in (projector.grid or _GRID, None):
        try:
            plan = Plan(projector.spec, grid, max_parameters=projector.max_parameters)
            str(plan)
        except MobileVLMError:
            continue
        return plan
    return None


def _sides(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


def _code(text: str) -> str:
    """Return text as Markdown's code, on one line."""
    return f"`{re.sub('`+', ' ', printable(text))}`"
