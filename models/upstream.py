"""Transformers, imported when it is needed."""

from __future__ import annotations

from typing import Any

from ..registry import MobileVLMError
from ..registry.requirements import install_command

__all__ = ["EXTRA", "HUB", "TransformersMissing", "load_class", "transformers"]

EXTRA = "models"
# Arguments of from_pretrained that say where the files are.
HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class TransformersMissing(MobileVLMError, ImportError):
    """Transformers is not installed, or it is a version without what is needed."""


def transformers() -> Any:
    """Import transformers.

    Raises:
        TransformersMissing: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise _missing("transformers cannot be imported") from error
    return transformers


def load_class(name: str) -> Any:
    """Return a class of transformers by name.

    Raises:
        TransformersMissing: There is none.
    """
    module = transformers()
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise _missing(f"transformers {module.__version__} has no {name}") from error


def _missing(found: str) -> TransformersMissing:
    hint = f"Run: {install_command(EXTRA)}"
    return TransformersMissing(found, "mobilevlm.models", hint=hint)
