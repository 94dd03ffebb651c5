"""A model and its processor out of a folder, in one call."""

from __future__ import annotations

import os
from typing import Any

from ..registry import MobileVLMError
from .check import check_image_tokens
from .classes import SwappedModel
from .errors import ModelError
from .hosts import find_host
from .slots import slot_path
from .upstream import load_class

__all__ = ["load_model"]

_BOTH = (  # arguments of from_pretrained that say where the files are
    *("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token"),
    "trust_remote_code",
)


def load_model(folder: str | os.PathLike[str], **kwargs: Any) -> tuple[Any, Any]:
    """Load a model that `swap_projector` has made, or one of transformers, with its processor.

    The Auto classes know the model's type, as this module is imported; no code of the folder
    runs. What was loaded is checked: that no weights are missing, and by `check_image_tokens`.

    Args:
        folder: A folder of ``save_pretrained``, or a model's name on a hub.
        **kwargs: Arguments of ``from_pretrained``, such as ``dtype``, ``device_map`` or
            ``quantization_config``.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        ModelError: It cannot be read, has no processor, or lacks weights; or processor and model
            do not fit.
    """
    where = os.fspath(folder)
    hub = {key: value for key, value in kwargs.items() if key in _BOTH}
    model, info = _explained(
        "AutoModelForImageTextToText", where, "the model", output_loading_info=True, **kwargs
    )
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise ModelError(
            f"no weights for {missing[0]}{more}, which would be random",
            where,
            "a tensor for each parameter",
            _UNCHANGED,
        )
    path = slot_path(model, find_host(model.config)) if isinstance(model, SwappedModel) else None
    left = sorted(key for key in info["unexpected_keys"] if key.startswith(f"{path}."))
    if left:
        more = f" and {len(left) - 1:,} more" if len(left) > 1 else ""
        raise ModelError(
            f"weights of the projector that its document does not have: {left[0]}{more}",
            where,
            "none left over",
            _UNCHANGED,
        )
    processor = _explained("AutoProcessor", where, "the processor", **hub)
    check_image_tokens(model, processor)
    return model, processor


_UNCHANGED = "Take config.json and the weights as they were saved together."
_HINTS = {
    "the model": "Look whether config.json and all files of weights are there, whole.",
    "the processor": "Save it beside the model: processor.save_pretrained(folder).",
}


def _explained(auto: str, where: str, what: str, **kwargs: Any) -> Any:
    """Call an Auto class, and turn what it raises into an error that says what was read."""
    cls = load_class(auto)
    try:
        return cls.from_pretrained(where, **kwargs)
    except (MobileVLMError, TypeError):  # ours, and arguments that do not exist
        raise
    except Exception as error:  # OSError, ValueError, KeyError, and safetensors' own
        text = str(error).strip().partition("\n")[0]
        found = f"{what} cannot be loaded: {type(error).__name__}: {text}"
        raise ModelError(found, where, hint=_HINTS[what]) from error
