"""Fake installed distributions: what pip leaves behind, written by hand in a temporary folder."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mobilevlm.registry import Problem, Registry, RegistryError

MALLET = "[mobilevlm.gadgets]\nmallet = north_tools:Mallet\n"
UPDATE = "The fault is in north-tools: update or uninstall it."
TELL = "The fault is in north-tools: tell its authors."

SWAY = """
from mobilevlm import Block

class Sway(Block):
    bias: bool = True

    def build(self, x):
        raise NotImplementedError
"""


class Site:
    """A folder to install in, as site-packages is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def install(
        self,
        name: str,
        version: str,
        entry_points: str | bytes = "",
        files: Mapping[str, str] | None = None,
        *,
        metadata: str | None = None,
    ) -> Path:
        """Write a distribution's metadata and files.

        `metadata` replaces the usual METADATA; an empty one leaves the file out.
        """
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        if metadata is None:
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: decoy\n"
        if metadata:
            (info / "METADATA").write_text(metadata, encoding="utf-8")
        if isinstance(entry_points, str):
            entry_points = entry_points.encode()
        (info / "entry_points.txt").write_bytes(entry_points)
        for path, source in (files or {}).items():
            self.write(path, source)
        return info

    def write(self, path: str, source: str) -> None:
        """Write one file, to be imported afresh."""
        target = self.folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()

    def mallet(self, name: str = "north-tools", version: str = "1.0", source: str = "") -> str:
        """Install a distribution with one gadget, a mallet, and return its module's name."""
        module = name.replace("-", "_")
        points = f"[mobilevlm.gadgets]\nmallet = {module}:Mallet\n"
        self.install(name, version, points, {f"{module}.py": source or "class Mallet: pass\n"})
        return module


BUILT_IN = {
    "hammer": "decimal:Decimal",
    "saw": "datetime:timedelta",
    "tape-measure": "fractions:Fraction",
}


def gadgets(builtins: Mapping[str, str] = BUILT_IN, **options: Any) -> Registry[Any]:
    """Return a registry of classes, with a few of the standard library's built in."""
    return Registry(
        "gadget",
        group="mobilevlm.gadgets",
        builtins=builtins,
        accepts=lambda thing: isinstance(thing, type),
        expected="a class",
        **options,
    )


def problems(registry: Registry[Any], *distributions: str) -> list[Problem]:
    """Return what is wrong with these distributions, whatever else is installed here."""
    return [each for each in registry.problems() if each.distribution in distributions]


def message(error: type[RegistryError], call: Callable[..., object], *args: Any, **kw: Any) -> str:
    """Return the whole message of the error that the call raises."""
    with pytest.raises(error) as caught:
        call(*args, **kw)
    assert type(caught.value) is error
    return str(caught.value)


def at_once(*jobs: Callable[[], object]) -> list[BaseException]:
    """Run the jobs in threads, at once, and return what they raise."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def work(job: Callable[[], object]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised
