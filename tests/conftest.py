"""Fixtures for more than one file."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

# Before they are imported: their assertions too are to explain themselves, also under python -O.
pytest.register_assert_rewrite("helpers", "reference")

from helpers import torchvision_operators
from helpers.plugins import Site
from helpers.progress import Progress

from mobilevlm import BLOCKS, PROJECTORS, __version__
from mobilevlm.registry import DISABLE_VARIABLE, STRICT_VARIABLE

VERSION = __version__  # which is read once: before a test installs a fake of that name
# The reference models are built here, small; nothing is to be looked for elsewhere.
os.environ["HF_HUB_OFFLINE"] = "1"
torchvision_operators.declare()
with suppress(ImportError):  # not in the environments of the extras
    from hypothesis import settings

    settings.register_profile("few", max_examples=40, deadline=None)
    settings.register_profile("many", settings.get_profile("few"), max_examples=300)
    settings.load_profile("few")


def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    terminal = plugins.getplugin("terminalreporter")
    if terminal is not None and session.config.get_verbosity() <= 0:
        plugins.register(Progress(terminal), "progress")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Mark as slow all cases of a test but those that its mark `quick` names."""
    unmet: dict[object, set[str]] = {}
    for item in items:
        if (quick := item.get_closest_marker("quick")) is None:
            continue
        unmet.setdefault(item.function, set(quick.args)).discard(item.callspec.id)
        if item.callspec.id not in quick.args:
            item.add_marker("slow")
    wrong = sorted(set().union(*unmet.values()))
    if wrong and not any("::" in arg for arg in config.args):
        raise pytest.UsageError(f"no case of these tests is called {', '.join(wrong)}; see quick")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What fails once fails again: weights and inputs are random, and the same each time."""
    torch.manual_seed(2048)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that `time.sleep` alone moves on: what is timed by it does not depend on the load."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now)


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what a test registers, and what it made the registries discover."""
    for variable in (DISABLE_VARIABLE, STRICT_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    before = {registry: registry.entries() for registry in (BLOCKS, PROJECTORS)}
    yield
    monkeypatch.delenv(STRICT_VARIABLE, raising=False)
    for registry, entries in before.items():
        for entry in registry.entries():
            if entry.source == "local" and entry not in entries:
                registry.unregister(entry.name)
        registry.refresh()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries: None) -> Iterator[Site]:
    """A folder on sys.path to install fake distributions in."""
    # A module that is mended within a second must not be read back from its old bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    site = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(site.folder)
    BLOCKS.refresh()
    PROJECTORS.refresh()
    yield site
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def quiet() -> None:
    """Let transformers show no progress."""
    transformers = pytest.importorskip("transformers")  # not in those of the core alone
    transformers.utils.logging.disable_progress_bar()
