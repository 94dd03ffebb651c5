"""LiteRT from a .pt2 file with a fixed grid: ``python to_litert.py projector.pt2 out.tflite``.

Needs ``pip install litert-torch`` in a separate environment: it installs old versions of pydantic
and typing-extensions. For one image: litert-torch 0.10 does not convert a free batch.
"""

import sys

import litert_torch
import numpy as np
import torch

source, target = sys.argv[1:]
loaded = torch.export.load(source)
[x] = [node.meta["val"] for node in loaded.graph.nodes if node.name == "x"]
example = torch.randn([size if isinstance(size, int) else 1 for size in x.shape])
# Decomposed first: LiteRT does not support linear layers on four axes.
program = torch.export.export(loaded.module(), (example,)).run_decompositions()
module = program.module()
model = litert_torch.convert(module, (example,))
model.export(target)
print(f"differs from PyTorch by {np.abs(model(example) - module(example).numpy()).max():.1e}")
