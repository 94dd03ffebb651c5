"""The patch merger of Qwen2-VL in numpy, with upstream's weights.

The checker of the test vectors runs it, as docs/porting.md says: ``python check.py run "python
qwen2_vl.py {manifest} {entry} {case} {upstream} {input} {output}" --entry qwen2-vl``.
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


def norm(x, name):
    """Normalise each token over its channels."""
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x):
    """Return the exact GELU, not its tanh form."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


def to_windows(x, h, width):
    """Bring tokens that come row by row into windows of 2x2; ``(b, n, c) -> (b, n, c)``."""
    b, n, c = x.shape
    return x.reshape(b, h // 2, 2, width // 2, 2, c).swapaxes(2, 3).reshape(b, n, c)


path, name, case_name, weights, source, target = sys.argv[1:]
with open(path) as file:
    entry = json.load(file)["entries"][name]
case = next(case for case in entry["cases"] if case["name"] == case_name)
w, x = load_file(weights), np.load(source)

if not case["packed"]:
    x = x[:, case["prefix_tokens"] :]
if case["token_order"] == "raster":
    x = to_windows(x, *case["grids"][0])
# The tower gives the four tokens of a window together, so from here on no grid is needed, and
# images of different sizes may follow one another.
merged = norm(x, "ln_q").reshape(-1, 4 * x.shape[-1])
inner = linear(merged, "mlp.0")
active = gelu(inner)
y = linear(active, "mlp.2")
blocks = {"blocks.1": merged, "blocks.2": inner, "blocks.3": active, "blocks.4": y}
np.savez(target, output=y, **blocks)
