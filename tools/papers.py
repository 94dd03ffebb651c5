"""Compare figures that papers publish with the plans of the same configurations.

python tools/papers.py           writes docs/papers.md
python tools/papers.py --check   recomputes every row; fails if one is neither equal nor explained,
                                 or if the page is out of date
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from published import parameters, tokens, work
from published.sources import PAPERS
from published.terms import PIECES, Block, Row

PAGE = Path(__file__).parents[1] / "docs" / "papers.md"
# The questions, with what must be known of their tables.
TABLES = {
    "How many parameters": (
        "Of the projector alone, unless a sentence says otherwise.",
        parameters.ROWS,
    ),
    "How many tokens": (
        "The papers print no parameters for these rows. Where a row sets the number of queries,"
        " the tokens\nare what was asked for.",
        tokens.ROWS,
    ),
    "How much work, and how long": (
        "FLOPs are those of the language model for the image's tokens alone, as `read_lm` counts"
        " them: two a MAC,\nattention over every pair of tokens, logits for the last token."
        f"\n{work.third_convention()}\nMilliseconds (ms) are of one token that comes out: the time"
        " of an image on llama.cpp's page, by its\ntokens.",
        work.ROWS,
    ),
}
HEAD = (
    *("paper", "place", "row", "as we say it", "published", "here", "tokens", "parameters", "MACs"),
    *("as run", "score", "verdict"),
)
READ = {
    "text": "read in its text",
    "quoted": "read where others quote it",
    "notes": "from a summary, not read in the paper",
}


def short(count: float) -> str:
    """Write a number with four digits, and a count below a billion in full.

    >>> short(6_660_685_824), short(6_316_032), short(28.67)
    ('6.661 G', '6,316,032', '28.67')
    """
    for unit, letter in ((10**12, "T"), (10**9, "G")):
        if count >= unit:
            return f"{count / unit:.4g} {letter}"
    return f"{count:,}" if isinstance(count, int) else f"{count:.4g}"


def figure(what: str, text: str) -> str:
    """Write a figure with what it is, where that does not go without saying."""
    if what in ("parameters", "ratio"):
        return text
    return f"{text}{what}" if what == "FLOPs" else f"{text} {what}"


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the page."""
    published = [figure(what, text) for what, text in row.published.items()]
    here = {what: short(value) for what, value in row.values.items()}
    tokens, parameters = here.pop("tokens", ""), here.pop("parameters", "")
    plan = row.setup.plan if row.setup is not None else None
    macs, run = (plan.macs, plan.macs_run) if plan is not None else (None, None)
    return (
        row.paper,
        row.place,
        row.what,
        str(row.setup or ""),
        ", ".join(published),
        ", ".join(figure(what, text) for what, text in here.items()),
        tokens,
        parameters,
        "" if macs is None else f"{macs / 1e9:.2f} G",
        "" if run is None else f"{run / 1e9:.2f} G",
        row.score,
        row.verdict if row.verdict == "equal" else f"**{row.verdict}**",
    )


def table(rows: Iterable[Sequence[str]]) -> str:
    """Write rows as a table, without the columns that are empty in all of them."""
    found = list(rows)
    kept = [i for i, _ in enumerate(HEAD) if any(row[i] for row in found)]
    lines = [[HEAD[i] for i in kept], *([row[i] or "-" for i in kept] for row in found)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, f"|{'---|' * len(kept)}", *body])


def sentences(rows: Iterable[Row]) -> str:
    """Write what must be said of rows; a sentence that is about several stands once."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.needs:
            text = f"Cannot be said yet: it needs {row.needs}."
        elif row.why is not None:
            text = row.why.sentence
        else:
            continue
        said.setdefault((row.paper, row.place, text), []).append(row.what)
    return "\n".join(
        f"- *{paper}{place and f', {place}'}, {'; '.join(names)}:* {text}"
        for (paper, place, text), names in said.items()
    )


def written(block: Block) -> str:
    """Write a block of a document: ``pool(stride=2)``."""
    fields = [
        " > ".join(map(written, value))
        if key == "body"
        else f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in block.items()
        if key != "type"
    ]
    return f"{block['type']}({', '.join(fields)})" if fields else str(block["type"])


def pieces(rows: Iterable[Row]) -> str:
    """List the pieces that the chains of rows are made of."""
    used = [piece for row in rows if row.setup is not None for piece in row.setup.pieces]
    return "\n".join(
        f"- `{piece}` is `{' > '.join(map(written, PIECES[piece]))}`"
        for piece in dict.fromkeys(used)
    )


def page(tables: Mapping[str, tuple[str, Sequence[Row]]]) -> str:
    """Return the text of docs/papers.md."""
    rows = [row for _, each in tables.values() for row in each]
    count = Counter(row.verdict for row in rows)
    parts = [
        f"""# Published figures

What papers publish of projectors, beside what the plan says of the same configuration:
{len(rows)} rows, {count["equal"]} equal, {count["explained"]} explained, {count["differs"]} that \
differ, and {count["cannot be said yet"]} that no family can say yet.
`python tools/papers.py` writes this page, and with `--check` recomputes every row.

*Equal* means: rounded to the digits published, it is the published figure. Tokens are exact, and
the zero at the end of a figure such as 740 M is not such a digit. *Explained* means: it is the
published figure if one counts as the sentence below the table says. Tokens, parameters and MACs are
the plan's: MACs of the projector as written, and as it runs here. Scores are the papers' own, for
information: averages or, for MobileVLM, GQA.
"""
    ]
    for question, (note, each) in tables.items():
        parts.append(f"## {question}\n\n{note}\n\n{table(map(cells, each))}\n\n{sentences(each)}\n")
    listed = (f"- {each.name}: [{each.source}]({each.url}), {READ[each.read]}." for each in PAPERS)
    parts.append(f"## Pieces of the chains\n\n{pieces(rows)}\n")
    parts.append("## Sources\n\n" + "\n".join(listed) + "\n")
    return "\n".join(parts)


def problems(tables: Mapping[str, tuple[str, Sequence[Row]]]) -> list[str]:
    """Return what is wrong with the rows."""
    return [text for _, rows in tables.values() for row in rows for text in row.problems()]


def main(words: Sequence[str] | None = None) -> None:
    """Write the page, or check it and the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where wrong")
    given = parser.parse_args(words)
    if found := problems(TABLES):
        parser.exit(1, "\n".join(found) + "\n")
    if not given.check:
        PAGE.write_text(page(TABLES), "utf-8")
    elif PAGE.read_text("utf-8") != page(TABLES):
        parser.exit(1, "docs/papers.md is out of date: run python tools/papers.py\n")


if __name__ == "__main__":
    main()
