"""Imports zetascale, when one of its modules is built for the first time."""

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

from ..registry import MobileVLMError, describe_error
from ..registry.requirements import install_command

__all__ = ["VERSION", "ZetaError", "zeta_nn"]

VERSION = "2.8.8"  # which the table was made with
EXTRA = "zeta"

_VARIABLES = ("TF_CPP_MIN_LOG_LEVEL", "NUMEXPR_MAX_THREADS", "NUMEXPR_NUM_THREADS")
_LOGGERS = ("transformers", "torch", "tensorflow", "numexpr")


class ZetaError(MobileVLMError, ImportError):
    """Zetascale is not installed, or cannot be used."""


def zeta_nn(where: str = "zeta.nn") -> ModuleType:
    """Import ``zeta.nn``, which takes seconds the first time.

    Args:
        where: What needs it, for error messages.

    Raises:
        ZetaError: Zetascale is not installed, has another version, or its import fails; the cause
            is chained.
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
            with _global_settings_restored():
                _import_from(str(found.locate_file("")))
        return importlib.import_module("zeta.nn")
    except (Exception, SystemExit) as error:
        raise ZetaError(
            f"{expected} is installed, but its import fails: {describe_error(error)}",
            where,
            hint=_advice(error),
        ) from error


def _import_from(folder: str) -> None:
    """Import ``zeta`` from that folder, as this repository has a folder of the same name."""
    spec = PathFinder.find_spec("zeta", [folder])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module 'zeta' in {folder}")
    module = sys.modules["zeta"] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["zeta"]
        raise


def _advice(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"It requires {error.name.partition('.')[0]!r}. Run: {install_command(EXTRA)}"
    if "torchvision" in str(error):
        return "The installed torchvision does not match torch: install a matching pair."
    return f"Install what it requires: {install_command(EXTRA)}"


@contextmanager
def _global_settings_restored() -> Iterator[None]:
    """Undo what importing zeta does to the process: it silences all warnings and logging.

    Tensors that it creates stay off the meta device, on which a plan may be building.
    """
    root = logging.getLogger()
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, _LOGGERS))}
    handlers = root.handlers[:]
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        with warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")  # its own, while it is imported
            yield
    finally:
        root.handlers[:] = handlers
        for logger, level in levels.items():
            logger.setLevel(level)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
