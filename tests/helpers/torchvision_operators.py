"""Two operators that torchvision's Python code describes, where its compiled code has none.

Torchvision comes with timm and with zetascale, and nothing of it is called here. Built for another
torch than the one beside it, such as a CPU build, it cannot load its compiled code, and fails on
import.
"""

import importlib.machinery
import importlib.util

import torch

__all__ = ["declare"]

_SCHEMAS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)
_KEPT: list[torch.library.Library] = []  # a library that is dropped takes its operators with it


def declare() -> bool:
    """Declare the operators, unless torchvision can or is not there; return whether it can."""
    package = importlib.util.find_spec("torchvision")
    if _KEPT or package is None:
        return False
    compiled = importlib.machinery.PathFinder.find_spec("_C", package.submodule_search_locations)
    try:
        torch.ops.load_library(compiled.origin if compiled else None)
    except OSError:
        _KEPT.append(torch.library.Library("torchvision", "DEF"))
        for schema in _SCHEMAS:
            _KEPT[0].define(schema)
        return False
    return True
