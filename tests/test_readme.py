"""The README is true: its code runs and prints what it says, its tables are those of the code."""

import re
import tomllib
from pathlib import Path

import pytest
from readme import FENCE, README, render

ROOT = README.parent
# Blocks of sh set a machine up; `.ci/run` runs the make targets, which install as the first says.
SHELL = [
    "pip install -c constraints.txt .",
    "make demo",
    "make test",
    'pip install -c constraints-zeta.txt ".[zeta]"',
    "mobilevlm export my-projector projector.pt2 grid=24x24",
    'pip install "mobilevlm[onnx]"',
    "mobilevlm export my-projector projector.onnx grid=24x24 --weights int8",
    'pip install "mobilevlm[gguf]"',
    "mobilevlm export my-projector mmproj.gguf grid=24x24 --weights f16",
    'pip install "mobilevlm[executorch]"',
    "mobilevlm export my-projector projector.pte grid=24x24",
]


def test_code_runs_and_prints_what_the_readme_says(registries: None) -> None:
    assert render(README) == README.read_text("utf-8"), "run: python tests/readme.py"


def test_every_code_block_is_of_a_kind_that_is_run() -> None:
    kinds: dict[str, list[str]] = {}
    for language, body in FENCE.findall(README.read_text("utf-8")):
        kinds.setdefault(language, []).append(body)
    assert set(kinds) == {"python", "text", "console", "sh", "toml"}
    assert "".join(kinds["sh"]).splitlines() == SHELL
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "make demo" in ci
    assert "make test\n" in ci
    assert "make -B test-zeta" in ci
    example = tomllib.loads((ROOT / "examples/acme-blocks/pyproject.toml").read_text("utf-8"))
    groups = tomllib.loads("".join(kinds["toml"]))["project"]["entry-points"]
    for group, entries in groups.items():
        assert entries == example["project"]["entry-points"][group]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/zeta.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if target.startswith("https://"):
            continue
        assert (ROOT / target).exists(), target
    for folder in re.findall(r"`([a-z-]+(?:/[a-z_.-]+)*/)`", text):
        assert Path(ROOT / folder).is_dir(), folder
