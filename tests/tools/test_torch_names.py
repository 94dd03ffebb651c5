"""torch's floor in pyproject.toml is the oldest release that has every name we need."""

import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest
import torch
from torch_names import METHODS_OF, Release, Use, needed, read, read_table, uses

ROOT = Path(__file__).parents[2]


def test_the_floor_has_every_name() -> None:
    """Where a name is new: run tools/torch_names.py --write, then guard it or raise the floor."""
    found, table = uses(), read_table()
    assert len(found) > 2000
    unknown = {use.name for use in found if not use.method} - table.keys()
    unknown |= {
        f"{home}.{use.name}"
        for home, kind in zip(METHODS_OF, (torch.Tensor, torch.nn.Module), strict=True)
        for use in found
        if use.method and hasattr(kind, use.name) and f"{home}.{use.name}" not in table
    }
    assert unknown == set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    [floor] = [need.removeprefix("torch>=") for need in project["dependencies"] if "torch" in need]
    newest, use = needed(found, table)[0]
    assert (newest, use.name) == (floor, "torch.compiler.is_exporting")


NAMES = """
import torch; torch.a.b(1): torch torch.a.b
from torch.nn import functional as F; F.pad: torch.nn.functional torch.nn.functional.pad
import torch as t; t.a: torch torch.a
import torch; x = torch.b() if hasattr(torch, "b") else torch.c: torch torch.b? torch.c
import torch; x = {k: torch.b for k in "" if hasattr(torch, "b")}: torch torch.b?
import torch; getattr(torch, "a"): torch torch.a
import torch; getattr(torch, "a", 0): torch torch.a?
import re; re.compile("x").unflatten(1): unflatten
x.index(1):
"""
BRANCHES = """
import torch
if hasattr(torch.a, "b"):
    torch.a.b()
else:
    torch.a.b
try:
    torch.c
except AttributeError:
    torch.d
try:
    torch.e
except RuntimeError:
    pass
if TYPE_CHECKING:
    from torch import f
"""


def said(code: str) -> str:
    """The names that a text uses; a question mark stands for a guard."""
    return " ".join(use.name + "?" * use.guarded for use in read(code, "x.py"))


@pytest.mark.parametrize("line", NAMES.strip().splitlines())
def test_names_and_their_guards(line: str) -> None:
    code, _, names = line.rpartition(":")
    assert said(code) == names.strip()


def test_guards_around_statements() -> None:
    assert said(BRANCHES) == "torch torch.a torch.a.b? torch.a.b torch.c? torch.d torch.e"


def test_the_release_that_a_use_needs() -> None:
    table = {"torch.a": "2.10", "torch.b": "2.9", "torch.Tensor.m": "2.11"}
    found = [
        Use("torch.a", "x:1", guarded=False),
        Use("torch.b", "x:2", guarded=False),
        Use("m", "x:3", guarded=True, method=True),
        Use("other", "x:4", guarded=False, method=True),
    ]
    assert [(release, use.where) for release, use in needed(found, table)] == [
        ("2.10", "x:1"),
        ("2.9", "x:2"),
    ]
    assert needed([Use("m", "x:5", guarded=False, method=True)], table)[0][0] == "2.11"


def test_names_of_a_release_are_read_from_its_files(tmp_path: Path) -> None:
    files = {
        "torch/__init__.py": "from torch._C import *\nfrom . import nn as nn\nif 1:\n    x = 1\n",
        "torch/_C/__init__.pyi": "class Base:\n    def m(self): ...\ndef f(): ...\n",
        "torch/nn/__init__.py": "from .inner import Module as Module\n",
        "torch/nn/inner.py": "from torch import Base\nclass Module(Base):\n"
        "    def n(self):\n        self.o = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / "2.0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    release = Release(tmp_path / "2.0")
    there = "x f Base Base.m nn.Module nn.Module.n nn.Module.m nn.Module.o nn.inner"
    for name in there.split():
        assert release.has(f"torch.{name}"), name
    for name in ("y", "Base.n", "nn.Base", "nn.Module.p", "f.g", "nn.outer"):
        assert not release.has(f"torch.{name}"), name


def test_the_table_agrees_with_the_torch_that_is_installed() -> None:
    """The table is read from sources; what they do not show would be missing here."""
    for name in {use.name for use in uses() if not (use.guarded or use.method)} - {"torch"}:
        home, _, last = name.rpartition(".")
        try:
            assert hasattr(pkgutil.resolve_name(home), last), name
        except AssertionError:
            importlib.import_module(name)  # a module that torch does not import itself
