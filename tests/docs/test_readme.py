"""The README is true: its code runs and prints what it says, its tables are those of the code."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from readme import DOCS, FENCE, README, ZOO, render
from zoo_page import PLAIN, TRANSFORMERS, checked_against, families, sources

ROOT = README.parent
# Blocks of sh set a machine up; `.ci/run` runs the make targets, which install as these say.
SHELL = [
    "pip install -c constraints.txt .",
    "make demo",
    "make test",
    'pip install -c constraints-zeta.txt ".[zeta]"',
    'pip install -c constraints.txt -c constraints-export.txt ".[onnx,gguf,executorch]"',
]


def test_code_runs_and_prints_what_the_readme_says(registries: None) -> None:
    assert render(README) == README.read_text("utf-8"), "run: python tools/readme.py"


def test_every_code_block_is_of_a_kind_that_is_run() -> None:
    kinds: dict[str, list[str]] = {}
    for language, body in FENCE.findall(README.read_text("utf-8")):
        kinds.setdefault(language, []).append(body)
    assert set(kinds) == {"python", "text", "console", "sh", "toml"}
    lines = "".join(kinds["sh"]).splitlines()
    # tests/extras/export runs those that export.
    assert [line for line in lines if not line.startswith("mobilevlm export")] == SHELL
    assert "make test-all" in (ROOT / ".ci" / "run").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    [steps] = re.findall(r"\.ci/steps ((?:.*\\\n)*.*)", makefile)
    [tests] = re.findall(r"^TESTS := (.*)", makefile, re.MULTILINE)
    steps = steps.replace("$(TESTS)", tests)
    [gates] = re.findall(r"^test: ([a-z ]*)", makefile, re.MULTILINE)
    assert {"demo", *gates.split(), "test-zeta", "test-export"} <= set(steps.split())
    example = tomllib.loads((ROOT / "examples/acme-blocks/pyproject.toml").read_text("utf-8"))
    groups = tomllib.loads("".join(kinds["toml"]))["project"]["entry-points"]
    for group, entries in groups.items():
        assert entries == example["project"]["entry-points"][group]


def test_every_family_is_compared_with_something() -> None:
    for name, references in checked_against().items():
        assert references, f"no test compares {name} with its original"
        for what in references:
            assert re.fullmatch(rf"`\w+`|golden vectors|(its description in )?{PLAIN}", what), what


def test_every_family_names_its_source() -> None:
    """What is said to be in transformers is there."""
    transformers = importlib.util.find_spec("transformers")
    assert transformers is not None
    assert transformers.origin is not None
    for cls in families().values():
        found = sources(cls)
        assert found
        for source in found:
            if isinstance(source, str) or source["repository"] != TRANSFORMERS:
                continue
            text = (Path(transformers.origin).parent / source["path"]).read_text("utf-8")
            for name in source["names"].replace("`", "").split(", "):
                first, _, method = name.partition(".")
                assert f"\nclass {first}(" in text, name
                assert not method or f"\n    def {method}(" in text, name


PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if target.startswith("https://"):
            continue
        assert (page.parent / target).exists(), target
    for picture in re.findall(r'\b(?:src|srcset)="([^"]+)"', text):
        assert (page.parent / picture).is_file(), picture
    for anchor in re.findall(r"\]\(docs/zoo.md#([^)]+)\)", text):
        assert f"\n## {anchor}\n" in ZOO.read_text("utf-8")
    for folder in re.findall(r"`([a-z-]+(?:/[a-z_.-]+)*/)`", text):
        assert Path(ROOT / folder).is_dir(), folder
