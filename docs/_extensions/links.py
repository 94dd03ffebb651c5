"""Links that lead somewhere on GitHub lead somewhere on the site too.

Pages link to each other, which MyST follows, and to files of the repository: these become
downloads, which MyST does too. What is left is here: the Markdown files of the root are pages of
the site, a folder is its README's page, and any other folder is plain text. Pages in a folder
beside a page of its name need a place in the navigation, which they have below that page.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["below", "relink", "setup"]

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
# In code, where these characters mean something else, nothing is replaced.
CODE_OR_LINK = re.compile(
    r"^```.*?^```$|`[^`\n]+`|\[(?P<words>[^\]]*)\]\((?P<target>[^()#\s]+)(?P<anchor>#[^()\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)
# On GitHub each of these pages is a link to the file that it is on the site.
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
}
# Pages that stand below another.
FOLDERS = {"decisions/README": "decisions", "zoo": "zoo"}


def relink(text: str, page: Path, folder: Path | None = None) -> str:
    """Return a page's text with links that the site can follow.

    Args:
        text: The page's Markdown.
        page: Its file.
        folder: Where the page stands on the site; default: where its file does.
    """
    folder = folder or page.parent

    def replace(link: re.Match[str]) -> str:
        words, target, anchor = link.group("words", "target", "anchor")
        path = (page.parent / (target or "")).resolve()
        if target is None or not path.exists():  # MyST warns of a page that is not there
            return link[0]
        if path == ROOT / "README.md":
            anchor = ""  # the front page has other sections
        if path.parent == ROOT and path.name in ROOT_PAGES:
            path = DOCS / ROOT_PAGES[path.name]
        if path.is_dir():
            path /= "README.md"
        if not path.is_file() or (path.suffix == ".md" and not path.is_relative_to(DOCS)):
            return words
        if path.suffix == ".md" and words.endswith(Path(target).name):
            words = ""  # on the site, a page is called by its title
        return f"[{words}]({os.path.relpath(path, folder)}{anchor or ''})"

    return CODE_OR_LINK.sub(replace, text)


def below(name: str) -> str:
    """Return the part of the navigation that stands below a page."""
    folder = FOLDERS.get(name)
    if folder is None or not (DOCS / folder).is_dir():
        return ""
    return f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n/{folder}/*\n```\n"


def _read(app: Sphinx, name: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    [text] = content
    folder = page.parent
    if page.suffix == ".ipynb":
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = relink("".join(cell["source"]), page)
        content[0] = json.dumps(notebook)
    if page.suffix != ".md":
        return
    for file, its_page in ROOT_PAGES.items():
        if its_page == f"{name}.md" != "index.md":
            page = ROOT / file
            text = page.read_text("utf-8")
            app.env.note_dependency(str(page))
    content[0] = relink(text, page, folder) + below(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
