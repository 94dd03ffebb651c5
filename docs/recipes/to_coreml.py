"""Core ML from a .pt2 file with a fixed grid: ``python to_coreml.py projector.pt2 out.mlpackage``.

Needs ``pip install coremltools``. It converts on any system. On macOS, the only system that can run
the result, it is compared with PyTorch. For one image: Core ML's adaptive pools need a fixed batch.
"""

import sys

import coremltools
import numpy as np
import torch

source, target = sys.argv[1:]
loaded = torch.export.load(source)
[x] = [node.meta["val"] for node in loaded.graph.nodes if node.name == "x"]
example = torch.randn([size if isinstance(size, int) else 1 for size in x.shape])
module = loaded.module()
program = torch.export.export(module, (example,)).run_decompositions({})
model = coremltools.convert(
    program,
    outputs=[coremltools.TensorType(name="y")],
    compute_precision=coremltools.precision.FLOAT32,  # the default is half precision
    minimum_deployment_target=coremltools.target.iOS17,
)
model.save(target)
if sys.platform == "darwin":
    y = model.predict({"x": example.numpy()})["y"]
    print(f"differs from PyTorch by {np.abs(y - module(example).numpy()).max():.1e}")
