"""Let torchvision be imported where its library of operators cannot be loaded.

zetascale imports torchvision, whose wheel on the package index is built for CUDA. Beside a CPU
build of torch its operators do not load, and its import stops at the first of them that it looks
up. None is used here, so it is enough that those two have schemas. A whole torchvision is left
as it is.
"""

import torch

__all__ = ["LIBRARY"]

LIBRARY = None
try:
    import torchvision  # noqa: F401
except RuntimeError:
    LIBRARY = torch.library.Library("torchvision", "DEF")
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
