"""The engine of checkpoints knows no family: it asks the families' files, by way of their index."""

import ast
import runpy
from pathlib import Path

import pytest

from mobilevlm import PROJECTORS, Preset, Stack, build_projector
from mobilevlm.checkpoints.inspection import matching_preset
from mobilevlm.checkpoints.mapping import find_layout, layouts
from mobilevlm.checkpoints.recognise import recognise
from mobilevlm.projectors import FAMILIES
from mobilevlm.projectors.index import upstream_index
from mobilevlm.projectors.upstream import Fused, Name, Names

ROOT = Path(__file__).parents[2]


def families() -> dict[str, type[Preset]]:
    found = {name: PROJECTORS.get(name) for name in FAMILIES}
    return {name: cls for name, cls in found.items() if isinstance(cls, type)}


def test_the_index_and_the_entry_points_are_those_of_the_code() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "index.py"))
    for path, text in ((tool["INDEX"], tool["index"]()), (tool["PYPROJECT"], tool["pyproject"]())):
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python tools/index.py"


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


@pytest.mark.parametrize("name", ["llava", "mlp2x-gelu", "kimi-k25", "nvila", "idefics"])
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
