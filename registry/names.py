"""Names: the rules for them, suggestions for misspelt ones, and text that is safe to print."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "DISTRIBUTION_NAME",
    "describe_error",
    "did_you_mean",
    "first_line",
    "normalize",
    "normalize_distribution",
    "parse",
    "printable",
    "quote",
]

MAX_LENGTH = 64
RULE = f"lower-case ASCII letters, digits and '-', starting with a letter, at most {MAX_LENGTH}"

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
DISTRIBUTION_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?", re.ASCII | re.IGNORECASE)


def normalize(name: object) -> str | None:
    r"""Return the one spelling of a short name (``_`` reads as ``-``), or None if it is invalid.

    >>> normalize("norm_act")
    'norm-act'
    >>> normalize("Norm-Act") is normalize("ldp\n") is None
    True
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name.replace("_", "-")
    return None


def normalize_distribution(name: str) -> str:
    """Return a distribution's name as package indexes compare it (PEP 503).

    >>> normalize_distribution("Acme.Blocks")
    'acme-blocks'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(name: object) -> tuple[str | None, str] | None:
    """Split ``gate`` or ``acme-blocks/gate`` into (distribution or None, short name).

    >>> parse("Acme_Blocks/gate"), parse("gate"), parse("../gate")
    (('acme-blocks', 'gate'), (None, 'gate'), None)
    """
    if not isinstance(name, str):
        return None
    distribution, slash, short = name.rpartition("/")
    canonical = normalize(short)
    if canonical is None:
        return None
    if not slash:
        return None, canonical
    if not DISTRIBUTION_NAME.fullmatch(distribution):
        return None
    return normalize_distribution(distribution), canonical


def quote(value: object, limit: int = 80) -> str:
    r"""Return any value on one short line of ASCII, so that look-alike letters can be told apart.

    >>> quote("ldp\n"), quote("\u0430")
    ("'ldp\\n'", "'\\u0430'")
    """
    try:
        text = ascii(value)
    except Exception:  # integers of over 4,300 digits, deep containers, third-party __repr__
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first line of an exception's message, as any terminal can print it."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # third-party __str__
        lines = []
    line = printable(lines[0]) if lines else "no message"
    return line if len(line) <= limit else line[: limit - 3] + "..."


def describe_error(error: BaseException) -> str:
    r"""Return an exception on one line: its type, and the first line of its message.

    >>> describe_error(ValueError("not\nso"))
    'ValueError: not'
    """
    return f"{type(error).__name__}: {first_line(error)}"


def printable(text: object, keep: str = "") -> str:
    r"""Return text as any terminal can print it: letters stay, control characters are escaped.

    >>> printable("f\u00fcr\n"), printable("a\ud800b")
    ('f\xfcr\\n', 'a\\ud800b')
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text
    )


def did_you_mean(name: object, candidates: Iterable[str]) -> str:
    """Return "Did you mean 'x' or 'y'?" for the nearest candidates, or an empty string.

    >>> did_you_mean("lpd", ["mlp", "ldp", "linear"])
    "Did you mean 'ldp' or 'mlp'?"
    """
    if not isinstance(name, str) or not name or len(name) > 2 * MAX_LENGTH:
        return ""
    wanted = name.lower().replace("_", "-")
    known = {each.lower().replace("_", "-"): each for each in candidates}
    limit = max(1, len(wanted) // 3)
    # The distance is at least the difference in length.
    alike = [key for key in known if abs(len(key) - len(wanted)) <= limit]
    near = sorted((_distance(wanted, key), key) for key in alike)
    close = [key for distance, key in near if distance <= limit]
    # difflib finds what an edit distance misses: a word left out, as in "depthwise-res".
    close += [key for key in difflib.get_close_matches(wanted, known) if key not in close]
    if not close:
        return ""
    best = [repr(known[key]) for key in close[: 1 if close[0] == wanted else 2]]
    return f"Did you mean {' or '.join(best)}?"


def _distance(a: str, b: str) -> int:
    """Edit distance in which swapping two neighbours counts as one edit."""
    before: list[int] = []
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        current = [i]
        for j, y in enumerate(b, 1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]
