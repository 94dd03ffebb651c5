"""Any exported projector, run by onnxruntime.

The checker of the test vectors runs it, as docs/porting.md says: ``python check.py run "python
run_onnx.py model.onnx {manifest} {entry} {case} {input} {output}" --entry internvl``.
"""

import json
import sys

import numpy as np
import onnxruntime

model, path, name, case_name, source, target = sys.argv[1:]
with open(path) as file:
    entry = json.load(file)["entries"][name]
case = next(case for case in entry["cases"] if case["name"] == case_name)
session = onnxruntime.InferenceSession(model)
x = np.load(source)


def project(x, grid):
    """Project images of one size, ``(b, n, c) -> (b, m, d)``."""
    if len(session.get_inputs()[0].shape) == 4:  # exported with a free grid
        x = x.reshape(len(x), *grid, x.shape[-1])
    return session.run(None, {"x": x})[0]


if case["packed"]:  # one image's rows after the other's
    ends = np.cumsum([h * w for h, w in case["grids"]])
    images = zip(np.split(x, ends[:-1]), case["grids"], strict=True)
    y = np.concatenate([project(image[None], grid)[0] for image, grid in images])
else:
    y = project(x[:, case["prefix_tokens"] :], case["grids"][0])
np.save(target, y)
