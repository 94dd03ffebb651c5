"""MobileVLM v2's projector in numpy, with upstream's weights.

The checker of the test vectors runs it, as docs/porting.md says: ``python check.py run "python
ldpnetv2.py {manifest} {entry} {case} {upstream} {input} {output}" --entry ldpnetv2``.
"""

import json
import math
import sys

import numpy as np
from safetensors.numpy import load_file

erf = np.vectorize(math.erf, otypes=[np.float32])


def linear(x, name):
    """Mix channels; ``(..., c) -> (..., d)``."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x):
    """Return the exact GELU, not its tanh form."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


def pool(x, size):
    """Average windows that cover the grid evenly; ``(h, w, c) -> (*size, c)``."""
    for axis, new in enumerate(size):
        old = x.shape[axis]
        windows = [range(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        x = np.stack([x.take(window, axis).mean(axis) for window in windows], axis)
    return x


def depthwise(x, name):
    """Filter each channel with its 3x3 kernel, zeros around; ``(h, w, c) -> (h, w, c)``."""
    h, w_, _ = x.shape
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    taps = [
        padded[i : i + h, j : j + w_] * w[f"{name}.weight"][:, 0, i, j]
        for i in range(3)
        for j in range(3)
    ]
    return sum(taps) + w[f"{name}.bias"]


def project(x):
    """Return what leaves each block, for one image ``(h, w, c)``."""
    found = [linear(x, "mlp.mlp.0")]
    found.append(gelu(found[-1]))
    found.append(linear(found[-1], "mlp.mlp.2"))
    found.append(pool(found[-1], entry["chain"][3]["options"]["size"]))
    found.append(found[-1] + depthwise(found[-1], "peg.peg.0"))
    return [x.reshape(-1, x.shape[-1]) for x in found]


path, name, case_name, weights, source, target = sys.argv[1:]
with open(path) as file:
    entry = json.load(file)["entries"][name]
case = next(case for case in entry["cases"] if case["name"] == case_name)
w, x = load_file(weights), np.load(source)
images = x[:, case["prefix_tokens"] :] if x.ndim == 3 else [x]
found = []
for tokens in images:  # a packed image is one of several in the same rows
    start = 0
    for h, width in case["grids"]:
        image = tokens[start : start + h * width].reshape(h, width, -1)
        found.append(project(image))
        start += h * width
blocks = [np.concatenate(rows) for rows in zip(*found, strict=True)]
np.savez(target, output=blocks[-1], **{f"blocks.{i}": rows for i, rows in enumerate(blocks)})
