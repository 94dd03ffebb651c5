"""What the exporters' packages say while they are imported is not a test's business."""

import importlib
from importlib.util import find_spec

from mobilevlm.export.noise import quiet

if find_spec("executorch"):
    with quiet():
        importlib.import_module("executorch.runtime")
        importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
