"""The engine of checkpoints knows no family: it asks the families' files, by way of their index."""

import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilevlm import PROJECTORS, Preset, Stack, build_projector
from mobilevlm.checkpoints.mapping import find_layout, layouts
from mobilevlm.checkpoints.recognise import recognise
from mobilevlm.projectors import FAMILIES, index
from mobilevlm.projectors.index import upstream_index
from mobilevlm.projectors.matching import matching_preset
from mobilevlm.projectors.upstream import Fused, Name, Names
from mobilevlm.registry import Registry

ROOT = Path(__file__).parents[2]


def families() -> dict[str, type[Preset]]:
    found = {name: PROJECTORS.get(name) for name in FAMILIES}
    return {name: cls for name, cls in found.items() if isinstance(cls, type)}


def test_the_index_and_the_entry_points_are_those_of_the_code() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "index.py"))
    for path, text in ((tool["INDEX"], tool["index"]()), (tool["PYPROJECT"], tool["pyproject"]())):
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python tools/index.py"


@pytest.fixture
def index_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that has another index read, by a text."""

    def replace(text: str) -> None:
        (tmp_path / "index.json").write_text(text, encoding="utf-8")
        monkeypatch.setattr(index, "INDEX", tmp_path / "index.json")
        index.read_index.cache_clear()
        index.upstream_index.cache_clear()

    yield replace
    monkeypatch.undo()
    index.read_index.cache_clear()
    index.upstream_index.cache_clear()


def test_a_family_that_is_only_in_the_index_is_left_out(index_of: Callable[[str], None]) -> None:
    rows = json.loads(index.INDEX.read_text(encoding="utf-8"))
    names = PROJECTORS.names()
    index_of(json.dumps({**rows, "gone": {**rows["mlp"], "aliases": {"old-name": {}}}}))
    assert "old-name" not in index.aliases()
    assert "gone" not in upstream_index()
    options: Any = {"kind": "projector", "group": "mobilevlm.none", "expected": "a preset"}
    fresh: Registry[Any] = Registry(
        builtins=FAMILIES, aliases=index.aliases, accepts=lambda thing: True, **options
    )
    builtin = {entry.name for entry in PROJECTORS.entries() if entry.source == "built-in"}
    assert set(fresh.names()) == builtin <= set(names)
    assert "old-name" not in fresh


def test_an_index_that_is_out_of_date_is_an_error(index_of: Callable[[str], None]) -> None:
    rows = json.loads(index.INDEX.read_text(encoding="utf-8"))
    [first, *rest] = rows["qwen2-vl"]["upstream"]
    for stale in (
        [{**first, "prefix": "another"}, *rest],
        [*rest, first],
        [first, *rest, {**first, "layout": "new-layout"}],
    ):
        index_of(json.dumps({**rows, "qwen2-vl": {**rows["qwen2-vl"], "upstream": stale}}))
        with pytest.raises(RuntimeError, match=r"index[.]json is out of date: run tools/index.py"):
            [find_layout(name) for name in layouts()]


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, '{"mlp"'])
def test_the_index_is_written_anew_whatever_it_holds(text: str | None, tmp_path: Path) -> None:
    package = tmp_path / "mobilevlm"
    skipped = shutil.ignore_patterns(".*", "tests", "docs", "__pycache__", "build")
    shutil.copytree(ROOT, package, ignore=skipped)
    stale = package / "projectors" / "zoo" / "index.json"
    whole = stale.read_bytes()
    stale.unlink()
    if text is not None:
        stale.write_text(text)
    tool = [sys.executable, str(package / "tools" / "index.py")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    check = [*tool, "--check"]
    done = subprocess.run(check, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "projectors/zoo/index.json is stale: run python tools/index.py\n",
    )
    subprocess.run(tool, env=environment, check=True)
    assert stale.read_bytes() == whole


def test_every_entry_says_how_it_is_recognised_or_is_for_writing_only() -> None:
    for name, cls in families().items():
        for entry in cls.upstream:
            assert entry.names, (name, entry.layout)
            assert bool(entry.tensors) == (entry.read is not None), (name, entry.layout)
            # Either its names are distinctive, or it belongs to models that are named.
            assert not (entry.names_suffice and not entry.model_types), (name, entry.layout)


def names_of(names: Names, stack: Stack) -> list[str | Name | Fused]:
    return list(names(stack) if callable(names) else names)


def test_families_that_share_a_layout_share_its_names() -> None:
    widths = {"identity": (8, 8)}
    options = {"c-abstractor": {"queries": 4}, "blip2": {"width": 8, "heads": 2}}
    shared = 0
    for name, cls in families().items():
        in_, out = widths.get(name, (8, 16))
        stack = cls(**options.get(name, {})).stack(in_, out)
        for entry in cls.upstream:
            first = find_layout(entry.layout)
            shared += first is not entry.names
            assert names_of(entry.names, stack) == names_of(first, stack), (name, entry.layout)
    assert shared


def test_no_family_is_named_in_the_engine() -> None:
    known = set(PROJECTORS.names()) | set(layouts())
    known |= {
        kind for rows in upstream_index().values() for row in rows for kind in row.model_types
    }
    known -= {"projector", "identity"}  # a model type, and a word; of no encoding, HTTP's word
    for path in sorted((ROOT / "checkpoints").rglob("*.py")):
        if path.name == "llava.py":  # LLaVA's function: its types are the families' names
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in known, f"{path.name}:{node.lineno}: {node.value!r}"


def test_the_most_specific_entry_comes_first() -> None:
    keys = [
        f"multi_modal_projector.{part}.weight"
        for part in ("linear_1", "linear_2", "projector_layernorm")
    ]
    fits = recognise({}, keys)
    assert [fit.entry.layout for fit in fits] == ["vipllava", "llava"]
    assert {fit.root for fit in fits} == {"multi_modal_projector."}


@pytest.mark.parametrize(
    "name", ["llava", "mlp2x_gelu", "LlavaMultiModalProjector", "kimi-k25", "nvila", "idefics"]
)
def test_an_alias_is_its_family_with_options(name: str) -> None:
    [(cls, options)] = [
        (cls, cls.aliases[name]) for cls in families().values() if name in cls.aliases
    ]
    assert PROJECTORS.get(name) == cls(**options)
    assert PROJECTORS.name_of(PROJECTORS.get(name)) == name
    spec = build_projector(name, 256, 256, device="meta").spec
    assert spec == cls(**options).stack(256, 256)


def test_of_families_that_compute_the_same_the_one_of_most_models_names_a_document() -> None:
    for name in ("linear", "fuyu", "paligemma"):
        assert matching_preset(build_projector(name, 4, 8, device="meta").spec) == "linear"
