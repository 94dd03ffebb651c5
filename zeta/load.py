"""Importing zetascale, when a module of it is built for the first time."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec
from types import ModuleType

import torch

from ..registry import MobileVLMError, told
from ..registry.requirements import install_command

__all__ = ["VERSION", "ZetaError", "zeta_nn"]

VERSION = "2.8.8"  # the one that the table was made with
EXTRA = "zeta"

_VARIABLES = ("TF_CPP_MIN_LOG_LEVEL", "NUMEXPR_MAX_THREADS", "NUMEXPR_NUM_THREADS")
_LOGGERS = ("transformers", "torch", "tensorflow", "numexpr")


class ZetaError(MobileVLMError, ImportError):
    """Zetascale is not there, or is there and cannot be used."""


def zeta_nn(where: str = "zeta.nn") -> ModuleType:
    """Import ``zeta.nn``; the first time costs seconds.

    Args:
        where: What it is for, for messages.

    Raises:
        ZetaError: It is not installed, of another version, or fails; the cause is chained.
    """
    expected = f"zetascale {VERSION}"
    try:
        found = distribution("zetascale")
    except PackageNotFoundError:
        hint = f"Run: {install_command(EXTRA)}"
        raise ZetaError("zetascale is not installed", where, expected, hint) from None
    if found.version != VERSION:
        hint = f"Its modules differ from version to version. Run: {install_command(EXTRA)}"
        raise ZetaError(f"zetascale {found.version} is installed", where, expected, hint)
    try:
        if "zeta.nn" not in sys.modules:
            with _left_alone():
                _import_from(str(found.locate_file("")))
        return importlib.import_module("zeta.nn")
    except (Exception, SystemExit) as error:
        raise ZetaError(
            f"{expected} is installed, but its import fails: {told(error)}",
            where,
            hint=_advice(error),
        ) from error


def _import_from(folder: str) -> None:
    """Import ``zeta`` from there: in a clone of ours, the first on the path is our own folder."""
    spec = PathFinder.find_spec("zeta", [folder])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"there is no 'zeta' in {folder}")
    module = sys.modules["zeta"] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["zeta"]
        raise


def _advice(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"It misses {error.name.partition('.')[0]!r}. Run: {install_command(EXTRA)}"
    if "torchvision" in str(error):
        return "The torchvision that is installed does not fit torch: install a pair of them."
    return f"What it needs comes with: {install_command(EXTRA)}"


@contextmanager
def _left_alone() -> Iterator[None]:
    """Put back what importing zeta changes for everyone: it silences all warnings and logging.

    And keep what it makes off the meta device, where a plan is building.
    """
    root = logging.getLogger()
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, _LOGGERS))}
    handlers = root.handlers[:]
    environment = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        with warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")  # what it says about itself
            yield
    finally:
        root.handlers[:] = handlers
        for logger, level in levels.items():
            logger.setLevel(level)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
