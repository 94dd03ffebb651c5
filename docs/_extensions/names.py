"""Names as links: what stands as code in docstrings and pages leads to the reference."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.domains.python import PyXRefRole
from sphinx.util.nodes import make_refnode

import mobilevlm

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

__all__ = ["setup"]

KINDS = {"class", "data", "exception", "function"}
CALL = re.compile(r"(?:mobilevlm\.)?(\w+)(?:\(\))?")


class Name(PyXRefRole):
    """A name in single backticks in a docstring: code, and a link where it is one of ours."""

    def process_link(self, env: BuildEnvironment, node: Any, *rest: Any) -> tuple[str, str]:
        """Mark it, since an unknown one is no mistake."""
        node["may_be_unknown"] = True
        return super().process_link(env, node, *rest)


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Link a name without its module, if exactly one of our names ends so; else it is code."""
    if not node.get("may_be_unknown"):
        return None
    found = [
        (name, each)
        for name, each in env.domains.python_domain.objects.items()
        if name.rpartition(".")[2] == node["reftarget"]
        and each.objtype in KINDS
        and not each.aliased
    ]
    if len(found) != 1:
        return content
    [(name, there)] = found
    return make_refnode(app.builder, node["refdoc"], there.docname, there.node_id, content, name)


def link_names(app: Sphinx, document: nodes.document) -> None:
    """Make the public names that a Markdown page writes as code links to the reference."""
    page = app.env.current_document.docname
    if app.env.doc2path(page).suffix != ".md":
        return
    for code in list(document.findall(nodes.literal)):
        name = CALL.fullmatch(code.astext())
        if not name or name[1] not in mobilevlm.__all__ or _is_linked(code):
            continue
        link = pending_xref(
            refdomain="py",
            reftype="obj",
            reftarget=f"mobilevlm.{name[1]}",
            refdoc=page,
            refexplicit=True,
            refwarn=True,
        )
        code.replace_self(link)
        link += code


def _is_linked(node: nodes.Node) -> bool:
    """Return whether a node stands in a link, or in a heading, which is one in the navigation."""
    while node := node.parent:
        if isinstance(node, nodes.title | nodes.reference | pending_xref):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.add_role("name", Name())
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
