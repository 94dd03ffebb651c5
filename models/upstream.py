"""Transformers, imported when it is needed."""

from __future__ import annotations

from typing import Any

from ..registry import MobileVLMError, describe_error
from ..registry.requirements import install_command

__all__ = ["EXTRA", "HUB", "TransformersMissing", "load_class", "transformers"]

EXTRA = "models"
# Arguments of from_pretrained that say where the files are.
HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class TransformersMissing(MobileVLMError, ImportError):
    """Transformers is not installed, lacks what is needed, or cannot import it."""


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
        TransformersMissing: There is none, or what it needs in turn cannot be imported.
    """
    module = transformers()
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise _missing(f"transformers {module.__version__} has no {name}") from error
    except ImportError as error:  # what transformers imports in turn; only the cause names it
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        found = f"transformers cannot import {name}: {describe_error(cause)}"
        hint = "transformers imports it: install a version that fits, or uninstall it."
        raise TransformersMissing(found, "mobilevlm.models", hint=hint) from error


def _missing(found: str) -> TransformersMissing:
    hint = f"Run: {install_command(EXTRA)}"
    return TransformersMissing(found, "mobilevlm.models", hint=hint)
