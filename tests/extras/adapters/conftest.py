"""These tests need what `make test-adapters` installs.

What those packages say while they are imported is not a test's business.
"""

import importlib
import os

from mobilevlm.blocks.core.quiet import quiet

os.environ["DS_ACCELERATOR"] = "cpu"
with quiet():
    for name in ("bitsandbytes", "peft", "torchao.quantization", "transformers"):
        importlib.import_module(name)
