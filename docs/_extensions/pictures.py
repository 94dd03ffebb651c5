"""A picture with a dark one beside it, `NAME-dark.svg`, is shown to each reader in their theme."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["by_theme", "setup"]

PICTURE = re.compile(r"^!\[([^\]]*)\]\(([^()\s]+)\.svg\)$", re.MULTILINE)


def by_theme(text: str, folder: Path) -> str:
    """Return a page's text with both pictures where there are two.

    Args:
        text: The page's Markdown.
        folder: Where the page stands.
    """

    def replace(picture: re.Match[str]) -> str:
        words, name = picture.groups()
        if not (folder / f"{name}-dark.svg").is_file():
            return picture[0]
        return "\n".join(
            f"```{{image}} {file}.svg\n:class: only-{theme}\n:alt: {words}\n```\n"
            for theme, file in {"light": name, "dark": f"{name}-dark"}.items()
        )

    return PICTURE.sub(replace, text)


def _read(app: Sphinx, name: str, content: list[str]) -> None:
    content[0] = by_theme(content[0], Path(app.env.doc2path(name)).parent)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
