"""The page about `zeta/table.json`.

``python tools/zeta_page.py`` writes `docs/zeta.md`; it needs no zetascale.
"""

from fractions import Fraction
from pathlib import Path

from mobilevlm.zeta.table import Option, Row, Table, table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "zeta.md"

HEAD = """# Zeta's modules as blocks

With the extra `zeta` (in a clone: `pip install -c constraints-zeta.txt ".[zeta]"`), {works} of the
{all} modules of `zeta.nn` (zetascale {version}) are usable in any document:
`{{"type": "zeta-...", ...}}`. The keys are the module's own arguments. Its width is never written:
it is the one that comes in; where a module takes the width that goes out, that is `out`, as in
every block. Documents are read, checked and planned by a fixed table, so zetascale is imported when
the first module is built, and not before.

The table and this page are made by running every module (`tools/zeta_probe.py`), on CPU, at two
widths, on four grids, in batches of 1 to 3 and at a thousandth of unit scale. A module works if, in
eval mode, it gives one finite feature, the same twice, for each image by itself, changes neither
its input nor itself nor torch's settings, and prints nothing; builds and runs on the meta device;
moves, copies, pickles and loads from its state dict; trains; exports, and compiles in one graph. An
argument is an option if another value of it passes the same tests, at one width. That a module
works says nothing about whether it computes what its name promises: `zeta-simple-rnn`, for one, is
a tanh.

## Those that work

*Takes* says what the module itself sees: tokens `(b, n, c)`, lines `(b, c, n)`, a map
`(b, c, h, w)` or a video of one frame `(b, c, 1, h, w)`. *Tokens meet* where what a token becomes
depends on the others, or on its place. An option without a value must be given. *Notes* name what
is no condition: whether it runs in bf16, and how many parameters never get a gradient.

| block | module | takes | width | tokens meet | options | notes |
|---|---|---|---|---|---|---|
"""

OTHERS = """
## Those that do not

| module | why |
|---|---|
"""


def page(found: Table) -> str:
    """Return the page of a table."""
    works, others = found.blocks, found.others
    head = HEAD.format(works=len(works), all=len(works) + len(others), version=found.version)
    rows = [line(name, *cells(row)) for name, row in works.items()]
    rest = [f"| `{signature}` | {escaped(why)} |\n" for signature, why in others.values()]
    return head + "".join(rows) + OTHERS + "".join(rest)


def line(name: str, *rest: str) -> str:
    return f"| `{name}` | {' | '.join(rest)} |\n"


def cells(row: Row) -> list[str]:
    width = "`out`" if row.out else "same" if row.ratio == (1, 1) else f"x {ratio(row.ratio)}"
    notes = [
        *["no bf16"] * (not row.bf16),
        *[f"{row.idle} parameters get no gradient"] * bool(row.idle),
        *[f"sides x {ratio(row.sides)}"] * (row.sides != (1, 1)),
        *["self-attention: is given the feature for each input"] * (row.inputs > 1),
        *["the first of what it gives"] * row.first,
    ]
    options = [f"`{written(name, option)}`" for name, option in row.options.items()]
    return [
        f"`{row.module}`",
        row.layout,
        width,
        "yes" if row.mixes_tokens else "no",
        ", ".join(options) or "-",
        "; ".join(notes) or "-",
    ]


def ratio(pair: tuple[int, int]) -> str:
    return str(Fraction(*pair))


def written(name: str, option: Option) -> str:
    return name if option.required else f"{name}={option.default!r}"


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(page(table()), "utf-8")
