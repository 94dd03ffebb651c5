"""Write the pages of the zoo: docs/zoo.md, and one for each family in docs/zoo/.

python tools/zoo_page.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from family_facts import KINDS, kind, models_of, plan_of, used_by
from family_page import family_page, markdown, table, wrapped
from helpers import torchvision_operators
from index import families

from mobilevlm import Preset, load_spec, plan_projector
from mobilevlm.projectors.docstrings import paragraphs
from mobilevlm.projectors.table import short_count

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "zoo.md"
FOLDER = ROOT / "docs" / "zoo"


def family_row(name: str, cls: type[Preset]) -> tuple[str, ...]:
    """A family's row of the index; its anchor is where its section was."""
    plan = plan_of(name)
    summary = markdown(paragraphs(cls)[0], name).replace("](", "](zoo/").removesuffix(".")
    return (
        f'<a id="{name}"></a>[`{name}`](zoo/{name}.md)',
        ", ".join(models_of(cls)) or used_by(cls),
        summary.replace("|", "\\|"),
        f"{plan.tokens_in} -> {plan.tokens_out}",
        f"{plan.parameters:,}",
        short_count(plan.macs_run),
    )


INTRODUCTION = (
    "{count} families of projectors, one page for each: its chain with shapes, its options, the"
    " models that use it, the traps in which a reimplementation falls, how to build, load and"
    " convert it, and its figures. `mobilevlm list SmolVLM` finds a family by the name of a model,"
    " `mobilevlm info NAME` prints what is known of it, and [compare.md](compare.md) says how to"
    " choose one. `python tools/zoo_page.py` writes these pages from the code."
)
CASES = (
    "Tokens, parameters and MACs are those of one image at 1024 -> 2048 on 24x24 tokens, with all"
    " options at their defaults. `identity` is taken at 2048 -> 2048, `token-packer` at"
    " 4096 -> 2048, as it reads four levels of a tower, and `voxtral` on 576 frames of sound in a"
    " row; `fuyu` and `gemma4-unified` read pixels. MACs are counted as they run here: a pool that"
    " may stand before a linear layer runs before it. A family's page has them as written too."
)
NOTATION = (
    "`A > B` is A, then B. Brackets hold a part: one that some models leave out, one that is"
    " repeated (`[A] x n`), or one with a skip. `x + A` adds the input to what comes out of A.",
    "`LN` is a LayerNorm, `act` an activation, `conv` a convolution, `SwiGLU` a gated linear"
    " layer. The weight of an `RMS norm (1 + w)` is stored minus one.",
    "`merge 2x2` joins the four tokens of a window on channels: `hwc` one token after the other,"
    " `chw` one channel after the other, as `unfold` does.",
)


def zoo_page() -> str:
    """The index: a table for each kind of projector, a row for each family."""
    head = "family | models | what it computes | tokens | parameters | MACs"
    parts = [
        "# The zoo",
        wrapped(INTRODUCTION.format(count=len(families()))),
        "## How to read it",
        wrapped(CASES),
        "\n".join(wrapped(text, "- ") for text in NOTATION),
    ]
    for title, text in KINDS.items():
        found = [family_row(name, cls) for name, cls in families().items() if kind(name) == title]
        parts += [f"## {title}", wrapped(text), table(head, found)]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """All pages, by their files."""
    return {INDEX: zoo_page()} | {FOLDER / f"{name}.md": family_page(name) for name in families()}


def document_rows() -> list[str]:
    """One row per example document."""
    found = []
    for path in sorted((ROOT / "examples" / "documents").glob("*.json")):
        stack = load_spec(path)
        plan = plan_projector(stack, grid=(24, 24))
        cells = (
            f"[`{path.name}`](../examples/documents/{path.name})",
            f"[`{path.stem}`](zoo/{path.stem}.md)",
            f"{stack.in_} -> {stack.out}",
            f"{plan.tokens_in} -> {plan.tokens_out}",
            f"{plan.parameters:,}",
        )
        found.append(cells)
    return [f"| {' | '.join(row)} |" for row in found]


def main() -> None:
    """Write the pages, and remove those of families that are gone."""
    torchvision_operators.declare()
    found = pages()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path not in found:
            path.unlink()
    for path, text in found.items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
