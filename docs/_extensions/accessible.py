"""What the theme leaves out for those who read with a keyboard or a screen reader."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["setup"]

# What scrolls is reached by keyboard.
SCROLLS = re.compile(r'<(pre|div(?= class="table-wrapper| style="overflow-x))')
# A signature's arguments, one a line: a list of definitions that has no terms.
ARGUMENTS = re.compile(r"<dl>(\s*(?:<dd>.*?</dd>\s*)+)</dl>", re.DOTALL)


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], document: object) -> None:
    """Mend a page's HTML before it is written."""
    headings = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = headings.replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )
    if "body" in context:
        body = SCROLLS.sub(r'<\1 tabindex="0"', context["body"])
        context["body"] = ARGUMENTS.sub(_as_spans, body)


def _as_spans(found: re.Match[str]) -> str:
    lines = found[1].replace("<dd>", '<span class="argument">').replace("</dd>", "</span>")
    return lines.strip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("html-page-context", mend, priority=900)  # after the theme
    return {"parallel_read_safe": True, "parallel_write_safe": True}
