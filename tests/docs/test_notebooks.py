"""The notebooks are committed as they are written: valid, without outputs, the same everywhere.

`make docs` runs them.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def test_they_are_here() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["start", "swap-and-train"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_a_notebook_without_outputs(path: Path) -> None:
    text = path.read_text("utf-8")
    notebook = json.loads(text)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        assert cell["metadata"] == {}
        common = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "markdown":
            assert cell.keys() == common
        else:
            assert cell.keys() == common | {"execution_count", "outputs"}
            assert (cell["cell_type"], cell["execution_count"], cell["outputs"]) == (
                "code",
                None,
                [],
            )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_code_is_python_that_uses_the_public_names_only(path: Path) -> None:
    imported = []
    for code in cells(path, "code"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.append(node.module)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"/|~|[A-Za-z]:\\", node.value), "a path of one machine"
    ours = {module for module in imported if module.startswith("mobilevlm")}
    assert "mobilevlm" in ours <= {"mobilevlm", "mobilevlm.models"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_prose_says_what_is_done_and_its_links_lead_somewhere(path: Path) -> None:
    prose = cells(path, "markdown")
    assert prose[0].startswith("# ")
    assert len(prose) >= len(cells(path, "code")) * 0.8
    targets = re.findall(r"\]\(([^)#]+)", "\n".join(prose))
    assert len(targets) >= 4
    for target in targets:
        assert (path.parent / target).exists(), target
